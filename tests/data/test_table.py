"""Any CSV or Parquet file in one line, and what is said when it cannot be used."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.compose import make_column_transformer
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from fedsim.data import open_clients
from fedsim.data.partition.iid import Iid
from fedsim.data.partition.natural import Natural
from fedsim.data.table import Table
from fedsim.errors import ConfigError, DataError, MissingDataError


def patients(count: int = 200) -> pd.DataFrame:
    stream = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "age": stream.integers(20, 90, count),
            "pressure": stream.normal(120, 15, count),
            "sex": stream.choice(["m", "f"], count),
            "hospital": stream.choice(["north", "south", "west"], count),
            "outcome": stream.choice(["ill", "well"], count),
            "days": stream.normal(30, 5, count),
        }
    )


@pytest.fixture
def csv(tmp_path: Path) -> str:
    patients().to_csv(tmp_path / "patients.csv", index=False)
    return str(tmp_path / "patients.csv")


def test_one_line_is_enough(csv: str) -> None:
    dataset = Table(path=csv, target="outcome").load(None)
    assert dataset.meta.kind == "binary"
    assert dataset.meta.class_names == ("ill", "well")
    assert dataset.meta.input_shape == (3 + 2 + 3,)  # numbers, sex, hospital
    assert (len(dataset.train.y), len(dataset.test.y)) == (160, 40)


def test_features_are_those_of_scikit_learn(csv: str) -> None:
    frame = patients().assign(row=np.arange(200.0))
    frame.to_csv(csv, index=False)
    dataset = Table(path=csv, target="outcome").load(None)
    assert dataset.train.x.dtype == np.float32
    # `row` tells which rows are in the training part: undo its scaling, up to its sign and scale
    order = np.concatenate([dataset.train.x[:, -1], dataset.test.x[:, -1]]).argsort().argsort()
    encoder = make_column_transformer(
        (StandardScaler(), ["age", "pressure"]),
        (OneHotEncoder(), ["sex", "hospital"]),
        (StandardScaler(), ["days", "row"]),
    )
    expected = encoder.fit(frame.iloc[order[:160]]).transform(frame.iloc[order])
    found = np.concatenate([dataset.train.x, dataset.test.x])
    assert np.allclose(found, expected, atol=1e-5)


def test_the_client_column_is_no_feature(csv: str) -> None:
    clients = open_clients(
        Table(path=csv, target="outcome"), Natural(by="hospital"), seed=0, holdout=0.1
    )
    assert clients.meta.group_names == ("north", "south", "west")
    assert clients.meta.input_shape == (3 + 2,)
    assert clients.clients == 3
    counts = patients()["hospital"].value_counts().sort_index()
    held = [len(clients.held_out(i).y) for i in range(3)]
    assert (clients.sizes() + held).tolist() == counts.tolist()
    assert sum(held) == 40  # each hospital's rows of the test part


@pytest.mark.parametrize("ending", ["csv", "tsv", "parquet"])
def test_every_format_gives_the_same(ending: str, tmp_path: Path) -> None:
    frame, path = patients(), tmp_path / f"patients.{ending}"
    if ending == "parquet":
        frame.to_parquet(path)
    else:
        frame.to_csv(path, index=False, sep="," if ending == "csv" else "\t")
    dataset = Table(path=str(path), target="outcome").load(None)
    frame.to_csv(tmp_path / "reference.csv", index=False)
    reference = Table(path=str(tmp_path / "reference.csv"), target="outcome").load(None)
    assert np.allclose(dataset.train.x, reference.train.x, atol=1e-6)
    assert np.array_equal(dataset.train.y, reference.train.y)


@pytest.mark.parametrize(
    ("values", "kind", "outputs"),
    [
        (np.arange(200) % 2, "binary", 1),
        (np.arange(200) % 2 == 0, "binary", 1),
        (np.arange(200) % 7, "classification", 7),
        (np.array(["a", "b", "c", "d"] * 50), "classification", 4),
        (np.arange(200), "regression", 1),
        (np.linspace(0, 1, 200), "regression", 1),
    ],
)
def test_the_task_is_read_off_the_target(
    values: np.ndarray, kind: str, outputs: int, csv: str
) -> None:
    patients().assign(outcome=values).to_csv(csv, index=False)
    meta = Table(path=csv, target="outcome").load(None).meta
    assert (meta.kind, meta.outputs) == (kind, outputs)


def test_classes_that_are_numbers_are_in_their_order(csv: str) -> None:
    patients().assign(outcome=np.array([2, 10, 1, 30] * 50)).to_csv(csv, index=False)
    meta = Table(path=csv, target="outcome").load(None).meta
    assert meta.class_names == ("1", "2", "10", "30")


def test_regression_targets_are_standardized(csv: str) -> None:
    y = Table(path=csv, target="days").load(None).train.y
    assert y.dtype == np.float32
    assert (y.mean(), y.std()) == (pytest.approx(0, abs=1e-5), pytest.approx(1, abs=1e-5))


def test_empty_cells_are_refused_with_the_way_out(csv: str) -> None:
    frame = patients()
    frame.loc[:4, "age"] = np.nan
    frame.loc[7, "sex"] = None
    frame.to_csv(csv, index=False)
    with pytest.raises(DataError, match=r"age \(5 rows\), sex \(1 rows\)") as info:
        Table(path=csv, target="outcome").load(None)
    assert "data.missing=drop" in str(info.value)
    assert info.value.exit_code == 2
    dropped = Table(path=csv, target="outcome", missing="drop").load(None)
    assert len(dropped.train.y) + len(dropped.test.y) == 194
    filled = Table(path=csv, target="outcome", missing="mean").load(None)
    assert len(filled.train.y) + len(filled.test.y) == 200
    assert (np.abs(filled.train.x[:, 0]) < 1e-6).sum() + (
        np.abs(filled.test.x[:, 0]) < 1e-6
    ).sum() == 5
    assert np.isfinite(filled.train.x).all()


def test_a_row_without_target_is_never_made_up(csv: str) -> None:
    frame = patients()
    frame.loc[3, "outcome"] = None
    frame.to_csv(csv, index=False)
    with pytest.raises(DataError, match=r"outcome \(1 rows\)"):
        Table(path=csv, target="outcome", missing="mean").load(None)


def test_infinite_numbers_are_named_by_column(csv: str) -> None:
    patients().assign(pressure=[np.inf] * 2 + [1.0] * 198).to_csv(csv, index=False)
    with pytest.raises(DataError, match=r"infinite numbers in: pressure \(2 rows\)"):
        Table(path=csv, target="outcome").load(None)


def test_a_wrong_column_gets_a_suggestion(csv: str) -> None:
    with pytest.raises(ConfigError, match=r"data\.target = 'outcom'.*Did you mean 'outcome'"):
        Table(path=csv, target="outcom").load(None)
    with pytest.raises(ConfigError, match=r"partition\.by = 'hospitl'.*Did you mean 'hospital'"):
        open_clients(Table(path=csv, target="outcome"), Natural(by="hospitl"), seed=0, holdout=0.1)


def test_what_cannot_be_read_is_said(csv: str, tmp_path: Path) -> None:
    with pytest.raises(MissingDataError, match="no such file"):
        Table(path=str(tmp_path / "nothing.csv"), target="y").load(None)
    with pytest.raises(ConfigError, match=r"ends in \.csv, \.tsv or \.parquet"):
        Table(path=str(tmp_path / "table.xlsx"), target="y").load(None)
    (tmp_path / "broken.parquet").write_bytes(b"no parquet")
    with pytest.raises(DataError, match="cannot be read as parquet"):
        Table(path=str(tmp_path / "broken.parquet"), target="y").load(None)
    (tmp_path / "empty.csv").write_text("")
    with pytest.raises(DataError, match="cannot be read as csv"):
        Table(path=str(tmp_path / "empty.csv"), target="y").load(None)
    (tmp_path / "short.csv").write_text("a,y\n1,2\n")
    with pytest.raises(DataError, match="1 usable rows"):
        Table(path=str(tmp_path / "short.csv"), target="y").load(None)


def test_a_table_without_anything_to_learn_is_refused(csv: str) -> None:
    patients()[["outcome"]].to_csv(csv, index=False)
    with pytest.raises(DataError, match="no column to learn from"):
        Table(path=csv, target="outcome").load(None)
    patients().assign(outcome="ill").to_csv(csv, index=False)
    with pytest.raises(DataError, match="'ill' in every row"):
        Table(path=csv, target="outcome").load(None)
    patients().to_csv(csv, index=False)
    with pytest.raises(ConfigError, match=r"data\.task = 'regression'"):
        Table(path=csv, target="outcome", task="regression").load(None)
    with pytest.raises(DataError, match="labels run from 0 to 2"):
        open_clients(Table(path=csv, target="hospital", task="binary"), Iid(4), seed=0, holdout=0.0)


def test_rare_classes_do_not_stop_the_split(csv: str) -> None:
    patients().assign(outcome=["once"] + ["ill", "well", "dead"] * 66 + ["ill"]).to_csv(
        csv, index=False
    )
    dataset = Table(path=csv, target="outcome").load(None)
    assert dataset.meta.class_names == ("dead", "ill", "once", "well")


def test_a_changed_file_is_read_anew(csv: str, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    part = Table(path=csv, target="outcome")
    first = open_clients(part, Iid(4), seed=0, holdout=0.1, cache_dir=cache)
    patients(300).to_csv(csv, index=False)
    second = open_clients(part, Iid(4), seed=0, holdout=0.1, cache_dir=cache)
    assert first.sizes().sum() < second.sizes().sum()
    assert first.meta.sha256 != second.meta.sha256
