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
        text = debug_status(reported, b"", verbose=True, address=ray.get_runtime_context().gcs_address)
        logs = Path(global_worker.node.get_logs_dir_path())  # type: ignore[union-attr]
    except Exception as error:  # Ray's own, of many kinds, and the interface is not public
        return _shortened(f"nothing, as it cannot be asked: {type(error).__name__}: {error}")
    if crash:
        return _shortened(f"it has ended: {last_error(crash.decode(errors='replace')) or 'for an unknown reason'}")
    said = summary(text)
    # The newer autoscaler gives no reasons and leaves its last words to its log on the head node, where the driver of a job runs.
    errors = [last for name in ("monitor.err", "monitor.log") if (last := last_error(_tail(logs / name)))]
    if errors and errors[0] not in said:
        said = f"{said}; the last error in its log: {errors[0]}".removeprefix("; ")
    return _shortened(said or f"nothing; see monitor.log and monitor.err in {logs} on the head node")


def summary(text: str) -> str:
    """The sections `Pending` and `Recent failures` of what `ray status` prints, in one line; empty where nothing is in them."""
    parts = []
    for name in ("Pending", "Recent failures"):
        found = re.search(rf"^{name}:\n(.*?)(?=\n\n|\n[A-Z][\w ]*:?\n|\Z)", text, re.MULTILINE | re.DOTALL)
        said = (
            re.sub(r" \(latest_attempt: [\d:]+\)", "", found.group(1)) if found else ""
        )  # else the same failure differs
        lines = [line.strip(" ,-") for line in said.splitlines()]
        lines = [line for line in dict.fromkeys(lines) if line and not line.startswith("(no ")]
        if lines:
            parts.append(f"{name}: {', '.join(lines)}")
    return "; ".join(parts)


def last_error(text: str) -> str | None:
    """The last exception or failed launch that a text shows, up to an empty line or the next line of a log."""
    sign = r"^[A-Za-z_][\w.]*(?:Error|Exception|Exit|Interrupt)\b|\bFailed to launch \d"
    found = [*re.finditer(sign, text, re.MULTILINE)]
    return re.split(r"\n(?:\n|\d{4}-\d\d-\d\d )", text[found[-1].start() :])[0].strip() if found else None


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
