"""One searched key: its choice or range, and when it exists."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from pydantic import Field, model_validator

from stssl import config as cfg
from stssl.errors import short_repr, shorten

if TYPE_CHECKING:
    import optuna

Value = bool | int | float | str | None
_MANY = 1_000_000  # more values than this nobody lists
_LISTED = 20  # values of a choice in a message
_LARGEST, _LARGEST_INT = 1e100, 2**53  # of an end of a range: its width is a finite number, and each integer a float
_CLOSE = 1e-8  # of a step: Optuna's tolerance too


class Parameter(cfg.Config):
    """One searched key: exactly one of choice, uniform, loguniform, int.

    `step` leaves every step-th value of a uniform or int range, both ends among them. `when` names the values of other
    keys under which this key exists (one value or a list of values each).
    """

    choice: tuple[Value, ...] | None = None
    uniform: tuple[float, float] | None = None
    loguniform: tuple[float, float] | None = None
    int_: tuple[int, int] | None = Field(None, alias="int")
    step: float | None = Field(None, gt=0)
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
            if max(abs(low), abs(high)) > (_LARGEST_INT if self.int_ is not None else _LARGEST):
                raise ValueError(f"the end {short_repr(max(low, high, key=abs))} is too large a number")
            if low >= high:
                raise ValueError(f"the lower end {low} must be below the upper end {high}")
            if self.loguniform and low <= 0:
                raise ValueError(f"the lower end {low} of a loguniform range must be above 0")
        if self.step is not None:
            self._check_step(self.step)
        return self

    def _check_step(self, step: float) -> None:
        if self.uniform is None and self.int_ is None:
            raise ValueError("step is for uniform and int; a choice lists its values, a loguniform range has all")
        if self.int_ is not None and step != int(step):
            raise ValueError(f"the step {step:g} of an int range must be a whole number")
        low, high = self.ends
        steps = (high - low) / step
        if steps > _MANY:
            raise ValueError(f"a step of {step:g} makes more than {_MANY} values; leave step out")
        if abs(steps - round(steps)) > _CLOSE or round(steps) < 1:
            near = low + max(1, round(steps)) * step
            raise ValueError(f"{low:g} to {high:g} is no whole number of steps of {step:g}; end at {near:.12g}")

    @property
    def ends(self) -> tuple[Any, Any]:
        """Lower and upper end of a range."""
        return self.uniform or self.loguniform or self.int_  # type: ignore[return-value]

    @property
    def continuous(self) -> bool:
        """Whether it is a range of numbers without steps."""
        return self.choice is None and self.int_ is None and self.step is None

    def extremes(self) -> tuple[Any, ...]:
        """All values of a choice, both ends of a range."""
        return self.choice if self.choice is not None else self.ends

    def contains(self, value: Any) -> bool:
        """Whether a value lies in the choice or range."""
        if self.choice is not None:
            return any(value == c and isinstance(value, bool) == isinstance(c, bool) for c in self.choice)
        low, high = self.ends
        number = isinstance(value, int) or (isinstance(value, float) and self.int_ is None)
        if not number or isinstance(value, bool) or not math.isfinite(value):
            return False
        if self.step is None:
            return bool(low <= value <= high)
        steps = (value - low) / self.step
        return abs(steps - round(steps)) <= _CLOSE and 0 <= round(steps) < self._size()

    def _size(self) -> int:
        """How many values there are; 0 for a range that is continuous."""
        if self.choice is not None:
            return len(self.choice)
        low, high = self.ends
        if self.int_ is not None:
            return (high - low) // int(self.step or 1) + 1
        return round((high - low) / self.step) + 1 if self.step else 0

    def _level(self, i: int) -> Any:
        """The value number `i` of those there are."""
        if self.choice is not None:
            return self.choice[i]
        if self.int_ is not None:
            return self.int_[0] + i * int(self.step or 1)
        assert self.step is not None
        return float(f"{self.ends[0] + i * self.step:.12g}")  # 0.65, not 0.6500000000000001

    def _index(self, value: Any) -> int:
        if self.choice is not None:
            return next(
                i for i, c in enumerate(self.choice) if value == c and isinstance(value, bool) == isinstance(c, bool)
            )
        if self.int_ is not None:
            return (value - self.int_[0]) // int(self.step or 1)
        assert self.step is not None
        return round((value - self.ends[0]) / self.step)

    def levels(self) -> list[Any] | None:
        """All values in order; None of a continuous range, and of integers too many to list."""
        return [self._level(i) for i in range(self._size())] if 0 < self._size() <= _MANY + 1 else None

    def to_unit(self, value: Any) -> float:
        """A value's place between 0 and 1: the middle of its bin, or its part of the range (of its decades for log).

        `from_unit` leads back to the same value, but for rounding where the range is continuous.
        """
        if size := self._size():
            return (self._index(value) + 0.5) / size
        low, high = self.ends
        return math.log(value / low) / math.log(high / low) if self.loguniform else (value - low) / (high - low)

    def from_unit(self, u: float) -> Any:
        """The value at a place between 0 and 1; finite many values share it equally."""
        if size := self._size():
            return self._level(min(size - 1, int(u * size)))
        low, high = self.ends
        value = low * (high / low) ** u if self.loguniform else low + u * (high - low)
        return min(high, max(low, value))

    def distribution(self) -> optuna.distributions.BaseDistribution:
        """The same for Optuna."""
        from optuna import distributions

        if self.choice is not None:
            return distributions.CategoricalDistribution(self.choice)
        low, high = self.ends
        if self.int_ is not None:
            return distributions.IntDistribution(low, high, step=int(self.step or 1))
        return distributions.FloatDistribution(low, high, log=self.loguniform is not None, step=self.step)

    def suggest(self, trial: optuna.trial.BaseTrial, key: str) -> Any:
        """Ask Optuna for a value."""
        if self.choice is not None:
            return trial.suggest_categorical(key, self.choice)
        low, high = self.ends
        if self.int_ is not None:
            return trial.suggest_int(key, low, high, step=int(self.step or 1))
        value = trial.suggest_float(key, low, high, log=self.loguniform is not None, step=self.step)
        return self._level(self._index(value)) if self.step else value

    def draw(self, source: random.Random) -> Any:
        """A random value."""
        if size := self._size():
            return self._level(source.randrange(size))
        return self.from_unit(source.random())

    def walk(self, source: random.Random) -> Iterator[Any]:
        """All values from a random one on, if there are finitely many; one random value of any other range."""
        size = self._size()
        if not size:
            yield self.draw(source)
            return
        start = source.randrange(size)
        for i in range(size):
            yield self._level((start + i) % size)

    def describe(self) -> str:
        """For messages: `choice of a, b`, `loguniform from 1e-05 to 0.001` or `int from 0 to 8 in steps of 2`."""
        if self.choice is not None:
            more = f" and {len(self.choice) - _LISTED} more" if len(self.choice) > _LISTED else ""
            return f"choice of {', '.join(map(shorten, self.choice[:_LISTED]))}{more}"
        kind = "int" if self.int_ else "uniform" if self.uniform else "loguniform"
        steps = f" in steps of {self.step:g}" if self.step else ""
        return f"{kind} from {self.ends[0]} to {self.ends[1]}{steps}"
