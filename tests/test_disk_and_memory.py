"""A full disk, files without rights, no memory: each in one sentence that names the file."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from stssl.errors import CheckpointError, is_out_of_memory
from stssl.files import named_faults
from stssl.storage import Folder
from stssl.training import checkpoint

FULL = """
import resource, sys
from pathlib import Path
import torch
from safetensors.torch import save_file
from stssl.files import atomic_path, write_text
from stssl.storage import Folder
from stssl.training import checkpoint

folder = Path(sys.argv[1])
def tensors(path):
    with atomic_path(path) as temporary:
        save_file({"w": torch.zeros(100_000)}, temporary)
def table(path):
    import pyarrow as pa, pyarrow.parquet as pq
    with atomic_path(path) as temporary:
        pq.write_table(pa.table({"a": list(range(100_000))}), temporary, compression="none", use_dictionary=False)
def picture(path):
    from matplotlib.figure import Figure
    with atomic_path(path) as temporary:
        figure = Figure(figsize=(10, 10))
        figure.add_subplot().imshow(torch.rand(400, 400).numpy())
        figure.savefig(temporary, dpi=110, format="png")
writers = {
    "checkpoint": lambda path: checkpoint.save(path, {"w": torch.zeros(100_000)}),
    "text": lambda path: write_text(path, "x" * 100_000),
    "folder": lambda path: Folder(path.parent).write(path.name, bytes(100_000)),
    "tensors": tensors, "table": table, "picture": picture,
}
for write in writers.values():
    write(folder / "first")  # what is imported late
_, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
for name, write in writers.items():
    try:
        write(folder / name)
    except OSError as error:
        print(name, error, sep=": ")
print(sorted(path.name for path in folder.iterdir()))
"""


def test_whoever_writes_the_file_is_named(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", FULL, tmp_path], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    *said, left = done.stdout.splitlines()
    assert len(said) == 6 and left == "['first']", done.stdout
    for line in said:
        name = line.partition(":")[0]
        assert line == f"{name}: [Errno 27] File too large while writing: '{tmp_path / name}'"


def test_faults_that_are_no_fault_of_the_disk_stay_as_they_are() -> None:
    for error in (ValueError("x"), OSError(2, "No such file", "a"), RuntimeError("y")):
        with pytest.raises(type(error)) as caught, named_faults("b"):
            raise error
        assert caught.value is error


@contextmanager
def nobody() -> Iterator[None]:
    """Root reads everything; nobody in particular does not."""
    if os.geteuid():
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_what_cannot_be_read_is_not_called_damaged(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    torch.save({"format": checkpoint.FORMAT}, path)
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(folder.stat().st_mode | 0o111)
    path.chmod(0)
    with nobody(), pytest.raises(PermissionError) as caught:
        checkpoint.load(path)
    assert not isinstance(caught.value, CheckpointError) and str(path) in str(caught.value)
    with nobody(), pytest.raises(PermissionError, match=re.escape(str(path))):
        Folder(tmp_path).read(path.name)
    path.chmod(0o644)
    with pytest.raises(CheckpointError, match="damaged"):
        checkpoint.load(path)


@pytest.mark.parametrize(
    "error, memory",
    [
        (MemoryError(), True), (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("can't start new thread"), True), (OSError(12, "Cannot allocate memory"), True),
        (RuntimeError("std::bad_alloc"), True), (torch.OutOfMemoryError("CUDA out of memory. Tried"), True),
        (OSError(11, "Resource temporarily unavailable"), True), (RuntimeError("shapes do not match"), False),
        (OSError(28, "No space left on device"), False), (ValueError("can't allocate memory"), False),
    ],
)  # fmt: skip
def test_is_out_of_memory(error: Exception, memory: bool) -> None:
    assert is_out_of_memory(error) is memory
