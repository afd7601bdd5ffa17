"""Personal data in free text: what is found on pii-text, and how fast, beside the bars.

    python benchmarks/anonymize_text.py [--data FOLDER] [--engine rules|presidio] [--repeat 5]

pii-text: 1,500 sentences with 2,863 labelled spans (Presidio's research data, Faker's names of many
countries). A label counts as found if 90 % of its characters are covered by spans of a right kind;
a span counts as right if it overlaps any label. Names are told apart by whether their words are in
the gazetteer. Speed, all kinds looked for: UTF-8 bytes over wall clock, the best of several passes,
as `fedsim anonymize run` reads a column of texts, here all sentences ten times over, in as many
processes as there are processors; in one process; and in one sentence by sentence. Of the single
ones processor time too, which another program on the machine distorts less. Exit code 1 where a bar
is missed.
"""

import argparse
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fedsim.anonymize.text.detect import Finder
from fedsim.anonymize.text.engines import engine
from fedsim.anonymize.text.known import KnownValues
from fedsim.anonymize.text.reading import read
from fedsim.anonymize.text.roles import FAMILY, GIVEN, role
from fedsim.anonymize.text.span import Span
from fedsim.environment import cpu_limit

ROOT = Path(__file__).resolve().parents[1]
KINDS = {
    "EMAIL_ADDRESS": ("email",),
    "IBAN_CODE": ("iban",),
    "US_SSN": ("us-ssn", "us-itin"),
    "IP_ADDRESS": ("ip",),
    "DOMAIN_NAME": ("url",),
    "CREDIT_CARD": ("card",),
    "PHONE_NUMBER": ("phone",),
    "US_DRIVER_LICENSE": ("licence",),
    "AGE": ("age", "age-over-89"),
    "DATE_TIME": ("date", "year"),
    "TITLE": ("title",),
    "PERSON": ("person",),
    "STREET_ADDRESS": ("address", "postcode"),
    "ZIP_CODE": ("postcode",),
    "GPE": ("place",),
    "ORGANIZATION": ("organization",),
    "NRP": (),
}
RECALL = {
    "EMAIL_ADDRESS": 0.99,
    "IBAN_CODE": 0.99,
    "US_SSN": 0.99,
    "IP_ADDRESS": 0.99,
    "DOMAIN_NAME": 0.99,
    "CREDIT_CARD": 0.99,
    "PHONE_NUMBER": 0.95,
}
PRECISION, KNOWN, MB_PER_S = 0.98, 0.99, 1.0

Sentence = dict[str, Any]


def covered(spans: list[Span], label: dict[str, Any]) -> bool:
    """Whether 90 % of a label's characters are inside of spans."""
    start, stop = label["start_position"], label["end_position"]
    inside = {i for s in spans for i in range(max(start, s.start), min(stop, s.stop))}
    return len(inside) >= 0.9 * (stop - start)


def is_listed(name: str) -> bool:
    """Whether every word of a name, initials aside, is in the gazetteer."""
    words = [word.strip(".,").lower() for word in name.split()]
    return all(role(word) & (GIVEN | FAMILY) for word in words if len(word) > 1)


def recalls(sentences: list[Sentence], found: list[list[Span]]) -> dict[str, tuple[int, int]]:
    """Labels found and all, by type; names in the gazetteer and out of it are two types more."""
    hits: Counter[str] = Counter()
    all_of: Counter[str] = Counter()
    for sentence, spans in zip(sentences, found, strict=True):
        for label in sentence["spans"]:
            name = label["entity_type"]
            right = [span for span in spans if span.kind in KINDS.get(name, ())]
            types = [name]
            if name == "PERSON":
                listed = is_listed(label["entity_value"])
                types.append("  names in the gazetteer" if listed else "  names out of it")
            for kind in types:
                all_of[kind] += 1
                hits[kind] += covered(right, label)
    return {kind: (hits[kind], count) for kind, count in all_of.items()}


def precisions(sentences: list[Sentence], found: list[list[Span]]) -> dict[str, tuple[int, int]]:
    """Spans that overlap a label and all, by kind."""
    hits: Counter[str] = Counter()
    all_of: Counter[str] = Counter()
    for sentence, spans in zip(sentences, found, strict=True):
        labels = [(label["start_position"], label["end_position"]) for label in sentence["spans"]]
        for span in spans:
            all_of[span.kind] += 1
            hits[span.kind] += any(a < span.stop and span.start < b for a, b in labels)
    return {kind: (hits[kind], count) for kind, count in all_of.items()}


def known_recall(sentences: list[Sentence]) -> tuple[int, int]:
    """Names, phones and addresses, given in capitals as the record's columns, found in its text."""
    find, hits, count = Finder(["email"]), 0, 0
    for sentence in sentences:
        wanted = [
            label
            for label in sentence["spans"]
            if label["entity_type"] in ("PERSON", "PHONE_NUMBER", "STREET_ADDRESS")
        ]
        values = KnownValues.of([label["entity_value"].upper() for label in wanted])
        spans = find(sentence["full_text"], values)
        hits += sum(covered(spans, label) for label in wanted)
        count += len(wanted)
    return hits, count


def rates(
    read: Callable[[list[str]], object], texts: list[str], repeat: int
) -> tuple[float, float]:
    """MB/s by the wall clock and by processor time, the best of several passes."""
    size, walls, cpus = sum(len(text.encode()) for text in texts), [], []
    for _ in range(repeat):
        wall, cpu = time.perf_counter(), time.process_time()
        read(texts)
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
    return size / min(walls) / 1e6, size / min(cpus) / 1e6


def verdict(value: float, bar: float | None) -> str:
    """Return what is printed beside a value with a bar."""
    return "" if bar is None else f">= {bar:g} {'PASS' if value >= bar else 'FAIL'}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    data = os.environ.get("FEDSIM_DATA", ROOT.parent / "shared" / "data")
    parser.add_argument("--data", type=Path, default=Path(data))
    parser.add_argument("--engine", choices=("rules", "presidio"), default="rules")
    parser.add_argument("--repeat", type=int, default=5)
    options = parser.parse_args()
    path = options.data / "pii-text" / "synth_dataset_v2.json"
    if not path.is_file():
        print(f"{path} is missing; name the folder of data sets with --data", file=sys.stderr)
        return 3
    sentences = json.loads(path.read_text(encoding="utf-8"))
    texts = [sentence["full_text"] for sentence in sentences]
    find = engine(options.engine)
    found = [find(text) for text in texts]
    lines: list[tuple[str, float, str, float | None]] = []
    for kind, (hits, count) in recalls(sentences, found).items():
        lines.append((f"recall {kind}", hits / count, f"{hits}/{count}", RECALL.get(kind)))
    right = precisions(sentences, found)
    for kind, (hits, count) in sorted(right.items()):
        lines.append((f"precision {kind}", hits / count, f"{hits}/{count}", None))
    hits, count = (sum(column) for column in zip(*right.values(), strict=True))
    lines.append(("precision, all spans", hits / count, f"{hits}/{count}", PRECISION))
    hits, count = known_recall(sentences)
    lines.append(("known values", hits / count, f"{hits}/{count}", KNOWN))
    column, processes = texts * 10, cpu_limit()
    wall, _ = rates(
        lambda texts: list(read(texts, [()] * len(texts), options.engine, None, processes)),
        column,
        options.repeat,
    )
    lines.append((f"MB/s, {processes} processes, wall clock", wall, "", MB_PER_S))
    wall, cpu = rates(lambda texts: list(find.find_all(texts)), texts, options.repeat)
    lines.append(("MB/s, one process, wall clock", wall, "", None))
    lines.append(("MB/s, one process, processor time", cpu, "", None))
    wall, cpu = rates(lambda texts: list(map(find, texts)), texts, options.repeat)
    lines.append(("MB/s one by one, wall clock", wall, "", None))
    lines.append(("MB/s one by one, processor time", cpu, "", None))
    for name, value, counts, bar in lines:
        print(f"{name:36} {value:6.3f} {counts:>10} {verdict(value, bar)}".rstrip())
    return int(any(bar is not None and value < bar for _, value, _, bar in lines))


if __name__ == "__main__":
    sys.exit(main())
