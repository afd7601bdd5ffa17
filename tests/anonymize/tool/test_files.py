import io

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedsim.anonymize import files
from fedsim.anonymize.files import as_frame, chunks, open_table, writer
from fedsim.errors import ConfigError, DataError, MissingDataError, SetupError


def given_text(tmp_path, text, name="t.csv"):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def rows_of(path, **options):
    table = open_table(path, **options)
    return [row for batch in chunks(table) for row in zip(*batch.to_pydict().values(), strict=True)]


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_the_separator_is_the_one_that_parts_the_header(tmp_path, separator):
    lines = ["a b,c".replace(",", separator), f'"x{separator}y"{separator}2']
    path = given_text(tmp_path, "\n".join(lines))
    assert open_table(path).columns == ("a b", "c")
    assert rows_of(path) == [(f"x{separator}y", "2")]


def test_a_byte_order_mark_quotes_line_ends_and_lines_in_cells(tmp_path):
    path = given_text(tmp_path, '\ufeffa,b\r\n"one\ntwo","say ""hi"""\r\n3,\r\n')
    assert open_table(path).columns == ("a", "b")
    assert rows_of(path) == [("one\ntwo", 'say "hi"'), ("3", "")]


def test_names_are_in_nfc_and_without_blanks(tmp_path):
    assert open_table(given_text(tmp_path, "Stra\u00dfe, Cafe\u0301\n")).columns == (
        "Straße",
        "Café",
    )


def test_cells_of_a_frame_are_in_nfc_and_missing_where_they_are_blank_or_said_to_be(tmp_path):
    table = open_table(given_text(tmp_path, "a\nCafe\u0301\n ? \nx\n  \n"))
    (batch,) = chunks(table)
    assert as_frame(batch, ["?"])["a"].fillna("-").tolist() == ["Café", "-", "x", "-"]


def test_a_blank_line_of_a_table_of_one_column_is_a_row(tmp_path):
    assert rows_of(given_text(tmp_path, "a\n1\n\n3\n")) == [("1",), ("",), ("3",)]
    assert rows_of(given_text(tmp_path, "a,b\n1,2\n\n3,4\n\n")) == [("1", "2"), ("3", "4")]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a,b\n1,2\nsecret\n", "row 3 has 1 cells"),
        ("a,b\n1,2\n3,4,secret\n", "row 3 has 3 cells"),
        ('a,b\n1,2\n"secret,4\n', "quote"),
        (b"a,b\n1,secr\xe9t\n", "not text in utf-8"),
        (b"a\xff,b\n1,2\n", "not text in utf-8"),
        ("", "is empty"),
        (" \n\n", "is empty"),
        ("a,,b\n1,2,3\n", "column 2 of 3 has no name"),
        ("a,b, a\n1,2,3\n", "named 'a'"),
        ("Caf\u00e9,Cafe\u0301\n1,2\n", "named 'Café'"),
        ("a,b\n1," + "secret" * 3_000_000 + "\n", "longer than 1 MiB"),
    ],
    ids=[
        "too few", "too many", "open quote", "encoding", "encoding of header", "nothing", "blank",
        "no name", "twice", "twice in two forms", "huge cell",
    ],
)  # fmt: skip
def test_what_is_no_table_is_refused_without_showing_a_cell(tmp_path, text, reason):
    with pytest.raises(DataError) as caught:
        rows_of(given_text(tmp_path, text))
    assert reason in str(caught.value)
    assert "secr" not in str(caught.value)


def test_other_encodings_are_read_when_they_are_named(tmp_path):
    path = given_text(tmp_path, "größe,b\nä,2\n".encode("latin-1"))
    assert rows_of(path, encoding="latin-1") == [("ä", "2")]
    assert open_table(path, encoding="latin-1").columns == ("größe", "b")
    wide = given_text(tmp_path, "a,b\nä,2\n".encode("utf-16"))
    assert rows_of(wide, encoding="utf-16") == [("ä", "2")]
    with pytest.raises(ConfigError, match="--encoding"):
        open_table(path, encoding="klingon")


def test_other_files_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="FILE"):
        open_table(tmp_path / "t.xlsx")
    with pytest.raises(MissingDataError):
        open_table(tmp_path / "t.csv")
    with pytest.raises(DataError, match="no Parquet file"):
        open_table(given_text(tmp_path, "a,b\n", "t.parquet"))


def test_parquet_keeps_types_and_whole_numbers_beside_missing_ones(tmp_path):
    path = tmp_path / "t.parquet"
    big = 2**53 + 1
    table = pa.table({"id": [big, None], "day": pa.array([0, 1], pa.date32()), "x": [0.5, None]})
    pq.write_table(table, path)
    (batch,) = chunks(open_table(path))
    frame = as_frame(batch)
    assert frame["id"][0] == big
    assert str(frame["day"].dt.date[1]) == "1970-01-02"
    assert frame["x"].isna().tolist() == [False, True]


def test_nested_columns_are_refused_and_dictionaries_are_read(tmp_path):
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"a": [[1], [2]]}), path)
    with pytest.raises(ConfigError, match="one cell for each row"):
        open_table(path)
    pq.write_table(pa.table({"a": pa.array(["x", "y", "x"]).dictionary_encode()}), path)
    assert rows_of(path) == [("x",), ("y",), ("x",)]


def test_a_damaged_parquet_file_is_said_to_be(tmp_path):
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"a": list(map(str, range(100_000)))}), path)
    content = bytearray(path.read_bytes())
    content[1000:60_000] = bytes(59_000)
    path.write_bytes(content)
    with pytest.raises(DataError, match="damaged"):
        rows_of(path)


@given(
    st.lists(
        st.tuples(*[st.text(st.characters(exclude_categories=["Cs"]), max_size=6)] * 2), min_size=1
    )
)
def test_csv_that_is_written_is_read_back(tmp_path_factory, rows):
    # A line end is written as it is, but a table cannot tell a blank line from a row without cells.
    rows = [(f"x{one}", two) for one, two in rows]
    file = io.BytesIO()
    batch = pa.RecordBatch.from_pydict({"a": [r[0] for r in rows], "b": [r[1] for r in rows]})
    put = writer(file, batch.schema, kind="csv")
    put(batch)
    put(None)
    path = tmp_path_factory.mktemp("csv") / "t.csv"
    path.write_bytes(file.getvalue())
    assert rows_of(path) == rows


def test_progress_ends_at_the_end(tmp_path):
    path = tmp_path / "t.csv"
    pd.DataFrame({"a": range(1_000_000)}).to_csv(path, index=False)
    seen = []
    count = sum(batch.num_rows for batch in chunks(open_table(path), advance=seen.append))
    assert count == 1_000_000
    assert len(seen) > 1
    assert seen == sorted(seen)
    assert seen[-1] == 1.0


def test_where_output_may_go(tmp_path):
    source = given_text(tmp_path, "a\n1\n")
    link = tmp_path / "link.csv"
    link.symlink_to(source)
    for output in (source, link):
        with pytest.raises(ConfigError, match="another file than the input"):
            files.refuse_same_file(source, output)
    with pytest.raises(SetupError, match="no folder"):
        files.refuse_same_file(source, tmp_path / "nowhere" / "o.csv")
    (tmp_path / "d.csv").mkdir()
    with pytest.raises(ConfigError, match="not a folder"):
        files.refuse_same_file(source, tmp_path / "d.csv")
