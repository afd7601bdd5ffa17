"""Presidio's pattern recognizers behind the same interface: the optional extra `presidio`.

No language model is loaded: spaCy only cuts the text into words (`spacy.blank("en")`), so names of
people and places, which Presidio leaves to a model, are not found. What Presidio finds has this
package's kinds; entities that have none here are `code`.
"""

from collections.abc import Collection, Iterable, Iterator
from functools import cache
from typing import Any

from fedsim.anonymize.text.detect import KINDS, check_kinds, resolve
from fedsim.anonymize.text.known import KnownValues
from fedsim.anonymize.text.span import Span, page_of
from fedsim.errors import SetupError

__all__ = ["PresidioFinder", "kind_of"]

_KINDS = {
    "EMAIL_ADDRESS": "email", "URL": "url", "IP_ADDRESS": "ip", "MAC_ADDRESS": "device",
    "IBAN_CODE": "iban", "CREDIT_CARD": "card", "CRYPTO": "account", "US_BANK_NUMBER": "account",
    "PHONE_NUMBER": "phone", "DATE_TIME": "date", "AGE": "age", "PERSON": "person",
    "LOCATION": "place", "GPE": "place", "ORGANIZATION": "organization", "US_SSN": "us-ssn",
    "US_ITIN": "us-itin", "UK_NINO": "uk-nino", "UK_NHS": "uk-nhs", "ES_NIF": "es-dni",
    "ES_NIE": "es-nie", "IT_FISCAL_CODE": "it-codice-fiscale", "PL_PESEL": "pl-pesel",
    "IN_AADHAAR": "in-aadhaar", "DE_TAX_ID": "de-tax-id", "US_DRIVER_LICENSE": "licence",
    "IT_DRIVER_LICENSE": "licence", "MEDICAL_LICENSE": "licence", "US_PASSPORT": "licence",
    "UK_PASSPORT": "licence", "IT_PASSPORT": "licence", "IN_PASSPORT": "licence",
    "IN_VEHICLE_REGISTRATION": "plate", "US_MBI": "health-plan",
}  # fmt: skip


def kind_of(entity: str) -> str:
    """Return this package's kind of an entity of Presidio.

    >>> kind_of("EMAIL_ADDRESS"), kind_of("SG_NRIC_FIN")
    ('email', 'code')
    """
    return _KINDS.get(entity, "code")


class PresidioFinder:
    """Finds what Presidio's recognizers find, of some kinds, and values that are known."""

    def __init__(self, kinds: Collection[str] | None = None) -> None:
        """Raise `SetupError` where Presidio is not installed, `ConfigError` for a wrong kind."""
        self.kinds = frozenset(KINDS if kinds is None else check_kinds(kinds))
        self._analyzer = _analyzer()

    def __call__(self, text: str, known: KnownValues | None = None) -> list[Span]:
        """Return the spans of a text in order; none overlaps another."""
        spans = [span for span in self._found(text) if span.kind in self.kinds]
        if known:
            spans += known.find(page_of(text, frozenset()))
        return resolve(spans)

    def find_all(
        self, texts: Iterable[str], known: Iterable[KnownValues | None] | None = None
    ) -> Iterator[list[Span]]:
        """Yield the spans of each text; `known`: for each, values that are found as well."""
        if known is None:
            return map(self, texts)
        return (self(text, own) for text, own in zip(texts, known, strict=True))

    def _found(self, text: str) -> Iterator[Span]:
        for result in self._analyzer.analyze(text=text, language="en"):
            yield Span(result.start, result.end, kind_of(result.entity_type), float(result.score))


@cache
def _analyzer() -> Any:
    try:
        import presidio_analyzer
    except ImportError as error:
        raise SetupError(
            "engine = 'presidio' needs Presidio, which is not installed: "
            "pip install 'fedsim[presidio]'. Without it: engine = 'rules'"
        ) from error
    return presidio_analyzer.AnalyzerEngine(nlp_engine=_words_only(), supported_languages=["en"])


def _words_only() -> Any:
    """Return an engine that cuts texts into words and knows nothing of their meaning."""
    import spacy
    from presidio_analyzer.nlp_engine import NlpArtifacts, NlpEngine

    blank = spacy.blank("en")

    class WordsOnly(NlpEngine):  # type: ignore[misc, unused-ignore] # Presidio has no types
        """spaCy's tokenizer alone, so that no model has to be downloaded."""

        def load(self) -> None:
            """Load nothing."""

        def is_loaded(self) -> bool:
            """Say yes: there is nothing to load."""
            return True

        def process_text(self, text: str, language: str) -> Any:
            """Cut a text into words."""
            words = blank(text)
            return NlpArtifacts(
                [], words, [word.idx for word in words], [word.lower_ for word in words], self, "en"
            )

        def process_batch(
            self, texts: Any, language: str, batch_size: int = 1, n_process: int = 1, **_: Any
        ) -> Iterator[tuple[str, Any]]:
            """Cut texts into words, one by one."""
            return ((text, self.process_text(text, language)) for text in texts)

        def is_stopword(self, word: str, language: str) -> bool:
            """Say whether a word is one of spaCy's stop words."""
            return bool(blank.vocab[word].is_stop)

        def is_punct(self, word: str, language: str) -> bool:
            """Say whether a word is punctuation."""
            return bool(blank.vocab[word].is_punct)

        def get_supported_entities(self) -> list[str]:
            """Name the entities that a model would find: none."""
            return []

        def get_supported_languages(self) -> list[str]:
            """Name English."""
            return ["en"]

    return WordsOnly()
