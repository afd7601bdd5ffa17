import json
from importlib import resources

import jsonschema
import pytest

from fedsim.anonymize.pipeline import Order, anonymize
from fedsim.anonymize.protection import Protection
from fedsim.errors import ConfigError, DataError, MissingDataError, SetupError
from fedsim.report.anonymization import as_html, check_paths, read, write


@pytest.fixture
def content(source, schema):
    protection = Protection(5, "entropy", 1.5, t=0.7)
    return anonymize(
        source, schema, source.parent / "out.csv", Order(protection, how="full-domain")
    )


def test_the_data_are_what_the_published_schema_says(content):
    text = (resources.files("fedsim") / "report" / "anonymization.schema.json").read_text()
    jsonschema.Draft202012Validator.check_schema(json.loads(text))
    jsonschema.validate(content, json.loads(text))


def test_the_page_says_what_was_done_and_what_it_is_not(content):
    page = as_html(content)
    for words in (
        "k = 5, entropy l = 1.5, t = 0.7; recoding: full-domain",
        "not differential privacy",
        "article 4(5) and recital 26",
        "leaves covered - 1",
        "(R) any other unique number",
        content["pin"]["released"],
    ):
        assert words in page
    assert "<script" not in page
    assert "http" not in page.replace("http-equiv", "")
    assert "is anonymous" not in page
    assert page == as_html(json.loads(json.dumps(content, sort_keys=True)))


def test_names_of_columns_cannot_become_markup(content):
    content["columns"][0]["name"] = "<img src=x onerror=alert(1)>"
    assert "<img" not in as_html(content)


def test_counts_below_k_are_not_on_the_page(content):
    content["suppressed"] = {"rows": None, "share": None}
    content["utility"]["discernibility"] = None
    assert as_html(content).count("fewer than k") == 2


def test_a_report_is_written_and_read_back(content, tmp_path):
    page, data = write(content, tmp_path / "r.html")
    assert read(data) == content
    assert page.read_text() == as_html(content)
    with pytest.raises(MissingDataError):
        read(tmp_path / "none.json")
    for text in ("{", "[]", "{}", '{"schema_version": 2}'):
        data.write_text(text)
        with pytest.raises(DataError, match="no report"):
            read(data)


def test_a_report_replaces_nothing_else(tmp_path):
    for report, others in (
        ("r.json", ()),
        ("out.html", ("out.json",)),
        ("a.html", ("a.html",)),
    ):
        with pytest.raises(ConfigError, match="--report"):
            check_paths(tmp_path / report, *[tmp_path / other for other in others])
    with pytest.raises(SetupError):
        check_paths(tmp_path / "nowhere" / "r.html")
