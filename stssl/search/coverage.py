"""Whether all of a search space can be drawn: every value of a choice, the ends of the ranges, and random points."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from stssl import config as cfg
from stssl.errors import ConfigError, StsslError, short_repr, shorten
from stssl.training.recipe import Recipe

if TYPE_CHECKING:
    from stssl.search.parameter import Parameter, Value
    from stssl.search.space import Space

_COMPLETIONS = (
    200  # random values of the other keys that are tried for a value that a constraint forbids beside the base's
)
_EDGE = 0.05  # of a range: an open comparison may forbid the end itself
_LEAST = 0.02  # of the random draws that the constraints must allow: fewer, and a search mostly looks for recipes


def check_values(space: Space, extra: Callable[[Recipe], None]) -> None:
    """Check every value of every choice and both ends of every range, beside values like the base recipe's.

    Args:
        space: The space.
        extra: A further check of each recipe.

    Raises:
        ConfigError: A value works in no recipe: names key, value and fault.
    """
    flat = cfg.flatten(Recipe.model_validate(space.base).dump())

    def near_base(name: str, wanted: list[Value] | None) -> Any:
        base, parameter = flat.get(name), space.parameters[name]
        if wanted is not None:
            return base if base in wanted else wanted[0]
        return base if parameter.contains(base) else parameter.extremes()[0]

    for key, parameter in space.parameters.items():
        for value in parameter.extremes():
            draw = space.draw_with(key, value, near_base)
            try:
                if space.broken(draw):
                    draw = _completion(space, key, value) or _completion(space, key, _inside(parameter, value)) or draw
                extra(space.recipe(draw))
            except StsslError as error:
                fault = str(error).removeprefix(f"{space.source}: ")
                raise ConfigError(f"{space.source}: space.{key}: {short_repr(value)} does not work: {fault}") from None


def _completion(space: Space, key: str, value: Any) -> dict[str, Any] | None:
    """A valid draw with this value and random others."""
    source = random.Random(0)

    def any_of(name: str, wanted: list[Value] | None) -> Any:
        return source.choice(wanted) if wanted is not None else space.parameters[name].draw(source)

    draws = (space.draw_with(key, value, any_of) for _ in range(_COMPLETIONS))
    return next((draw for draw in draws if space.fault(draw) is None), None)


def _inside(parameter: Parameter, value: Any) -> Any:
    """Just inside of the end of a continuous range; any other value as it is."""
    if parameter.levels() is not None or parameter.int_ is not None:
        return value
    return parameter.from_unit(_EDGE if value == parameter.ends[0] else 1 - _EDGE)


def check_draws(space: Space, extra: Callable[[Recipe], None], draws: int) -> None:
    """Check random draws; those that do not meet the constraints count, but are no fault.

    Args:
        space: The space.
        extra: A further check of each recipe.
        draws: How many, at most for ten seconds.

    Raises:
        ConfigError: A draw is no valid recipe, or too few meet the constraints.
    """
    source = random.Random(0)
    end = time.monotonic() + 10
    drawn, refused = 0, Counter[str]()
    while drawn < draws and time.monotonic() < end:
        drawn += 1
        values = space.random_draw(source)
        if broken := space.broken(values):
            refused[shorten(broken[0].text)] += 1
            continue
        try:
            extra(space.recipe(values))
        except ConfigError as error:
            raise ConfigError(f"{error}; `constraints` can exclude such draws") from None
    allowed = drawn - refused.total()
    if allowed < _LEAST * drawn:
        blame = ", ".join(f"'{text}' refuses {count}" for text, count in refused.most_common())
        raise ConfigError(
            f"{space.source}: constraints: allow {allowed} of {drawn} random draws ({blame}); narrow the ranges in space "
            "so that most draws meet them"
        )
