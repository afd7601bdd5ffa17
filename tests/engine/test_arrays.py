"""Arrays that keep their numbers, against Flower's own that hold a file's bytes."""

import copy
import gc
import pickle
import subprocess
import sys
from io import BytesIO

import hypothesis.extra.numpy as some
import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, MetricRecord, RecordDict
from hypothesis import given
from hypothesis import strategies as st

from fedsim.engine.arrays import keep_numbers

TYPES = ["?", "i1", "u1", "<i2", ">i4", "<i8", "<u8", "<f2", "<f4", ">f4", "<f8", "<c8", "<c16"]
LAYOUTS = {
    "C": lambda x: x,
    "F": np.asfortranarray,
    "every second": lambda x: x[..., ::2] if x.ndim else x,
    "turned": lambda x: x.T,
    "nobody's": lambda x: np.frombuffer(x.tobytes(), x.dtype).reshape(x.shape),
}
SHAPES = some.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5)


class Own(np.ndarray):
    pass


@pytest.fixture(autouse=True)
def kept():
    keep_numbers()


def plain(ndarray):
    """Flower's own array: one that is made of bytes."""
    file = BytesIO()
    np.save(file, ndarray, allow_pickle=False)
    return Array(str(ndarray.dtype), ndarray.shape, "numpy.ndarray", file.getvalue())


def same_numbers(one, other):
    assert (one.dtype, one.shape, one.tobytes("A")) == (
        other.dtype,
        other.shape,
        other.tobytes("A"),
    )
    assert one.flags.writeable
    for flag in ("c_contiguous", "f_contiguous"):
        assert getattr(one.flags, flag) == getattr(other.flags, flag)


@given(
    st.sampled_from(TYPES).flatmap(lambda kind: some.arrays(np.dtype(kind), SHAPES)),
    st.sampled_from(sorted(LAYOUTS)),
)
def test_an_array_of_numbers_is_flowers_own(numbers, layout):
    ndarray = LAYOUTS[layout](numbers)
    ours, theirs = Array(ndarray), plain(ndarray)
    same_numbers(ours.numpy(), theirs.numpy())
    assert "data" not in ours.__dict__  # nothing was written for that
    assert ours == theirs
    assert ours.data == theirs.data
    assert ours.deflate() == theirs.deflate()
    assert ours.object_id == theirs.object_id
    travelled = pickle.loads(pickle.dumps(Array(ndarray), protocol=5))
    same_numbers(travelled.numpy(), theirs.numpy())
    assert travelled == theirs


def test_nobody_changes_an_array_by_what_it_was_made_of_or_gave():
    source = np.arange(4.0)
    array = Array(source)
    source[:] = -1
    array.numpy()[:] = -2
    array.data  # noqa: B018 - written now
    array.numpy()[:] = -3
    assert array.numpy().tolist() == [0, 1, 2, 3]
    assert plain(np.arange(4.0)) == array


def test_a_tensor_becomes_an_array_and_a_state_dict_again():
    state = torch.nn.Linear(3, 2).state_dict()
    record = ArrayRecord(state)
    for name, tensor in record.to_torch_state_dict().items():
        assert torch.equal(tensor, state[name])
        tensor.zero_()
    assert record.to_torch_state_dict()["weight"].abs().sum() > 0


def test_other_bytes_are_other_numbers():
    array = Array(np.zeros(2))
    array.data = plain(np.ones(2)).data
    assert array.numpy().tolist() == [1, 1]
    assert Array.inflate(array.deflate(), array.children).numpy().tolist() == [1, 1]


def test_an_array_of_another_kind_of_bytes_gives_no_numbers():
    array = Array(np.zeros(2))
    array.stype = "compressed"
    with pytest.raises(TypeError, match="compressed"):
        array.numpy()


@pytest.mark.parametrize(
    "ndarray",
    [
        np.array(["a", "bc"]),
        np.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f8")]),
        np.array(["2020-01-01"], dtype="M8[D]"),
        np.zeros(2).view(Own),
    ],
    ids=["text", "structured", "dates", "own class"],
)
def test_what_is_no_plain_array_stays_bytes(ndarray):
    array = Array(ndarray)
    assert "data" in array.__dict__
    assert array == plain(ndarray)
    assert (array.numpy() == np.asarray(ndarray)).all()


def test_objects_are_refused_as_flower_does():
    with pytest.raises(ValueError, match="allow_pickle"):
        Array(np.array([{}]))


def test_what_is_missing_is_missing():
    with pytest.raises(AttributeError, match="'Array' object has no attribute 'numbers'"):
        Array(np.zeros(1)).numbers  # noqa: B018


def twin(array):
    return ArrayRecord({"a": array})["a"]


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, twin], ids=["copy", "deep", "twin"])
@pytest.mark.parametrize("make", [Array, plain], ids=["numbers", "bytes"])
def test_copies_go_their_own_way(again, make):
    array = make(np.zeros(2))
    other = again(array)
    assert other == array
    array.data = plain(np.ones(2)).data
    assert other == plain(np.zeros(2))
    assert other.numpy().tolist() == [0, 0]


def test_bytes_do_not_travel_beside_numbers():
    array = Array(np.zeros(10_000))
    size = len(pickle.dumps(array, protocol=5))
    array.slice_array()
    assert len(array.data) > 80_000
    assert len(pickle.dumps(array, protocol=5)) <= size < 81_000


def test_an_array_opens_in_a_process_that_keeps_no_numbers(tmp_path):
    numbers = np.arange(3, dtype="float32")
    (tmp_path / "array").write_bytes(pickle.dumps(Array(numbers), protocol=5))
    code = (
        "import pickle, sys\n"
        "array = pickle.load(open(sys.argv[1], 'rb'))\n"
        "print(array.numpy().tolist(), array.data.hex())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "array"], capture_output=True, text=True, check=True
    )
    assert done.stdout.split("]")[0] == "[0.0, 1.0, 2.0"
    assert done.stdout.split()[-1] == plain(numbers).data.hex()


@pytest.mark.parametrize("is_kept", [True, False])
def test_a_record_of_arrays_is_one_of_their_twins(is_kept):
    arrays = {"a": Array(np.zeros(2)), "b": plain(np.ones(1))}
    record = ArrayRecord(arrays, keep_input=is_kept)
    assert [array.numpy().tolist() for array in record.values()] == [[0, 0], [1]]
    assert len(arrays) == (2 if is_kept else 0)
    if is_kept:
        arrays["a"].data = plain(np.ones(2)).data
        assert record["a"].numpy().tolist() == [0, 0]


def test_numbers_in_shared_memory_are_taken_out_of_it():
    content = RecordDict({"x": ArrayRecord({"a": Array(np.arange(3.0))}), "m": MetricRecord({})})
    buffers = []
    head = pickle.dumps(content, protocol=5, buffer_callback=buffers.append)
    shared = bytearray(buffers[0].raw())
    opened = pickle.loads(head, buffers=[memoryview(shared).toreadonly()])
    gc.collect()
    shared.clear()  # fails as long as anybody looks at it
    assert opened["x"]["a"].numpy().tolist() == [0, 1, 2]
    assert opened["x"]["a"] == plain(np.arange(3.0))
