"""The line of a key, found in any TOML that tomllib accepts."""

import tomllib

import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st

from fedsim.config._lines import key_lines

HARD = '''# seed = 1
name = """
[rounds]
count = 1
""" # [x]
"quoted key" = 0
model . args = { x = 1, "y" = { z = [1,
  2, {w = 3}] }, q = 'a,b={' }
list = [
  "]", # ]
  { inside = 1 },
]
[ rounds . "x" ]
count = 0
\tlr=1e-3
[[many]]
text = "a\\"=b"
'''


def test_keys_stand_where_they_stand_whatever_is_around_them():
    assert key_lines(HARD) == {
        "name": 2,
        "quoted key": 6,
        "model.args": 7,
        "model.args.x": 7,
        "model.args.y": 7,
        "model.args.y.z": 7,
        "model.args.y.z.w": 8,
        "model.args.q": 8,
        "list": 9,
        "list.inside": 11,
        "rounds.x": 13,
        "rounds.x.count": 14,
        "rounds.x.lr": 15,
        "many": 16,
        "many.text": 17,
    }
    tomllib.loads(HARD)  # or the test would prove nothing


def paths(table, prefix=""):
    for key, value in table.items():
        yield prefix + key, value
        if isinstance(value, dict):
            yield from paths(value, f"{prefix}{key}.")


keys = st.from_regex(r"[A-Za-z0-9_-]{1,6}", fullmatch=True)
texts = st.text(st.sampled_from("ab=[]{}#'\"\\\n\r\t, "), max_size=12)
leaves = st.one_of(st.integers(), st.booleans(), texts, st.lists(texts, max_size=3))
tables = st.recursive(
    st.dictionaries(keys, leaves, max_size=4), lambda inner: st.dictionaries(keys, inner)
)


@given(tables, st.booleans())
@pytest.mark.slow
def test_every_key_of_a_table_is_found_on_a_line_that_has_it(table, is_multiline):
    text = tomli_w.dumps(table, multiline_strings=is_multiline)
    content, lines = tomllib.loads(text), key_lines(text)
    for path, value in paths(content):
        if isinstance(value, dict) and path not in lines:
            assert any(key.startswith(f"{path}.") for key in lines), (path, text)
        else:
            line = text.split("\n")[lines[path] - 1]
            assert path.rpartition(".")[2] in line, (path, text)


@given(st.text(st.sampled_from("a=[]{}#'\"\\\n, .1"), max_size=40))
def test_it_finds_no_key_that_is_not_there(text):
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return
    top = {path.partition(".")[0] for path in key_lines(text)}
    assert top == {key.partition(".")[0].strip("\"'") for key in content}
