"""One searched key: its choice or range, and when it exists."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from pydantic import Field, model_validator

from stssl import config as cfg

if TYPE_CHECKING:
    import optuna
    from optuna.distributions import BaseDistribution

Value = bool | int | float | str | None


class Parameter(cfg.Config):
    """One searched key: exactly one of choice, uniform, loguniform, int.

    `when` names the values of other keys under which this key exists (one value or a list of values each).
    """

    choice: tuple[Value, ...] | None = None
    uniform: tuple[float, float] | None = None
    loguniform: tuple[float, float] | None = None
    int_: tuple[int, int] | None = Field(None, alias="int")
    when: dict[str, Value | list[Value]] = {}

    @model_validator(mode="after")
    def _one(self) -> Parameter:
        given = [n for n in ("choice", "uniform", "loguniform", "int_") if getattr(self, n) is not None]
        if len(given) != 1:
            raise ValueError("give exactly one of choice, uniform, loguniform, int")
        for key, allowed in self.when.items():
            if allowed == []:
                raise ValueError(f"when.{key} has no values")
        if self.choice is not None:
            if not self.choice:
                raise ValueError("choice has no values")
            if any(value in self.choice[:i] for i, value in enumerate(self.choice)):
                raise ValueError("choice has the same value twice")
        else:
            low, high = self.ends
            if low >= high:
                raise ValueError(f"the lower end {low} must be below the upper end {high}")
            if self.loguniform and low <= 0:
                raise ValueError(f"the lower end {low} of a loguniform range must be above 0")
        return self

    @property
    def ends(self) -> tuple[Any, Any]:
        """Lower and upper end of a range."""
        return self.uniform or self.loguniform or self.int_  # type: ignore[return-value]

    def extremes(self) -> tuple[Any, ...]:
        """All values of a choice, both ends of a range."""
        return self.choice if self.choice is not None else self.ends

    def contains(self, value: Any) -> bool:
        """Whether a value lies in the choice or range."""
        if self.choice is not None:
            return any(value == c and isinstance(value, bool) == isinstance(c, bool) for c in self.choice)
        low, high = self.ends
        number = isinstance(value, int) or (isinstance(value, float) and self.int_ is None)
        return number and not isinstance(value, bool) and low <= value <= high

    def suggest(self, trial: optuna.trial.BaseTrial, key: str) -> Any:
        """Ask Optuna for a value."""
        if self.choice is not None:
            return trial.suggest_categorical(key, self.choice)
        low, high = self.ends
        if self.int_ is not None:
            return trial.suggest_int(key, low, high)
        return trial.suggest_float(key, low, high, log=self.loguniform is not None)

    def distribution(self) -> BaseDistribution:
        """As Optuna sees it."""
        from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

        if self.choice is not None:
            return CategoricalDistribution(self.choice)
        low, high = self.ends
        if self.int_ is not None:
            return IntDistribution(low, high)
        return FloatDistribution(low, high, log=self.loguniform is not None)

    def levels(self) -> list[Any] | None:
        """All values in their order; None when there is no end of them."""
        if self.choice is not None:
            return list(self.choice)
        return list(range(self.ends[0], self.ends[1] + 1)) if self.int_ is not None else None

    def to_unit(self, value: Any) -> float:
        """Where a value lies between 0 and 1: in the middle of its bin when there are finitely many."""
        levels = self.levels()
        if levels is not None:
            same = (v == value and isinstance(v, bool) == isinstance(value, bool) for v in levels)
            return (next(i for i, is_it in enumerate(same) if is_it) + 0.5) / len(levels)
        low, high = self.ends
        if self.loguniform is not None:
            return math.log(value / low) / math.log(high / low)
        return (value - low) / (high - low)

    def from_unit(self, unit: float) -> Any:
        """The value at a place between 0 and 1; of finitely many, all have bins of the same width."""
        levels = self.levels()
        if levels is not None:
            return levels[min(int(unit * len(levels)), len(levels) - 1)]
        low, high = self.ends
        value = low * (high / low) ** unit if self.loguniform is not None else low + unit * (high - low)
        return min(high, max(low, value))

    def draw(self, source: random.Random) -> Any:
        """A random value."""
        if self.choice is not None:
            return source.choice(self.choice)
        low, high = self.ends
        if self.int_ is not None:
            return source.randint(low, high)
        if self.loguniform is not None:
            return min(high, max(low, low * (high / low) ** source.random()))
        return source.uniform(low, high)

    def walk(self, source: random.Random) -> Iterator[Any]:
        """All values from a random one on, of a choice or integers; one random value of any other range."""
        if self.choice is None and self.int_ is None:
            yield self.draw(source)
            return
        values = self.choice if self.choice is not None else range(self.ends[0], self.ends[1] + 1)
        start = source.randrange(len(values))
        for i in range(len(values)):
            yield values[(start + i) % len(values)]

    def describe(self) -> str:
        """For messages: `choice of a, b` or `loguniform from 1e-05 to 0.001`."""
        if self.choice is not None:
            return f"choice of {', '.join(map(str, self.choice))}"
        kind = "int" if self.int_ else "uniform" if self.uniform else "loguniform"
        return f"{kind} from {self.ends[0]} to {self.ends[1]}"
