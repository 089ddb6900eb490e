"""Does the code do what the paper says? `python benchmarks/claims.py`, within 20 minutes on two CPU cores.

Three claims of Spatiotemporal SSL (Bernhard et al., ECAI 2024), each on simulated data and on real EuroSAT patches:

- `pseudo_labels`: the teacher's pseudo-labels are more accurate than the plain network's at the same mask rate.
- `holdout`: a network that is shown metadata in the end loses accuracy where and when nobody trained; the student does not.
- `distillation`: it adds to the student, beyond what the teacher's pseudo-labels do; and do these help at all?

A seed chooses weights, batches, views and labeled images, and the images themselves where they are simulated, else their
division into training, validation and test. All arms are trained with the same seeds and compared seed by seed: means of
the paired differences with 95 % intervals (Student's t). Settings were chosen on validation (docs/method.md tells how
often); test and holdout are read once, after training. Finished trainings stay in `--out`, so an interrupted run goes on;
after a change of the code use another folder. JSON is printed, with accuracies and shares from 0 to 1; plots go to
`--plots`.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats

from stssl import config as cfg
from stssl.data.dataset import Dataset
from stssl.data.prepare import prepare
from stssl.data.sources.eurosat import EuroSAT, EuroSATConfig
from stssl.data.sources.simulated import Simulated, SimulatedConfig
from stssl.training.recipe import PLUGINS, Recipe
from stssl.training.trainer import Trainer

matplotlib.use("agg")
from matplotlib import pyplot as plt

ROOT = Path(__file__).parents[1]
Values = NDArray[np.float64]
Arrays = dict[str, NDArray[Any]]


class Study(NamedTuple):
    """One kind of data, and what all arms share."""

    title: str
    held_out: str  # what plots call it
    base: tuple[str, str]  # a recipe: file and key
    changes: str
    weights: tuple[float, float, float]  # of distillation: 0, the base recipe's (in the first two claims too), another
    seeds: int

    @property
    def student(self) -> str:
        """The arm of teacher and student in the first two claims."""
        return f"student {self.weights[1]:g}"


# Chosen by validation accuracy on seeds from 100 on, which no result contains; thresholds are the base recipes'. Simulated: long
# enough that an image alone, with all labels, leads one with 20 labels a class (65 % against 56 %), so that there is something
# to gain; with 40 labels it hardly does. EuroSAT: at a learning rate of 3e-4 or less nothing passes the published threshold
# within 400 steps, at 1e-3 it does.
STUDIES = {
    "simulated": Study(
        title="simulated",
        held_out="held-out region and season",
        base=("search_spaces/recipes/simulated.yaml", ""),
        changes="data.labeled.per_class=20 model.image_size=16 training.steps=1000 training.eval_interval=250 "
        "training.batch_labeled=32 training.batch_unlabeled=32 views.strong_ops=2 optimizer.lr=2e-3",
        weights=(0, 0.1, 1),
        seeds=6,
    ),
    "eurosat": Study(
        title="EuroSAT (real)",
        held_out="held-out region",
        base=("search_spaces/demo.yaml", "recipe"),
        changes="data.labeled.per_class=null data.labeled.count=20 data.split.validation=0.2 data.split.test=0.25 "
        "data.split.holdout.region=[18,30,45,72] optimizer.lr=1e-3 training.steps=400 training.eval_interval=100",
        weights=(0, 0.01, 1),
        seeds=6,
    ),
}
GPU = (
    "model.image_size=32 model.embed_dim=192 model.depth=6 model.num_heads=3 training.steps=8000 "
    "training.eval_interval=2000 training.batch_unlabeled=112 optimizer.lr=5e-4"
)
QUICK = "training.steps=8 training.eval_interval=4 optimizer.warmup_steps=2"
ALL = "data.labeled.per_class=null data.labeled.count=null"
ARMS = {
    "all labels": f"framework=plain algorithm.name=supervised {ALL}",  # what an image alone can tell
    "supervised": "framework=plain algorithm.name=supervised",  # what unlabeled images are worth
    "plain": "framework=plain",
    "metadata_input": "framework=metadata_input",
}
SPLITS = ("validation", "test", "holdout")
PERCENT = np.arange(1, 101)  # of the pseudo-labels, the most confident ones first
HEADLINE = 50  # percent, where the first claim is judged
GREY, ORANGE, BLUE = "#4c566a", "#d0703c", "#3b7dd8"
Job = tuple[Path, Recipe, str]  # where its result goes, what is trained, on which device


def jobs(name: str, given: argparse.Namespace) -> dict[str, list[Job]]:
    """Arm to its trainings, one a seed. Prepares their images."""
    study, found = STUDIES[name], dict[str, list[Job]]()
    base, out = cfg.read_yaml(ROOT / study.base[0]), given.out / name
    changes = f"{study.changes} {GPU if given.gpu else ''} {QUICK if given.quick else ''}"
    for seed in range(given.seeds or (2 if given.quick else 20 if given.gpu else study.seeds)):
        if name == "eurosat":
            prepare(EuroSAT(EuroSATConfig(root=str(given.eurosat))), shards := out / "images")
        else:
            images = 40_000 if given.gpu and not given.quick else 4_000
            prepare(Simulated(SimulatedConfig(images=images, seed=seed)), shards := out / f"images-{images}-{seed}")
        own = {"data.shards": str(shards), "seed": seed, "data.labeled.seed": seed, "data.split.seed": seed}
        distilled = {f"student {w:g}": f"framework=teacher_student distillation.weight={w}" for w in study.weights}
        for arm, settings in {**ARMS, **distilled}.items():
            overrides = {**cfg.parse_set(changes.split()), **own, **cfg.parse_set(settings.split())}
            data = cfg.with_overrides(base.get(study.base[1], base), overrides, plugins=PLUGINS)
            recipe = cfg.validate(Recipe, data, f"{name}, {arm}")
            file = out / f"{arm.replace(' ', '-')}-{seed}-{recipe.digest()}.json"
            found.setdefault(arm, []).append((file, recipe, given.device))
    return found


def train(job: Job) -> dict[str, Any]:
    """Train and measure, unless that was done."""
    file, recipe, device = job
    if file.exists():
        return dict(json.loads(file.read_text()))
    torch.set_num_threads(1)
    start, trainer = time.process_time(), Trainer(recipe, Dataset.open(recipe.data), device)
    result: dict[str, Any] = {"steps": [], "curves": [], "mask_rates": []}
    while not trainer.finished:
        result["steps"].append(trainer.run_interval()["step"])
        curve, mask_rate = pseudo_labels(trainer)
        result["curves"].append(curve)
        result["mask_rates"].append(mask_rate)
    result |= {split: trainer.evaluate(split)["accuracy"] for split in SPLITS}
    result |= {"sizes": trainer.dataset.split.sizes(), "images": len(trainer.dataset.store)}
    result["cpu_s"] = time.process_time() - start
    part = file.with_suffix(".part")
    part.write_text(json.dumps(result))
    part.replace(file)
    return result


@torch.no_grad()
def pseudo_labels(trainer: Trainer) -> tuple[list[float], float]:
    """Accuracy of the most confident 1 %, 2 %, ... 100 % of the pseudo-labels, and the share that passes the threshold.

    They are those of the network that training believes, as it is at that step, on one weak view of each image of the pool
    whose label is not used.
    """
    split, networks, said = trainer.dataset.split, trainer.networks.eval(), []
    rows = np.setdiff1d(split.unlabeled, split.labeled)
    if not len(rows):
        return [float("nan")] * len(PERCENT), 0.0
    for start in range(0, len(rows), 256):
        batch = trainer.dataset.batch(rows[start : start + 256])
        images = trainer.views.weak(batch.images, (5, trainer.recipe.seed, start))  # training has no 5th stream
        place, days = batch.place.to(trainer.device), batch.time.to(trainer.device)
        said.append(networks(networks.roles[0], images, place, days).logits.float().softmax(1).cpu())
    confidence, guess = (values.numpy() for values in torch.cat(said).max(1))
    right = guess == trainer.dataset.store.labels[torch.from_numpy(rows)].numpy()
    first = np.ceil(PERCENT / 100 * len(rows)).astype(int)
    accuracy = right[np.argsort(-confidence, kind="stable")].cumsum()[first - 1] / first
    threshold = getattr(trainer.recipe.algorithm, "threshold", 1.0)
    return accuracy.tolist(), float((confidence >= threshold).mean())


def interval(values: Values) -> dict[str, float | None]:
    """Mean and 95 % interval of one number a seed; NaN where a seed has none."""
    found = values[np.isfinite(values)]
    mean = float(found.mean()) if len(found) else None
    if mean is None or len(found) < 2:
        return {"mean": mean, "low": None, "high": None, "seeds": len(found)}
    half = float(stats.t.ppf(0.975, len(found) - 1) * stats.sem(found))
    return {"mean": mean, "low": mean - half, "high": mean + half, "seeds": len(found)}


def arrays(results: list[dict[str, Any]]) -> Arrays:
    """One row a seed: accuracies [S], curves [S, checkpoints, 100], mask rate at the end [S], and what follows from them."""
    one = {key: np.array([result[key] for result in results]) for key in (*SPLITS, "curves")}
    rate = np.array([result["mask_rates"][-1] for result in results])
    return {**one, "drop": one["test"] - one["holdout"], "mask rate": rate, "above the threshold": believed(one, rate)}


def believed(arm: Arrays, rates: Values) -> Values:
    """[S] accuracy of the most confident share `rates` [S], rounded up to percent, at the end; NaN where that is none."""
    index = np.maximum(np.ceil(100 * rates).astype(int), 1) - 1
    return np.where(rates > 0, arm["curves"][np.arange(len(rates)), -1, index], np.nan)


def summary(found: dict[str, Arrays], study: Study) -> dict[str, Any]:
    """Everything that is claimed, in numbers."""

    def more(arm: str, than: str, keys: tuple[str, ...] = SPLITS) -> dict[str, Any]:
        return {key: interval(found[arm][key] - found[than][key]) for key in keys}

    def shares(curves: Values) -> dict[str, Any]:
        return {f"most confident {share} %": interval(curves[:, share - 1]) for share in (10, 25, HEADLINE, 75, 100)}

    student = study.student
    two = {"teacher": found[student], "plain": found["plain"]}
    gain, rate = two["teacher"]["curves"] - two["plain"]["curves"], two["plain"]["mask rate"]
    pairs = [("metadata_input", "plain"), (student, "plain"), ("metadata_input", student)]
    distilled = [f"student {weight:g}" for weight in study.weights[1:]]
    gains = [("student 0", "plain"), *((arm, than) for than in ("student 0", "plain") for arm in distilled)]
    ends = ("mask rate", "above the threshold")
    return {
        "accuracy": {arm: {key: interval(one[key]) for key in (*SPLITS, "drop")} for arm, one in found.items()},
        "plain - supervised": more("plain", "supervised"),
        "all labels - plain": more("all labels", "plain"),
        "pseudo_labels": {
            **{name: {**shares(a["curves"][:, -1]), **{k: interval(a[k]) for k in ends}} for name, a in two.items()},
            "teacher - plain": {
                **shares(gain[:, -1]),
                **{key: interval(two["teacher"][key] - two["plain"][key]) for key in ends},
            },
            "teacher - plain, at each checkpoint": [interval(one[:, HEADLINE - 1]) for one in gain.swapaxes(0, 1)],
            "teacher - plain, at plain's mask rate": interval(np.subtract(*(believed(a, rate) for a in two.values()))),
            "teacher is metadata_input": np.array_equal(found[student]["curves"], found["metadata_input"]["curves"]),
        },
        "holdout": {f"{arm} - {than}": more(arm, than, ("test", "holdout", "drop")) for arm, than in pairs},
        "distillation": {f"{arm} - {than}": more(arm, than) for arm, than in gains},
    }


def draw_pseudo_labels(axes: Any, found: dict[str, Arrays], student: str) -> None:
    """Accuracy of the most confident pseudo-labels, and the teacher's lead."""

    def band(axis: Any, values: Values, color: str, label: str) -> None:
        spread = [interval(column) for column in values.T]
        mean, low, high = (100 * np.array([one[key] for one in spread], float) for key in ("mean", "low", "high"))
        axis.fill_between(PERCENT, low, high, color=color, alpha=0.2, linewidth=0)
        axis.plot(PERCENT, mean, color=color, label=label)

    for name, arm, color in (("teacher", found[student], ORANGE), ("plain", found["plain"], GREY)):
        band(axes[0], arm["curves"][:, -1], color, f"{name} network")
        axes[0].axvline(100 * arm["mask rate"].mean(), color=color, linestyle=":", label=f"{name}: above the threshold")
    axes[0].set_ylim(top=100)
    *earlier, last = (found[student]["curves"] - found["plain"]["curves"]).swapaxes(0, 1)
    for n, gain in enumerate(earlier, 1):
        label = f"after {n}/{len(earlier) + 1} of the training (mean)"
        axes[1].plot(PERCENT, 100 * gain.mean(0), color=BLUE, alpha=0.25 + 0.2 * n, linestyle="--", label=label)
    band(axes[1], last, "black", "at its end")
    for axis, label in zip(axes, ("accuracy, %", "teacher - plain, percentage points"), strict=True):
        axis.set(ylabel=label, xlim=(5, 100), xlabel="share of pseudo-labels, most confident first, %")


def dots(axis: Any, groups: dict[str, dict[str, Any]], keys: dict[str, str], label: str) -> None:
    """Draw intervals: `groups` stand along the x axis, `keys` are what is drawn of each and how the legend calls it."""
    for x, group in enumerate(groups.values()):
        for n, (key, name) in enumerate(keys.items()):
            mean, low, high = 100 * np.array([group[key][end] for end in ("mean", "low", "high")], float)
            style = {"fmt": "os"[n], "color": BLUE, "mfc": (BLUE, "w")[n], "label": None if x else name}
            axis.errorbar(x + 0.3 * n, mean, [[mean - low], [high - mean]], capsize=3, **style)
            axis.annotate(f"{round(mean, 1) + 0:.1f}", (x + 0.3 * n + 0.05, mean), fontsize=8, va="center")
    axis.set_xticks(np.arange(len(groups)) + 0.15 * (len(keys) - 1), [name.replace(" - ", "\n- ") for name in groups])
    axis.set(
        ylabel=label, xlim=(-0.3, len(groups) - 0.3), xlabel="student w: of teacher_student, distillation weight w"
    )
    axis.margins(y=0.2)  # room for the legend


PLOTS = {
    "pseudo_labels": (2, "Accuracy of pseudo-labels on unlabeled images"),
    "holdout": (2, "Where (and when) nobody trained"),
    "distillation": (1, "What the student gains over the same seed of another arm"),
}


def plot(file: Path, found: dict[str, dict[str, Arrays]], said: dict[str, Any]) -> None:
    """Draw one of PLOTS, a column for each kind of data."""
    rows, title = PLOTS[kind := file.stem.removeprefix("claims_")]
    figure, axes = plt.subplots(rows, len(found), figsize=(11, 1 + 3.3 * rows), squeeze=False, layout="constrained")
    figure.suptitle(f"{title}: means and 95 % intervals")
    for column, (name, one) in zip(axes.T, found.items(), strict=True):
        study, numbers = STUDIES[name], said[name]
        keys, student = {"test": "test", "holdout": study.held_out}, study.student
        if kind == "pseudo_labels":
            draw_pseudo_labels(column, one, student)
        elif kind == "holdout":
            arms = {arm: numbers["accuracy"][arm] for arm in ("plain", "metadata_input", student)}
            dots(column[0], arms, keys, "accuracy, %")
            dots(column[1], arms, {"drop": "test - held out"}, "drop, percentage points")
        else:
            dots(column[0], dict(list(numbers["distillation"].items())[:3]), keys, "accuracy, percentage points")
        column[0].set_title(
            f"{study.title}, {numbers['images']:,} images, {len(one['plain']['test'])} seeds", fontsize=10
        )
        for axis in column:
            axis.grid(alpha=0.25)
            axis.legend(fontsize=8, frameon=False, ncols=1 if kind == "pseudo_labels" else 2)
            if axis.get_ylim()[0] < 0:
                axis.axhline(0, color="black", linewidth=0.8)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=110)


def main() -> None:
    """Train all arms, print JSON, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "claims", help="images, results, claims.json")
    parser.add_argument("--plots", type=Path, help="folder of the plots [default: --out]")
    parser.add_argument("--only", choices=STUDIES, help="one kind of data alone")
    parser.add_argument("--seeds", type=int, help="how many [default: 6]")
    parser.add_argument("--eurosat", type=Path, default=ROOT / "data" / "eurosat_ms_103", help="any part of EuroSAT")
    parser.add_argument("--quick", action="store_true", help="two seeds, eight steps: to see that it runs")
    parser.add_argument("--gpu", action="store_true", help="a larger network, more images, longer, 20 seeds, on cuda")
    parser.add_argument("--device", help="[default: cuda with --gpu, else cpu]")
    parser.add_argument("--workers", type=int, default=2, help="trainings at a time")
    given, start = parser.parse_args(), time.perf_counter()
    given.device = given.device or ("cuda" if given.gpu else "cpu")
    todo = {name: jobs(name, given) for name in STUDIES if given.only in (None, name)}
    by_seed = [job for arms in todo.values() for row in zip(*arms.values(), strict=True) for job in row]
    with ProcessPoolExecutor(given.workers, multiprocessing.get_context("spawn")) as pool:
        for done, _ in enumerate(pool.map(train, by_seed), 1):
            print(f"\r{done} of {len(by_seed)} trainings", end="", flush=True, file=sys.stderr)
    results = {name: {arm: [train(job) for job in row] for arm, row in arms.items()} for name, arms in todo.items()}
    found = {name: {arm: arrays(row) for arm, row in arms.items()} for name, arms in results.items()}
    every = [result for arms in results.values() for row in arms.values() for result in row]
    said: dict[str, Any] = {"device": given.device, "cpu_minutes": sum(result["cpu_s"] for result in every) / 60}
    said["wall_minutes_of_this_call"] = (time.perf_counter() - start) / 60
    for name, one in found.items():
        first = results[name]["plain"][0]
        said[name] = {"images": first["images"], "split": first["sizes"]}
        said[name] |= summary(one, STUDIES[name])
    text = json.dumps(said, indent=2)
    print(text)
    (given.out / "claims.json").write_text(text + "\n")
    for kind in PLOTS:
        plot((given.plots or given.out) / f"claims_{kind}.png", found, said)


if __name__ == "__main__":
    main()
