"""Servers and clients that do not keep to the agreement: what is refused, and with what reason."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, RecordDict

from fedsim import cut_messages
from fedsim.anonymize import shared
from fedsim.anonymize.shared import cut_from_dict
from fedsim.cut_messages import COUNTS, FROZEN, MASKED, cut_content
from fedsim.cut_rounds import CutCarrier
from fedsim.engine.inprocess import InProcessGrid
from fedsim.errors import DataError, SecAggAborted
from fedsim.messages import TRAIN


def ask(grid, cut, kind=COUNTS, node=1):
    """Send one client a cut; return its reply's error, "" for none."""
    encoded = cut if isinstance(cut, bytes) else cut.encode()
    (reply,) = grid.broadcast(cut_content(encoded), [node], kind, ttl=None, group_id="")
    return reply.error.reason if reply.has_error() else ""


def next_of(own, cut):
    """The cut one level deeper, from true sums."""
    parts = own.tables()
    return shared.grow(cut, sum(shared.counts(cut, part) for part in parts), parts[0])


def levels_of(own):
    cuts = [own.sharing.start()]
    while cuts[-1].open:
        cuts.append(next_of(own, cuts[-1]))
    return cuts


def test_a_level_may_be_asked_again_and_only_as_it_was(clients):
    own = clients()
    grid, cuts = own.grid(), levels_of(own)
    assert ask(grid, cuts[0]) == ask(grid, cuts[0]) == ask(grid, cuts[1]) == ""
    narrower = replace(cuts[1], entries=cuts[0].entries)
    assert "does not go on from" in ask(grid, narrower)
    assert "does not go on from" in ask(grid, cuts[0])  # back
    assert "does not go on from" in ask(grid, cuts[3])  # over one
    assert ask(grid, cuts[2]) == ""


def test_another_branch_of_the_tree_is_refused(clients):
    own, cuts = clients(), None
    grid, cuts = own.grid(), levels_of(own)
    assert ask(grid, cuts[0]) == ask(grid, cuts[1]) == ""
    first = cuts[2].levels[0].cuts
    moved = replace(first, low=np.where(first.low > 0, first.low + 1, 0))
    other = replace(cuts[2], levels=(replace(cuts[2].levels[0], cuts=moved), *cuts[2].levels[1:]))
    assert "does not go on from" in ask(grid, other)


def test_nobody_counts_from_the_middle(clients):
    own = clients()
    assert "has not been in" in ask(own.grid(), levels_of(own)[2])


@pytest.mark.parametrize(
    "change",
    [
        {"protection": {"k": 2}},
        {"k_over": "client"},
        {"how": "nodes"},
        {"schema": "0" * 64},
        {"deviation": 3.0},
        {"trees": 1},
    ],
    ids=lambda change: next(iter(change)),
)
@pytest.mark.parametrize("kind", [COUNTS, FROZEN])
def test_a_cut_that_is_not_the_experiments_is_refused(clients, change, kind):
    own = clients()
    cut = own.sharing.start() if kind == COUNTS else levels_of(own)[-1]
    plain = cut.to_dict()
    if "protection" in change:
        change = {"protection": {**asdict(cut.protection), **change["protection"]}}
    hostile = cut_from_dict(json.loads(json.dumps(plain | change)))
    (name,) = change
    assert f"{name} of the cut is" in ask(own.grid(), hostile, kind)


@pytest.mark.parametrize("text", [b"", b"{", b"[1]", b'{"version": 1}', b"[" * 100_000])
@pytest.mark.parametrize("kind", [COUNTS, FROZEN])
def test_what_is_no_cut_is_refused(clients, text, kind):
    assert "is no cut" in ask(clients().grid(), text, kind)


def test_a_client_that_has_its_cut_takes_no_other_and_counts_no_more(clients):
    own = clients()
    grid, cuts = own.grid(), levels_of(own)
    assert "not finished" in ask(grid, cuts[1], FROZEN)
    assert ask(grid, cuts[-1], FROZEN) == ask(grid, cuts[-1], FROZEN) == ""
    assert "second cut" in ask(grid, shared.closed(cuts[2]), FROZEN)
    assert "counts by no other" in ask(grid, cuts[0])


def test_a_finished_cut_must_be_of_the_agreement_that_a_client_was_in(clients):
    own = clients()
    cuts = levels_of(own)
    grid = own.grid()
    for cut in cuts[:-1]:
        assert ask(grid, cut) == ""
    assert "not the one that this client counted for" in ask(grid, shared.closed(cuts[1]), FROZEN)
    assert ask(grid, cuts[-1], FROZEN) == ""
    (state,) = (cut_messages.kept_of(state) for state in grid.states.values())
    assert (state.frozen, state.is_late) == (cuts[-1].encode(), False)
    assert ask(grid, cuts[-1], FROZEN, node=2) == ""  # which was asked nothing
    assert cut_messages.kept_of(grid.states[2]).is_late


class Another(InProcessGrid):
    """A server that gives client 0 another cut than the others, from the second level on."""

    other = None

    def scatter(self, contents, kind, **more):
        if kind == MASKED:
            contents = [
                (node, self._turned(content) if node == 1 else content)
                for node, content in contents
            ]
        return InProcessGrid.scatter(self, contents, kind, **more)

    def _turned(self, content):
        cut = cut_from_dict(json.loads(cut_messages.read_cut(content)))
        if not cut.sums:
            return content
        first = cut.entries[0]
        fewer = replace(first, group=first.group[:-1], leaf=first.leaf[:-1])
        other = replace(cut, entries=(fewer, *cut.entries[1:]))
        return RecordDict({**content, **cut_content(other.encode())})


def test_a_client_that_is_given_another_cut_than_the_others_stops_the_level(clients):
    """Its session is signed over the cut of all: nothing of that level is opened."""
    own = clients(secure="secagg", k=12)
    found = own.agree(own.grid(Another))
    assert found.sums == 1
    assert "another model than the session is about" in found.early or "length" in found.early
    assert found.cut.encode() == shared.closed(levels_of(own)[1]).encode()


class Miscounting(InProcessGrid):
    """Client 0 answers with something else than its counts."""

    def broadcast(self, content, nodes, kind, **more):
        for reply in InProcessGrid.broadcast(self, content, nodes, kind, **more):
            if reply.metadata.src_node_id == 1 and kind == COUNTS:
                vector = reply.content.array_records["ring"]["vector"].numpy()
                record = ArrayRecord({"vector": Array(self.turned(vector.copy()))})
                reply.content["ring"] = record
            yield reply


class TooShort(Miscounting):
    turned = staticmethod(lambda vector: vector[:-1])


class TooMany(Miscounting):
    @staticmethod
    def turned(vector):
        vector[0] += 2**31
        return vector


def test_a_vector_of_another_length_counts_for_nothing(clients):
    own = clients(sites=4)
    found = own.agree(own.grid(TooShort))
    assert found.late == (0,)
    others = range(1, 4)
    expected = shared.central(own.sharing.start(), own.united(others))
    assert found.cut.encode() == expected.encode()


def test_counts_that_nobody_can_have_end_the_agreement(clients):
    own = clients(sites=4)
    with pytest.raises(DataError, match="counted wrongly"):
        own.agree(own.grid(TooMany))


def test_a_client_that_was_started_anew_is_sent_its_cut_again(clients):
    own = clients(secure="ideal")
    grid, found = own.grid(), own.agree()
    carrier = CutCarrier(grid, found)
    order = order_of(own)
    sent = {"ttl": None, "group_id": "1"}
    first = list(carrier.broadcast(order, [1, 2, 3], TRAIN, **sent))
    assert not [reply for reply in first if reply.has_error()]
    del grid.states[2]
    again = list(carrier.broadcast(order, [1, 2, 3], TRAIN, **sent))
    vectors = [sorted(r.content.array_records["ring"]["vector"].numpy().tobytes() for r in some)
               for some in (first, again)]  # fmt: skip
    assert vectors[0] == vectors[1]
    bare = list(grid.broadcast(order, [4], TRAIN, **sent))
    assert [cut_messages.is_missing(reply.content) for reply in bare] == [True]


def test_who_refuses_the_cut_is_lost_with_its_reason(clients):
    own = clients()
    grid, found = own.grid(), own.agree()
    assert ask(grid, shared.closed(levels_of(own)[2]), FROZEN, node=2) == ""
    del grid.states[2]["fedsim.cut"]
    other = shared.closed(levels_of(own)[2])
    assert ask(grid, other, FROZEN, node=2) == ""
    carrier = CutCarrier(grid, found)
    order = order_of(own)
    replies = list(carrier.broadcast(order, [1, 2], TRAIN, ttl=None, group_id="1"))
    assert sorted(reply.metadata.src_node_id for reply in replies) == [1, 2]
    assert carrier.refused[2].count("second cut") == 1


def order_of(own):
    from fedsim.messages import Train, model_content
    from fedsim.rounds import number_format

    federation = own.federation
    return model_content(Train(federation.initial, 1, form=number_format(federation)))


def test_an_abort_before_anything_is_agreed_on_says_who_was_lost(clients):
    own = clients(sites=4, rounds={"dropout": 0.95})
    with pytest.raises(SecAggAborted) as caught:
        own.agree()
    assert caught.value.records
