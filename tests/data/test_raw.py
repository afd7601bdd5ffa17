"""Raw rows of tables: row by row the examples, dealt to the same clients."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from fedsim import registry
from fedsim.data import Tabular, open_clients, open_raw
from fedsim.data._source import find
from fedsim.data._table import encode_table
from fedsim.data.adult import Adult
from fedsim.data.digits import Digits
from fedsim.data.heart_disease import HeartDisease
from fedsim.data.partition.dirichlet import Dirichlet
from fedsim.data.partition.natural import Natural
from fedsim.data.table import Table
from fedsim.errors import ConfigError

TABLES = ("adult", "breast-cancer", "diabetes", "heart-disease")


@pytest.fixture(params=TABLES)
def part(request: pytest.FixtureRequest, data_dir: Path) -> Any:
    cls: Any = registry.load("data", request.param)
    if cls.files and find(cls.files, data_dir) is None:
        pytest.skip(f"the files of {request.param} are not here")
    return cls()


def test_rows_are_the_examples(part: Any, data_dir: Path) -> None:
    assert isinstance(part, Tabular)
    raw, dataset = part.frames(data_dir), part.load(data_dir)
    assert raw.dataset.meta == dataset.meta
    for frame, examples in ((raw.train, dataset.train), (raw.test, dataset.test)):
        assert len(frame) == len(examples.y)
        # The targets of both agree: every raw value has one label of its own.
        pairs = set(zip(frame[raw.target], examples.y.tolist(), strict=True))
        assert len(pairs) == frame[raw.target].nunique() == len(np.unique(examples.y))
    assert raw.target == part.target


def test_rows_of_adult_give_its_features(data_dir: Path) -> None:
    raw = Adult().frames(data_dir)
    assert {"fnlwgt", "age"} <= set(raw.train.columns)
    frames = [part.drop(columns="fnlwgt").assign(income=0) for part in (raw.train, raw.test)]
    again = encode_table(*frames, target="income", client="occupation", keep_client=True)
    assert np.array_equal(again.train.x, raw.dataset.train.x)
    assert np.array_equal(again.test.x, raw.dataset.test.x)


def test_rows_of_the_hospitals_give_their_features(data_dir: Path) -> None:
    raw = HeartDisease().frames(data_dir)
    for frame, examples in ((raw.train, raw.dataset.train), (raw.test, raw.dataset.test)):
        for hospital in range(4):
            own = examples.group == hospital
            age, scaled = frame["age"].to_numpy()[own], examples.x[own, 0]
            slope, offset = np.polyfit(age, scaled, 1)  # each hospital is standardized by itself
            assert np.allclose(age * slope + offset, scaled, atol=1e-5)
        assert np.array_equal(frame["cp"].to_numpy() == 4, examples.x[:, 4] > 0)


def test_a_table_of_ones_own(tmp_path: Path) -> None:
    rows = [[i, "ab"[i % 2], f"site{i % 3}", "yn"[i % 5 == 0]] for i in range(40)]
    frame = pd.DataFrame(rows, columns=["number", "letter", "site", "label"])
    frame.to_csv(tmp_path / "own.csv", index=False)
    part = Table(path=str(tmp_path / "own.csv"), target="label")
    raw = open_raw(part, Natural(by="site"), seed=0, holdout=0.0)
    assert raw.table.target == part.target == "label"
    assert list(raw.table.train.columns) == ["number", "letter", "label"]
    for client, site in enumerate(("site0", "site1", "site2")):
        own = raw.train(client)
        assert (own["number"] % 3 == client).all(), site
    both = pd.concat([raw.table.train, raw.table.test]).sort_values("number")
    assert both.to_numpy().tolist() == frame.drop(columns="site").to_numpy().tolist()


def test_clients_have_the_rows_of_their_examples(data_dir: Path) -> None:
    given = {"seed": 3, "holdout": 0.2, "data_dir": data_dir}
    part = registry.load("data", "breast-cancer")()
    raw = open_raw(part, Dirichlet(5, 0.5), **given)
    clients = open_clients(part, Dirichlet(5, 0.5), **given)
    for client in range(5):
        rows = raw.rows(client)
        assert np.array_equal(raw.table.dataset.train.x[rows], clients.train(client).x)
        frame = raw.train(client)
        assert frame["mean radius"].tolist() == raw.table.train["mean radius"].iloc[rows].tolist()


def test_what_is_no_table_is_refused() -> None:
    with pytest.raises(ConfigError, match="a data set that is a table"):
        open_raw(Digits(), Dirichlet(5, 0.5), seed=0, holdout=0.0)
