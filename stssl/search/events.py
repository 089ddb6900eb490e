"""The events of a ledger: which keys each kind has, with which types, and which order of events is possible.

Writer and reader check the same: what cannot be read is never written.
"""

from __future__ import annotations

import json
import math
import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from stssl.config import explain

Event = dict[str, Any]
Status = Literal["running", "paused", "stopped", "completed", "failed"]
Decision = Literal["continue", "pause", "stop", "complete"]
FailureKind = Literal["diverged", "raised", "out_of_memory", "hung", "silent", "infrastructure"]

LARGEST = 1e100  # of a score or a duration: squares and sums of such numbers are finite
_DEEPEST = 16  # levels of a recipe
# `t0001`, and its second replicate `t0001-r2`: a trial's name is that of a folder too
_TRIAL = re.compile(r"t(?P<number>[0-9]{1,9})(?:-r[0-9]{1,9})?")

Name = Annotated[str, Field(pattern=rf"^{_TRIAL.pattern}$")]
Number = Annotated[float, Field(ge=-LARGEST, le=LARGEST)]
Count = Annotated[int, Field(ge=0, le=2**53)]
Step = Annotated[int, Field(ge=1, le=2**53)]
Duration = Annotated[float, Field(ge=0, le=LARGEST)]
Value = bool | int | float | str | None
Scores = dict[str, Number]
ByStep = dict[Annotated[str, Field(pattern=r"^[0-9]{1,15}$")], Number]


class _Event(BaseModel):
    """What all events have; keys that later versions add are kept as they are."""

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)

    event: str
    time: Number


class _OfTrial(_Event):
    trial: Name


class _Origin(BaseModel):
    """How a sampler came to a trial, and what it wants to find there again."""

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)

    sampler: str = ""
    index: Count = 0
    generation: Count = 0
    ranges: str = ""
    x: list[Number] = []

    @model_validator(mode="after")
    def _complete(self) -> _Origin:
        needed = {"grid": ["index"], "qmc": ["index"], "cmaes": ["generation", "ranges", "x"]}
        for key in needed.get(self.sampler, []):
            if key not in self.model_fields_set:
                raise ValueError(f"a trial of the sampler {self.sampler} needs the key '{key}'")
        return self


class Created(_OfTrial):
    """A trial or a replicate begins."""

    kind: Literal["search", "replicate"]
    params: dict[str, Value]
    recipe: dict[str, Any]
    of: Name | None = None
    by: _Origin = _Origin()
    bracket: Count = 0

    @model_validator(mode="after")
    def _consistent(self) -> Created:
        if self.kind == "search" and "-r" in self.trial:
            raise ValueError(f"'{self.trial}' is the name of a replicate, and kind is search")
        if self.kind == "replicate" and (self.of is None or not self.trial.startswith(f"{self.of}-r")):
            raise ValueError(f"the replicate '{self.trial}' needs `of`, the trial that its name begins with")
        if self.recipe.get("framework") not in ("plain", "metadata_input", "teacher_student"):
            raise ValueError("recipe.framework must be plain, metadata_input or teacher_student")
        if not _shallow(self.recipe, _DEEPEST):
            raise ValueError(f"recipe is nested more than {_DEEPEST} levels deep")
        return self


class Result(_OfTrial):
    """An evaluation, and what was decided by it."""

    step: Step
    score: Number
    second: Number = 0.0
    decision: Decision
    seconds: Duration
    validation: Scores
    train: Scores
    reason: str = ""


class Failed(_OfTrial):
    """A trial is given up."""

    reason: str
    kind: FailureKind = "raised"


class Lost(_OfTrial):
    """A worker died under a trial, which is tried again."""

    kind: Literal["infrastructure", "node", "raised", "hung"] = "infrastructure"
    reason: str = ""


class Dropped(_OfTrial):
    """A replicated recipe is given up."""

    round: Count
    reason: str
    p: Number = 0.0
    leader: Name = ""


class Imported(_Event):
    """A trial of another search."""

    trial: str
    params: dict[str, Value]
    scores: ByStep
    status: Status
    second: ByStep = {}
    fault: FailureKind | Literal[""] = ""


class _TestScores(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)
    __pydantic_extra__: Scores

    count: Count


class Tested(_OfTrial):
    """The test split was read."""

    scores: _TestScores
    replicates: dict[Name, dict[Name, Number]] = {}
    published: Name = ""
    gain: Number = 0.0
    gain_half: Number = 0.0
    p: Number = 0.0

    @model_validator(mode="after")
    def _comparable(self) -> Tested:
        if "gain" in self.model_fields_set:
            if not {"p", "published"} <= self.model_fields_set:
                raise ValueError("a gain needs `p` and `published`")
            for trial in (self.trial, self.published):
                if not self.replicates.get(trial):
                    raise ValueError(f"a gain needs the replicates of {trial}")
        return self


class Resumed(_Event):
    """Another driver has begun, and tries again what the machine failed."""

    retried: list[Name] = []


class Extended(_Event):
    """The search was changed."""

    changes: dict[str, Any] = {}


EVENTS: dict[str, type[_Event]] = {
    "created": Created, "result": Result, "failed": Failed, "lost": Lost, "promoted": _OfTrial, "dropped": Dropped,
    "imported": Imported, "winner": _OfTrial, "tested": Tested, "extended": Extended, "started": _Event,
    "resumed": Resumed, "stopped": _Event, "exhausted": _Event, "finished": _Event,
}  # fmt: skip


OF_TRIAL = ("result", "promoted", "failed", "lost", "dropped")
CONCLUSIONS = ("winner", "tested", "finished")  # which nothing may follow that could change them


def _shallow(value: Any, levels: int) -> bool:
    if isinstance(value, dict | list):
        below = value.values() if isinstance(value, dict) else value
        return levels > 0 and all(_shallow(v, levels - 1) for v in below)
    return True


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:40]} is no finite number")
    return value


class TornLine(ValueError):
    """A line is no event at all, as a crash of the file system leaves one."""


def parse_line(line: bytes) -> Event:
    """One line of a ledger.

    Raises:
        TornLine: It is no JSON object with an event.
        ValueError: The event lacks a key, or has a wrong value.
    """
    try:
        event = json.loads(line, parse_float=_finite, parse_constant=_finite)
    except RecursionError:
        raise TornLine("nested too deeply") from None
    except ValueError as error:
        raise TornLine(str(error)) from None
    if not isinstance(event, dict) or "event" not in event:
        raise TornLine("not an event")
    check(event)
    return event


def check(event: Event) -> None:
    """Check the keys of an event; kinds that this version does not know pass.

    Raises:
        ValueError: Names event, key and value.
    """
    kind = event["event"]
    if not isinstance(kind, str):
        raise ValueError("event: input should be a valid string")
    model = EVENTS.get(kind)
    if model is None:
        return
    try:
        model.model_validate(event)
    except ValidationError as error:
        raise ValueError(explain(error, event, f"event '{kind}'")[0]) from None


class Order:
    """Checks that events can follow one another as they do.

    A line that its user deleted leaves a gap, which is not an error: events of a trial that was never created are ignored
    by all readers, and a replicate may be created again.

    Attributes:
        last_number: The highest number of a search trial that any event names.
    """

    def __init__(self) -> None:
        self.last_number = 0
        self._created: dict[str, int] = {}  # name to the number of the line
        self._steps: dict[str, tuple[int, int]] = {}  # name to the step of its last result, and the line of that
        self._orphans: set[str] = set()  # of this session: named before they were created
        self._concluded: dict[str, int] = {}  # winner, tested, finished: to their line
        self._line = 0

    def check(self, event: Event) -> None:
        """Check the next event.

        Raises:
            ValueError: It repeats an event, or cannot come after those before it.
        """
        kind, trial = event["event"], event.get("trial")
        if "finished" in self._concluded and kind in EVENTS and kind != "extended":
            raise ValueError(
                f"'{kind}' cannot follow 'finished' in line {self._concluded['finished']}: a line is repeated or out of order"
            )
        if kind in CONCLUSIONS:
            if kind in self._concluded:
                raise ValueError(f"'{kind}' is in line {self._concluded[kind]} already: a repeated line")
            if trial is not None and trial not in self._created:
                raise ValueError(f"'{kind}' names the trial {trial}, which no line before it has created")
        elif kind == "created":
            self._check_created(event["trial"], event["kind"])
        elif kind == "result":
            self._check_result(event["trial"], event["step"])

    def _check_created(self, trial: str, kind: str) -> None:
        if trial in self._created:
            raise ValueError(f"the trial {trial} was created in line {self._created[trial]} already: a repeated line")
        if trial in self._orphans:
            raise ValueError(f"the trial {trial} is created after events of its own: lines are out of order")
        if kind == "search" and int(trial[1:]) <= self.last_number:
            raise ValueError(f"the trial {trial} is created after t{self.last_number:04d}: lines are out of order")

    def _check_result(self, trial: str, step: int) -> None:
        before, line = self._steps.get(trial, (0, 0))
        if step == before:
            raise ValueError(f"the result of {trial} at step {step} is in line {line} already: a repeated line")
        if step < before:
            raise ValueError(
                f"the result of {trial} at step {step} comes after that at step {before} in line {line}: lines are out of order"
            )

    def take(self, event: Event) -> None:
        """Remember a checked event."""
        kind, trial = event["event"], event.get("trial")
        self._line += 1
        if kind == "extended":
            self._concluded = {}
        elif kind in CONCLUSIONS:
            self._concluded[kind] = self._line
        elif kind in ("started", "resumed"):
            self._orphans = set()
        elif kind == "created":
            self._created[event["trial"]] = self._line
            self._steps.pop(event["trial"], None)
        elif kind in OF_TRIAL and trial not in self._created:
            self._orphans.add(event["trial"])
        if kind == "result":
            self._steps[event["trial"]] = (event["step"], self._line)
        if kind in ("created", *OF_TRIAL) and (found := _TRIAL.fullmatch(event["trial"])):
            self.last_number = max(self.last_number, int(found["number"]))
