"""What a trial keeps in the run folder, and that nothing beside it is ever touched."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from stssl.errors import StsslError
from stssl.search import trial_folder
from stssl.search.ledger import LOCK, NAME, Ledger, locked
from stssl.search.trial_folder import CHECKPOINT, ERROR, HANG, delete_weights
from stssl.search.watchdog import Watchdog
from stssl.storage import Folder

# Names that lead no further than to the folder of the test even where nothing refuses them; VICTIM is its absolute path.
OUTSIDE = [
    "../../victim",
    "..",
    ".",
    "",
    "VICTIM",
    "a/b",
    "t0001/../../../victim",
    "a\0",
    "x" * 300,
    None,
    7,
    ["t0001"],
]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run folder with a trial, beside a folder of somebody's."""
    for folder in (tmp_path / "victim", tmp_path / "run" / "trials" / "t0001"):
        folder.mkdir(parents=True)
        (folder / CHECKPOINT).write_bytes(b"years of work")
    return tmp_path / "run"


@pytest.mark.parametrize("trial", OUTSIDE)
def test_a_trials_name_is_not_a_path(run: Path, trial: object) -> None:
    trial = str(run.parent / "victim") if trial == "VICTIM" else trial
    calls: list[Callable[..., object]] = [
        delete_weights, trial_folder.trial_folder, trial_folder.hung, trial_folder.fault
    ]  # fmt: skip
    for call in calls:
        with pytest.raises(StsslError, match="is not a valid name") as error:
            call(Folder(run), trial)
        assert len(str(error.value)) < 300
    assert (run.parent / "victim" / CHECKPOINT).read_bytes() == b"years of work"
    assert (run / "trials" / "t0001" / CHECKPOINT).exists()


@pytest.mark.parametrize("linked", ["trials", "trials/t0001"])
def test_no_link_leads_a_trial_out(run: Path, linked: str) -> None:
    victim = run.parent / "victim"
    (victim / "t0001").mkdir()
    (victim / "t0001" / "keep").touch()
    (run / linked).rename(run.parent / "moved")
    (run / linked).symlink_to(victim)
    for call in (delete_weights, trial_folder.trial_folder):
        with pytest.raises(StsslError, match=r"t0001: leads out of .* through a symbolic link .* replace the link"):
            call(run, "t0001")
    assert sorted(path.name for path in victim.rglob("*")) == [CHECKPOINT, "keep", "t0001"]


@pytest.mark.parametrize("name", [NAME, LOCK])
def test_no_link_leads_the_ledger_out(run: Path, name: str) -> None:
    """A file without a newline would pass for a torn line, and be cut off."""
    victim = run.parent / "victim" / CHECKPOINT
    (run / name).symlink_to(victim)
    with pytest.raises(StsslError, match=f"{name}: leads out of .* through a symbolic link"):
        Ledger(run)
    if name == LOCK:
        with pytest.raises(StsslError, match="symbolic link"):
            locked(run)
    assert victim.read_bytes() == b"years of work"


def test_no_link_leads_a_watchdog_out(run: Path) -> None:
    victim = run.parent / "victim" / CHECKPOINT
    (run / "trials" / "t0001" / HANG).symlink_to(victim)
    with pytest.raises(StsslError, match="symbolic link"), Watchdog(trial_folder.trial_folder(run, "t0001"), HANG, 60):
        pass
    assert victim.read_bytes() == b"years of work"


def test_weights_go_and_tracebacks_stay(run: Path) -> None:
    (run / "trials" / "t0002").mkdir()
    for name in (CHECKPOINT, ERROR):
        (run / "trials" / "t0002" / name).touch()
    for trial in ("t0001", "t0002", "t0003"):
        delete_weights(run, trial)
        delete_weights(run, trial)
    assert [path.name for path in (run / "trials").rglob("*")] == ["t0002", ERROR]


def test_a_damaged_checkpoint_is_put_aside(run: Path) -> None:
    folder = trial_folder.trial_folder(run, "t0001")
    trial_folder.put_aside(folder)
    assert folder.names() == [trial_folder.DAMAGED] and folder.read(trial_folder.DAMAGED) == b"years of work"
    trial_folder.save(folder, {"step": torch.tensor(1)})
    trial_folder.put_aside(folder)
    assert folder.names() == [trial_folder.DAMAGED]
