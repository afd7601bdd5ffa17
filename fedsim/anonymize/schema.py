"""What each column of a table is, and what becomes of it: a schema, confirmed by a person.

confirmed = true               # by a person; a draft that `fedsim anonymize inspect` made is not
subject = "patient"            # whose record a row is: dates of one are shifted alike
empty = ["?"]                  # what stands for an empty cell in the file, beside nothing

[columns.name]
role = "direct"                # names somebody: treated (removed unless something else is said)

[columns.age]
role = "quasi"                 # others know it too: generalized until it is no longer rare
hierarchy = { name = "intervals", min = 0, max = 120, widths = [5, 10, 20] }

[columns.diagnosis]
role = "sensitive"             # what nobody should learn of a person: left as it is

[columns.ward]
role = "insensitive"           # neither: left as it is, or treated
"""

import hashlib
import json
import tomllib
import unicodedata
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

from fedsim import registry
from fedsim.anonymize.hierarchies import Hierarchy
from fedsim.anonymize.hierarchies._tree import with_missing
from fedsim.errors import ConfigError, MissingDataError, Problem
from fedsim.fields import read_table, read_value

__all__ = ["Column", "Role", "Schema", "read_schema", "schema_from_dict"]

Role = Literal["direct", "quasi", "sensitive", "insensitive"]
Distance = Literal["equal", "ordered", "hierarchical"]

_KEYS = {"columns", "confirmed", "empty", "subject"}
_PARTS = {"hierarchy": "hierarchies", "treatment": "treatments"}
_PLAIN = {"role": Role, "missing": Literal["refuse", "own"], "distance": Distance}


@dataclass(frozen=True, slots=True)
class Column:
    """One column: its role, its public domain, and what is done to its cells.

    `hierarchy`: a part of that group, or None; quasi-identifiers have one, other columns may, where
    a model is to train on them. `treatment`: a part of that group, or None: as it is; of direct
    identifiers: removed. `missing`: empty cells of a column with a hierarchy are refused, or are a
    value of their own. `distance`: of sensitive columns, for t-closeness: between any two values
    alike, by their order, or by the hierarchy.
    """

    role: Role
    hierarchy: Any = None
    treatment: Any = None
    missing: Literal["refuse", "own"] = "refuse"
    distance: Distance = "equal"

    def tree(self) -> Hierarchy:
        """Return the hierarchy as a tree. Raises `ValueError` for a column that has none."""
        if self.hierarchy is None:
            raise ValueError("a column without a hierarchy")
        tree: Hierarchy = self.hierarchy.build()
        return with_missing(tree) if self.missing == "own" else tree


@dataclass(frozen=True)
class Schema:
    """All columns of a table, by name, in its order; `subject` names the column of whose rows.

    `empty`: texts that stand for an empty cell in a file. `is_confirmed`: a person has said that
    the roles are right; it is no part of what the schema says, so not of its fingerprint.
    """

    columns: Mapping[str, Column]
    subject: str | None = None
    empty: tuple[str, ...] = ()
    is_confirmed: bool = True

    def having(self, *roles: Role) -> tuple[str, ...]:
        """Return the names of the columns that have one of some roles."""
        return tuple(name for name, column in self.columns.items() if column.role in roles)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, as a schema file has them; taxonomies with their content."""
        columns = {name: _column_to_dict(column) for name, column in self.columns.items()}
        plain: dict[str, Any] = {"subject": self.subject} if self.subject else {}
        return plain | ({"empty": list(self.empty)} if self.empty else {}) | {"columns": columns}

    def fingerprint(self) -> str:
        """Return SHA-256 of everything the schema says."""
        text = json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()


def read_schema(path: Path) -> Schema:
    """Read a schema file. Raises `ConfigError` with every problem, `MissingDataError`."""
    try:
        # Names and values are compared with those of tables, which are read in the same form.
        content = tomllib.loads(unicodedata.normalize("NFC", path.read_text(encoding="utf-8")))
    except OSError as error:
        raise MissingDataError(f"cannot read the schema {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError([Problem("schema", str(path), f"a TOML file: {error}")]) from error
    return schema_from_dict(content, path.parent)


def schema_from_dict(content: Mapping[str, Any], folder: Path = Path()) -> Schema:
    """Build a schema from plain data; taxonomy files are looked for in `folder`.

    Raises `ConfigError` with every problem, `MissingDataError` for a taxonomy that is not there.
    """
    problems: list[Problem] = []
    for key in content.keys() - _KEYS:
        accepted = f"no such key; there are: {', '.join(sorted(_KEYS))}"
        problems.append(
            Problem(str(key), content[key], accepted, registry.suggest(str(key), _KEYS))
        )
    is_confirmed = read_value("confirmed", bool, content.get("confirmed", True), problems)
    empty = read_value("empty", tuple[str, ...], content.get("empty", ()), problems)
    given = content.get("columns", {})
    if not isinstance(given, Mapping) or not given:
        problems.append(Problem("columns", given, "a table [columns.NAME] for each column"))
        raise ConfigError(problems)
    columns = {name: _column(f"columns.{name}", table, problems) for name, table in given.items()}
    subject = content.get("subject")
    if subject is not None and subject not in columns:
        hint = registry.suggest(str(subject), columns)
        problems.append(Problem("subject", subject, f"a column: {', '.join(columns)}", hint))
    if problems:
        raise ConfigError(sorted(problems, key=lambda problem: problem.path))
    made = {name: _with_files(column, folder) for name, column in columns.items() if column}
    return Schema(made, subject, empty, is_confirmed)


def _column(path: str, given: Any, problems: list[Problem]) -> Column | None:
    if not isinstance(given, Mapping):
        problems.append(Problem(path, given, 'a table with a role, such as role = "quasi"'))
        return None
    before = len(problems)
    values: dict[str, Any] = {}
    known = [field.name for field in fields(Column)]
    for key, value in given.items():
        where = f"{path}.{key}"
        if key in _PARTS:
            values[key] = _part(where, _PARTS[key], value, problems)
        elif key in _PLAIN:
            values[key] = read_value(where, _PLAIN[key], value, problems)
        else:
            hint = registry.suggest(str(key), known)
            problems.append(Problem(where, value, f"no such key; there are: {known}", hint))
    if "role" not in given:
        accepted = f"one of {', '.join(get_args(Role))}; it has no default"
        problems.append(Problem(f"{path}.role", None, accepted))
    if len(problems) > before:
        return None
    column = Column(**values)
    problems += _contradictions(path, column)
    return column


def _contradictions(path: str, column: Column) -> list[Problem]:
    """Find what does not go together in one column."""
    found = []
    if column.role == "quasi" and column.hierarchy is None:
        accepted = f"one of {', '.join(registry.names('hierarchies'))}: a quasi-identifier needs it"
        found.append(Problem(f"{path}.hierarchy", None, accepted))
    if column.role == "direct" and column.hierarchy is not None:
        accepted = "unset: a direct identifier is treated; or make it a quasi-identifier"
        found.append(Problem(f"{path}.hierarchy", _name("hierarchies", column), accepted))
    if column.missing == "own" and column.hierarchy is None:
        found.append(Problem(f"{path}.missing", "own", "a column with a hierarchy"))
    if column.distance != "equal" and column.role != "sensitive":
        found.append(Problem(f"{path}.distance", column.distance, "unset: for sensitive columns"))
    if column.distance == "hierarchical" and column.hierarchy is None:
        found.append(Problem(f"{path}.distance", column.distance, "a column with a hierarchy"))
    roles = getattr(column.treatment, "roles", get_args(Role))
    if column.treatment is not None and column.role not in roles:
        name = registry.name_of("treatments", column.treatment)
        accepted = f"a treatment for {column.role} columns; {name} is for {', '.join(roles)} ones"
        found.append(Problem(f"{path}.treatment", name, accepted))
    return found


def _name(group: str, column: Column) -> str:
    part = column.hierarchy if group == "hierarchies" else column.treatment
    return registry.name_of(group, part)


def _part(path: str, group: str, given: Any, problems: list[Problem]) -> Any:
    content = {"name": given} if isinstance(given, str) else given
    if not isinstance(content, Mapping) or not isinstance(content.get("name"), str):
        accepted = f"a table with a name, one of {', '.join(registry.names(group))}"
        problems.append(Problem(path, given, accepted))
        return None
    name = content["name"]
    try:
        kind = registry.load(group, name)
    except ConfigError as error:
        problems += [Problem(f"{path}.name", p.value, p.accepted, p.hint) for p in error.problems]
        return None
    rest = {key: _as_tuples(value) for key, value in content.items() if key != "name"}
    found: list[Problem] = []
    part = read_table(path, kind, rest, found, name=name)
    # Those from a part's own check know nothing of the column.
    problems += [
        p if p.path.startswith(path) else Problem(f"{path}.{p.path}", p.value, p.accepted, p.hint)
        for p in found
    ]
    return part


def _as_tuples(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return tuple(_as_tuples(item) for item in value)
    return value


def _with_files(column: Column, folder: Path) -> Column:
    read = getattr(column.hierarchy, "read", None)
    if read is None:
        return column
    values = {field.name: getattr(column, field.name) for field in fields(Column)}
    return Column(**{**values, "hierarchy": read(folder)})


def _column_to_dict(column: Column) -> dict[str, Any]:
    plain: dict[str, Any] = {"role": column.role}
    for key, group in _PARTS.items():
        part = getattr(column, key)
        if part is not None:
            values = {k: _as_lists(v) for k, v in asdict(part).items() if v is not None}
            plain[key] = {"name": registry.name_of(group, part)} | values
    for key, usual in (("missing", "refuse"), ("distance", "equal")):
        if (value := getattr(column, key)) != usual:
            plain[key] = value
    return plain


def _as_lists(value: Any) -> Any:
    return [_as_lists(item) for item in value] if isinstance(value, (list, tuple)) else value
