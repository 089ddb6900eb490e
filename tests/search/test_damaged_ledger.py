"""A ledger that somebody changed: every reader takes it, or says in one sentence where it is wrong and what to do."""

import json
import math
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stssl import config as cfg
from stssl.cli.app import main
from stssl.errors import RunError
from stssl.search import checks
from stssl.search.events import EVENTS, OF_TRIAL
from stssl.search.ledger import NAME, Ledger, read
from stssl.search.study import Study
from tests.search.mutations import ABSENT, kinds, paths, put

REMEDY = "; restore the file from a backup, or delete the line if you can do without its trial"
DEEP = "[" * 5000 + "]" * 5000


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, search_config, space_of, simulate) -> Path:
    """The folder of a search in which every kind of event came about."""
    config = search_config(trials=8, sampler={"name": "cmaes"}, replicates={"top": 2, "seeds": 5})
    folder = tmp_path_factory.mktemp("damaged") / "run"
    folder.mkdir()
    with Ledger(folder) as ledger:
        study = Study(config, space_of(config), ledger)
        point = study.space.base_point()
        study.record("imported", trial="0:x/t0001", params=point, scores={"10": 0.3}, status="paused", source="x")
        study.begin()
        job = study.next()
        study.lost(job.trial, "its node is gone", node=True)
        study.record("stopped")
        study.begin()

    def score(recipe: dict[str, Any], step: int) -> Any:
        lr = recipe["optimizer"]["lr"]
        return "diverged" if lr > 2e-3 else 0.5 - abs(math.log10(lr) + 3) / 10 + 0.001 * math.sin(recipe["seed"] * lr)

    simulate(config, folder, score)
    with Ledger(folder) as ledger:
        kept = {e["trial"] for e in ledger.events if e["event"] == "created" and e["kind"] == "replicate"}
        of = {name.partition("-")[0] for name in kept}
        extra = {"published": sorted(of)[0], "gain": 0.1, "gain_half": 0.2, "p": 0.3}
        groups = {trial: {name: 0.5 for name in kept if name.startswith(trial)} for trial in of}
        ledger.append("extended", changes={"trials": [8, 9]})
        ledger.append("winner", trial=sorted(of)[-1])
        scores = {"accuracy": 0.5, "count": 20}
        ledger.append("tested", trial=sorted(of)[-1], scores=scores, replicates=groups, **extra)
    (folder / "search.yaml").write_text(cfg.dump_yaml(config.dump()))
    manifest = {
        "search": config.dump(), "stssl": "0", "created": "2026-01-01", "packages": {}, "commit": None, "python": "3",
        "data": {"name": "none", "fingerprint": "0" * 64, "shards": []},
    }  # fmt: skip
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


@pytest.fixture
def use(run: Path, search_config, space_of, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Any:
    """Reads a ledger with other lines in every way; returns what was said, empty where nothing was wrong."""
    whole = (run / NAME).read_bytes()
    config = search_config(trials=8, sampler={"name": "cmaes"}, replicates={"top": 2, "seeds": 5})
    space = space_of(config)

    def readers(report: bool) -> Iterator[int]:
        yield main(["status", str(run)])
        try:
            read(run / NAME)
        except RunError:
            return  # all of them begin with this
        yield main(["status", str(run), "--json"])
        if report:
            yield main(["report", str(run), "--out", str(tmp_path / "report")])
        yield main(["export", str(run), "--trial", "t0001", "--out", str(tmp_path / "export")])

    def told(lines: list[bytes], report: bool = False) -> str:
        (run / NAME).write_bytes(b"".join(line + b"\n" for line in lines))
        said = []
        for number, code in enumerate(readers(report)):
            out, err = capsys.readouterr()
            assert code in (0, 2) and "Traceback" not in err
            if number == 1 and code == 0:
                json.loads(out, parse_constant=lambda text: pytest.fail(f"{text} is no JSON"))
            if "restore the file" in err:
                said.append(" ".join(err.split()))
        try:
            with Ledger(run) as ledger:
                checks.check_trials(ledger.events, space, str(ledger.path))
                study = Study(config, space, ledger)
                _ = study.work_left(), study.remaining_steps(), study.disposable_trials(), study.next(), study.next()
        except RunError as error:
            said.append(str(error))
        return said[0] if said else ""

    yield told
    (run / NAME).write_bytes(whole)


def lines_of(run: Path) -> list[bytes]:
    return (run / NAME).read_bytes().splitlines()


def test_every_kind_of_event_is_there(run: Path) -> None:
    found = {event["event"] for event in read(run / NAME)}
    assert found >= set(EVENTS) - {"exhausted"}, set(EVENTS) - found


def test_an_undamaged_one_is_taken(run: Path, use) -> None:
    assert use(lines_of(run), report=True) == ""


def test_any_key_with_any_wrong_value(run: Path, use) -> None:
    """The first event of each kind, each of its keys, replaced by what it is not: taken, or told with its line and key."""
    lines, seen, told, cases = lines_of(run), set(), 0, 0
    events = read(run / NAME)
    chance = random.Random(5)
    for number, event in enumerate(events):
        kind = (event["event"], event.get("kind"), event.get("decision"))
        if kind in seen:
            continue
        seen.add(kind)
        for path in paths(event):
            here: Any = event
            for part in path:
                here = here[part]
            others = [None, "x", -1, math.nan, math.inf, 10**400, 1e200, [], {}, [[1]], True, ABSENT]
            others = [other for other in others if kinds(other) != kinds(here) or other in (-1, 10**400)]
            if "recipe" in path and len(path) > 1:  # the recipe's own schema has its own tests
                others = chance.sample(others, 1)
            for other in others:
                cases += 1
                line = json.dumps(put(event, path, other)).encode()
                said = use([*lines[:number], line, *lines[number + 1 :]])
                if said:
                    told += 1
                    assert re.search(rf"{NAME}, line \d+: ", said) and said.endswith(REMEDY), said
                    assert len(said) < 1000, said
    assert cases > 600 and told > 0.6 * cases, (cases, told)


@pytest.mark.parametrize("event", sorted({"created", "result", "tested", *OF_TRIAL} - {"dropped"}))
def test_a_repeated_line(run: Path, use, event: str) -> None:
    lines = lines_of(run)
    number = next(i for i, line in enumerate(lines) if json.loads(line)["event"] == event)
    said = use([*lines[: number + 1], *lines[number:]])
    if event in ("created", "result", "tested"):  # whose repetition would count twice
        assert f"line {number + 2}: " in said and f"line {number + 1} already: a repeated line" in said, said


def test_a_reversed_ledger(run: Path, use) -> None:
    lines = lines_of(run)
    assert "line 1: " in use(lines[::-1]) or "line 2: " in use(lines[::-1])
    for end in range(4, len(lines), 5):
        said = use(lines[:end][::-1])
        assert "out of order" in said or "which no line before it has created" in said, said


def test_swapped_lines_of_a_trial(run: Path, use) -> None:
    lines, events = lines_of(run), read(run / NAME)
    results = [i for i, e in enumerate(events) if e["event"] == "result"]
    first = results[0]
    second = next(i for i in results[1:] if events[i]["trial"] == events[first]["trial"])
    lines[first], lines[second] = lines[second], lines[first]
    assert "out of order" in use(lines)


@pytest.mark.parametrize(
    "line",
    [
        '{"event": ["created"], "time": 0}', '{"event": null, "time": 0}', '{"event": {}, "time": 0}',
        f'{{"event": "stopped", "time": 0, "more": {DEEP}}}', DEEP, '{"event": "stopped", "time": 1e999}',
        '{"event": "stopped", "time": NaN}', '{"event": "created", "time": 0, "trial": "../../victim"}',
        '{"event": "result", "time": 0, "trial": "/etc", "step": 1}', "\ud800",
        '{"event": "stopped", "time": ' + "9" * 5000 + "}",
    ],
    ids=range(11),
)  # fmt: skip
def test_strange_lines(run: Path, use, line: str) -> None:
    lines = lines_of(run)
    said = use([*lines[:3], line.encode(errors="surrogatepass"), *lines[3:]])
    assert f"{NAME}, line 4: " in said and said.endswith(REMEDY) and len(said) < 600, said


def test_unknown_events_and_keys_pass(run: Path, use) -> None:
    """A later version may write more."""
    lines = lines_of(run)
    lines.insert(5, b'{"event": "shelved", "trial": "t0001", "time": 0}')
    lines[2] = json.dumps(json.loads(lines[2]) | {"novel": [1, {"x": None}]}).encode()
    assert use(lines) == ""


def test_a_ledger_emptied_beside_checkpoints(run: Path, use) -> None:
    checkpoint = run / "trials" / "t0001" / "checkpoint.pt"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.write_bytes(b"weights")
    try:
        assert "is empty or gone, while" in use([]) and "checkpoints of 1 trials" in use([])
        (run / NAME).unlink()
        with pytest.raises(RunError, match="is empty or gone"):
            Ledger(run)
    finally:
        checkpoint.unlink()
        checkpoint.parent.rmdir()
        checkpoint.parent.parent.rmdir()


def test_what_cannot_be_read_is_not_written(tmp_path: Path) -> None:
    with Ledger(tmp_path) as ledger:
        ledger.append("started")
        before = ledger.path.read_bytes()
        for event, fields in (
            ("result", {"trial": "t0001", "step": 0, "score": 1.0, "decision": "continue", "seconds": 1.0}),
            ("winner", {"trial": "t0001"}),
            ("failed", {"trial": "../t1", "reason": "x"}),
        ):
            with pytest.raises(ValueError, match=r"event|which no line"):
                ledger.append(event, **fields)
        assert ledger.path.read_bytes() == before and len(ledger.events) == 1


def test_a_reason_that_is_no_utf_8(tmp_path: Path) -> None:
    with Ledger(tmp_path) as ledger:
        ledger.append("failed", trial="t0001", reason="cannot read b\udce9.tif")
        assert read(ledger.path)[0]["reason"] == ledger.events[0]["reason"] == "cannot read b\\udce9.tif"
