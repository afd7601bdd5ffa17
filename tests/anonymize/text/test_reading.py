"""Texts read in several processes: the same spans, in the same order."""

import pytest

from fedsim.anonymize.text import reading
from fedsim.anonymize.text.detect import KINDS, Finder
from fedsim.anonymize.text.known import KnownValues
from fedsim.errors import ConfigError

TEXTS = [
    f"Case {i}: mail user{i}@example.org, phone 0171 {i:07}, asked for quillon{i} again."
    for i in range(60)
]
RECORDS = [(("name", f"Quillon{i}"), ("city", "")) if i % 3 else () for i in range(60)]


@pytest.fixture
def ended():
    """No process of a test is left."""
    yield
    from joblib.externals.loky import get_reusable_executor

    get_reusable_executor().shutdown(wait=True)


@pytest.mark.parametrize("slices", [7, 100])
def test_processes_change_nothing(monkeypatch, slices, ended):
    monkeypatch.setattr(reading, "_SLICE", slices)
    monkeypatch.setattr(reading, "_WORTH", 1)
    found = list(reading.read(TEXTS, RECORDS, "rules", None, processes=2))
    find = Finder()
    assert found == [
        find(text, KnownValues.of_columns({"name": [dict(record)["name"]]}) if record else None)
        for text, record in zip(TEXTS, RECORDS, strict=True)
    ]
    assert found == list(reading.read(TEXTS, RECORDS, "rules", None))
    assert "name" in {span.kind for spans in found for span in spans}


def test_kinds_are_refused_before_any_process_starts():
    with pytest.raises(ConfigError, match="'mail'"):
        reading.read(TEXTS, RECORDS, "rules", (*KINDS, "mail"), processes=2)
