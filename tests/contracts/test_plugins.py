"""A new file is all that a new plugin takes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import create_model

from stssl import plugins
from stssl.config import Config, validate
from stssl.errors import ConfigError

ROOT = Path(__file__).parents[2]

BASE = """
class Shape:
    pass
"""

PLUGIN = """
from typing import Literal
from stssl.config import Config
from {package}.base import Shape

class {cls}Config(Config):
    name: Literal["{name}"] = "{name}"
    size: int = 1

class {cls}(Shape):
    Config = {cls}Config

    def __init__(self, config, scale=1):
        self.area = config.size * scale

class Helper(Shape):  # no Config of its own: not a plugin
    pass
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty package of plugins, importable by its folder's name, which no other test shares."""
    folder = tmp_path / f"shapes_of_{tmp_path.name}"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "base.py").write_text(BASE)
    monkeypatch.syspath_prepend(tmp_path)
    return folder


def add(package: Path, file: str, name: str, cls: str) -> None:
    (package / f"{file}.py").write_text(PLUGIN.format(package=package.name, name=name, cls=cls))


def base_of(package: Path) -> type:
    return __import__(f"{package.name}.base", fromlist=["Shape"]).Shape


def test_found_by_file_name(package: Path) -> None:
    add(package, "square", "square", "Square")
    add(package, "circle", "circle", "Circle")
    add(package, "_hidden", "hidden", "Hidden")
    (package / "nothing.py").write_text("x = 1\n")
    (package / "folder").mkdir()
    (package / "folder" / "__init__.py").write_text("raise RuntimeError('not a plugin')\n")
    found = plugins.find(package.name, base_of(package))
    assert list(found) == ["circle", "square"]
    assert found["square"].__name__ == "Square"


def test_a_name_that_is_not_the_file_name_is_a_programming_mistake(package: Path) -> None:
    add(package, "square", "sqare", "Square")
    with pytest.raises(TypeError, match=r"Square.Config.name must be 'square'"):
        plugins.find(package.name, base_of(package))


@pytest.mark.parametrize("names", [["square"], ["circle", "square"]])
def test_chosen_and_built(package: Path, names: list[str]) -> None:
    for name in names:
        add(package, name, name, name.title())
    base = base_of(package)
    holder = create_model("Holder", __base__=Config, shape=(plugins.choice_of(package.name, base), "square"))
    assert holder().shape.size == 1
    for given, size in [("square", 1), ({"name": "square", "size": 3}, 3)]:
        config = validate(holder, {"shape": given}, "s.yaml").shape
        assert plugins.build(package.name, base, config, 10).area == 10 * size
    with pytest.raises(ConfigError, match=r"s.yaml: shape: unknown choice 'sqare'; did you mean 'square'\?"):
        validate(holder, {"shape": "sqare"}, "s.yaml")
    with pytest.raises(ConfigError, match=r"s.yaml: shape: unknown key 'sizes'; did you mean 'size'\?"):
        validate(holder, {"shape": {"name": "square", "sizes": 3}}, "s.yaml")


TRAIN_WITH_NEW_FILES = '''
import sys
from pathlib import Path

import stssl.algorithms, stssl.encodings.location, stssl.models.injection

NEW = {
    stssl.encodings.location: ("sphere_test", """
from typing import Literal
import torch
from stssl.config import Config
from stssl.encodings.base import LocationEncoding

class C(Config):
    name: Literal["sphere_test"] = "sphere_test"

class E(LocationEncoding):
    Config = C
    features = 3
    def __init__(self, config):
        super().__init__()
    def forward(self, place_deg):
        lat, lng = place_deg.deg2rad().unbind(1)
        return torch.stack([lat.cos() * lng.cos(), lat.cos() * lng.sin(), lat.sin()], 1)
"""),
    stssl.algorithms: ("pseudo_test", """
from typing import Literal
import torch
from stssl.algorithms.base import Algorithm, SemiSupervisedConfig, Targets

class C(SemiSupervisedConfig):
    name: Literal["pseudo_test"] = "pseudo_test"

class A(Algorithm):
    Config = C
    def believe(self, seen, step):
        return Targets(seen.weak.argmax(1), torch.ones(len(seen.weak)))
"""),
    stssl.models.injection: ("add_test", """
from typing import Literal
from stssl.config import Config
from stssl.models.injection.base import Injection, Outputs

class C(Config):
    name: Literal["add_test"] = "add_test"

class I(Injection):
    Config = C
    def __init__(self, config, backbone, encoder):
        super().__init__(backbone, encoder)
    def forward(self, images, place, time):
        tokens = self.backbone.forward_features(images) + self.encoder(place, time)[:, None]
        return Outputs(self.backbone.forward_head(tokens), tokens[:, 0])
"""),
}
for package, (name, text) in NEW.items():
    folder = Path(sys.argv[1], package.__name__)
    folder.mkdir()
    (folder / f"{name}.py").write_text(text)
    package.__path__.append(str(folder))

from tests.conftest import RECIPE, make_store
from stssl.config import validate, with_overrides
from stssl.data.dataset import Dataset
from stssl.training.recipe import PLUGINS, Recipe
from stssl.training.trainer import Trainer

chosen = {"algorithm.name": "pseudo_test", "encoding.location": "sphere_test", "injection": "add_test"}
recipe = validate(Recipe, with_overrides(RECIPE, chosen, plugins=PLUGINS), "r.yaml")
trainer = Trainer(recipe, Dataset(recipe.data, make_store("single")))
print(sorted(trainer.train(1)), trainer.networks.teacher.encoder.location.features)
'''


def test_new_files_of_every_kind_train_without_another_edit(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", TRAIN_WITH_NEW_FILES, str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "'mask_rate'" in done.stdout and done.stdout.split()[-1] == "3"
