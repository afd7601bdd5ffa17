"""Rows of a database as a data set: SQLite, and the PostgreSQL that these tests start."""

import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.pool import NullPool

from fedsim.config import load
from fedsim.data import ClientData, open_clients
from fedsim.data.parquet import Parquet
from fedsim.data.partition.natural import Natural
from fedsim.data.sql import Sql
from fedsim.errors import ConfigError, DataError, FedsimError, MissingDataError, SetupError

QUERY = "SELECT age, sex, dose, clinic, outcome FROM visits WHERE age > 0"


def visits(count: int = 120) -> pd.DataFrame:
    stream = np.random.default_rng(5)
    return pd.DataFrame(
        {
            "age": stream.integers(20, 90, count),
            "sex": stream.choice(["m", "f"], count),
            "dose": stream.integers(1, 9, count) / 4,
            "clinic": stream.choice([3, 20, 100], count),
            "outcome": stream.choice(["ill", "it's; well"], count),
        }
    )


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database with the table of visits."""
    if request.param == "sqlite":
        place = f"sqlite:///{tmp_path}/visits.db"
    else:
        place = request.getfixturevalue("server").new_database()
    engine = create_engine(place, poolclass=NullPool)
    visits().to_sql("visits", engine, index=False)
    return place


def opened(url: str, cache: Path | None = None, **more: object) -> ClientData:
    data = Sql(**{"url": url, "query": QUERY, "target": "outcome", **more})
    return open_clients(data, Natural(by="clinic"), seed=0, holdout=0.1, cache_dir=cache)


def test_a_database_has_the_clients_that_a_file_has(url: str, tmp_path: Path) -> None:
    opened(url, tmp_path / "cache")
    found = opened(url, tmp_path / "cache")
    assert len(list((tmp_path / "cache").iterdir())) == 1
    visits().to_parquet(tmp_path / "visits.parquet")
    table = open_clients(
        Parquet(path=str(tmp_path / "visits.parquet"), target="outcome"),
        Natural(by="clinic"),
        seed=0,
        holdout=0.1,
    )
    assert found.meta.group_names == ("100", "20", "3")
    assert found.meta.sha256 == table.meta.sha256
    for client in range(3):
        assert np.array_equal(found.train(client).x, table.train(client).x)
        assert np.array_equal(found.held_out(client).y, table.held_out(client).y)


def test_rows_that_change_under_a_run_are_noticed(url: str, tmp_path: Path) -> None:
    clients = opened(url, tmp_path / "cache")
    engine = create_engine(url, poolclass=NullPool)
    with engine.begin() as connection:
        connection.execute(text("UPDATE visits SET age = age + 1 WHERE clinic = 20"))
    assert len(clients.train(0).y) == clients.sizes()[0]
    with pytest.raises(DataError, match="rows of client '20' have changed since the run began"):
        clients.train(1)


@pytest.mark.parametrize(
    "query",
    [
        "DELETE FROM visits",
        "SELECT 1 AS clinic, 2 AS outcome; DELETE FROM visits",
        "SELECT * FROM visits) AS x; DELETE FROM visits; --",
        "WITH gone AS (DELETE FROM visits RETURNING *) SELECT * FROM gone",
    ],
    ids=["delete", "two", "unbalanced", "within"],
)
def test_a_query_only_reads(query: str, url: str) -> None:
    with pytest.raises(FedsimError, match=r"data\.query"):
        opened(url, query=query).train(0)
    with create_engine(url, poolclass=NullPool).connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM visits")).scalar() == 120


def test_names_of_clients_are_no_part_of_a_query(url: str) -> None:
    engine = create_engine(url, poolclass=NullPool)
    frame = visits().assign(clinic=np.where(visits()["clinic"] == 3, "x' OR '1'='1", ":b; --"))
    frame.to_sql("odd", engine, index=False)
    query = "SELECT *, ':colon' AS mark, '50%' AS share FROM odd"
    clients = opened(url, query=query)
    assert clients.meta.group_names == (":b; --", "x' OR '1'='1")
    counts = frame["clinic"].value_counts().sort_index().tolist()
    found = [len(clients.train(i).y) + len(clients.held_out(i).y) for i in range(2)]
    assert found == counts


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"query": "SELECT nothing FROM visits"}, r"data\.query.*nothing"),
        ({"query": "SELECT * FROM nowhere"}, r"data\.query.*nowhere"),
        (
            {"query": "SELECT age AS a, sex AS a FROM visits"},
            r"columns have different names|data\.target = 'outcome'",
        ),
        ({"query": ""}, r"data\.query = '': one query"),
        ({"target": "outcom"}, r"data\.target = 'outcom'.*Did you mean 'outcome'"),
    ],
    ids=["column", "table", "same", "empty", "target"],
)
def test_what_is_wrong_with_a_query_is_said(options: dict, message: str, url: str) -> None:
    with pytest.raises(ConfigError, match=message):
        opened(url, **options)


SECRETS = [
    "postgresql+psycopg://me:hunter2@db/clinic",
    "postgresql+psycopg://me@db/clinic?password=hunter2",
]


@pytest.mark.parametrize("secret", SECRETS, ids=["user", "query"])
def test_a_password_never_gets_into_an_experiment(secret: str) -> None:
    with pytest.raises(ConfigError, match=r"data\.url.*without a password") as refused:
        Sql(url=secret)
    assert "hunter2" not in str(refused.value)
    with pytest.raises(ConfigError, match="env:NAME or file:PATH") as refused:
        Sql(url="postgresql+psycopg://me@db/clinic", password="hunter2")
    assert "hunter2" not in str(refused.value)
    with pytest.raises(ConfigError) as refused:
        load("digits", ["data.name=sql", f"data.url={secret}"])
    assert "hunter2" not in str(refused.value)


def test_a_password_is_where_the_experiment_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fedsim.data._query import _engine

    (tmp_path / "password").write_text("hunter2\n")
    monkeypatch.setenv("CLINIC_PASSWORD", "hunter2")
    url = "postgresql+psycopg://me@127.0.0.1:1/clinic?connect_timeout=2"
    pytest.importorskip("psycopg")
    for place in ("env:CLINIC_PASSWORD", f"file:{tmp_path / 'password'}"):
        assert _engine(url, place).url.password == "hunter2"
        with pytest.raises(FedsimError, match="cannot be reached") as refused:
            opened(url, password=place)
        assert "hunter2" not in str(refused.value)
    with pytest.raises(SetupError, match="no environment variable NONE_SUCH"):
        _engine(url, "env:NONE_SUCH")
    with pytest.raises(SetupError, match="No such file"):
        _engine(url, f"file:{tmp_path / 'nowhere'}")


def test_databases_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(MissingDataError, match="no such database file"):
        opened(f"sqlite:///{tmp_path}/none.db")
    assert not list(tmp_path.iterdir())
    with pytest.raises(SetupError, match="needs a driver"):
        opened("nosuchdb://host/name")


def test_bytes_are_images_and_dates_are_seconds(tmp_path: Path) -> None:
    import io

    from PIL import Image

    with closing(sqlite3.connect(tmp_path / "scans.db")) as database:
        database.execute("CREATE TABLE scans (image BLOB, outcome TEXT, clinic TEXT)")
        for i in range(40):
            out = io.BytesIO()
            Image.new("L", (4, 3), i).save(out, "PNG")
            row = (out.getvalue(), "ab"[i % 2], "xy"[i // 20])
            database.execute("INSERT INTO scans VALUES (?, ?, ?)", row)
        database.commit()
    clients = opened(f"sqlite:///{tmp_path}/scans.db", query="SELECT * FROM scans")
    assert clients.meta.input_shape == (1, 3, 4)
    first = np.concatenate([clients.train(0).x, clients.held_out(0).x])
    assert sorted(first[:, 0, 0, 0].tolist()) == list(range(20))
