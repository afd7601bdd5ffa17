"""Packed contents: the same content again, few objects, and nothing that a hostile one breaks."""

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.app.metadata import Metadata
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from hypothesis import given
from hypothesis import strategies as st

from fedsim import messages
from fedsim.core import Update
from fedsim.envelope import answering, is_packed, packed, unpacked
from fedsim.exact import InvalidUpdateError

NUMBERS = st.floats(allow_nan=False) | st.integers(-(2**63), 2**63 - 1)
RECORDS = st.dictionaries(
    st.text(min_size=1, max_size=8),
    st.text(max_size=8) | st.binary(max_size=8) | st.booleans() | NUMBERS,
    max_size=4,
)
DTYPES = st.sampled_from(["float32", "float64", "int64", "uint32", "uint8"])


def message(content, kind="train"):
    metadata = Metadata(1, "", 0, 7, "", "1", 0.0, 60.0, kind)
    return Message(content, metadata=metadata)


def objects(content):
    return len(get_all_nested_objects(message(content)))


@given(config=RECORDS, dtype=DTYPES, values=st.lists(st.integers(0, 255), max_size=5))
def test_what_is_unpacked_is_what_was_packed(config, dtype, values):
    array = np.array(values, dtype=dtype)
    content = RecordDict({"a": ArrayRecord({"v": Array(array)}), "c": ConfigRecord(dict(config))})
    there = packed(content)
    assert is_packed(there)
    found = unpacked(there)
    assert found == content
    back = found.array_records["a"]["v"].numpy()
    assert (back.dtype, back.tolist()) == (array.dtype, array.tolist())
    assert objects(there) == 3


def test_a_small_update_is_three_objects_and_a_large_one_stays():
    small, large = (
        messages.update_content(Update(torch.zeros(n), 1.0, {}), client=0, seconds=0.0)
        for n in (1000, 100_000)
    )
    assert (objects(small), objects(packed(small))) == (9, 3)
    assert packed(large) is large
    assert unpacked(large) is large


@pytest.mark.parametrize("content", [b"\xff\xff", "text", [1, 2]])
def test_what_cannot_be_read_is_an_invalid_update(content):
    with pytest.raises(InvalidUpdateError, match="packed content cannot be read"):
        unpacked(RecordDict({"packed": ConfigRecord({"content": content})}))
    with pytest.raises(InvalidUpdateError, match="packed content cannot be read"):
        unpacked(RecordDict({"packed": ConfigRecord({})}))


@pytest.mark.parametrize("is_asked_packed", [True, False])
def test_who_is_asked_packed_answers_packed(is_asked_packed, monkeypatch):
    content = RecordDict({"c": ConfigRecord({"n": 1})})

    def app(asked, context):
        assert asked.content == content
        return message(RecordDict({"c": ConfigRecord({"n": 2})}))

    asked = message(packed(content) if is_asked_packed else content)
    context = Context(1, 7, {}, RecordDict(), {})
    for call in (app, lambda m, c: answering(m, c, app)):  # the mod may be there twice
        reply = answering(Message(asked.content, metadata=asked.metadata), context, call)
        assert is_packed(reply.content) == is_asked_packed
        assert unpacked(reply.content).config_records["c"]["n"] == 2
