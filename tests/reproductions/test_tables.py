"""`fedsim reproduce`: tables are legal, verdicts are right, and what cannot be run is said."""

import json
import math

import pytest

from fedsim.reproduce import as_markdown, judge, reproduce, tables, write
from fedsim.reproduce._run import Measured, _cells
from fedsim.reproduce._table import Order, Row, Table, Version, load

TINY = Table(
    name="tiny",
    title="A tiny table",
    source="nobody",
    experiment={
        "data": {"name": "synthetic", "clients": 3, "examples": 8, "features": 4, "classes": 3},
        "model": {"name": "linear"},
        "rounds": {"count": 2},
        "evaluation": {"federated_every": 0},
        "engine": {"tier": "resident"},
    },
    metric="test/accuracy",
    measure="best",
    full=Version(seeds=(1, 2), minutes=0.1, band=0.1),
    rows=(
        Row("FedAvg", (), 0.5, 0.1),
        Row("nothing there", ("strategy.name=fednothing",), 0.5),
    ),
    orders=(Order("FedAvg", "nothing there"),),
)


def measured(**values):
    return [Measured(Row(name, (), 0.8), tuple(found)) for name, found in values.items()]


@pytest.mark.parametrize("name", tables())
def test_every_row_of_a_table_can_be_run_and_every_order_is_of_its_rows(name):
    table = load(name)
    for version in (table.full, table.short):
        if version is not None:
            cells, refused = _cells(table, version, "x")
            assert refused == {}
            assert len({cell.run_name for cell in cells}) == len(table.rows) * len(version.seeds)
    names = {row.name for row in table.rows}
    assert {name for order in table.orders for name in (order.better, order.worse)} <= names
    assert table.orders or table.full.band
    assert table.full.minutes <= 60 or table.short is not None


def test_rows_are_held_to_their_band_and_orders_to_their_gain():
    orders = (Order("a", "b", 0.1), Order("b", "a"), Order("a", "c"))
    full = Version(seeds=(1,), minutes=1, band=0.05)
    table = Table("t", "T", "s", {}, "test/accuracy", "last", full, (), orders=orders)
    found = judge(table, measured(a=[0.84, 0.86], b=[0.6]), is_full=True)
    assert [(v.what, v.status) for v in found] == [
        ("a", "PASS"),  # 0.85 is in 0.8 +- 0.05
        ("b", "FAIL"),
        ("a better than b", "PASS"),
        ("b better than a", "FAIL"),
        ("a better than c", "not run"),
    ]


def test_fewer_rounds_are_better_and_never_is_worst():
    orders = (Order("quick", "slow"), Order("slow", "never"), Order("never", "never too"))
    full = Version(seeds=(1,), minutes=1, target=0.9)
    table = Table("t", "T", "s", {}, "test/accuracy", "rounds", full, (), orders=orders)
    values = {"quick": [3.0], "slow": [9.0], "never": [math.inf], "never too": [math.inf]}
    statuses = [v.status for v in judge(table, measured(**values), is_full=True)]
    assert statuses == ["shown"] * 4 + ["PASS", "PASS", "FAIL"]


def test_a_short_row_is_held_to_its_own_band_alone():
    row = Row("a", (), published=0.9, frozen=0.5, band=0.02)
    full, short = Version((1,), 100, band=0.01), Version((1,), 1)
    table = Table("t", "T", "s", {}, "test/accuracy", "last", full, (row,), short)
    (verdict,) = judge(table, [Measured(row, (0.51,))], is_full=False)
    assert (verdict.published, verdict.band, verdict.status) == ("0.9", "own 0.5 ± 0.02", "PASS")


def test_a_table_is_run_and_written_and_what_cannot_run_is_said(tmp_path):
    found = reproduce(TINY, is_full=True, runs=tmp_path / "runs")
    assert [len(m.values) for m in found] == [2, 0]
    verdicts = judge(TINY, found, is_full=True)
    assert [v.status for v in verdicts[1:]] == ["not run", "not run"]
    assert "fednothing" in verdicts[1].ours
    paths = write([(TINY, True, verdicts)], tmp_path / "page")
    assert [path.suffix for path in paths] == [".md", ".json", ".html"]
    assert paths[0].read_text() == as_markdown([(TINY, True, verdicts)])
    rows = json.loads(paths[1].read_text())["tables"][0]["rows"]
    assert [row["what"] for row in rows] == [v.what for v in verdicts]
