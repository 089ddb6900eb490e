"""What a search optimises: one metric or two, on validation or on the held-out region and season."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from stssl.errors import ConfigError, did_you_mean
from stssl.search.events import LARGEST
from stssl.training.metrics import METRICS

if TYPE_CHECKING:
    from stssl.data.schema import Task

HOLDOUT = "holdout/"


def more_is_better(metric: str) -> bool:
    """Whether a metric is to be maximised; `holdout/` before its name changes nothing."""
    name = metric.removeprefix(HOLDOUT)
    for table in METRICS.values():
        if name in table:
            return table[name]
    known = sorted({name for table in METRICS.values() for name in table})
    raise ConfigError(f"metric '{metric}' is unknown; {did_you_mean(name, known)}")


class Objectives:
    """One objective or two.

    Args:
        metric: See `stssl.training.evaluate.METRICS`; on validation, or with `holdout/` before it on the holdout split.
        second: Likewise; None = one objective.
    """

    def __init__(self, metric: str, second: str | None = None) -> None:
        self.metrics = [metric] if second is None else [metric, second]

    @property
    def holdout(self) -> bool:
        """Whether the holdout split is scored too."""
        return any(metric.startswith(HOLDOUT) for metric in self.metrics)

    def check(self, task: Task, holdout: int) -> None:
        """Refuse what the data cannot answer.

        Args:
            task: Of the data.
            holdout: How many images are held out.

        Raises:
            ConfigError: An unknown metric, twice the same, or nothing is held out.
        """
        for key, metric in zip(("metric", "second_metric"), self.metrics, strict=False):
            name, known = metric.removeprefix(HOLDOUT), METRICS[task]
            if name not in known:
                raise ConfigError(f"{key}: '{metric}' is no metric of this data; {did_you_mean(name, known)}")
            if metric.startswith(HOLDOUT) and not holdout:
                raise ConfigError(
                    f"{key}: {metric}: nothing is held out; set recipe.data.split.holdout to a region or months"
                )
        if len(set(self.metrics)) < len(self.metrics):
            raise ConfigError(
                f"second_metric: {self.metrics[1]} is the first objective already; name another, or leave it out"
            )

    def scores(self, results: dict[str, Any]) -> tuple[float, float | None, str]:
        """Scores of which more is better, the second None if there is one objective; and what is wrong with the results."""
        found: list[float] = []
        for metric in self.metrics:
            value = results.get(metric)
            if value is None:
                return math.nan, None, f"{metric} is not reported"
            if not abs(value) <= LARGEST:
                return math.nan, None, f"{metric} is {value}"
            found.append(value if more_is_better(metric) else -value)
        return found[0], found[1] if len(found) > 1 else None, ""
