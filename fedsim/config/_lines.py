"""Where every key of a TOML text stands: tomllib does not say, and a person needs the line."""

import re

__all__ = ["key_lines"]

_TOKEN = re.compile(
    r'"""(?:\\.|[^\\])*?"{3,5}'
    r"|'''.*?'{3,5}"
    r'|"(?:\\.|[^"\\\n])*"'
    r"|'[^'\n]*'"
    r"|\#[^\n]*"
    r"|[ \t\r]+"
    r"|[\[\]{},=\n]"
    r"|[^\s\[\]{},=\#]+",
    re.DOTALL,
)
_HEADER = re.compile(r"[ \t]*\[\[?(?P<name>(?:\"[^\"\n]*\"|'[^'\n]*'|[^\]\n\"'])*)\]\]?")
_WORD = re.compile(r"\"[^\"]*\"|'[^']*'|[^\s.\"']+")


def key_lines(text: str) -> dict[str, int]:
    r"""Return the line of every key and table of a valid TOML text, by dotted path.

    >>> key_lines("seed = 1\n[rounds]\ncount = 3\n")
    {'seed': 1, 'rounds': 2, 'rounds.count': 3}
    """
    lines: dict[str, int] = {}
    table, position, number = "", 0, 1
    while position < len(text):
        if header := _HEADER.match(text, position):
            table = _dotted(header["name"])
            lines.setdefault(table, number)
            end = text.find("\n", header.end())
            end = len(text) if end < 0 else end + 1
        else:
            end = _statement(text, position, number, table, lines)
        number += text.count("\n", position, end)
        position = end
    return lines


def _statement(text: str, start: int, number: int, table: str, lines: dict[str, int]) -> int:
    """Note the keys of one `key = value`, inline tables included; return where the next begins."""
    key: list[str] = []
    prefix, opened = table, list[str | None]()  # per bracket: the table around it, None in a list
    wants_key = True
    for token in _TOKEN.finditer(text, start):
        word = token[0]
        if word == "\n" and not opened:
            return token.end()
        if word == "=" and wants_key:
            prefix = _under(prefix, _dotted("".join(key)))
            lines.setdefault(prefix, number)
            key, wants_key = [], False
        elif word in "[{":
            opened.append(prefix if word == "{" else None)
            wants_key = word == "{"
        elif word in "]}" and opened:
            opened.pop()
            wants_key = False
        elif word == "," and opened and opened[-1] is not None:
            prefix, wants_key = opened[-1], True
        elif wants_key and not word.isspace() and not word.startswith("#"):
            key.append(word)
        number += word.count("\n")
    return len(text)


def _dotted(key: str) -> str:
    return ".".join(word.strip("\"'") for word in _WORD.findall(key))


def _under(table: str, key: str) -> str:
    return f"{table}.{key}" if table else key
