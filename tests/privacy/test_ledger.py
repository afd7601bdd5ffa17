"""The ledger: nothing that was released is missing from it, and nothing in it can be changed."""

import hashlib
import json
import random
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsim.errors import BudgetExceededError, LedgerError
from fedsim.privacy import accounting
from fedsim.privacy.budget import Budget
from fedsim.privacy.events import Release, Sampling
from fedsim.privacy.ledger import (
    Entry,
    Ledger,
    Receipt,
    Spend,
    entry_from_dict,
    grouped,
    ledger_path,
    to_dict,
)

RELEASE = Release("gaussian", 1.0, Sampling("poisson", 0.08))
LINES = 6


def entry(number: int, *spends: Spend, run: str = "run", **more: object) -> Entry:
    content: dict[str, object] = {
        "run": run,
        "round": number,
        "unit": "example",
        "dataset": "digits",
        "time": "2026-01-01T00:00:00Z",
        "adjacency": "zero-out",
        "spends": spends or (Spend(RELEASE, tuple(range(number % 7 + 1))),),
    }
    return Entry(**{**content, **more})  # type: ignore[arg-type]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return ledger_path(tmp_path, "digits", 64 * "a", "example")


@pytest.fixture(scope="module")
def content() -> tuple[bytes, bytes, tuple[Receipt, ...]]:
    """A ledger of a few lines, its head, and what it should be read as."""
    with tempfile.TemporaryDirectory() as folder:
        ledger = Ledger(Path(folder) / "x.jsonl")
        for number in range(LINES):
            ledger.admit(entry(number))
        files = (ledger.path.read_bytes(), ledger.path.with_suffix(".head").read_bytes())
        return *files, ledger.receipts()


def stored(folder: str | Path, lines: bytes, head: bytes) -> Ledger:
    path = Path(folder) / "x.jsonl"
    path.write_bytes(lines)
    path.with_suffix(".head").write_bytes(head)
    return Ledger(path)


# What is written is read again, by fedsim and by anybody.


def test_entries_are_read_as_they_were_written(path: Path) -> None:
    ledger = Ledger(path)
    assert ledger.entries() == ()
    assert ledger.verify() is None
    plan = (Spend(replace(RELEASE, count=1000)),)
    written = [entry(1, plan=plan), entry(2, Spend(RELEASE)), entry(3, run="other")]
    receipts = [ledger.admit(each) for each in written]
    assert [receipt.number for receipt in receipts] == [1, 2, 3]
    for reader in (ledger, Ledger(path)):
        assert reader.entries() == tuple(written)
        assert reader.receipts() == tuple(receipts)
        assert reader.verify() == receipts[-1]
        assert reader.spent().runs == {"run": 2, "other": 1}


def test_anybody_can_verify_the_chain_with_a_json_parser(path: Path) -> None:
    ledger = Ledger(path)
    for number in range(5):
        ledger.admit(entry(number))
    before = hashlib.sha256(b"fedsim privacy ledger 1").hexdigest()
    for line in path.read_text().splitlines():
        plain = json.loads(line)
        assert plain.keys() == {"entry", "hash"}
        body = json.dumps(plain["entry"], sort_keys=True, separators=(",", ":"))
        before = hashlib.sha256((before + body).encode()).hexdigest()
        assert plain["hash"] == before
    last = ledger.verify()
    assert last is not None
    assert last.hash == before


_CLIENTS = st.none() | st.lists(st.integers(0, 60), unique=True).map(lambda c: tuple(sorted(c)))
_RELEASES = st.one_of(
    st.builds(
        Release,
        st.sampled_from(["gaussian", "laplace"]),
        st.floats(0, 1e6),
        st.builds(Sampling, st.just("poisson"), st.floats(0, 1)),
        st.integers(0, 2**40),
    ),
    st.builds(
        Release,
        st.just("gaussian"),
        st.floats(0, 10),
        st.builds(
            Sampling, st.just("truncated"), st.floats(0, 1), st.integers(1, 9), st.integers(1, 9)
        ),
    ),
    st.builds(lambda e: Release("pure", epsilon=e), st.floats(0, 1e3)),
)


@given(st.lists(st.builds(Spend, _RELEASES, _CLIENTS), max_size=4), st.text())
@settings(max_examples=100, deadline=None)
def test_an_entry_survives_json(spends: list[Spend], name: str) -> None:
    given_ = entry(3, dataset=name, plan=tuple(spends[:1]), spends=tuple(spends))
    assert entry_from_dict(json.loads(json.dumps(to_dict(given_)))) == given_


def test_clients_take_little_room() -> None:
    everybody = to_dict(entry(1, Spend(RELEASE, tuple(range(1000)))))
    assert everybody["spends"][0]["clients"] == [0, -999]
    chosen = tuple(sorted(random.Random(1).sample(range(10_000), 1000)))
    assert len(json.dumps(to_dict(entry(1, Spend(RELEASE, chosen))))) < 6500


def test_clients_of_equal_releases_share_a_spend() -> None:
    other = replace(RELEASE, count=3)
    assert grouped({5: RELEASE, 2: other, 1: RELEASE}) == (
        Spend(RELEASE, (1, 5)),
        Spend(other, (2,)),
    )


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Spend(RELEASE, (2, 1)),
        lambda: Spend(RELEASE, (1, 1)),
        lambda: Spend(RELEASE, (-1, 1)),
        lambda: entry(1, unit="household"),
        lambda: entry(1, adjacency="near"),
    ],
)
def test_what_no_entry_can_be_is_refused(wrong: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match="not"):
        wrong()


def test_a_number_that_json_lacks_is_not_written(path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        Ledger(path).admit(entry(1, Spend(Release("gaussian", float("inf")))))
    assert Ledger(path).entries() == ()


def test_ten_thousand_entries_are_read_in_less_than_two_seconds(tmp_path: Path) -> None:
    hash_, lines = hashlib.sha256(b"fedsim privacy ledger 1").hexdigest(), []
    chance = random.Random(2)
    for number in range(10_000):
        clients = tuple(sorted(chance.sample(range(1000), 30)))
        plain = to_dict(entry(number, Spend(RELEASE, clients)))
        body = json.dumps(plain, sort_keys=True, separators=(",", ":"))
        hash_ = hashlib.sha256((hash_ + body).encode()).hexdigest()
        lines.append(f'{{"entry":{body},"hash":"{hash_}"}}\n')
    ledger = stored(tmp_path, "".join(lines).encode(), f"{10_000:012d} {hash_}\n".encode())
    assert len(ledger.entries()) == 10_000


# Whatever is done to the files is found, and said where.


def tampered(lines: bytes, draw: st.DataObject) -> tuple[bytes, int]:
    """Return changed lines, and the number of the first line that is not what it was."""
    rows = lines.splitlines(keepends=True)
    kind = draw.draw(st.sampled_from(["flip", "delete", "swap", "cut", "repeat"]))
    if kind == "flip":
        place = draw.draw(st.integers(0, len(lines) - 1))
        other = lines[place] ^ draw.draw(st.integers(1, 255))
        changed = lines[:place] + bytes([other]) + lines[place + 1 :]
        return changed, lines[:place].count(b"\n") + 1
    number = draw.draw(st.integers(0, LINES - 1))
    if kind == "delete":
        del rows[number : number + draw.draw(st.integers(1, LINES))]
    elif kind == "swap":
        number, other_ = sorted(draw.draw(st.permutations(range(LINES)))[:2])
        rows[number], rows[other_] = rows[other_], rows[number]
    elif kind == "repeat":
        rows.insert(number + 1, rows[number])
        number += 1
    else:
        cut = draw.draw(st.integers(0, len(lines) - 2))  # all but the last newline
        lacks_newline_only = lines[cut : cut + 1] == b"\n"  # then that line still counts
        return lines[:cut], lines[:cut].count(b"\n") + 1 + lacks_newline_only
    return b"".join(rows), number + 1


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_any_change_is_found_and_the_line_named(
    content: tuple[bytes, bytes, tuple[Receipt, ...]], data: st.DataObject
) -> None:
    lines, number = tampered(content[0], data)
    with tempfile.TemporaryDirectory() as folder:
        ledger = stored(folder, lines, content[1])
        for use in (ledger.verify, ledger.spent, lambda: ledger.admit(entry(9))):
            with pytest.raises(LedgerError, match=rf"x\.jsonl, line {number}: "):
                use()
        assert ledger.path.read_bytes() == lines


@given(st.integers(0, 77), st.integers(1, 255))
@settings(max_examples=100, deadline=None)
def test_a_changed_head_is_found(
    content: tuple[bytes, bytes, tuple[Receipt, ...]], place: int, flip: int
) -> None:
    lines, head, _ = content
    assert len(head) == 78
    changed = head[:place] + bytes([head[place] ^ flip]) + head[place + 1 :]
    with tempfile.TemporaryDirectory() as folder, pytest.raises(LedgerError, match=r"line \d+: "):
        stored(folder, lines, changed).verify()


def test_a_missing_file_is_found(path: Path) -> None:
    ledger = Ledger(path)
    ledger.admit(entry(1))
    head = path.with_suffix(".head")
    kept = head.read_bytes()
    head.unlink()
    with pytest.raises(LedgerError, match="head is missing"):
        Ledger(path).entries()
    with pytest.raises(LedgerError, match="head is missing"):
        Ledger(path).admit(entry(2))
    head.write_bytes(kept)
    path.unlink()
    for use in (Ledger(path).entries, Ledger(path).spent, lambda: Ledger(path).admit(entry(2))):
        with pytest.raises(LedgerError, match="line 1: is missing"):
            use()


def test_a_change_under_a_process_that_goes_on_is_found(path: Path) -> None:
    ledger = Ledger(path)
    for number in range(3):
        ledger.admit(entry(number))
    lines = path.read_bytes()
    with path.open("r+b") as file:  # the last line's hash is another
        file.seek(len(lines) - 10)
        file.write(b"0000000")
    with pytest.raises(LedgerError, match="line 3: has changed since it was read"):
        ledger.admit(entry(4))
    with path.open("r+b") as file:
        file.truncate(len(lines.splitlines(keepends=True)[0]))
    with pytest.raises(LedgerError, match="line 3: has changed since it was read"):
        ledger.spent()


def test_a_restored_backup_is_found_where_lines_are_missing_and_read_anew_where_not(
    path: Path,
) -> None:
    ledger = Ledger(path)
    ledger.admit(entry(1))
    backup = path.read_bytes()
    ledger.admit(entry(2))
    whole = path.read_bytes()
    for lines in (backup, whole):
        restored = path.with_name("restored")
        restored.write_bytes(lines)
        restored.rename(path)
        if lines == whole:
            assert ledger.admit(entry(3)).number == 3
        else:
            with pytest.raises(LedgerError, match="line 2: is missing: there were 2 lines"):
                ledger.admit(entry(3))


def test_a_run_knows_what_it_wrote(path: Path) -> None:
    ledger = Ledger(path)
    receipts = [ledger.admit(entry(number)) for number in range(3)]
    known = [(receipt.number, receipt.hash) for receipt in receipts]
    assert ledger.verify(known[1:]) == receipts[-1]
    with pytest.raises(LedgerError, match="line 4: is missing: a run knows of it"):
        ledger.verify([*known, (4, "x")])
    with pytest.raises(LedgerError, match="line 2: is not the one that a run knows"):
        ledger.verify([(2, known[0][1])])


def test_entries_of_another_data_set_unit_or_adjacency_are_refused(path: Path) -> None:
    ledger = Ledger(path)
    ledger.admit(entry(1))
    for change in ({"dataset": "mnist"}, {"unit": "user"}, {"adjacency": "replace-one"}):
        with pytest.raises(LedgerError, match=f"is about {next(iter(change))}"):
            Ledger(path).admit(entry(2, **change))
    assert len(ledger.entries()) == 1


def test_an_entry_of_a_newer_fedsim_is_not_taken_for_a_torn_one(path: Path) -> None:
    Ledger(path).admit(entry(1))
    whole = path.read_bytes()
    plain = {**json.loads(whole)["entry"], "colour": "blue"}
    body = json.dumps(plain, sort_keys=True, separators=(",", ":"))
    first = json.loads(whole)["hash"]
    hash_ = hashlib.sha256((first + body).encode()).hexdigest()
    for end in ("\n", ""):
        path.write_bytes(whole + f'{{"entry":{body},"hash":"{hash_}"}}{end}'.encode())
        with pytest.raises(LedgerError, match="line 2: is not an entry that this fedsim knows"):
            Ledger(path).admit(entry(2))


# The budget is asked before, and what was spent is never given back.


def until_refused(admit: Callable[[int], object]) -> int:
    """Return how often it went well."""
    for number in range(1000):
        try:
            admit(number)
        except BudgetExceededError:
            return number
    raise AssertionError("it was never refused")


def test_two_ledgers_on_one_file_see_each_other(path: Path) -> None:
    budget, first, second = Budget(3.0, 1e-5), Ledger(path), Ledger(path)
    done = until_refused(lambda number: (first, second)[number % 2].admit(entry(0), budget))
    alone = Ledger(path.with_name("alone.jsonl"))
    for _ in range(done):
        alone.admit(entry(0), budget)
    for ledger in (first, second, alone):
        with pytest.raises(BudgetExceededError):
            ledger.admit(entry(0), budget)
        assert len(ledger.entries()) == done


def test_what_passes_the_cap_is_not_written(path: Path) -> None:
    ledger, budget = Ledger(path), Budget(3.0, 1e-5)
    assert until_refused(lambda _: ledger.admit(entry(7), budget)) == 10  # by Rényi, q 0.08, z 1
    with pytest.raises(BudgetExceededError, match="round 7 of run run is refused") as caught:
        ledger.admit(entry(7), budget)
    assert caught.value.exit_code == 4
    lines = path.read_bytes()
    with pytest.raises(BudgetExceededError):
        Ledger(path).admit(entry(7), budget)
    assert path.read_bytes() == lines
    assert len(ledger.entries()) == 10


def test_a_round_that_is_done_again_is_spent_again(path: Path) -> None:
    ledger = Ledger(path)
    for _ in range(2):
        ledger.admit(entry(5, Spend(RELEASE)))
    ((releases, _),) = ledger.spent().histories()
    assert releases == (replace(RELEASE, count=2),)


def test_only_clients_that_can_pay_are_admitted(path: Path) -> None:
    ledger, budget = Ledger(path), Budget(3.0, 1e-5)
    while ledger.spent().left(entry(0, Spend(RELEASE, (4,))), budget):
        ledger.admit(entry(0, Spend(RELEASE, (4,))), budget)
    receipt = ledger.admit_those_left(entry(1, Spend(RELEASE, (3, 4, 5))), budget)
    assert receipt.entry.spends == (Spend(RELEASE, (3, 5)),)
    assert ledger.entries()[-1] == receipt.entry
    before = path.read_bytes()
    with pytest.raises(BudgetExceededError):
        ledger.admit_those_left(entry(2, Spend(RELEASE, (4,))), budget)
    assert path.read_bytes() == before


def test_a_hundred_rounds_are_what_one_shot_accounting_says(path: Path) -> None:
    """100 clients of 400 examples, batches of 32, noise 1: Rényi 23.17, PLD 21.48 (not 3.05).

    Reference: one local epoch a round is 13 batches; Opacus 1.6 and dp-accounting 0.6, one shot.
    """
    from opacus.accountants import RDPAccountant

    rounds, steps, rate = 100, 13, 1 / 13
    one = Release("gaussian", 1.0, Sampling("poisson", rate), count=steps)
    for number in range(rounds):  # each round a new process's eyes
        Ledger(path).admit(entry(number, Spend(one, tuple(range(100)))), Budget(30.0, 1e-5))
    ((releases, clients),) = Ledger(path).spent().histories()
    assert clients == 100
    opacus, one_shot = RDPAccountant(), RDPAccountant()
    for release in releases:
        for _ in range(release.count):
            opacus.step(noise_multiplier=release.noise_multiplier, sample_rate=rate)
    one_shot.history = [(1.0, rate, rounds * steps)]
    assert opacus.get_epsilon(1e-5) == pytest.approx(one_shot.get_epsilon(1e-5), abs=1e-9)
    assert opacus.get_epsilon(1e-5) == pytest.approx(23.17, abs=5e-3)
    at_once = [replace(one, count=rounds * steps)]
    spent = accounting.epsilon(releases, 1e-5, "zero-out")
    assert spent == pytest.approx(accounting.epsilon(at_once, 1e-5, "zero-out"), abs=1e-9)
    assert spent == pytest.approx(21.478, abs=1e-3)
