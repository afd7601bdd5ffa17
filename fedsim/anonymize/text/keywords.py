"""Where words occur: a fast search for many rare words, which the rules by context start from."""

from collections.abc import Collection, Iterable, Iterator

from fedsim.anonymize.text.span import Page

__all__ = ["Endings", "Labels", "ends_with", "phrases"]


class Labels:
    """Words and phrases in lower case, to be looked for on many pages.

    Most pages have none of them, which a look at the page's set of words tells.
    """

    __slots__ = ("_by_head", "heads")

    def __init__(self, phrases: Collection[str]) -> None:
        """Sort the phrases by their first word."""
        heads: dict[str, list[str]] = {}
        for phrase in phrases:
            heads.setdefault(_head(phrase), []).append(phrase)
        self._by_head = heads
        #: the words to ask a page for
        self.heads = frozenset(heads)

    def on(self, page: Page) -> Iterable[tuple[int, int]]:
        """Return where a phrase begins and ends; phrases stand by themselves.

        >>> from fedsim.anonymize.text.span import page_of
        >>> labels = Labels(["zip"])
        >>> list(labels.on(page_of("the zip is 1234, unzip it", labels.heads)))
        [(4, 7)]
        """
        if self.heads.isdisjoint(page.words):
            return ()
        found: list[tuple[int, int]] = []
        for head in self.heads & page.words:
            for phrase in self._by_head[head]:
                if phrase in page.lower:
                    found += _places(page.lower, phrase)
        return found


def _head(phrase: str) -> str:
    """Return the first run of letters of a phrase."""
    letters = "".join(c if c.isalpha() else " " for c in phrase).split()
    return letters[0] if letters else ""


def _places(lower: str, phrase: str) -> Iterator[tuple[int, int]]:
    at = lower.find(phrase)
    while at >= 0:
        stop = at + len(phrase)
        if not (at and lower[at - 1].isalnum()) and not lower[stop : stop + 1].isalpha():
            yield at, stop
        at = lower.find(phrase, stop)


class Endings:
    """Endings to look for in many texts; most texts have none, as their last two letters tell."""

    __slots__ = ("_by_tail", "_short")

    def __init__(self, endings: Collection[str]) -> None:
        """Sort the endings by their own last two letters."""
        self._short = tuple(ending for ending in endings if len(ending) < 2)
        self._by_tail = {
            tail: tuple(ending for ending in endings if ending.endswith(tail)) + self._short
            for tail in {ending[-2:] for ending in endings if len(ending) > 1}
        }

    def of(self, text: str) -> tuple[str, ...]:
        """Return the endings of a text.

        >>> Endings(["ova", "va", "sen"]).of("petrova")
        ('ova', 'va')
        """
        near = self._by_tail.get(text[-2:], self._short)
        return tuple([end for end in near if text.endswith(end)]) if text.endswith(near) else ()


def ends_with(before: str, cues: Endings) -> bool:
    """Say whether a text in lower case ends with one of some words or phrases, whole.

    >>> ends_with("my name is", Endings(["name is"])), ends_with("i rename", Endings(["name"]))
    (True, False)
    """
    return any(not before[: -len(cue)][-1:].isalnum() for cue in cues.of(before))


def phrases(text: str) -> tuple[str, ...]:
    """Return the phrases of a list that is written with bars between them.

    >>> phrases("work for | works for")
    ('work for', 'works for')
    """
    return tuple(" ".join(phrase.split()) for phrase in text.split("|"))
