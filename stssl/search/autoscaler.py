"""What Ray's autoscaler reports, for a search that waits for nodes."""

from __future__ import annotations

import re
from pathlib import Path

import ray
from ray._private import ray_constants
from ray._private.worker import global_worker
from ray.autoscaler._private.commands import debug_status  # what `ray status` prints, of both autoscalers
from ray.experimental.internal_kv import _internal_kv_get

MAX_CHARACTERS = 400
LOG_BYTES = 65_536


def status() -> str:
    """The pending nodes and recent failures of `ray status` in one line, else the autoscaler's last error."""
    try:
        reported = _internal_kv_get(ray_constants.DEBUG_AUTOSCALING_STATUS)
        crash = _internal_kv_get(ray_constants.DEBUG_AUTOSCALING_ERROR)
        text = debug_status(reported, b"", address=ray.get_runtime_context().gcs_address)
        logs = Path(global_worker.node.get_logs_dir_path())  # type: ignore[union-attr]
    except Exception as error:  # Ray's own, of many kinds, and the interface is not public
        return _shortened(f"nothing, as it cannot be asked: {type(error).__name__}: {error}")
    if crash:
        return _shortened(f"it has ended: {last_error(crash.decode(errors='replace')) or 'for an unknown reason'}")
    said = summary(text)
    # The newer autoscaler leaves its last words only in a file of the head node, where the driver of a job runs.
    if "Recent failures" not in said and (last := last_error(_tail(logs / "monitor.err"))):
        said = f"{said}; the last error in its log: {last}" if said else f"the last error in its log: {last}"
    return _shortened(said or f"nothing; see monitor.log and monitor.err in {logs} on the head node")


def summary(text: str) -> str:
    """The sections `Pending` and `Recent failures` of what `ray status` prints, in one line; empty where nothing is in them."""
    parts = []
    for name in ("Pending", "Recent failures"):
        found = re.search(rf"^{name}:\n((?: .*\n?)*)", text, re.MULTILINE)
        lines = [line.strip(" ,") for line in found.group(1).splitlines()] if found else []
        lines = [line for line in lines if line and not line.startswith("(no ")]
        if lines:
            parts.append(f"{name}: {', '.join(lines)}")
    return "; ".join(parts)


def last_error(text: str) -> str | None:
    """The last exception that a text shows, as a traceback ends with it: its class and what it says, up to an empty line."""
    found = [*re.finditer(r"^[A-Za-z_][\w.]*(?:Error|Exception|Exit|Interrupt)\b", text, re.MULTILINE)]
    return text[found[-1].start() :].partition("\n\n")[0].strip() if found else None


def _tail(path: Path) -> str:
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - LOG_BYTES))
            return file.read().decode(errors="replace")
    except OSError:
        return ""


def _shortened(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= MAX_CHARACTERS else f"{line[: MAX_CHARACTERS - 4]} ..."
