"""A process that hangs ends itself and leaves word; one that moves does not."""

import subprocess
import sys
import time
from pathlib import Path

from stssl.search.trial_folder import HANG, delete_weights, hung, trial_folder

CODE = """
import sys, time
from pathlib import Path
from stssl.search.watchdog import Watchdog
dog = Watchdog(Path(sys.argv[1]), 0.5)
def moving():
    for _ in range(15):
        time.sleep(0.1)
        dog.alive()
def hanging():
    time.sleep(60)
with dog:
    moving()
time.sleep(1)  # between two steps nothing is watched
if sys.argv[2] == "hangs":
    with dog:
        hanging()
dog.close()
"""


def run(path: Path, how: str) -> int:
    start = time.monotonic()
    code = subprocess.run([sys.executable, "-c", CODE, str(path), how], timeout=50, check=False).returncode
    assert time.monotonic() - start < 45
    return code


def test_it_ends_what_hangs_and_nothing_else(tmp_path: Path) -> None:
    folder = trial_folder(tmp_path, "t0001")
    assert run(folder / HANG, "moves") == 0 and not (folder / HANG).exists() and not hung(tmp_path, "t0001")
    assert run(folder / HANG, "hangs") == 1
    assert hung(tmp_path, "t0001") and not hung(tmp_path, "t0001"), "told once"
    assert "in hanging" in (folder / "error.txt").read_text() and not (folder / HANG).exists()


def test_the_traceback_stays_when_weights_go(tmp_path: Path) -> None:
    for name in ("t0001", "t0002"):
        trial_folder(tmp_path, name).mkdir(parents=True)
        for file in ("checkpoint.pt", ".checkpoint.pt.x.partial", HANG):
            (trial_folder(tmp_path, name) / file).touch()
    (trial_folder(tmp_path, "t0002") / "error.txt").touch()
    for name in ("t0001", "t0002", "t0003"):
        delete_weights(tmp_path, name)
    assert not trial_folder(tmp_path, "t0001").exists()
    assert [p.name for p in trial_folder(tmp_path, "t0002").iterdir()] == ["error.txt"]
