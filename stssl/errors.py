"""Exceptions whose text a user can act on: what is wrong, where, and what would be right."""

from __future__ import annotations

import datetime
import difflib
import errno
import os
import reprlib
from collections.abc import Iterable
from typing import Any


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


_MEMORY = (
    "allocate memory", "can't start new thread", "bad_alloc", "out of memory", "pthread_create failed", "mmap failed",
    "unable to mmap",
)  # fmt: skip


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory, or what else a process may have, has run out: each library has its own words."""
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno in (errno.ENOMEM, errno.EAGAIN)):
        return True
    return isinstance(error, RuntimeError | OSError) and any(sign in str(error).lower() for sign in _MEMORY)


class _Repr(reprlib.Repr):
    """`repr` that looks at a few entries of a few levels only, so that no value takes long or fills a screen."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxstring, self.maxother, self.maxlong = 3, 80, 80, 40
        self.maxdict = self.maxlist = self.maxtuple = self.maxset = self.maxfrozenset = self.maxdeque = (
            self.maxarray
        ) = 8

    def repr_dict(self, x: dict[Any, Any], level: int) -> str:
        if level <= 0:
            return "{...}" if x else "{}"
        pairs = [f"{self.repr1(key, level - 1)}: {self.repr1(x[key], level - 1)}" for key in list(x)[: self.maxdict]]
        return f"{{{', '.join(pairs + ['...'] * (len(x) > self.maxdict))}}}"  # in the order of the file

    def repr_int(self, x: int, level: int) -> str:
        if x.bit_length() > 1000:  # Python refuses to write out longer ones
            return f"a number of about {int(x.bit_length() * 0.30103)} digits"
        return super().repr_int(x, level)

    def repr_instance(self, x: Any, level: int) -> str:
        if isinstance(x, bool | float | complex | bytes | str | os.PathLike | datetime.date | datetime.time | None):
            return super().repr_instance(x[: self.maxother] if isinstance(x, bytes | str) else x, level)
        return f"<{type(x).__name__}>"  # whose own `repr` might look at all that it holds


_REPR = _Repr()
_MOST = 200  # characters of a value in a message
_NAMES = 200  # names in a remedy


def short_repr(value: object) -> str:
    """A value from a user's file for a message: as `repr` has it, but short, and quickly made whatever the value is."""
    text = _REPR.repr(value)
    return text if len(text) <= _MOST else f"{text[: _MOST - 3]}..."


def shorten(text: object) -> str:
    """A word or an expression from a user's file for a message, without quotes, cut where it is long."""
    text = text if isinstance(text, str) else short_repr(text)
    return text if len(text) <= _MOST else f"{text[: _MOST - 3]}..."


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A remedy for an unknown name: the nearest known one if there is any, then all of them."""
    names = sorted(known)
    near = difflib.get_close_matches(name[:100], names, n=1, cutoff=0.6)  # whose time grows with the square of a name
    hint = f"did you mean '{near[0]}'? " if near else ""
    more = f" and {len(names) - _NAMES} more" if len(names) > _NAMES else ""
    return f"{hint}known: {', '.join(names[:_NAMES])}{more}" if names else "no key is allowed here"
