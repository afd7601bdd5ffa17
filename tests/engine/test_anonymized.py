"""Records anonymized on the client before training: what is trained on, kept, and reported."""

import json
import re
from importlib import resources
from pathlib import Path

import jsonschema
import numpy as np
import pandas as pd
import pytest

import fedsim
from fedsim import anonymized
from fedsim import config as configuration
from fedsim.anonymize.client import exact, prepare
from fedsim.anonymize.encoding import encoding_of
from fedsim.anonymize.recode import recode
from fedsim.data import open_raw
from fedsim.deployment import experiment_text
from fedsim.errors import ConfigError, DataError, RunFailedError
from fedsim.federation import Places, build, from_text, to_text
from fedsim.store import RunStore

SCHEMA = json.loads((resources.files("fedsim") / "report" / "schema.json").read_text())
MARKER = 58.0  # an age that one person has
COLUMNS = {
    "name": {"role": "direct"},
    "age": {
        "role": "quasi",
        "hierarchy": {"name": "intervals", "min": 20, "max": 80, "widths": [5, 10, 20]},
    },
    "land": {
        "role": "quasi",
        "hierarchy": {
            "name": "taxonomy",
            "paths": [["a", "x", "*"], ["b", "x", "*"], ["c", "y", "*"], ["d", "y", "*"]],
        },
    },
    "dose": {
        "role": "insensitive",
        "hierarchy": {"name": "intervals", "min": 0, "max": 9, "outside": "nearest"},
    },
    "note": {"role": "insensitive"},
    "ill": {"role": "sensitive", "hierarchy": {"name": "categories", "values": ["no", "yes"]}},
}


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """400 people of four sites; one has an age and a name that nobody else has."""
    rng = np.random.default_rng(7)
    age = rng.integers(20, 81, 400)
    age[age == MARKER] = 57
    frame = pd.DataFrame(
        {
            "name": [f"person-{i}" for i in range(400)],
            "age": age,
            "land": rng.choice(list("abcd"), 400, p=[0.4, 0.3, 0.2, 0.1]),
            "dose": rng.integers(0, 10, 400),
            "note": "seen",
            "site": rng.integers(0, 4, 400),
        }
    )
    risk = frame["age"] / 30 + (frame["land"] == "a") + frame["dose"] / 5
    frame["ill"] = np.where(risk + rng.normal(0, 0.5, 400) > 3, "yes", "no")
    frame.loc[1, ["age", "name"]] = [int(MARKER), "QUITE-UNIQUE-NAME"]
    path = tmp_path_factory.mktemp("table") / "people.csv"
    frame.to_csv(path, index=False)
    return path


def experiment(table: Path, **anonymization: object) -> dict[str, object]:
    return {
        "name": "people",
        "seed": 3,
        "data": {"name": "table", "path": str(table), "target": "ill", "test": 0.25},
        "partition": {"name": "natural", "by": "site"},
        "anonymization": {
            "name": "nodes",
            "columns": COLUMNS,
            "k": 5,
            "compare_raw": False,
            **anonymization,
        },
        "model": {"name": "linear"},
        "local": {"name": "sgd", "batch_size": 16},
        "optimizer": {"name": "sgd", "lr": 0.1},
        "rounds": {"count": 3},
        "evaluation": {"federated_every": 1, "holdout": 0.2},
        "engine": {"grid": "inprocess", "tier": "resident"},
    }


def opened(table: Path, cache: Path | None = None, **anonymization: object):
    config = configuration.load(experiment(table, **anonymization), (), {})
    clients, facts = anonymized.open_clients(config, cache_dir=cache)
    raw = open_raw(config.data, config.partition, seed=config.seed, holdout=0.2)
    schema = configuration.schema_of(config.anonymization)
    return clients, facts, raw, schema, encoding_of(schema, "ill")


@pytest.mark.parametrize("name", ["nodes", "sets", "full-domain"])
def test_every_client_trains_on_classes_of_k(table: Path, name: str) -> None:
    """Counted anew from what is trained on: rows that are alike in all generalized inputs."""
    clients, facts, raw, _, encoding = opened(table, name=name)
    names = encoding.names
    quasi = [i for i, n in enumerate(names) if not n.startswith(("dose", "suppressed"))]
    least = []
    for client in range(clients.clients):
        x = clients.train(client).x
        assert len(x) == len(raw.rows(client))
        _, sizes = np.unique(x[:, quasi], axis=0, return_counts=True)
        least.append(sizes.min())
    assert facts["reached"]["k"] == min(least) >= 5
    assert facts["clients"] == 4
    assert facts["risks"]["prosecutor"] == 1 / min(least)
    assert facts["left_out"] == ["name", "note"]


def test_a_released_value_covers_the_raw_one(table: Path) -> None:
    clients, _, raw, schema, encoding = opened(table)
    names = list(encoding.names)
    for client in range(clients.clients):
        shard, frame = clients.train(client), raw.train(client)
        truth = exact(frame, schema, encoding)
        assert np.array_equal(shard.y == 1, frame["ill"] == "yes")
        middle, width = (shard.x[:, names.index(n)] for n in ("age", "age width"))
        assert (np.abs(truth[:, names.index("age")] - middle) <= width + 1e-6).all()
        lands = [names.index(f"land={v}") for v in "abcd"]
        assert ((shard.x[:, lands] > 0) >= (truth[:, lands] > 0)).all()
        dose = names.index("dose")
        assert np.array_equal(shard.x[:, dose], truth[:, dose])


def test_what_is_tested_on_is_raw_and_encoded_exactly(table: Path) -> None:
    clients, _, raw, schema, encoding = opened(table)
    assert np.array_equal(clients.test().x, exact(raw.table.test, schema, encoding))
    twin, *_ = opened(table, name="raw")
    assert clients.meta == twin.meta
    for client in range(clients.clients):
        assert np.array_equal(clients.held_out(client).x, twin.held_out(client).x)
        assert np.array_equal(clients.train(client).y, twin.train(client).y)
        frame = raw.train(client)
        assert np.array_equal(twin.train(client).x, exact(frame, schema, encoding))


def test_the_cache_holds_released_values_alone(table: Path, tmp_path: Path) -> None:
    clients, _, raw, schema, encoding = opened(table, tmp_path)
    frame = raw.table.train
    assert sum((raw.train(client)["age"] == MARKER).sum() for client in range(4)) == 1
    (folder,) = tmp_path.iterdir()
    age = encoding.names.index("age")
    x = np.load(folder / "x.npy")
    marked = exact(frame[frame["age"] == MARKER], schema, encoding)[0, age]
    # An exact age of the marked person would be a class of one.
    alone = np.isclose(x[:, age], marked) & (x[:, age + 1] == 0)
    assert not alone.any()
    # The features are those of the released values, and nothing else is there.
    offsets = np.load(folder / "offsets.npy")
    for client in range(clients.clients):
        rows = prepare(raw.train(client), schema, encoding, 0)
        recoding = recode(rows.encoded, anonymized.protection_of(_settings(table)), "nodes")
        again = encoding.of_released(recoding, rows.exact)
        assert np.array_equal(x[offsets[client] : offsets[client + 1]], again)
    files = {path.name for path in folder.iterdir()}
    assert files == {"x.npy", "y.npy", "group.npy", "offsets.npy", "facts.json"}
    content = b"".join(path.read_bytes() for path in folder.iterdir())
    assert b"QUITE-UNIQUE" not in content
    assert b"person-" not in content
    assert np.float32(marked).tobytes() not in x.tobytes()
    twice, *_ = opened(table, tmp_path)
    assert all(np.array_equal(clients.train(i).x, twice.train(i).x) for i in range(4))


def _settings(table: Path):
    return configuration.load(experiment(table), (), {}).anonymization


def test_raw_records_are_never_kept(table: Path, tmp_path: Path) -> None:
    opened(table, tmp_path, name="raw")
    assert list(tmp_path.iterdir()) == []


def test_every_setting_has_a_folder_of_its_own(table: Path, tmp_path: Path) -> None:
    for settings in ({}, {"k": 6}, {"name": "sets"}, {"diversity": "distinct"}):
        opened(table, tmp_path, **settings)
    assert len(list(tmp_path.iterdir())) == 4


def test_every_process_has_the_same_inputs(table: Path) -> None:
    """An experiment travels as JSON, which does not keep the order of columns."""
    config = configuration.load(experiment(table), (), {})
    here, there = build(config), from_text(to_text(config, Places()))
    assert np.array_equal(here.clients.train(0).x, there.clients.train(0).x)
    assert np.array_equal(here.clients.test().x, there.clients.test().x)
    flipped = dict(reversed(COLUMNS.items()))
    other, *_ = opened(table, columns=flipped)
    assert np.array_equal(here.clients.train(2).x, other.train(2).x)


def test_the_protection_holds_on_every_client(table: Path) -> None:
    asked = {"diversity": "distinct", "l": 2, "t": 0.3}
    _, facts, *_ = opened(table, **asked)
    assert facts["reached"]["l"] >= 2
    assert facts["reached"]["t"] <= 0.3
    _, other, *_ = opened(table, t_reference="federation", **asked)
    assert other["reached"]["t"] <= 0.3
    assert other["declared"]["t_reference"] == "federation"


def test_suppressed_records_are_left_out_or_kept_as_anything(table: Path) -> None:
    asked = {"name": "full-domain", "max_suppression": 0.2}
    dropped, facts, raw, _, encoding = opened(table, **asked)
    kept, same, *_ = opened(table, suppressed="keep", **asked)
    assert facts["suppressed"]["rows"] == same["suppressed"]["rows"] > 5
    assert facts["suppressed"]["share"] == pytest.approx(
        facts["suppressed"]["rows"] / facts["rows"]
    )
    flags = np.concatenate([kept.train(i).x[:, -1] for i in range(4)])
    assert flags.sum() == facts["suppressed"]["rows"]
    for client in range(4):
        x = kept.train(client).x
        assert len(x) == len(raw.rows(client))
        assert np.array_equal(x[x[:, -1] == 0], dropped.train(client).x)
        hidden = x[x[:, -1] == 1]
        assert (hidden[:, encoding.names.index("land=a")] == 0.25).all()


def test_few_suppressed_records_are_no_number(table: Path) -> None:
    clients, facts, *_ = opened(table, name="full-domain", max_suppression=0.02, k=12)
    left_out = facts["rows"] - int(clients.sizes().sum())
    assert facts["suppressed"]["rows"] == (left_out if left_out == 0 or left_out >= 12 else None)


def test_clients_that_are_too_small_are_refused(table: Path) -> None:
    content = experiment(table) | {"partition": {"name": "iid", "clients": 60}}
    config = configuration.load(content, (), {})
    with pytest.raises(DataError, match=r"^\d+ of 60 clients have fewer than anonymization.k = 5"):
        anonymized.open_clients(config)


def test_clients_that_cannot_have_it_are_refused(table: Path) -> None:
    with pytest.raises(DataError, match=r"4 of 4 clients cannot have what .*anonymization"):
        opened(table, diversity="distinct", l=3)


def test_a_cell_outside_of_the_domain_is_refused_without_saying_it(table: Path) -> None:
    columns = {**COLUMNS, "age": {"role": "quasi", "hierarchy": {"name": "intervals",
               "min": 20, "max": 70}}}  # fmt: skip
    with pytest.raises(DataError, match=r"client 0: column 'age': \d+ cells are") as caught:
        opened(table, columns=columns)
    assert not re.search(r"\b7[1-9]\b", str(caught.value).split("domain")[0].split("row")[0])


def test_a_column_that_nobody_declared_is_refused(table: Path) -> None:
    columns = {key: value for key, value in COLUMNS.items() if key != "note"}
    with pytest.raises(ConfigError, match="note"):
        opened(table, columns=columns)


@pytest.mark.reports
def test_a_run_and_its_twin(table: Path, tmp_path: Path) -> None:
    result = fedsim.run(experiment(table, compare_raw=True), runs=tmp_path)
    assert result.status == "finished"
    store = RunStore(tmp_path)
    main, twin = store.get(result.run_id), store.get(result.stored.summary["raw"]["run"])
    assert (main.name, twin.name) == ("people", "people-raw")
    assert twin.facts["compared_with"] == main.id
    assert twin.summary["metrics"] == main.summary["raw"]["metrics"]
    assert twin.config["anonymization"]["name"] == "raw"
    assert main.facts["data_sha256"] == twin.facts["data_sha256"]
    content = json.loads((result.folder / "report.json").read_text())
    jsonschema.validate(content, SCHEMA)
    section = content["sections"]["anonymization"]
    (auc,) = (one for one in section["compared"] if one["metric"] == "test/auc")
    assert auc["raw"] == twin.summary["metrics"]["test/auc"]
    assert auc["anonymized"] == main.summary["metrics"]["test/auc"]
    text = result.report.read_text()
    assert "Raw against anonymized" in text
    assert "no differential privacy" in text
    jsonschema.validate(json.loads((store.folder(twin.id) / "report.json").read_text()), SCHEMA)
    # The saved experiment runs by itself, and to the same bytes.
    again = fedsim.run(
        result.folder / "config.toml", ["anonymization.compare_raw=false"], runs=tmp_path / "again"
    )
    assert again.model_sha256 == result.model_sha256


@pytest.mark.slow
def test_the_same_bytes_whatever_runs_the_clients(table: Path, tmp_path: Path, cluster) -> None:
    content = experiment(table)
    expected = fedsim.run(content, runs=tmp_path / "one").model_sha256
    for workers in (1, 2):
        overrides = ["engine.grid=ray", f"engine.workers={workers}"]
        found = fedsim.run(content, overrides, runs=tmp_path / f"ray{workers}")
        assert found.model_sha256 == expected
    assert (
        fedsim.run(content, ["engine.tier=messages"], runs=tmp_path / "m").model_sha256 == expected
    )


@pytest.mark.slow
def test_an_interrupted_run_goes_on_without_its_cache(table: Path, tmp_path: Path) -> None:
    import shutil

    from fedsim.errors import Interrupted
    from fedsim.events import RoundDone

    content = experiment(table, compare_raw=True)
    whole = fedsim.run(content, runs=tmp_path / "whole")

    def stop(event: object) -> None:
        if isinstance(event, RoundDone):
            raise KeyboardInterrupt

    with pytest.raises(Interrupted):
        fedsim.run(content, runs=tmp_path / "runs", listener=stop)
    shutil.rmtree(tmp_path / "runs" / "cache")
    resumed = fedsim.resume("people", runs=tmp_path / "runs")
    assert resumed.model_sha256 == whole.model_sha256
    assert resumed.stored.summary["raw"]["metrics"] == whole.stored.summary["raw"]["metrics"]


@pytest.mark.parametrize("cut", ["shared", "merged"])
def test_one_cut_for_all_clients(table: Path, tmp_path: Path, cut: str) -> None:
    content = experiment(table, cut=cut) | {
        "secure_sum": {"name": "ideal"},
        "evaluation": {"federated_every": 0},
    }
    result = fedsim.run(content, runs=tmp_path)
    facts = result.stored.facts["anonymization"]
    assert facts["reached"]["k"] >= 5
    assert facts["over"] == ("federation" if cut == "shared" else "client")
    assert facts["agreed"]["secure_sum"] == "ideal"
    masked = fedsim.run(content, ["secure_sum.name=secagg"], runs=tmp_path / "masked")
    assert masked.stored.facts["anonymization"]["agreed"]["sha256"] == facts["agreed"]["sha256"]
    assert masked.model_sha256 == result.model_sha256


def test_supernodes_wait_for_the_cut_that_they_share(table: Path, tmp_path: Path) -> None:
    content = experiment(table) | {"evaluation": {"federated_every": 0}}
    path = tmp_path / "x.toml"
    path.write_text(configuration.dump_toml(configuration.load(content, (), {})))
    given = {"experiment": str(path), "overrides": "", "data-dir": ""}
    there = from_text(experiment_text(given))
    assert there.anonymization["reached"]["k"] >= 5
    given["overrides"] = "anonymization.cut=shared secure_sum.name=secagg"
    waiting = from_text(experiment_text(given))
    assert waiting.awaits_cut
    with pytest.raises(RunFailedError, match="not agreed on a cut"):
        waiting.clients.train(0)
    assert np.array_equal(waiting.clients.test().x, there.clients.test().x)
