"""Presidio as the engine: its entities' names, and the real one where it is installed."""

import importlib.util
import sys
from types import ModuleType, SimpleNamespace

import pytest

from fedsim.anonymize.text import presidio
from fedsim.anonymize.text.detect import KINDS
from fedsim.anonymize.text.engines import engine
from fedsim.anonymize.text.known import KnownValues
from fedsim.errors import ConfigError, SetupError

IS_INSTALLED = importlib.util.find_spec("presidio_analyzer") is not None


@pytest.fixture(autouse=True)
def _no_engine_is_kept():
    presidio._analyzer.cache_clear()
    yield
    presidio._analyzer.cache_clear()


def test_its_absence_is_said_with_the_way_out(monkeypatch):
    monkeypatch.setitem(sys.modules, "presidio_analyzer", None)
    with pytest.raises(SetupError, match=r"fedsim\[presidio\].*engine = 'rules'"):
        engine("presidio")


@pytest.fixture
def fake(monkeypatch):
    """A stand-in for the library, as small as what is used of it."""
    results: list[SimpleNamespace] = []

    class NlpEngine:
        pass

    analyzer, nlp, spacy = (ModuleType(n) for n in ("presidio_analyzer", "nlp_engine", "spacy"))
    analyzer.AnalyzerEngine = lambda **_: SimpleNamespace(analyze=lambda text, language: results)
    nlp.NlpArtifacts, nlp.NlpEngine, spacy.blank = tuple, NlpEngine, lambda language: None
    monkeypatch.setitem(sys.modules, "presidio_analyzer", analyzer)
    monkeypatch.setitem(sys.modules, "presidio_analyzer.nlp_engine", nlp)
    monkeypatch.setitem(sys.modules, "spacy", spacy)
    NlpEngine.__abstractmethods__ = frozenset()
    return results


def test_entities_become_kinds(fake):
    names = ["EMAIL_ADDRESS", "US_SSN", "SG_NRIC_FIN"]
    fake += [
        SimpleNamespace(entity_type=name, start=10 * i, end=10 * i + 5, score=0.5)
        for i, name in enumerate(names)
    ]
    spans = engine("presidio")("x" * 40)
    assert [(s.kind, s.start, s.stop) for s in spans] == [
        ("email", 0, 5),
        ("us-ssn", 10, 15),
        ("code", 20, 25),
    ]
    assert [s.kind for s in engine("presidio", ["us-ssn"])("x" * 40)] == ["us-ssn"]


def test_known_values_are_found_beside_it(fake):
    assert [s.kind for s in engine("presidio")("by Quux", KnownValues.of(["Quux"]))] == ["known"]


def test_kinds_are_checked(fake):
    with pytest.raises(ConfigError, match="emial"):
        engine("presidio", ["emial"])


def test_all_kinds_of_the_mapping_exist():
    assert set(presidio._KINDS.values()) <= set(KINDS)


@pytest.mark.skipif(not IS_INSTALLED, reason="presidio-analyzer is not installed")
def test_the_real_one_finds_what_has_a_pattern():
    text = "Mail ann@example.org, card 4111111111111111, from 192.168.0.1."
    found = {(s.kind, text[s.start : s.stop]) for s in engine("presidio")(text)}
    assert {
        ("email", "ann@example.org"),
        ("card", "4111111111111111"),
        ("ip", "192.168.0.1"),
    } <= found
