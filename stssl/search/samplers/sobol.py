"""A scrambled Sobol sequence: points that fill the space evenly, however many there are (Owen 1998)."""

from __future__ import annotations

import random
from collections.abc import Iterator

from stssl.search.samplers.base import Draw, Model
from stssl.search.state import SearchState


class Sobol(Model):
    """One dimension a key, whether the key exists at a point or not.

    A draw keeps its place in the sequence in the ledger; the next one goes on behind it.
    """

    def proposals(self, state: SearchState, source: random.Random) -> Iterator[Draw]:
        from scipy.stats import qmc  # takes half a second, and no other sampler needs it

        index = self.evidence.follow(state).last_index.get("qmc", -1) + 1
        # of its own seed: the sequence is one and the same in all draws of a search
        sequence = qmc.Sobol(len(self.space.parameters), scramble=True, rng=self.config.seed)
        if index:
            sequence.fast_forward(index)
        while True:
            units = dict(zip(self.space.parameters, sequence.random(1)[0].tolist(), strict=True))
            params = self.space.fill(lambda key, parameter, at=units: parameter.from_unit(at[key]))  # type: ignore[misc]
            yield Draw(params, {"sampler": "qmc", "index": index})
            index += 1
