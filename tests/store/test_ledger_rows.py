"""A run's receipts in the run store, and databases from before there were any."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import sqlalchemy as sa

from fedsim.core import RoundRecord
from fedsim.errors import RunFailedError, UnknownRunError
from fedsim.privacy.events import Release, Sampling
from fedsim.privacy.ledger import Entry, Receipt, Spend
from fedsim.store import RunStore, append_receipt, receipts


def receipt(run: str, number: int, round: int) -> Receipt:
    release = Release("gaussian", 1.1, Sampling("poisson", 0.01), count=3)
    spends = (Spend(release, (1, 2, 3, 7)), Spend(replace(release, count=1)))
    entry = Entry(run, round, "user", "digits", "2026-01-01T00:00:00Z", "zero-out", spends)
    return Receipt(number, f"{number:064x}", entry)


def test_receipts_are_read_as_they_were_written(
    store: RunStore, new_run: Callable[..., str], make_record: Callable[..., RoundRecord]
) -> None:
    first, second = new_run(), new_run()
    written = [receipt(first, 3, 1), receipt(first, 10, 2), receipt(second, 4, 1)]
    for each in written:
        append_receipt(store, each)
    assert receipts(store, first) == tuple(written[:2])
    assert receipts(store, second) == (written[2],)
    assert receipts(store, "nobody") == ()
    with pytest.raises(RunFailedError, match="line 3 of the privacy ledger is stored"):
        append_receipt(store, receipt(first, 3, 3))
    with pytest.raises(UnknownRunError):
        append_receipt(store, receipt("nobody", 1, 1))
    store.append(first, make_record(1))
    store.truncate(first, 0)  # a resumed run forgets the round, not what it spent
    assert receipts(store, first) == tuple(written[:2])
    store.delete(first)
    assert receipts(store, first) == ()
    assert receipts(store, second) == (written[2],)


def test_a_database_of_version_1_gets_the_table_and_keeps_its_runs(
    place: str, store: RunStore, new_run: Callable[..., str]
) -> None:
    run = new_run()
    engine = sa.create_engine(store.url, poolclass=sa.NullPool)
    with engine.begin() as connection:
        connection.execute(sa.text("DROP TABLE ledger"))
        connection.execute(sa.text("UPDATE fedsim_schema SET version = 1"))
    for _ in range(2):
        again = RunStore(place)
        assert [stored.id for stored in again.all()] == [run]
    append_receipt(again, receipt(run, 1, 1))
    assert len(receipts(again, run)) == 1
    with engine.connect() as connection:
        found = connection.execute(sa.text("SELECT version FROM fedsim_schema ORDER BY version"))
        assert found.scalars().all() == [1, 2]
