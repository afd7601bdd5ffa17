import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsim.anonymize import release
from fedsim.anonymize.pipeline import Order, anonymize
from fedsim.anonymize.protection import Protection
from fedsim.anonymize.pseudonym_keys import PseudonymKeys
from fedsim.anonymize.schema import schema_from_dict
from fedsim.errors import ConfigError, DataError, RunFailedError, SetupError
from fedsim.privacy.ledger import Ledger

from .conftest import COLUMNS, hospital

KEYS = PseudonymKeys(
    bytes.fromhex("9b1d4c0e7a5f36c28812fe07d3a94b65c1e0527f8d3b9a46f01c2d7e84b5a963")
)


def read(path):
    return pd.read_csv(path, dtype=str, keep_default_na=False)


def run(source, schema, name="out.csv", **options):
    output = source.parent / name
    return anonymize(source, schema, output, Order(**options)), read(output)


def columns(**changes):
    return schema_from_dict({"columns": {**COLUMNS, **changes}})


def inside(label, value):
    """Whether a label of age or of a prefix, read by itself, covers a value."""
    if label == "*":
        return True
    if "-" in label:
        low, high = map(int, label.split("-"))
        return low <= int(value) <= high
    return all(a in ("*", b) for a, b in zip(label, value, strict=True))


@pytest.mark.parametrize("how", ["nodes", "sets", "full-domain"])
def test_every_class_has_k_rows_and_every_row_its_own_values(source, schema, frame, how):
    found, out = run(source, schema, protection=Protection(k=6), how=how)
    assert list(out.columns) == ["age", "sex", "zip", "diagnosis", "note"]
    assert len(out) == len(frame)
    assert out.groupby(["age", "sex", "zip"]).size().min() >= 6
    assert found["reached"]["k"] == out.groupby(["age", "sex", "zip"]).size().min()
    for name in ("diagnosis", "note"):
        assert sorted(out[name]) == sorted(frame[name])


def test_rows_are_inside_their_boxes(tmp_path, schema):
    """With a pseudonym as thread, each row that is let out is compared with its own raw row."""
    raw = hospital(400, seed=3)
    raw["note"] = [f"thread{i}" for i in range(len(raw))]
    source = tmp_path / "in.csv"
    raw.to_csv(source, index=False)
    _, out = run(source, schema, protection=Protection(k=4))
    both = out.merge(raw, on="note", suffixes=("", "_raw"))
    assert len(both) == len(raw)
    for row in both.itertuples():
        assert inside(row.age, row.age_raw)
        assert inside(row.zip, row.zip_raw)
        assert row.sex in ("*", row.sex_raw)
        assert row.diagnosis == row.diagnosis_raw


def test_the_order_of_the_input_changes_no_byte(tmp_path, schema):
    """Not of the table, and so not the order of its rows, which would tell who is who."""
    outputs = []
    for seed in (0, 1):
        folder = tmp_path / str(seed)
        folder.mkdir()
        hospital().sample(frac=1, random_state=seed).to_csv(folder / "in.csv", index=False)
        run(folder / "in.csv", schema, pins=tmp_path / "pins")
        outputs.append((folder / "out.csv").read_bytes())
    assert outputs[0] == outputs[1]


def test_without_the_key_beside_the_pins_the_order_within_a_class_is_another(tmp_path, schema):
    orders = []
    for name in ("one", "two"):
        hospital().assign(note=[f"t{i}" for i in range(300)]).to_csv(
            tmp_path / "in.csv", index=False
        )
        _, out = run(tmp_path / "in.csv", schema, pins=tmp_path / name)
        orders.append(out)
    assert sorted(orders[0]["note"]) == sorted(orders[1]["note"])
    assert orders[0][["age", "sex", "zip"]].equals(orders[1][["age", "sex", "zip"]])
    assert orders[0]["note"].tolist() != orders[1]["note"].tolist()


def test_rows_that_wait_on_the_disk_come_out_the_same(source, schema, monkeypatch):
    run(source, schema, pins=source.parent / "pins")
    whole = (source.parent / "out.csv").read_bytes()
    monkeypatch.setattr(release, "_BUCKET_BYTES", 300)
    run(source, schema, "again.csv", pins=source.parent / "pins")
    assert (source.parent / "again.csv").read_bytes() == whole


def test_pieces_of_any_size_give_the_same_bytes(tmp_path, schema, monkeypatch):
    hospital(20_000).to_csv(tmp_path / "in.csv", index=False)
    run(tmp_path / "in.csv", schema, pins=tmp_path / "pins")
    whole = (tmp_path / "out.csv").read_bytes()
    monkeypatch.setattr("fedsim.anonymize.files._BLOCK_BYTES", 3_000)
    run(tmp_path / "in.csv", schema, "again.csv", pins=tmp_path / "pins")
    assert (tmp_path / "again.csv").read_bytes() == whole


def test_parquet_is_let_out_as_parquet_with_its_types(tmp_path, schema):
    raw = hospital()
    raw["note"] = np.arange(300) / 4
    raw.to_parquet(tmp_path / "in.parquet")
    output = tmp_path / "out.parquet"
    anonymize(tmp_path / "in.parquet", schema, output, Order())
    out = pd.read_parquet(output)
    assert out["note"].dtype == np.float64
    assert sorted(out["note"]) == sorted(raw["note"])
    assert out.groupby(["age", "sex", "zip"]).size().min() >= 5
    assert "name" not in out


def test_the_same_table_as_csv_and_as_parquet_is_cut_alike(tmp_path, schema):
    raw = hospital()
    raw.to_csv(tmp_path / "in.csv", index=False)
    raw.to_parquet(tmp_path / "in.parquet")
    _, text = run(tmp_path / "in.csv", schema)
    anonymize(tmp_path / "in.parquet", schema, tmp_path / "out.parquet", Order(pins=tmp_path / "p"))
    typed = pd.read_parquet(tmp_path / "out.parquet")
    by = ["age", "sex", "zip", "diagnosis", "note"]
    one, two = (t.sort_values(by).reset_index(drop=True)[by] for t in (text, typed.astype(str)))
    assert one.equals(two)


def outliers():
    """A hundred people of one kind, and three who are alone; full-domain cannot keep both."""
    raw = hospital(100).assign(age=30, sex="f", zip="111")
    rest = hospital(3, seed=1).assign(age=[1, 50, 99], sex="m", zip=["900", "555", "000"])
    return pd.concat([raw, rest])


def test_suppressed_rows_are_left_out_or_kept_as_stars(tmp_path, schema):
    outliers().to_csv(tmp_path / "in.csv", index=False)
    options = {"how": "full-domain", "max_suppression": 0.05}
    found, out = run(tmp_path / "in.csv", schema, **options)
    assert len(out) == 100
    assert found["rows"] == 103
    assert found["suppressed"] == {"rows": None, "share": None}  # fewer than k are not told
    assert found["utility"]["discernibility"] is None
    found, out = run(
        tmp_path / "in.csv",
        schema,
        "kept.csv",
        keep_suppressed=True,
        again="stars wanted",
        **options,
    )
    stars = out.tail(3)
    assert len(out) == 103
    assert (stars[["age", "sex", "zip"]] == "*").all(axis=None)
    assert (stars["diagnosis"] == "").all()
    assert found["pin"]["reason"] == "stars wanted"


def test_treatments_are_applied_and_direct_identifiers_without_one_removed(tmp_path):
    raw = hospital()
    raw["ward"], raw["stay"] = "w1", np.arange(300)
    raw.to_csv(tmp_path / "in.csv", index=False)
    schema = columns(
        name={"role": "direct", "treatment": "pseudonym"},
        note={"role": "direct"},
        ward={"role": "insensitive", "treatment": "remove"},
        stay={"role": "insensitive", "treatment": {"name": "rounding", "multiple": 50}},
    )
    with pytest.raises(ConfigError, match="name"):
        run(tmp_path / "in.csv", schema)
    assert not (tmp_path / "out.csv").exists()
    found, out = run(tmp_path / "in.csv", schema, keys=KEYS)
    assert list(out.columns) == ["name", "age", "sex", "zip", "diagnosis", "stay"]
    assert out["name"].str.fullmatch("[0-9a-f]{32}").all()
    assert out["name"].nunique() == 300
    assert set(out["stay"]) <= {"0", "50", "100", "150", "200", "250", "300"}
    became = {column["name"]: column["became"] for column in found["columns"]}
    assert became["name"] == "pseudonym"
    assert became["note"] == became["ward"] == "removed"


def test_columns_that_need_all_rows_are_treated_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr("fedsim.anonymize.files._BLOCK_BYTES", 1_000)
    raw = hospital().assign(note=np.arange(300) * 3.0)
    raw.to_csv(tmp_path / "in.csv", index=False)
    schema = columns(
        note={"role": "insensitive", "treatment": {"name": "microaggregation", "k": 10}}
    )
    _, out = run(tmp_path / "in.csv", schema)
    assert out["note"].value_counts().min() >= 10
    assert out["note"].astype(float).mean() == pytest.approx(raw["note"].mean())


def test_a_treated_sensitive_column_is_let_out_as_it_was_counted(tmp_path):
    raw = hospital().assign(diagnosis=np.arange(300))
    raw.to_csv(tmp_path / "in.csv", index=False)
    rounding = {"name": "rounding", "multiple": 100}
    schema = columns(diagnosis={"role": "sensitive", "treatment": rounding})
    found, out = run(tmp_path / "in.csv", schema, protection=Protection(5, "distinct", 2))
    assert set(out["diagnosis"]) == {"0", "100", "200", "300"}
    classes = out.groupby(["age", "sex", "zip"])["diagnosis"].nunique()
    assert classes.min() == found["reached"]["sensitive"][0]["distinct"] >= 2


def test_noise_is_drawn_once_for_a_release(tmp_path):
    raw = hospital().assign(diagnosis=np.arange(300))
    raw.to_csv(tmp_path / "in.csv", index=False)
    noise = {"name": "noise", "low": 0, "high": 300, "epsilon": 1.0}
    schema = columns(diagnosis={"role": "sensitive", "treatment": noise})
    found, out = run(tmp_path / "in.csv", schema)
    assert "epsilon 1" in next(c["became"] for c in found["columns"] if c["name"] == "diagnosis")
    assert out["diagnosis"].astype(float).nunique() > 290
    assert found["noise"]["epsilon"] == 1.0
    (path,) = (tmp_path / ".fedsim-pins" / "ledger").glob("*.jsonl")
    (entry,) = Ledger(path).entries()
    assert (entry.unit, entry.adjacency) == ("local", "replace-one")
    assert [spend.release.mechanism for spend in entry.spends] == ["laplace"]
    before = (tmp_path / "out.csv").read_bytes()
    with pytest.raises(DataError, match="draws at random"):
        run(tmp_path / "in.csv", schema)  # two draws would hide less
    assert (tmp_path / "out.csv").read_bytes() == before
    assert len(Ledger(path).entries()) == 1


def test_a_population_is_counted(tmp_path, schema):
    people = hospital(5_000, seed=9)
    people.to_csv(tmp_path / "people.csv", index=False)
    people.sample(200, random_state=0).to_csv(tmp_path / "in.csv", index=False)
    options = {"population": tmp_path / "people.csv"}
    found, _ = run(tmp_path / "in.csv", schema, protection=Protection(k=2, k_map=60), **options)
    assert found["reached"]["k_map"] >= 60
    assert found["risks"]["journalist_max"] <= 1 / 60
    assert not found["risks"]["journalist_is_prosecutor"]
    assert found["risks"]["prosecutor_max"] > found["risks"]["journalist_max"]
    with pytest.raises(ConfigError, match="--population"):
        run(tmp_path / "in.csv", schema, protection=Protection(k=2, k_map=60))


def test_numbers_written_in_two_ways_are_one_sensitive_value(tmp_path):
    raw = hospital(100).assign(diagnosis=["7", "7.0", " 7", "7e0"] * 25)
    raw.to_csv(tmp_path / "in.csv", index=False)
    with pytest.raises(ConfigError, match="at most 1"):
        run(tmp_path / "in.csv", columns(), protection=Protection(5, "distinct", 2))


def test_one_diagnosis_in_two_unicode_forms_is_one_value(tmp_path):
    raw = hospital(100).assign(diagnosis=["Me\u0301nie\u0300re", "M\u00e9ni\u00e8re"] * 50)
    raw.to_csv(tmp_path / "in.csv", index=False)
    with pytest.raises(ConfigError, match="at most 1"):
        run(tmp_path / "in.csv", columns(), protection=Protection(5, "distinct", 2))


def test_missing_cells_are_refused_or_a_value_of_their_own(tmp_path):
    raw = hospital()
    raw["age"] = raw["age"].astype(object)
    raw.loc[:19, "age"] = ["", "?"] * 10
    raw.to_csv(tmp_path / "in.csv", index=False)
    plain = {"columns": COLUMNS, "empty": ["?"]}
    with pytest.raises(DataError, match=r"20 cells are \(row 1, 2"):
        run(tmp_path / "in.csv", schema_from_dict(plain))
    own = {**plain, "columns": {**COLUMNS, "age": {**COLUMNS["age"], "missing": "own"}}}
    _, out = run(tmp_path / "in.csv", schema_from_dict(own))
    assert len(out) == 300
    assert out["age"].isin(["missing", "*"]).sum() >= 20


def test_rows_in_errors_are_numbered_over_the_whole_file(tmp_path, schema, monkeypatch):
    monkeypatch.setattr("fedsim.anonymize.files._BLOCK_BYTES", 1_000)
    hospital().assign(age=[30] * 299 + ["secret"]).to_csv(tmp_path / "in.csv", index=False)
    with pytest.raises(DataError, match=r"row 300\)") as caught:
        run(tmp_path / "in.csv", schema)
    assert "secret" not in str(caught.value)


def test_a_draft_is_refused(source, tmp_path):
    draft = schema_from_dict({"columns": COLUMNS, "confirmed": False})
    with pytest.raises(ConfigError, match="confirmed"):
        run(source, draft)


def test_output_is_of_the_inputs_kind(source, schema):
    with pytest.raises(ConfigError, match=r"out\.csv"):
        anonymize(source, schema, source.parent / "out.parquet", Order())


def test_what_is_written_is_counted_before_it_has_its_name(source, schema, monkeypatch):
    """A defect of what writes would be found: here it forgets to generalize the last column."""
    (source.parent / "out.csv").write_text("old")

    def spoiled(found, name, batch, *rest):
        return batch.column("age") if name == "age" else kept(found, name, batch, *rest)

    kept = release._cells
    monkeypatch.setattr(release, "_cells", spoiled)
    with pytest.raises(RunFailedError, match=r"nothing was written: .* k = 1, declared 5"):
        run(source, schema)
    assert (source.parent / "out.csv").read_text() == "old"
    assert [p.name for p in source.parent.glob("*.tmp")] == []


def test_a_folder_that_cannot_be_written(source, schema):
    import os

    if os.geteuid() == 0:
        pytest.skip("root may write anywhere")
    folder = source.parent / "closed"
    folder.mkdir(mode=0o500)
    with pytest.raises(SetupError, match="permission denied"):
        anonymize(source, schema, folder / "out.csv", Order())


@settings(max_examples=40)
@given(
    st.lists(
        st.tuples(st.integers(0, 99), st.sampled_from("fm"), st.integers(0, 999)),
        min_size=3,
        max_size=60,
    ),
    st.sampled_from(["nodes", "sets", "full-domain"]),
    st.sampled_from([0.0, 0.3]),
)
def test_any_table(tmp_path_factory, rows, how, most):
    folder = tmp_path_factory.mktemp("any")
    raw = pd.DataFrame(rows, columns=["age", "sex", "zip"])
    raw["zip"] = raw["zip"].map("{:03d}".format)
    raw["name"], raw["diagnosis"], raw["note"] = "x", "d", [f"t{i}" for i in range(len(raw))]
    raw.to_csv(folder / "in.csv", index=False)
    options = {"how": how, "max_suppression": most, "protection": Protection(k=3)}
    found, out = run(folder / "in.csv", columns(), **options)
    assert out.groupby(["age", "sex", "zip"]).size().min() >= 3
    lost = len(raw) - len(out)
    assert lost <= most * len(raw)
    assert found["suppressed"]["rows"] == (lost if lost == 0 or lost >= 3 else None)
    assert set(out["note"]) <= set(raw["note"])
    assert out["note"].is_unique
    assert json.loads(json.dumps(found)) == found


def test_whole_numbers_that_were_written_with_a_point_are_found(tmp_path):
    raw = hospital().assign(sex=[0.0, 1.0] * 150)
    raw.to_csv(tmp_path / "in.csv", index=False)
    values = {"name": "categories", "values": ["0", "1"]}
    _, out = run(tmp_path / "in.csv", columns(sex={"role": "quasi", "hierarchy": values}))
    assert set(out["sex"]) <= {"0", "1", "*"}
