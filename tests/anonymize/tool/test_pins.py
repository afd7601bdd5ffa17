import hashlib
import json
import stat

import numpy as np
import pandas as pd
import pytest

from fedsim.anonymize.pins import open_pins, row_set_hash
from fedsim.anonymize.pipeline import Order, anonymize
from fedsim.anonymize.protection import Protection
from fedsim.anonymize.schema import schema_from_dict
from fedsim.errors import ConfigError, SetupError

from .conftest import COLUMNS, hospital


@pytest.fixture
def release(tmp_path, schema):
    def run(frame, name, **options):
        source = tmp_path / f"{name}-in.csv"
        frame.to_csv(source, index=False)
        chosen = options.pop("schema", schema)
        order = Order(pins=tmp_path / "pins", created="2026-01-02", **options)
        return anonymize(source, chosen, tmp_path / f"{name}.csv", order)

    return run


def test_the_same_release_again_is_the_same_file(release, tmp_path, frame):
    one = release(frame, "one")
    two = release(frame.sample(frac=1, random_state=1)[frame.columns[::-1]][frame.columns], "two")
    assert (tmp_path / "one.csv").read_bytes() == (tmp_path / "two.csv").read_bytes()
    assert one["pin"] == two["pin"]
    content = (tmp_path / "one.csv").read_bytes()
    assert one["pin"]["released"] == hashlib.sha256(content).hexdigest()
    assert len(list((tmp_path / "pins").glob("*.json"))) == 1


@pytest.mark.parametrize("change", ["k", "recoding", "schema", "l"])
def test_another_cut_of_the_same_rows_is_refused(release, tmp_path, frame, change):
    release(frame, "one")
    coarser = {"name": "intervals", "min": 0, "max": 99, "widths": [25]}
    other = {"columns": {**COLUMNS, "age": {"role": "quasi", "hierarchy": coarser}}}
    options = {
        "k": {"protection": Protection(k=7)},
        "recoding": {"how": "sets"},
        "schema": {"schema": schema_from_dict(other)},
        "l": {"protection": Protection(5, "distinct", 2)},
    }[change]
    with pytest.raises(ConfigError) as caught:
        release(frame, "two", **options)
    (problem,) = caught.value.problems
    assert "2026-01-02" in problem.value
    assert "--again REASON" in problem.hint
    assert caught.value.exit_code == 2
    assert not (tmp_path / "two.csv").exists()


def test_rows_that_overlap_are_refused_and_others_are_not(release, tmp_path):
    everybody = hospital(400)
    release(everybody[:200], "one")
    with pytest.raises(ConfigError, match="let out before"):
        release(everybody[199:], "two")  # one row
    release(everybody[200:], "three")
    with pytest.raises(ConfigError, match="let out before"):
        release(everybody[:150], "four")


def test_a_reason_lets_them_out_and_is_kept(release, tmp_path, frame):
    first = release(frame, "one")
    found = release(frame, "two", protection=Protection(k=7), again="k was too low for the board")
    assert found["pin"]["reason"] == "k was too low for the board"
    assert len(found["pin"]["again"]) == 1
    pins = {pin.released: pin for pin in open_pins(tmp_path / "pins").all()}
    assert pins[found["pin"]["released"]].reason == "k was too low for the board"
    assert pins[first["pin"]["released"]].reason == ""
    with pytest.raises(ConfigError, match="let out before"):
        release(frame, "three", protection=Protection(k=7))  # as it is: the reason was for one time


def test_people_are_told_by_their_subject_where_it_is_named(release, tmp_path):
    """Other rows of the same people: a later visit changes every cell but who they are."""
    schema = schema_from_dict({"columns": COLUMNS, "subject": "name"})
    one, two = hospital(200, seed=1), hospital(200, seed=2)
    release(one, "one", schema=schema)
    with pytest.raises(ConfigError, match="let out before"):
        release(two, "two", schema=schema)
    two["name"] = [f"Somebody Else{i}" for i in range(200)]
    release(two, "three", schema=schema)


def test_pins_do_not_let_anybody_test_a_guess(release, tmp_path, frame):
    release(frame, "one")
    pins = tmp_path / "pins"
    assert stat.S_IMODE(pins.stat().st_mode) == 0o700
    assert {stat.S_IMODE(p.stat().st_mode) for p in pins.iterdir()} == {0o600}
    content = b"".join(p.read_bytes() for p in pins.iterdir() if p.name != "key")
    assert b"Person" not in content
    # without the key, a row's hash is that of no guess
    row = ":".join(f"{len(str(c))}:{c}" for c in frame.loc[0, sorted(frame.columns)])
    stored = np.frombuffer(next(pins.glob("*.rows")).read_bytes(), "<u8")
    key = (pins / "key").read_bytes()
    keyed = hashlib.blake2b(row.encode(), key=key, digest_size=8).digest()
    bare = hashlib.blake2b(row.encode(), digest_size=8).digest()
    assert int.from_bytes(keyed, "little") in stored
    assert int.from_bytes(bare, "little") not in stored


def test_a_lost_key_and_damaged_pins_are_said_and_not_passed_over(release, tmp_path, frame):
    release(frame, "one")
    pins = tmp_path / "pins"
    path = next(pins.glob("*.rows"))
    whole = path.read_bytes()
    path.write_bytes(whole[:-3])
    path.chmod(0o600)
    with pytest.raises(SetupError, match="cut off"):
        release(frame, "two", protection=Protection(k=7))
    path.write_bytes(whole)
    record = next(pins.glob("*.json"))
    text = record.read_text()
    record.write_text(json.dumps({"cut": 1}))
    with pytest.raises(SetupError, match="no pin of a release"):
        release(frame, "two", protection=Protection(k=7))
    record.write_text(text)
    (pins / "key").unlink()
    with pytest.raises(SetupError, match="key is missing"):
        release(frame, "two", protection=Protection(k=7))


def test_a_set_of_rows_has_one_hash_in_any_order():
    rows = np.array([5, 1, 9, 1], dtype=np.uint64)
    assert row_set_hash(rows) == row_set_hash(rows[::-1])
    assert row_set_hash(rows) != row_set_hash(np.unique(rows))


def test_pins_are_beside_the_input_unless_said_otherwise(source, schema):
    anonymize(source, schema, source.parent / "out.csv", Order())
    assert (source.parent / ".fedsim-pins" / "key").exists()
    assert pd.read_csv(source.parent / "out.csv").shape[0] == 300
