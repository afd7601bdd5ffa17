"""Records of an experiment that are not what its schema says: errors that name the field, or safe.

Nothing that was raw is left behind: where clients are refused, the cache has no file.
"""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import fedsim
from fedsim import anonymized
from fedsim import config as configuration
from fedsim.errors import ConfigError, DataError, FedsimError

ROWS, CLIENTS = 240, 3
AGE = {"role": "quasi", "hierarchy": {"name": "intervals", "min": 0, "max": 99, "widths": [5, 20]}}
TOWN = {"role": "quasi", "hierarchy": {"name": "categories", "values": ["a", "b", "ä"]}}
ILL = {"role": "sensitive", "hierarchy": {"name": "categories", "values": ["no", "yes"]}}


def people() -> pd.DataFrame:
    rng = np.random.default_rng(2)
    return pd.DataFrame(
        {
            "age": rng.integers(0, 100, ROWS).astype(object),
            "town": rng.choice(["a", "b", "ä"], ROWS),
            "ill": rng.choice(["no", "yes"], ROWS),
        }
    )


def experiment(frame, folder: Path, columns=None, **settings):
    """Write a table; return an experiment on it."""
    frame.to_csv(folder / "people.csv", index=False)
    data = {"name": "table", "path": str(folder / "people.csv"), "target": "ill"}
    return {
        "name": "people",
        "data": data | settings.pop("data", {}),
        "partition": {"name": "iid", "clients": settings.pop("clients", CLIENTS)},
        "anonymization": {
            "name": "nodes",
            "columns": {"age": AGE, "town": TOWN, "ill": ILL} | (columns or {}),
            "k": 5,
            "compare_raw": False,
            **settings,
        },
        "secure_sum": {"name": "ideal"},
        "model": {"name": "linear"},
        "local": {"name": "sgd", "batch_size": 16},
        "optimizer": {"name": "sgd", "lr": 0.1},
        "rounds": {"count": 1},
        "evaluation": {"federated_every": 0},
        "engine": {"grid": "inprocess", "tier": "resident"},
    }


def opened(frame, folder: Path, columns=None, **settings):
    """Open an experiment's clients on a table; returns (clients, what is reported)."""
    config = configuration.load(experiment(frame, folder, columns, **settings), (), {})
    return anonymized.open_clients(config, cache_dir=folder / "cache")


def changed(column, cell, row=100):
    frame = people()
    frame[column] = frame[column].astype(object)
    frame.loc[row, column] = cell
    return frame


REFUSED = {
    "missing": (changed("age", None), {}, {}, "empty cells in: age .*data.missing=drop"),
    "mixed types": (changed("age", "old"), {}, {}, "column 'age'.*not in the schema's domain"),
    "half a year": (changed("age", 3.5), {}, {}, "column 'age'.*not in the schema's domain"),
    "another letter": (
        changed("town", "\uff41"),
        {},
        {},
        "column 'town'.*not in the schema's domain",
    ),
    "another label": (changed("ill", "maybe"), {}, {}, "column 'ill'.*not in the schema's domain"),
    "fewer than k": (people()[:20], {}, {"clients": 10}, "10 of 10 clients have fewer than .*k"),
    "one label": (people().assign(ill="no"), {}, {"diversity": "distinct"}, "ill|label|class"),
    "undeclared": (people().assign(job="x"), {}, {}, "columns.job"),
    "not there": (people(), {"job": TOWN}, {}, "columns.job"),
    "no hierarchy": (people(), {"age": {"role": "quasi"}}, {}, "columns.age.hierarchy"),
    "no role": (people(), {"age": {}}, {}, "columns.age.role"),
    "empty domain": (
        people(),
        {"age": {"role": "quasi", "hierarchy": {"name": "intervals", "min": 9, "max": 1}}},
        {},
        "columns.age.hierarchy.max",
    ),
    "values twice": (
        people(),
        {"town": {"role": "quasi", "hierarchy": {"name": "categories", "values": ["a", "a"]}}},
        {},
        "columns.town.hierarchy.values",
    ),
    "a label that is hidden": (people(), {"ill": {"role": "direct"}}, {}, "columns.ill.role"),
    "nothing quasi": (
        people(),
        {"age": {"role": "insensitive"}, "town": {"role": "insensitive"}},
        {},
        "at least one column with role quasi",
    ),
}


@pytest.mark.parametrize(("frame", "columns", "settings", "words"), REFUSED.values(), ids=REFUSED)
def test_it_is_refused_by_the_field_and_nothing_is_kept(
    frame, columns, settings, words, tmp_path
) -> None:
    with pytest.raises((ConfigError, DataError), match=words) as caught:
        opened(frame, tmp_path, columns, **settings)
    assert isinstance(caught.value, FedsimError)
    assert caught.value.exit_code == 2
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".csv"]


JOBS = {
    "role": "quasi",
    "hierarchy": {"name": "categories", "values": [f"j{i}" for i in range(10_000)]},
}
CODES = {"role": "quasi", "hierarchy": {"name": "prefix", "length": 5}}
WHOLE = people()
SAFE = {
    "constant": (WHOLE.assign(age=7, town="a"), {}, {}),
    "empty cells that are a value": (
        changed("age", None),
        {"age": AGE | {"missing": "own"}},
        {"data": {"missing": "mean"}},
    ),
    "accents written apart": (WHOLE.replace({"town": {"\u00e4": "a\u0308"}}), {}, {}),
    "ten thousand categories": (
        WHOLE.assign(job=[f"j{i * 37 % 10_000}" for i in range(ROWS)]),
        {"job": JOBS},
        {},
    ),
    "a hundred thousand codes": (
        WHOLE.assign(code=[f"{i * 317 % 100_000:05d}" for i in range(ROWS)]),
        {"code": CODES},
        {},
    ),
}


@pytest.mark.parametrize(("frame", "columns", "settings"), SAFE.values(), ids=SAFE)
def test_it_is_trained_on_in_classes_of_k(frame, columns, settings, tmp_path) -> None:
    clients, facts = opened(frame, tmp_path, columns, **settings)
    assert facts["reached"]["k"] >= 5
    assert facts["suppressed"]["rows"] == 0
    for client in range(clients.clients):
        features = clients.train(client).x
        assert np.isfinite(features).all()
        assert (features[:, -1] == 0).all()  # nobody is suppressed


@pytest.mark.slow
@pytest.mark.parametrize("cut", ["shared", "merged"])
def test_clients_agree_on_a_cut_of_a_hundred_thousand_codes(cut, tmp_path) -> None:
    frame, columns, _ = SAFE["a hundred thousand codes"]
    content = experiment(frame, tmp_path, columns, cut=cut)
    result = fedsim.run(content, runs=tmp_path / "runs")
    assert result.status == "finished"
    facts = result.stored.facts["anonymization"]
    assert facts["reached"]["k"] >= 5
    assert facts["agreed"]["longest"] < 30_000  # of 100,103 leaves


def test_a_domain_that_cannot_be_shared_is_refused_before_anything_is_made(tmp_path) -> None:
    wide = {"role": "quasi", "hierarchy": {"name": "intervals", "min": 0, "max": 99_999}}
    content = experiment(people(), tmp_path, {"age": wide}, cut="shared")
    with pytest.raises(ConfigError, match=r"columns.age.hierarchy.*100,000 leaves.*16,384"):
        fedsim.run(content, runs=tmp_path / "runs")
    assert not (tmp_path / "runs").exists() or not list((tmp_path / "runs").glob("*/*"))
