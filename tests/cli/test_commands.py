"""Every command but the search itself: what it prints, what it leaves, how it refuses."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from stssl.cli.app import main
from tests.cli.conftest import PATCHES, launch, recipe_of, search_of

COMMANDS = ("prepare", "inspect", "train", "evaluate", "search", "resume", "status", "report", "export", "schema")
Write = Callable[..., Path]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    assert f"launch.py {command}" in re.sub(r"\s+", " ", capsys.readouterr().out)


def test_version_and_wrong_use(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("stssl ")
    assert main(["serch"]) == 2
    assert "Did you mean" in capsys.readouterr().err
    assert main(["search"]) == 2
    assert main(["train", "x.yaml", "--sett", "a=1"]) == 2


def test_prepare_twice_and_inspect(shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prepare", "eurosat", str(PATCHES), "--out", str(shards)]) == 0
    assert "up to date" in capsys.readouterr().out
    assert main(["inspect", str(shards), "--verify", "--out", str(tmp_path / "seen")]) == 0
    shown = capsys.readouterr().out
    assert "103, 13 x 64 x 64 uint16" in shown and "all checksums match" in shown
    assert re.search(r"SeaLake\s+11", shown) and "with a place: 103 of 103; with a date: 0 of 103" in shown
    assert re.search(r"train\s+62\nvalidation\s+18\ntest\s+23", shown) and "season" not in shown
    for name in ("map.png", "samples.png"):
        assert (tmp_path / "seen" / name).read_bytes().startswith(b"\x89PNG") and name in shown
    assert main(["inspect", str(shards), "--no-pictures"]) == 0 and "png" not in capsys.readouterr().out


def test_train_resume_evaluate(shards: Path, write: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe, out = str(write(recipe_of(shards))), tmp_path / "out"
    assert main(["train", recipe, "--out", str(out), "--dry-run"]) == 0
    assert "images: labeled 20" in capsys.readouterr().out and not out.exists()
    assert main(["train", recipe, "--out", str(out)]) == 0
    first = capsys.readouterr().out
    assert first.count("\nstep ") == 9 and "best" in first
    weights = (out / "best" / "student.safetensors").read_bytes()
    assert main(["train", recipe, "--out", str(out)]) == 0
    assert "resuming at step 9" in capsys.readouterr().out
    assert (out / "best" / "student.safetensors").read_bytes() == weights
    assert main(["evaluate", str(out / "best"), "--split", "test", "--json"]) == 0
    bundle = json.loads(capsys.readouterr().out)
    assert main(["evaluate", str(out), "--split", "test", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == pytest.approx(bundle)
    assert main(["train", recipe, "--out", str(out), "--set", "optimizer.lr=0.5"]) == 2
    assert "optimizer.lr: 0.001 there, 0.5 here" in capsys.readouterr().err


@pytest.mark.parametrize("algorithm", ["flexmatch", "precision_weight", "cdmad"])
def test_evaluate_a_training_on_other_shards(
    algorithm: str, shards: Path, write: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An algorithm's memory of its own images is not needed for that; what it adds to the logits is."""
    few, out = tmp_path / "few", tmp_path / "out"
    for patch in sorted(PATCHES.rglob("*.tif"))[::2]:
        (few / "in" / patch.parent.name).mkdir(parents=True, exist_ok=True)
        shutil.copy(patch, few / "in" / patch.parent.name)
    assert main(["prepare", "eurosat", str(few / "in"), "--out", str(few / "shards")]) == 0
    recipe = str(write(recipe_of(shards)))
    changes = ["algorithm.name=" + algorithm, "training.labeled_sampling=class_balanced"]
    assert main(["train", recipe, "--out", str(out), *(x for c in changes for x in ("--set", c))]) == 0
    capsys.readouterr()
    scores = []
    for student in (out, out / "best"):
        assert main(["evaluate", str(student), "--shards", str(few / "shards"), "--json"]) == 0
        scores.append(json.loads(capsys.readouterr().out))
    assert scores[0] == pytest.approx(scores[1])
    assert main(["evaluate", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) != pytest.approx(scores[0])


def test_train_stopped_before_its_first_checkpoint(shards: Path, write: Write, tmp_path: Path) -> None:
    import signal
    import time

    config = recipe_of(shards)
    config["training"] |= {"steps": 100_000, "eval_interval": 100_000}
    recipe, out = write(config), tmp_path / "out"
    process = launch("train", recipe, "--out", out, wait=False)
    try:
        assert f"results in {out}" in process.stdout.readline()
        time.sleep(1)
        process.send_signal(signal.SIGINT)
        _, text = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130 and "Traceback" not in text, text
    assert "the same command again" in text
    assert not out.exists() or not any(out.iterdir())  # so nothing stands in the way of that command


def test_train_metadata_input_needs_no_student(
    shards: Path, write: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe, out = str(write(recipe_of(shards))), tmp_path / "out"
    assert main(["train", recipe, "--out", str(out), "--set", "framework=metadata_input"]) == 0
    assert not (out / "best").exists()
    assert main(["evaluate", str(out), "--json"]) == 0


def test_train_that_diverges_fails_with_a_remedy(
    shards: Path, write: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = str(write(recipe_of(shards)))
    assert main(["train", recipe, "--out", str(tmp_path / "out"), "--set", "optimizer.lr=1e6"]) == 1
    captured = capsys.readouterr()
    assert "diverged" in captured.out and "lower optimizer.lr" in captured.out and "Traceback" not in captured.err


def refused(arguments: list[Any], *said: str, capsys: pytest.CaptureFixture[str]) -> None:
    """One clear message, exit code 2, no traceback."""
    capsys.readouterr()
    assert main([str(a) for a in arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    for part in said:
        assert part in captured.err, captured.err
    assert "Traceback" not in captured.err
    assert len(captured.err.strip().splitlines()) == 1


# what is changed in the search file, and what the message must name: file, key, value, remedy
BAD_SEARCHES: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "misspelt key": ({"trails": 3}, ("s.yaml, line ", "trails", "did you mean 'trials'")),
    "misspelt recipe key": ({"recipe.optimizer.lrr": 1}, ("s.yaml, line ", "optimizer", "lrr", "did you mean 'lr'")),
    "misspelt plugin": ({"recipe.algorithm": {"name": "fixmach"}}, ("s.yaml", "fixmach", "did you mean 'fixmatch'")),
    "value out of range": ({"recipe.optimizer.lr": -1}, ("s.yaml, line ", "recipe: optimizer.lr", "-1")),
    "wrong type": ({"recipe.training.steps": "many"}, ("s.yaml", "training.steps", "many")),
    "no recipe": ({"recipe": None}, ("s.yaml", "recipe")),
    "no name": ({"name": None}, ("s.yaml", "name")),
    "empty space": ({"space": {}}, ("s.yaml, line ", "space", "empty", "optimizer.lr")),
    "unknown searched key": (
        {"space": {"optimizer.rl": {"uniform": [0.1, 0.2]}}},
        ("s.yaml", "optimizer.rl", "did you mean"),
    ),
    "searched value out of range": (
        {"space": {"algorithm.threshold": {"uniform": [0.5, 1.5]}}},
        ("s.yaml, line ", "space.algorithm.threshold", "1.5"),
    ),
    "base outside the space": (
        {"space": {"algorithm.threshold": {"uniform": [0.5, 0.6]}}},
        ("s.yaml, line ", "algorithm.threshold", "0.95", "widen"),
    ),
    "when on an unknown key": (
        {"space": {"distillation.weight": {"uniform": [0.1, 1], "when": {"frame": "plain"}}}},
        ("s.yaml", "space.distillation.weight.when", "frame"),
    ),
    "when on an impossible value": (
        {
            "space": {
                "framework": {"choice": ["plain", "teacher_student"]},
                "distillation.weight": {"uniform": [0.1, 1], "when": {"framework": "teacher"}},
            }
        },
        ("s.yaml", "space.distillation.weight.when", "'teacher'", "plain, teacher_student"),
    ),
    "searching the seed": ({"space": {"seed": {"int": [0, 5]}}}, ("s.yaml, line ", "space.seed", "recipe")),
    "bad metric": ({"metric": "acuracy"}, ("s.yaml, line ", "metric", "did you mean 'accuracy'")),
    "multi-label setting": (
        {"recipe.algorithm": {"name": "fixmatch", "threshold_negative": 0.1, "threshold_positive": 0.9}},
        ("algorithm.threshold_positive", "algorithm.threshold"),
    ),
    "rung between evaluations": (
        {"recipe.training.eval_interval": 3, "scheduler.grace_steps": 2},
        ("s.yaml, line ", "grace_steps", "eval_interval"),
    ),
    "unknown band": ({"recipe.data.bands": ["B4"]}, ("B4", "did you mean")),
    "too many labels": ({"recipe.data.labeled": {"per_class": 50}}, ("data.labeled.per_class", "50")),
    "no such shards": ({"recipe.data.shards": "/nowhere/at/all"}, ("/nowhere/at/all", "launch.py prepare")),
    "no model": ({"recipe.model": {"name": "vgg16"}}, ("s.yaml", "model.name", "vgg16")),
    "no pair": ({"recipe.model": {"name": "resnet50"}}, ("s.yaml, line ", "injection", "'token'", "resnet50", "film")),
    "nothing to export": (
        {"recipe.framework": "metadata_input", "space": {"optimizer.lr": {"loguniform": [1e-4, 1e-2]}}},
        ("s.yaml", "framework", "nothing to replicate or export"),
    ),
    "no metadata": ({"recipe.encoding": {"location": "none", "time": "none"}}, ("s.yaml", "encoding", "framework")),
    "no such weights": (
        {"recipe.model.pretrained": "/no/file.safetensors"},
        ("model.pretrained", "/no/file.safetensors"),
    ),
}


@pytest.mark.parametrize("case", BAD_SEARCHES)
def test_bad_search_files(
    case: str, shards: Path, write: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changes, said = BAD_SEARCHES[case]
    config = search_of(shards)
    for key, value in changes.items():
        *parents, leaf = key.split(".")
        here = config
        for parent in parents:
            here = here[parent]
        if value is None:
            del here[leaf]
        else:
            here[leaf] = value
    before = sorted(tmp_path.iterdir())
    refused(["search", write(config, "s.yaml"), "--out", tmp_path / "run"], *said, capsys=capsys)
    assert sorted(p for p in tmp_path.iterdir() if p.name != "s.yaml") == before  # nothing half-written


def test_bad_files_and_folders(shards: Path, write: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    refused(["search", tmp_path / "no.yaml"], "no.yaml", "no such file", capsys=capsys)
    refused(["search", write("a: [1", "torn.yaml")], "torn.yaml", "line", capsys=capsys)
    refused(["search", write("- a", "list.yaml")], "list.yaml", "mapping", capsys=capsys)
    refused(["train", write("a: 1\na: 2", "twice.yaml")], "twice.yaml", "'a' stands here twice", capsys=capsys)
    refused(["train", write("a: !!python/object:os.system {}", "evil.yaml")], "evil.yaml", capsys=capsys)
    space = write(search_of(shards))
    refused(["search", space, "--set", "trials"], "--set trials", "key=value", capsys=capsys)
    refused(["search", space, "--set", "trials=zero"], "trials", "zero", capsys=capsys)
    refused(["search", space, "--set", "space.x=1"], "space.x", capsys=capsys)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("mine")
    refused(["search", space, "--out", tmp_path / "full"], "full", "not empty", capsys=capsys)
    refused(["train", write(recipe_of(shards)), "--out", tmp_path / "full"], "full", "--out", capsys=capsys)
    for device in ("quantum", "meta"):
        refused(["train", write(recipe_of(shards)), "--device", device], f"--device {device}", capsys=capsys)
    inside = tmp_path / "full" / "file" / "x"
    refused(["train", write(recipe_of(shards)), "--out", inside], "file", capsys=capsys)
    refused(["search", write(search_of(shards), "s.yaml"), "--out", inside], "file", capsys=capsys)
    space = write(search_of(shards))
    for command in ("resume", "status", "report", "export"):
        refused([command, tmp_path / "full"], "full", "not the folder of a search", capsys=capsys)
        refused([command, tmp_path / "none"], "none", "not the folder of a search", capsys=capsys)
    refused(["evaluate", tmp_path / "full"], "full", "student.safetensors", capsys=capsys)
    refused(["inspect", tmp_path / "full"], "full", "launch.py prepare", capsys=capsys)
    refused(["prepare", "eurosatt", PATCHES, "--out", tmp_path / "x"], "eurosatt", "did you mean", capsys=capsys)
    refused(["prepare", "eurosat", tmp_path / "none", "--out", tmp_path / "x"], "none", "EuroSAT", capsys=capsys)
    refused(["prepare", "eurosat", tmp_path / "full", "--out", tmp_path / "x"], "full", capsys=capsys)
    refused(["prepare", "eurosat", PATCHES, "--out", tmp_path / "full", "--overwrite"], "full", capsys=capsys)
    assert (tmp_path / "full" / "file").read_text() == "mine" and not (tmp_path / "x").exists()


def test_damaged_tiff_and_checkpoint(
    shards: Path, write: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    patches = tmp_path / "patches"
    shutil.copytree(PATCHES, patches)
    victim = next(patches.glob("EuroSAT_MS/River/*.tif"))
    victim.write_bytes(victim.read_bytes()[:5000])
    refused(["prepare", "eurosat", patches, "--out", tmp_path / "x"], victim.name, capsys=capsys)
    assert not (tmp_path / "x").exists()

    out = tmp_path / "out"
    recipe = write(recipe_of(shards))
    assert main(["train", str(recipe), "--out", str(out)]) == 0
    checkpoint = out / "checkpoint.pt"
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    refused(["train", recipe, "--out", out], "checkpoint.pt", "damaged", capsys=capsys)
    torch.save({"format": 1, "payload": launch}, checkpoint)  # a pickle that names code
    refused(["evaluate", out], "checkpoint.pt", "damaged", capsys=capsys)
    weights = out / "best" / "student.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    refused(["evaluate", out / "best"], "best", "export it again", capsys=capsys)
    refused(["evaluate", out / "best", "--split", "training"], capsys=capsys)


def test_outside_the_environment_launch_says_what_is_missing(tmp_path: Path) -> None:
    import subprocess
    import sys

    from tests.cli.conftest import ROOT

    done = subprocess.run(
        [sys.executable, "-S", str(ROOT / "launch.py"), "--help"], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 2 and "stssl needs the package" in done.stderr and "Traceback" not in done.stderr


def test_the_demo_space_is_sound(shards: Path, tmp_path: Path) -> None:
    from tests.cli.conftest import ROOT

    space = ROOT / "search_spaces" / "demo.yaml"
    done = launch("search", space, "--dry-run", "--set", f"recipe.data.shards={shards}")
    assert done.returncode == 0, done.stderr
    shown = yaml.safe_load(done.stdout)
    assert shown["trials"] >= 16 and len(re.findall(r"rungs at steps (.*);", done.stdout)[0].split(", ")) >= 3
    assert "16 trials" in done.stdout


def test_what_stands_in_a_file_does_not_move_the_cursor(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "\x1b[2J\x07.yaml").write_text("- 1")
    assert main(["train", str(tmp_path / "\x1b[2J\x07.yaml"), "--dry-run"]) == 2
    said = capsys.readouterr().err
    assert r"\x1b[2J\x07.yaml" in said and "\x1b[2J" not in said and "\x07" not in said
