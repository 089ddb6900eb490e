"""Private names of Ray that a search needs, and what it does without where a version of Ray lacks one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ray


def draining_nodes() -> set[str]:
    """Ids of nodes that are to be taken away, as Ray Tune itself finds them; none where Ray does not say."""
    state: Any = getattr(getattr(ray._private, "state", None), "state", None)
    return set(state.get_draining_nodes()) if hasattr(state, "get_draining_nodes") else set()


def before_processes_end(call: Callable[[], Any]) -> None:
    """Have `ray.shutdown` make a call after its C++ code has ended and before it waits for Ray's processes to end."""
    node: Any = getattr(getattr(ray._private, "worker", None), "_global_node", None)
    if not hasattr(node, "kill_all_processes"):
        return
    kill = node.kill_all_processes

    def kill_all_processes(*arguments: Any, **more: Any) -> None:
        call()
        kill(*arguments, **more)

    node.kill_all_processes = kill_all_processes
