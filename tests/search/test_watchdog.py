"""A process that hangs ends itself and leaves word; one that moves does not."""

import subprocess
import sys
import time
from pathlib import Path

from stssl.search.trial_folder import HANG, delete_weights, hung, trial_folder
from stssl.storage import Folder

CODE = """
import sys, time
from pathlib import Path
from stssl.search.watchdog import Watchdog
from stssl.storage import Folder
dog = Watchdog(Folder(sys.argv[1]), "hang.txt", 0.5)
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
    folder, place = trial_folder(tmp_path, "t0001").path, Folder(tmp_path)
    assert folder is not None
    assert run(folder, "moves") == 0 and not (folder / HANG).exists() and not hung(place, "t0001")
    assert run(folder, "hangs") == 1
    assert hung(place, "t0001") and not hung(place, "t0001"), "told once"
    assert "in hanging" in (folder / "error.txt").read_text() and not (folder / HANG).exists()


def test_the_traceback_stays_when_weights_go(tmp_path: Path) -> None:
    for name in ("t0001", "t0002"):
        for file in ("checkpoint.pt", ".checkpoint.pt.x.partial", HANG):
            trial_folder(tmp_path, name).write(file, b"")
    trial_folder(tmp_path, "t0002").write("error.txt", b"")
    for name in ("t0001", "t0002", "t0003"):
        delete_weights(tmp_path, name)
    assert not trial_folder(tmp_path, "t0001").exists()
    assert trial_folder(tmp_path, "t0002").names() == ["error.txt"]
