"""The room that weights take, told before a search starts."""

from pathlib import Path

import pytest

from stssl.errors import RunError
from stssl.search import disk
from stssl.search.asha import Scheduler, SchedulerConfig


def kept(name: str, trials: int) -> int:
    return Scheduler(SchedulerConfig(name=name), [10] if name == "none" else [10, 30, 90]).most_kept(trials)  # type: ignore[arg-type]


def test_how_many_are_kept() -> None:
    assert kept("none", 27) == 27 and kept("asha", 27) == 9 + 3 and kept("asha", 1) == 2
    assert kept("hyperband", 11) == (2 + 1) + 1 + 2  # brackets of 6, 3 and 2 trials


def test_too_little_room(search_config, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    need = disk.Need(2_000_000_000, 5_000_000_000)
    free = lambda size: monkeypatch.setattr(disk.shutil, "disk_usage", lambda path: type("U", (), {"free": size}))  # noqa: E731
    free(6e9)
    assert disk.check(tmp_path / "not" / "yet", need) == ""
    free(3e9)
    assert "may take 5 GB, and 3 GB are free" in disk.check(tmp_path, need)
    free(1e9)
    with pytest.raises(RunError, match="need about 2 GB at the least, and 1 GB are free there; make room"):
        disk.check(tmp_path / "run", need)
