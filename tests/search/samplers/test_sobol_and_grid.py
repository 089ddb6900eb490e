"""Samplers that follow a plan."""

import random

from scipy.stats import qmc

from stssl.search.sampler import Sampler, SamplerConfig

NUMERIC = {"optimizer.lr": {"loguniform": [1e-6, 1]}, "algorithm.threshold": {"uniform": [0, 1]}}


def test_sobol_covers_more_evenly_than_chance(search_config, space_of, history) -> None:
    space = space_of(search_config(space=NUMERIC))

    def discrepancy(name: str, seed: int) -> float:
        sampler, told = Sampler(SamplerConfig(name=name, seed=seed, prior=0), space, [90]), type(history)()
        points = []
        for _ in range(32):
            draw = sampler.draw(told.state)
            told.add(draw.params, {90: random.Random(0).random()}, "complete", draw.by)
            points.append([space.parameters[key].to_unit(draw.params[key]) for key in NUMERIC])
        return float(qmc.discrepancy(points))

    assert max(discrepancy("qmc", seed) for seed in range(5)) < min(discrepancy("random", seed) for seed in range(5))


def test_sobol_goes_on_behind_its_last_point(search_config, space_of, history) -> None:
    space = space_of(search_config(space={**NUMERIC, "optimizer.warmup_steps": {"int": [0, 200]}}))  # half do not fit
    sampler = Sampler(SamplerConfig(name="qmc", prior=0), space, [90])
    for _ in range(16):
        draw = sampler.draw(history.state)
        history.add(draw.params, {90: 0.5}, "complete", draw.by)
        history.add({**draw.params, "optimizer.lr": 0.5}, {90: 0.5}, "complete", {"sampler": "prior"})  # is not counted
    used = [t.by["index"] for t in history.state.trials.values() if "index" in t.by]
    assert used == sorted(set(used)) and used[0] <= 5 and 20 < used[-1] < 64
    sequence = qmc.Sobol(3, scramble=True, rng=0).random(64)  # the sequence itself, but for what does not fit
    drawn = [t.params["algorithm.threshold"] for t in history.state.trials.values() if "index" in t.by]
    assert drawn == sequence[used, 1].tolist()
    assert [i for i in range(used[-1] + 1) if i not in used] == [
        i for i in range(used[-1] + 1) if sequence[i, 2] >= 90 / 201
    ]


def test_grid_goes_in_order(search_config, space_of, history) -> None:
    space = {
        "framework": {"choice": ["plain", "teacher_student"]},
        "distillation.loss": {"choice": ["mae", "cosine"], "when": {"framework": "teacher_student"}},
        "views.strong_ops": {"int": [2, 3]},
    }
    sampler = Sampler(SamplerConfig(name="grid"), space_of(search_config(space=space)), [90])
    history.add({"framework": "plain", "views.strong_ops": 3}, {90: 0.5}, "complete", {"sampler": "point"})
    drawn = []
    while (draw := sampler.draw(history.state)) is not None:
        drawn.append(tuple(draw.params.values()))
        history.add(draw.params, {}, "infrastructure", draw.by)
    assert drawn == [
        ("plain", 2),
        ("teacher_student", 2, "mae"),
        ("teacher_student", 2, "cosine"),
        ("teacher_student", 3, "mae"),
        ("teacher_student", 3, "cosine"),
    ]
