"""Sealed arrays: the same numbers, in one copy per machine, on no disk."""

import mmap
import multiprocessing
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from fedsim.errors import SealingError, SetupError
from fedsim.sealing import (
    CHUNK_BYTES,
    Label,
    StorageKeys,
    array_pieces,
    read_array,
    read_sealed,
    write_sealed,
)

KEYS = StorageKeys.of(bytes(range(32)))
LABEL = Label("cache", {"array": "train_x"})


def write(path: Path, array: NDArray[Any], label: Label = LABEL) -> None:
    write_sealed(path, array_pieces(array.shape, array.dtype, [array]), label, KEYS)


def memory_of(array: NDArray[Any]) -> mmap.mmap:
    base: Any = array
    while not isinstance(base, mmap.mmap):
        base = base.obj if isinstance(base, memoryview) else base.base
    return base


def own_memory_files() -> set[int]:
    """Return the inodes of the memory files of ours that this process has open."""
    found = set()
    for path in Path("/proc/self/fd").iterdir():
        try:
            if str(path.readlink()).startswith("/memfd:fedsim-"):
                found.add(path.stat().st_ino)
        except FileNotFoundError:
            continue
    return found


def _overwrite(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(b"x")


@settings(max_examples=40, deadline=None)
@given(
    hnp.arrays(
        dtype=st.sampled_from(["<f2", "<f4", "<f8", "<i8", "|u1", "|b1"]),
        shape=hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=5),
    )
)
def test_arrays_come_back(array: NDArray[Any]) -> None:
    path = Path("/dev/shm") / f"fedsim-test-{os.getpid()}.sealed"
    try:
        write(path, array)
        found = read_array(path, LABEL, KEYS)
    finally:
        path.unlink(missing_ok=True)
    assert found.dtype == array.dtype
    assert found.shape == array.shape
    assert np.array_equal(found, array, equal_nan=array.dtype.kind == "f")
    assert not found.flags.writeable


def test_a_sealed_array_is_a_npy_file(tmp_path: Path) -> None:
    array = np.arange(12, dtype=np.float32).reshape(3, 4)
    write(tmp_path / "a", array)
    (tmp_path / "a.npy").write_bytes(read_sealed(tmp_path / "a", LABEL, KEYS))
    assert np.array_equal(np.load(tmp_path / "a.npy"), array)


def test_rows_in_pieces_are_one_array(tmp_path: Path) -> None:
    array = np.arange(3 * 10**6, dtype=np.int64).reshape(300, -1)
    rows = (array[first : first + 7] for first in range(0, 300, 7))
    write_sealed(tmp_path / "a", array_pieces(array.shape, array.dtype, rows), LABEL, KEYS)
    assert array.nbytes > 20 * CHUNK_BYTES
    assert np.array_equal(read_array(tmp_path / "a", LABEL, KEYS), array)


def test_one_process_opens_a_file_once(tmp_path: Path) -> None:
    before = own_memory_files()
    write(tmp_path / "a", np.arange(1000))
    first = read_array(tmp_path / "a", LABEL, KEYS)
    second = read_array(tmp_path / "a", LABEL, KEYS)
    assert np.array_equal(first, second)
    assert len(own_memory_files() - before) == 1
    del first, second
    assert not own_memory_files() - before  # and it is gone with the last array


def _inode(path: Path, queue: Any) -> None:
    array = read_array(path, LABEL, KEYS)
    (own,) = own_memory_files()
    queue.put((own, int(array.sum())))


def test_processes_share_one_copy(tmp_path: Path) -> None:
    write(tmp_path / "a", np.arange(10**5))
    before = own_memory_files()
    array = read_array(tmp_path / "a", LABEL, KEYS)
    (own,) = own_memory_files() - before
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    other = context.Process(target=_inode, args=(tmp_path / "a", queue))
    other.start()
    assert queue.get(timeout=60) == (own, int(array.sum()))
    other.join()
    assert other.exitcode == 0
    queue.close()
    queue.join_thread()


def test_nobody_can_change_what_is_shared(tmp_path: Path) -> None:
    write(tmp_path / "a", np.arange(10))
    before = own_memory_files()
    array = read_array(tmp_path / "a", LABEL, KEYS)
    (own,) = own_memory_files() - before
    files = [p for p in Path("/proc/self/fd").iterdir() if p.exists() and p.stat().st_ino == own]
    assert files
    for path in files:
        with pytest.raises(PermissionError):
            _overwrite(path)
    assert array.tolist() == list(range(10))


def test_memory_of_one_label_is_not_found_under_another(tmp_path: Path) -> None:
    write(tmp_path / "a", np.arange(1000))
    array = read_array(tmp_path / "a", LABEL, KEYS)
    sealed = (tmp_path / "a").read_bytes()
    (tmp_path / "a").write_bytes(sealed.replace(b"train_x", b"train_y"))
    with pytest.raises(SealingError, match="chunk 0"):
        read_array(tmp_path / "a", Label("cache", {"array": "train_y"}), KEYS)
    assert array[999] == 999


def test_what_does_not_open_leaves_nothing_in_memory(tmp_path: Path) -> None:
    before = own_memory_files()
    write(tmp_path / "a", np.zeros(3 * CHUNK_BYTES, np.uint8))
    sealed = bytearray((tmp_path / "a").read_bytes())
    sealed[-1] ^= 1
    (tmp_path / "a").write_bytes(sealed)
    for _ in range(2):
        with pytest.raises(SealingError, match="chunk 3"):
            read_array(tmp_path / "a", LABEL, KEYS)
    assert own_memory_files() == before
    with pytest.raises(SetupError, match="not among"):
        read_array(tmp_path / "a", LABEL, StorageKeys.of(bytes(32)))


def test_what_is_no_array_says_so(tmp_path: Path) -> None:
    write_sealed(tmp_path / "a", [b"no array"], LABEL, KEYS)
    with pytest.raises(SealingError, match="holds no array"):
        read_array(tmp_path / "a", LABEL, KEYS)
