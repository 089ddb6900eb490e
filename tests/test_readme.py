"""The README's examples run as they stand there."""

from __future__ import annotations

import importlib.util
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import torch

from stssl.algorithms.base import Algorithm, Logits, Setting
from stssl.config import parse_yaml, validate
from stssl.data.dataset import DataConfig
from stssl.data.prepare import prepare
from stssl.data.sources.base import Source
from stssl.encodings.base import LocationEncoding
from stssl.encodings.encoder import EncoderConfig, MetadataEncoder
from stssl.models.backbone import ModelConfig, build_backbone
from stssl.models.injection.base import Injection
from stssl.search.config import SearchConfig
from stssl.search.json_schema import search_schema
from stssl.search.space import Space
from tests.algorithms.asking import seen

TEXT = (Path(__file__).parents[1] / "README.md").read_text()


def example(base: type, folder: Path) -> Any:
    """The class in the README that derives from `base`, imported from a file in `folder`."""
    for code in re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL):
        if re.search(rf"^class \w+\({base.__name__}\)", code, re.MULTILINE):
            name = f"readme_{base.__name__}"
            (folder / f"{name}.py").write_text(code)
            spec = importlib.util.spec_from_file_location(name, folder / f"{name}.py")
            assert spec is not None and spec.loader is not None
            module = sys.modules[name] = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
            return next(
                v for v in vars(module).values() if isinstance(v, type) and issubclass(v, base) and v.__module__ == name
            )
    raise AssertionError(f"no example of a {base.__name__}")


def test_own_source(tmp_path: Path) -> None:
    plugin = example(Source, tmp_path)
    for number, label in enumerate(["field", "lake", "unlabeled"]):
        (tmp_path / "raw" / label).mkdir(parents=True)
        np.save(tmp_path / "raw" / label / f"{number}.npy", np.full((4, 32, 32), number, np.uint16))
    source = plugin(plugin.Config(root=str(tmp_path / "raw")))
    card, written, _ = prepare(source, tmp_path / "shards")
    assert written and card.count == 3 and card.classes == ("field", "lake")


def test_own_encoding(tmp_path: Path) -> None:
    plugin = example(LocationEncoding, tmp_path)
    out = plugin(plugin.Config())(torch.tensor([[-90.0, 180.0], [0.0, -180.0]]))
    assert out.shape == (2, plugin.features)
    assert torch.allclose(out, torch.tensor([[-1.0, 1.0, 0.0], [0.0, 0.0, 1.0]]), atol=1e-6)


def test_own_injection(tmp_path: Path) -> None:
    plugin = example(Injection, tmp_path)
    for model in (ModelConfig(name="tiny", image_size=16, depth=1), ModelConfig(name="test_resnet", image_size=32)):
        backbone = build_backbone(model, 3, 5)
        network = plugin(plugin.Config(), backbone, MetadataEncoder(EncoderConfig(), plugin.embedding(backbone))).eval()
        images = torch.randn(2, 3, model.image_size, model.image_size)
        output = network(images, torch.zeros(2, 2), torch.zeros(2, dtype=torch.float64))
        assert torch.equal(output.logits, backbone(images))
        output.logits.sum().backward()
        assert network.gain.weight.grad.abs().sum() > 0


def test_own_algorithm(tmp_path: Path) -> None:
    plugin = example(Algorithm, tmp_path)
    for task in ("single", "multi"):
        algorithm = plugin(plugin.Config(power=2), Setting(task, 3))
        targets = algorithm.believe(seen(torch.tensor([[9.0, 0.0, -9.0]])), 0)
        logits = Logits(torch.zeros(1, 3), torch.zeros(1, 3))
        losses = algorithm.losses(logits, targets.labels, targets, "student", 0)
        assert set(losses) == {"supervised", "unsupervised"} and all(v.isfinite() for v in losses.values())


YAML = re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)


def test_data_settings() -> None:
    (block,) = (block for block in YAML if block.startswith("data:"))
    config = validate(DataConfig, parse_yaml(block, "README.md")["data"], "README.md")
    assert config.split.holdout is not None and config.validation_budget.count == 200


def test_search_space(tmp_path: Path) -> None:
    (block,) = (block for block in YAML if block.startswith("name:"))
    shutil.copytree(Path(__file__).parents[1] / "search_spaces" / "recipes", tmp_path / "recipes")
    (tmp_path / "space.yaml").write_text(block)
    jsonschema.validate(parse_yaml(block, "README.md"), search_schema())
    config = SearchConfig.read(tmp_path / "space.yaml")
    space = Space(config.space, config.recipe, constraints=config.constraints)
    assert config.trials == 64 and space.base_point()["algorithm.threshold"] == 0.95
    space.check()


def test_commands_are_all_there() -> None:
    from stssl.cli.app import app

    table = TEXT.split("## Commands")[1].split("|---|---|")[1].split("\n\n")[0]
    names = {(command.name or command.callback.__name__) for command in app.registered_commands}  # type: ignore[union-attr]
    assert set(re.findall(r"^\| `(\w+)", table, re.MULTILINE)) == names


def test_every_relative_link_exists() -> None:
    root = Path(__file__).parents[1]
    headings = {"#" + line.lstrip("# ").lower().replace(" ", "-") for line in TEXT.splitlines() if line.startswith("#")}
    for target in re.findall(r"\]\((?!http)([^)]+)\)", TEXT):
        assert target in headings if target.startswith("#") else (root / target).exists(), target


def test_no_hosts_in_constraints() -> None:
    lines = (Path(__file__).parents[1] / "constraints.txt").read_text().splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert pins and all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.+]+", pin) for pin in pins)
