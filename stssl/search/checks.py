"""What can be known to be wrong with a search before a trial starts."""

from __future__ import annotations

from stssl import config as cfg
from stssl.data.dataset import Dataset
from stssl.errors import CheckpointError, ConfigError, StsslError
from stssl.search.asha import rungs
from stssl.search.config import SearchConfig
from stssl.search.events import Event
from stssl.search.ledger import damaged
from stssl.search.objectives import Objectives
from stssl.search.sampler import Sampler
from stssl.search.space import Space
from stssl.training.parts import algorithm_of
from stssl.training.recipe import WARMUPS, Recipe, TrainingConfig
from stssl.training.trainer import Trainer


def check(config: SearchConfig, source: str) -> tuple[Space, Dataset]:
    """Everything that can be known to be wrong before a trial starts.

    Args:
        config: The search.
        source: Its file name for messages.

    Returns:
        The space and the data set of the base recipe (its store is built as a side effect).

    Raises:
        StsslError: Names file, key, value and remedy.
    """
    base = cfg.validate(Recipe, config.recipe, f"{source}: recipe")
    space = Space(config.space, base.dump(), source, config.constraints)
    try:
        ladder = rungs(config.scheduler, base.training.steps, base.training.eval_interval)
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}") from None
    try:
        dataset = Dataset.open(base.data)
        Trainer(base, dataset)  # builds the networks: weights that cannot be had show here, not in every trial
    except (CheckpointError, ConfigError) as error:
        raise type(error)(f"{source}: recipe: {error}") from None
    try:
        Objectives(config.metric, config.second_metric).check(dataset.task, len(dataset.split.holdout))
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}") from None

    def fits(recipe: Recipe) -> None:
        _check_warmups(recipe, ladder)
        algorithm_of(recipe, dataset)
        if recipe.data.bands != base.data.bands:
            Dataset(recipe.data, dataset.store)

    if not space.may_be("framework", ("plain", "teacher_student")):
        raise ConfigError(
            f"{source}: framework: only metadata_input can occur, which trains no network that sees the image alone, so "
            "there would be nothing to replicate or export; set or search plain or teacher_student"
        )
    published = space.recipe(space.base_point())
    try:
        fits(published)
    except ConfigError as error:
        raise ConfigError(f"{source}: recipe.{str(error).removeprefix(f'{source}: ')}") from None
    for number, values in enumerate(config.points):
        point = space.point(values, f"points[{number}]")
        try:
            fits(space.recipe(point))
        except StsslError as error:
            fault = str(error).removeprefix(f"{source}: ")
            raise ConfigError(f"{source}: points[{number}]: does not work: {fault}") from None
    Sampler(config.sampler, space, ladder)  # refuses a space on which it cannot work
    _check_sampler(config, source)
    space.check(fits)
    return space, dataset


def check_trials(events: list[Event], space: Space, source: str) -> None:
    """Refuse trials on record that cannot be gone on with.

    Args:
        events: Of a ledger, each with the right keys and types.
        space: Of the search.
        source: The ledger's name, for messages.

    Raises:
        RunError: A recipe is none, its values lie outside the space, or a result comes at a step without an evaluation; names
            the line.
    """
    extended = any(event["event"] == "extended" for event in events)
    trainings: dict[str, TrainingConfig] = {}
    for number, event in enumerate(events, start=1):
        trial, fault = str(event.get("trial")), ""
        if event["event"] == "created":
            try:
                recipe = cfg.validate(Recipe, event["recipe"], "recipe")
            except ConfigError as error:
                fault = str(error).splitlines()[0]
            else:
                trainings[trial] = recipe.training
                if event["kind"] == "search" and not extended and not space.has(event["params"]):
                    fault = "params: these are no point of the search's space"
        elif event["event"] == "result" and (training := trainings.get(trial)):
            step = event["step"]
            if step % training.eval_interval or step > training.steps:
                fault = f"step: {trial} is never evaluated at step {step}"
        if fault:
            raise damaged(f"{source}, line {number}", f"event '{event['event']}': {fault}")


def _check_sampler(config: SearchConfig, source: str) -> None:
    """Refuse what a sampler would pass over without a word.

    Raises:
        ConfigError: Names the key.
    """
    name = config.sampler.name
    if config.warm_start and name not in ("tpe", "gp"):
        raise ConfigError(
            f"{source}: warm_start: sampler.name {name} does not learn from earlier searches; choose tpe or gp, or name their "
            "winners in points"
        )
    if config.second_metric and name == "cmaes":
        raise ConfigError(
            f"{source}: sampler.name: cmaes moves by one objective; choose tpe, or leave second_metric out"
        )


def _check_warmups(recipe: Recipe, ladder: list[int]) -> None:
    """Refuse a recipe that would be judged before it has warmed up.

    Raises:
        ConfigError: Names the key, and the rung.
    """
    for key in WARMUPS:
        part, name = key.split(".")
        steps = getattr(getattr(recipe, part), name, 0)
        if len(ladder) > 1 and steps > ladder[0]:
            raise ConfigError(
                f"{key} {steps}: lasts beyond scheduler.grace_steps {ladder[0]}, where trials are first compared; shorten it, "
                "or raise grace_steps"
            )
