"""How many labels are used, and which: spread over the classes, seeded, a smaller choice a part of a larger one."""

from __future__ import annotations

from typing import Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from stssl.config import Config
from stssl.errors import ConfigError


class LabeledConfig(Config):
    """How many labels are used: one of the three, or none of them for all labels.

    Attributes:
        count: Labeled rows in total, spread over the classes as evenly as possible.
        per_class: Labeled rows of each class (multi-label: at least so many).
        fraction: Share of the labels, in the classes' own proportions (none of them left out if possible).
        seed: Of the choice; another seed leaves validation and test as they are.
    """

    count: int | None = Field(default=None, ge=1, le=10**9)
    per_class: int | None = Field(default=None, ge=1, le=10**9)
    fraction: float | None = Field(default=None, gt=0, le=1)
    seed: int = Field(default=0, ge=0, lt=2**31)

    @model_validator(mode="after")
    def _one(self) -> Self:
        given = [key for key in ("count", "per_class", "fraction") if getattr(self, key) is not None]
        if len(given) > 1:
            raise ValueError(f"give only one of count, per_class, fraction; got {' and '.join(given)}")
        return self


def choose(
    hot: NDArray[np.bool_], labeled: LabeledConfig, classes: tuple[str, ...], key: str, where: str
) -> NDArray[np.int64]:
    """Positions of the rows whose labels are used among the candidates.

    Rows are taken one by one, always for the class that has the least of what it is due, so a smaller count is a part
    of a larger one. A row without any class (multi-label) counts as a class of its own.

    Args:
        hot: [N, K] whether a class is known to be there.
        labeled: How many.
        classes: K names.
        key: Of `labeled` in the recipe, for an error.
        where: What the candidates are, for an error.

    Raises:
        ConfigError: More labels are asked for than there are.
    """
    hot = np.concatenate([hot, (hot.sum(1) == 0)[:, None]], 1)
    n, available = len(hot), hot.sum(0).astype(float)
    due = np.ones(len(available))
    goal = n
    if labeled.count is not None:
        goal = labeled.count
        if goal > n:
            raise ConfigError(f"{key}.count: asked for {goal} labeled images, {where} has {n}; lower it")
    elif labeled.fraction is not None:
        goal, due = max(1, round(labeled.fraction * n)), available
    elif labeled.per_class is not None:
        if not available[:-1].any():
            raise ConfigError(f"{key}.per_class: no image in {where} shows any class; use {key}.count")
        for name, there in zip(classes, available, strict=False):  # a class that training lacks cannot be asked for
            if 0 < there < labeled.per_class:
                raise ConfigError(
                    f"{key}.per_class: asked for {labeled.per_class} labeled images of class {name}, "
                    f"{where} has {int(there)}; lower it"
                )
        available[-1] = 0  # not a class
    if goal == n and labeled.per_class is None:
        return np.arange(n)
    random = np.random.default_rng(np.random.SeedSequence([labeled.seed, 1]))
    order = random.permutation(n)
    columns = random.permutation(np.flatnonzero(available))  # shuffled: ties between classes are the seed's to break
    queues = [iter(order[hot[order, column]]) for column in columns]
    hot, due, have = hot[:, columns], due[columns], np.zeros(len(columns))
    taken: dict[int, None] = {}
    while len(taken) < goal:
        if labeled.per_class is not None and have.min() >= labeled.per_class:
            break
        neediest = int(np.argmin(have / due))
        row = next((int(row) for row in queues[neediest] if row not in taken), None)
        if row is None:
            due[neediest] = 1e-300  # this class has no row left: it is due nothing more
            have[neediest] = np.inf
            continue
        taken[row] = None
        have += hot[row]
    return np.fromiter(taken, np.int64)
