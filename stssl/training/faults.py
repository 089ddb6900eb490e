"""What an error in a training means for a search: whether to try again, and where."""

from __future__ import annotations

import torch

from stssl.errors import DataError, StsslError, is_out_of_memory
from stssl.training.evaluate import Diverged


class LostMember(OSError):
    """Another process of the same training has ended without a word."""


def explain(error: Exception) -> tuple[str, str]:
    """Kind and reason, in one line.

    Returns:
        `diverged`, `out_of_memory`, `infrastructure` (a disk, a mount or another process, not the recipe: worth another try) or
        `raised`, and what was said.
    """
    first = (str(error).splitlines() or [""])[0][:300]
    reason = first if isinstance(error, Diverged | StsslError | LostMember) else f"{type(error).__name__}: {first}"
    if isinstance(error, Diverged):
        return "diverged", reason
    if isinstance(error, torch.OutOfMemoryError) or is_out_of_memory(error):
        return "out_of_memory", reason
    if isinstance(error, DataError | OSError):
        return "infrastructure", reason
    return "raised", reason
