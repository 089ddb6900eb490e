"""Run folders that somebody damaged: every command that reads them ends with its answer or with a sentence."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stssl.cli.app import main

Change = Callable[[str], str | bytes]


def manifest(**changes: Any) -> Change:
    return lambda text: json.dumps(json.loads(text) | changes)


def without(kind: str) -> Change:
    return lambda text: "".join(f"{line}\n" for line in text.splitlines() if f'"event": "{kind}"' not in line)


MANIFEST: dict[str, Change] = {
    "nothing": lambda text: "", "null": lambda text: "null", "a list": lambda text: "[]", "deep": lambda text: "[" * 5000,
    "no search": manifest(search=None), "a list as search": manifest(search=[1]), "no data": manifest(data=None),
    "a number as fingerprint": manifest(data={"fingerprint": 5, "name": 1}), "a list of packages": manifest(packages=[1]),
    "a number as date": manifest(created=5), "a mapping as commit": manifest(commit={"a": 1}),
    "NaN": manifest(stssl=float("nan")),
    "no shards": manifest(data={"fingerprint": "x", "name": None, "shards": None}), "extended once": manifest(extended=5),
}  # fmt: skip
SEARCH: dict[str, Change] = {
    "nothing": lambda text: "", "a list": lambda text: "[]", "no recipe": lambda text: "name: x\n",
    "bytes": lambda text: b"\xff\xfe",
    "another metric": lambda text: text.replace("metric: accuracy", "metric: nonsense", 1),
    "a second metric": lambda text: text.replace("second_metric: null", "second_metric: loss"),
    "another length": lambda text: text.replace("steps: 9", "steps: 27"),
    "no length": lambda text: text.replace("steps: 9", "steps: x"),
    "a negative number": lambda text: text.replace("trials: 6", "trials: -1"),
    "a strange framework": lambda text: text.replace("framework: ", "framework: no", 1),
}  # fmt: skip
LEDGER: dict[str, Change] = {
    "nothing": lambda text: "", "bytes": lambda text: b"\xff" * 100 + b"\n", "zeros": lambda text: bytes(1000),
    "empty lines": lambda text: "\n\n\n", "half of it": lambda text: text[: len(text) // 2], "twice": lambda text: text * 2,
    "reversed": lambda text: "\n".join(text.splitlines()[::-1]) + "\n", "no trials": without("created"),
    "no results": without("result"), "no winner": without("winner"), "never tested": without("tested"),
}  # fmt: skip
CASES = [
    pytest.param(file, change, id=f"{file}-{name}")
    for file, changes in (("manifest.json", MANIFEST), ("search.yaml", SEARCH), ("ledger.jsonl", LEDGER))
    for name, change in changes.items()
]
COMMANDS = (["status"], ["status", "--json"], ["extend", "--set", "trials=9", "--dry-run"], ["export"], ["stop"])


@pytest.mark.parametrize("file, change", CASES)
def test_damaged(
    file: str, change: Change, finished: tuple[Path, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Path(shutil.copytree(finished[0], tmp_path / "run", ignore=shutil.ignore_patterns("ray", "*.html", "*.png")))
    changed = change((run / file).read_text())
    (run / file).write_bytes(changed if isinstance(changed, bytes) else changed.encode())
    for command, *more in COMMANDS:
        code = main([command, str(run), *more])
        out, err = capsys.readouterr()
        assert code in (0, 2) and "Traceback" not in err
        if "--json" in more and code == 0:
            json.loads(out, parse_constant=lambda text: pytest.fail(f"{text} is no JSON"))
        if code == 2:
            assert any(name in "".join(err.split()) for name in (str(run), "search.yaml", "manifest.json", "shards")), (
                err
            )
