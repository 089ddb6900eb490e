"""The names of the scores, for those who only show them: without torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stssl.data.schema import Task

# name -> whether more is better; what a search may optimise. Three are reported only: f1_macro_tuned on validation was
# fitted to the very labels it is scored on; a network that always says how frequent each class is has no
# calibration_error; and one that never says anything has a high multi-label accuracy, as most entries are negative.
METRICS: dict[Task, dict[str, bool]] = {
    "single": {
        "accuracy": True, "balanced_accuracy": True, "f1_macro": True, "map_macro": True, "map_micro": True, "loss": False,
    },
    "multi": {
        "map_macro": True, "map_micro": True, "f1_macro": True, "f1_micro": True, "balanced_accuracy": True, "loss": False,
    },
}  # fmt: skip
