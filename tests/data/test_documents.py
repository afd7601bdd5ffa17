"""Documents as MongoDB exports them: types by the specification, own lines alone."""

import datetime as dt
import gzip
import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from fedsim.data import ClientData, open_clients
from fedsim.data._extended_json import fields_of_document, parse, value_at
from fedsim.data._lines import _split
from fedsim.data.documents import Documents
from fedsim.data.parquet import Parquet
from fedsim.data.partition.natural import Natural
from fedsim.errors import DataError

# Examples of the specification (MongoDB Extended JSON v2.1.0, "Conversion table" and "Examples").
SPECIFIED = [
    ('{"$oid": "57e193d7a9cc81b4027498b5"}', "57e193d7a9cc81b4027498b5"),
    ('{"$symbol": "symbol"}', "symbol"),
    ('{"$numberInt": "42"}', 42),
    ('{"$numberLong": "-42"}', -42),
    ('{"$numberDouble": "-1.0"}', -1.0),
    ('{"$numberDouble": "-Infinity"}', -math.inf),
    ('{"$numberDecimal": "1234"}', 1234.0),
    ('{"$binary": {"base64": "o0w498Or7cijeBSpkquNtg==", "subType": "03"}}',
     bytes.fromhex("a34c38f7c3abedc8a37814a992ab8db6")),
    ('{"$date": {"$numberLong": "1356351330501"}}',
     dt.datetime(2012, 12, 24, 12, 15, 30, 501000, dt.UTC)),
    ('{"$date": "2012-12-24T12:15:30.501Z"}',
     dt.datetime(2012, 12, 24, 12, 15, 30, 501000, dt.UTC)),
    ('{"$timestamp": {"t": 42, "i": 1}}', dt.datetime(1970, 1, 1, 0, 0, 42, tzinfo=dt.UTC)),
    ('{"$undefined": true}', None),
]  # fmt: skip


@pytest.mark.parametrize(("text", "value"), SPECIFIED, ids=[t[2:18] for t, _ in SPECIFIED])
def test_types_are_those_of_the_specification(text: str, value: object) -> None:
    assert parse(f'{{"x": {text}}}')["x"] == value
    assert parse(f'{{"x": [{{"y": {text}}}]}}')["x"] == [{"y": value}]


@pytest.mark.parametrize(
    "line",
    ["[1]", "3", "{", '{"a": {"$numberInt": "x"}}', '{"a": {"$date": "now"}}',
     '{"a": {"$binary": {}}}', '{"a": {"$numberDecimal": "1,5"}}'],
)  # fmt: skip
def test_what_is_no_document_is_refused(line: str) -> None:
    with pytest.raises(ValueError, match=r"document|extended JSON|Expecting"):
        parse(line)


def test_paths_lead_into_objects_and_lists() -> None:
    document = {"a": {"b": [{"c": 1}, {"c": 2}]}, "x.y": 3, "n": None}
    assert value_at(document, "a.b.0.c") == 1
    assert value_at(document, "a.b.c") == [1, 2]
    assert value_at(document, "x.y") == 3
    assert [value_at(document, path) for path in ("a.b.7.c", "a.z", "n.k", "x")] == [None] * 4
    assert dict(fields_of_document(document)) == {"a.b": [{"c": 1}, {"c": 2}], "x.y": 3, "n": None}


@pytest.mark.parametrize("piece", [1, 3, 1000])
def test_lines_are_found_wherever_pieces_end(piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    import io

    monkeypatch.setattr("fedsim.data._lines._PIECE", piece)
    content = b"first\n\nthird line\nlast"
    lines = list(_split(io.BytesIO(content), 0, None))
    assert [line for line, _, _ in lines] == content.split(b"\n")
    assert all(content[a:b].rstrip(b"\n") == line for line, a, b in lines)
    assert [line for line, _, _ in _split(io.BytesIO(content), 7, 18)] == [b"third line"]


def visits(count: int = 200) -> pd.DataFrame:
    stream = np.random.default_rng(4)
    return pd.DataFrame(
        {
            "patient.age": stream.integers(20, 90, count).astype(float),
            "patient.sex": stream.choice(["m", "f"], count),
            "pulse": stream.normal(70, 9, count),
            "outcome": stream.choice(["ill", "well"], count),
            "clinic": stream.choice(["a", "b", "c"], count),
        }
    )


def exported(frame: pd.DataFrame) -> str:
    lines = []
    for i, row in enumerate(frame.to_dict("records")):
        document = {
            "_id": {"$oid": f"{i:024x}"},
            "clinic": row["clinic"],
            "patient": {
                "age": {"$numberInt": str(int(row["patient.age"]))},
                "sex": row["patient.sex"],
            },
            "pulse": row["pulse"],
            "outcome": row["outcome"],
        }
        lines.append(json.dumps(document))
    return "\n".join(lines) + "\n"


def opened(data: object, cache: Path | None = None) -> ClientData:
    return open_clients(data, Natural(by="clinic"), seed=0, holdout=0.1, cache_dir=cache)


@pytest.mark.parametrize("ending", [".jsonl", ".json.gz"])
def test_documents_are_the_clients_that_a_table_of_their_fields_is(
    ending: str, tmp_path: Path
) -> None:
    path = tmp_path / f"visits{ending}"
    content = exported(visits()).encode()
    path.write_bytes(gzip.compress(content) if ending.endswith("gz") else content)
    visits().to_parquet(tmp_path / "visits.parquet")
    first = opened(Documents(path=str(path), target="outcome"), tmp_path / "cache")
    again = opened(Documents(path=str(path), target="outcome"), tmp_path / "cache")
    table = opened(Parquet(path=str(tmp_path / "visits.parquet"), target="outcome"))
    assert first.meta.sha256 == again.meta.sha256 == table.meta.sha256
    for client in range(3):
        for one, two in (
            (again.train(client), table.train(client)),
            (again.held_out(client), table.held_out(client)),
        ):
            assert np.array_equal(one.x, two.x)
            assert np.array_equal(one.y, two.y)


def test_a_client_reads_its_own_lines(tmp_path: Path) -> None:
    path = tmp_path / "visits.jsonl"
    path.write_text(exported(visits().sort_values("clinic", kind="stable")))
    opened(Documents(path=str(path), target="outcome"), tmp_path / "cache")
    clients = opened(Documents(path=str(path), target="outcome"), tmp_path / "cache")
    found = clients.survey
    assert len(found.places) == 3  # lines that follow each other are one place
    size = path.stat().st_size
    assert found.places[0, 1] == 0
    assert found.places[-1, 2] == size
    # Lines of other clients may turn into anything: nobody reads them for this one.
    content = path.read_bytes()
    start, end = found.places[1, 1:].tolist()
    path.write_bytes(b"#" * start + content[start:end] + b"#" * (size - end))
    assert len(clients.train(1).y) == clients.sizes()[1]
    with pytest.raises(DataError, match="rows of client 'a' have changed since the run began"):
        clients.train(0)


def test_lists_and_fields_that_some_lack(tmp_path: Path) -> None:
    path = tmp_path / "visits.jsonl"
    lines = [
        {"clinic": "ab"[i % 2], "v": [i, 1.5], "n": i if i % 3 else None, "y": i % 2 + i % 5}
        for i in range(60)
    ]
    del lines[4]["n"]
    path.write_text("\n".join(map(json.dumps, lines)))
    data = {"path": str(path), "target": "y"}
    with pytest.raises(DataError, match=r"empty cells in: n \(21 rows\)"):
        opened(Documents(**data))
    both = opened(Documents(**data, missing="mean"))
    assert both.meta.input_shape == (3,)
    assert opened(Documents(**data, features=("v",))).meta.input_shape == (2,)
    lines[7]["v"] = [1]
    path.write_text("\n".join(map(json.dumps, lines)))
    with pytest.raises(DataError, match=r"column 'v' has values of shapes \(1,\) and \(2,\)"):
        opened(Documents(**data, features=("v",)))
    path.write_text(path.read_text() + "\n{broken")
    with pytest.raises(DataError, match=r"visits.jsonl, byte \d+: no JSON document"):
        opened(Documents(**data))
