"""Exceptions whose text a user can act on: what is wrong, where, and what would be right."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class StsslError(ValueError):
    """A fault of input. The command line prints its text without a traceback and exits with 2."""


class ConfigError(StsslError):
    """A recipe, a search space or an override that does not fit the schema."""


class DataError(StsslError):
    """Images, tables or shards that are missing, damaged or not what they claim to be."""


class CheckpointError(StsslError):
    """Weights or a checkpoint that cannot be read or belong to another recipe."""


class RunError(StsslError):
    """A run folder that is missing, in use, finished, or that does not allow what was asked."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A remedy for an unknown name: the nearest known one if there is any, then all of them."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    hint = f"did you mean '{near[0]}'? " if near else ""
    return f"{hint}known: {', '.join(names)}" if names else "no key is allowed here"
