"""The vocabulary of rounds: what is written is what is read, and folding changes no bit."""

import time
from dataclasses import replace

import torch
from flwr.app import Message, RecordDict
from flwr.app.metadata import Metadata
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsim import client_table, exact, messages
from fedsim.core import Update
from fedsim.engine.flower import FlowerCarrier, pull

FORM = exact.fixed_point(4, max_abs=8.0, max_weight=50.0, cohort=30)
ORDER = messages.Train(torch.arange(4.0), 7, 0.5, FORM)


def reply(client, update, seconds=0.25):
    metadata = Metadata(
        run_id=1, message_id=f"m{client}", src_node_id=client + 1, dst_node_id=1,
        reply_to_message_id="", group_id="7", created_at=0.0, ttl=1.0, message_type="train",
    )  # fmt: skip
    content = messages.update_content(update, client=client, seconds=seconds)
    return Message(content=content, metadata=metadata)


def part(reply):
    return messages.partial_sums(reply.content, client_table.read(reply.content), FORM)


def test_an_instruction_survives():
    read = messages.read_instruction(messages.model_content(ORDER))
    assert torch.equal(read.model, ORDER.model)
    assert (read.round, read.lr_factor, read.form) == (7, 0.5, FORM)
    plain = messages.read_instruction(messages.model_content(messages.Train(torch.ones(2), 1)))
    assert plain.form is None


def test_an_update_survives():
    update = Update(torch.tensor([1.0, -2.0, 0.5, 0.0]), 12.0, {"loss": 0.3}, {"c": torch.ones(2)})
    content = messages.update_content(update, client=3, seconds=1.5)
    read = messages.updates(content, client_table.read(content))
    assert torch.equal(read.vector, update.vector)
    assert (read.weight, dict(read.metrics)) == (12.0, {"loss": 0.3})
    assert torch.equal(read.lanes["c"], torch.ones(2))


@st.composite
def cohorts(draw):
    size = draw(st.integers(1, 12))
    numbers = st.floats(-8, 8, width=32)
    return [
        Update(
            torch.tensor(draw(st.lists(numbers, min_size=4, max_size=4))),
            float(draw(st.integers(1, 50))),
            {"loss": float(i)},
        )
        for i in range(size)
    ]


@settings(deadline=None)
@given(cohorts(), st.integers(1, 11))
def test_folding_any_part_gives_the_same_sum_and_keeps_every_row(cohort, cut):
    content = messages.model_content(ORDER)
    single = [part(reply(i, u)) for i, u in enumerate(cohort)]
    replies = [reply(i, u) for i, u in enumerate(cohort)]
    folded = messages.fold(content, replies[:cut]) + replies[cut:]
    twice = messages.fold(content, replies[cut:]) if replies[cut:] else []
    total = exact.add(map(part, [*folded[:1], *twice]))
    assert torch.equal(total.vector, exact.add(single).vector)
    assert (total.weight, total.count) == (exact.add(single).weight, len(cohort))
    whole = client_table.joined(client_table.read(r.content) for r in [*folded[:1], *twice])
    assert sorted(whole.clients) == list(range(len(cohort)))
    losses = [own["loss"] for own in whole.metrics]
    assert dict(zip(whole.clients, losses, strict=True)) == {i: i for i in range(len(cohort))}


def test_folding_keeps_errors_and_finds_bad_updates():
    bad = Update(torch.full((4,), float("nan")), 3.0)
    good = Update(torch.ones(4), 2.0)
    failed = messages.error_reply(reply(9, good), RuntimeError("down"))
    replies = [reply(0, good), reply(1, bad), reply(2, good), failed]
    folded = messages.fold(messages.model_content(ORDER), replies)
    sums = [r for r in folded if r.has_content()]
    errors = {r.metadata.src_node_id: r.error.reason for r in folded if r.has_error()}
    assert part(sums[0]).count == 2
    assert "NaN" in errors[2]
    assert any("down" in reason for reason in errors.values())
    assert len(folded) == 3


def test_nothing_is_folded_that_was_not_asked_for():
    content = messages.model_content(messages.Train(torch.ones(4), 1))
    replies = [reply(i, Update(torch.ones(4), 1.0)) for i in range(3)]
    assert messages.fold(content, replies) == replies
    assert messages.fold(content, []) == []


def test_statistics_survive_and_fold():
    def one(client):
        stats = {"federated/accuracy": torch.tensor([float(client), 10.0])}
        message = reply(client, Update(torch.ones(4), 1.0))
        message.content = messages.evaluation_content(stats, client=client, examples=10, seconds=0)
        return message

    (merged,) = messages.fold(messages.model_content(ORDER), [one(4), one(2)])
    assert messages.read_statistics(merged.content)["federated/accuracy"].tolist() == [
        [4, 10],
        [2, 10],
    ]
    assert client_table.read(merged.content).clients == [4, 2]


def test_memos_live_in_the_state():
    state = RecordDict()
    assert messages.memo_of(state) == {}
    messages.set_memo(state, {"own": torch.arange(3.0), "step": torch.tensor(2.0)})
    read = messages.memo_of(state)
    assert torch.equal(read["own"], torch.arange(3.0))
    assert read["step"].shape == ()
    messages.set_memo(state, {})
    assert len(state) == 0


def test_rows_of_different_metrics_leave_gaps():
    many = [
        reply(0, Update(torch.ones(4), 1.0, {"a": 1.0})),
        reply(1, Update(torch.ones(4), 1.0, {"b": 2.0})),
    ]
    (merged,) = messages.fold(messages.model_content(ORDER), many)
    assert client_table.read(merged.content).metrics == [{"a": 1.0}, {"b": 2.0}]


def test_the_hash_of_an_order_is_that_of_what_arrives():
    form = exact.FixedPoint(20, 8, 3, 4, max_norm=1, has_votes=True, bits=32)
    order = messages.Train(torch.arange(4.0), 3, 0.5, form)
    seen = messages.read_instruction(messages.model_content(order))
    assert messages.hash_of(seen) == messages.hash_of(order)
    others = (
        replace(order, model=order.model + torch.tensor([0, 0, 0, 2**-20])),
        replace(order, round=4),
        replace(order, lr_factor=0.25),
        replace(order, form=replace(form, max_norm=2.0)),
        replace(order, form=None),
    )
    assert len({messages.hash_of(each) for each in (order, *others)}) == 6


def test_norms_of_what_is_in_a_sum_are_found_by_whoever_adds_up():
    """Of the update itself, weighted; not of anything that a client says."""
    private = replace(FORM, max_norm=6.0)
    order = replace(ORDER, form=private)
    vectors = torch.tensor([[3.0, 4.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0]])
    weights = (1.0, 1.0, 0.5)
    sent = [
        reply(i, Update(vector, weight, {"norm": 0.0}))
        for i, (vector, weight) in enumerate(zip(vectors, weights, strict=True))
    ]
    alone = [messages.norms(each.content, client_table.read(each.content)) for each in sent]
    assert alone == [{0: 5.0}, {1: 0.0}, {2: 1.0}]
    for folded in ([sent], [sent[:2], sent[2:]]):
        parts = [messages.fold(messages.model_content(order), list(part))[0] for part in folded]
        found = {}
        for part in parts:
            read = client_table.read(part.content)
            found |= messages.norms(part.content, read)
            assert all(set(own) == {"norm"} for own in read.metrics)
        assert found == {0: 5.0, 1: 0.0, 2: 1.0}
    plain = messages.fold(messages.model_content(ORDER), [reply(0, Update(vectors[0], 1.0))])
    assert "norm" not in str(plain[0].content.config_records)


class Pulled:
    """What a SuperLink hands over."""

    def __init__(self, replies):
        self.waiting = replies

    def pull_messages(self, ids):
        found, self.waiting = self.waiting, []
        return found


def test_a_node_answers_for_itself_alone():
    update = Update(torch.ones(4), 2.0, {"loss": 1.0})
    several = messages.fold(messages.model_content(ORDER), [reply(0, update), reply(1, update)])[0]
    summed = messages.fold(messages.model_content(ORDER), [reply(2, update)])[0]
    both = reply(3, update)
    both.content = messages.ring_content(torch.zeros(4).numpy().astype("uint32"), [3, 4])
    honest, found = reply(4, update), {}
    answers = [several, summed, both, honest]
    for place, each in enumerate(answers):
        each.metadata.__dict__["_reply_to_message_id"] = f"q{place}"
    waiting = {f"q{place}": place for place in range(4)}
    for answer in FlowerCarrier(Pulled(answers))._replies(waiting, 4, time.monotonic() + 60):
        found[answer.metadata.src_node_id] = answer.error.reason if answer.has_error() else ""
    assert found.pop(3) == ""
    assert all("answers for itself alone" in reason for reason in found.values())
    assert len(found) == 3


def test_many_replies_are_pulled_in_parts_and_each_once():
    asked = []

    class Grid:
        def pull_messages(self, identities):
            asked.append(list(identities))
            return [f"reply to {identity}" for identity in identities if identity % 3]

    for count, parts in ((0, 1), (31, 1), (32, 2), (1000, 8)):
        asked.clear()
        found = pull(Grid(), list(range(count)))
        assert len(asked) == parts
        assert sorted(i for part in asked for i in part) == list(range(count))
        assert sorted(found) == sorted(f"reply to {i}" for i in range(count) if i % 3)
