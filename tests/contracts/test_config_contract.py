"""Every plugin's configuration, found the way the program finds it."""

import pytest

from stssl import plugins
from stssl.algorithms.base import Algorithm
from stssl.config import Config, validate
from stssl.data.sources.base import Source
from stssl.encodings.base import LocationEncoding, TimeEncoding
from stssl.encodings.encoder import EncoderConfig
from stssl.errors import ConfigError
from stssl.models.injection.base import Injection

KINDS = {
    "stssl.encodings.location": LocationEncoding,
    "stssl.encodings.time": TimeEncoding,
    "stssl.models.injection": Injection,
    "stssl.algorithms": Algorithm,
}
PLUGINS = [
    pytest.param(name, plugin, id=f"{package.split('.')[-1]}-{name}")
    for package, base in KINDS.items()
    for name, plugin in plugins.find(package, base).items()
]


@pytest.mark.parametrize("package, base", [*KINDS.items(), ("stssl.data.sources", Source)])
def test_something_is_found(package: str, base: type) -> None:
    assert plugins.find(package, base)


@pytest.mark.parametrize("name, plugin", PLUGINS)
def test_default_config_has_the_module_name(name: str, plugin: type) -> None:
    assert plugin.Config().name == name == plugin.__module__.split(".")[-1]
    assert issubclass(plugin.Config, Config)


@pytest.mark.parametrize("name, plugin", PLUGINS)
def test_every_setting_misspelt_is_refused_with_the_right_one(name: str, plugin: type) -> None:
    for field in plugin.Config.model_fields:
        with pytest.raises(ConfigError, match=f"test.yaml: unknown key '{field}x'; did you mean '{field}'"):
            validate(plugin.Config, {f"{field}x": 1}, "test.yaml")


@pytest.mark.parametrize("name, plugin", PLUGINS)
def test_config_is_frozen_and_survives_its_dump(name: str, plugin: type) -> None:
    config = plugin.Config()
    with pytest.raises(ValueError, match="frozen"):
        config.name = "other"
    assert validate(plugin.Config, config.model_dump(mode="json"), "test.yaml") == config


def test_a_fault_in_a_chosen_plugin_names_the_dotted_key() -> None:
    with pytest.raises(ConfigError, match=r"r.yaml: location: unknown choice 'scalde'; did you mean 'scaled'\?"):
        validate(EncoderConfig, {"location": "scalde"}, "r.yaml")
    with pytest.raises(ConfigError, match=r"r.yaml: time: unknown key 'harmonic'; did you mean 'harmonics'\?"):
        validate(EncoderConfig, {"time": {"name": "day_of_year", "harmonic": 2}}, "r.yaml")
    with pytest.raises(ConfigError, match=r"r.yaml: time.harmonics: .*less than or equal to 6.*got 9"):
        validate(EncoderConfig, {"time": {"name": "day_of_year", "harmonics": 9}}, "r.yaml")
