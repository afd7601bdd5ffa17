"""Anonymization in an experiment: its schema read and kept, and what it cannot be combined with."""

from collections.abc import Callable, Mapping, MutableMapping
from pathlib import Path
from typing import Any

from fedsim import registry
from fedsim.anonymize import schemas
from fedsim.anonymize.schema import Schema, read_schema, schema_from_dict
from fedsim.config.schema import PARTS, Anonymization, RunConfig
from fedsim.data import Tabular
from fedsim.errors import ConfigError, FedsimError, Problem

__all__ = ["SCHEMA", "anchor_schema", "check", "schema_of", "with_schema"]

Refuse = Callable[..., None]

_SECTION = "anonymization"
SCHEMA = f"{_SECTION}.schema"  # where problems of reading one are
_SECURE = ("secagg", "secagg+", "ideal")


def anchor_schema(content: Mapping[str, Any], folder: Path) -> None:
    """Make the path of a schema file that is there mean the same from everywhere."""
    table = content.get(_SECTION)
    if not isinstance(table, dict):
        return
    given = table.get("schema")
    if isinstance(given, str) and _is_file(folder / given):
        table["schema"] = str((folder / given).absolute())


def with_schema(
    content: Mapping[str, Any],
    folder: Path,
    problems: list[Problem],
    source: Callable[[str], str],
) -> None:
    """Put the content of the schema that an experiment names into the experiment.

    What is wrong goes to `problems`. So an experiment that was loaded depends on no schema file.
    """
    table = content.get(_SECTION)
    if not isinstance(table, MutableMapping) or not isinstance(table.get("schema"), str):
        return
    name, path = table.pop("schema"), SCHEMA
    if table.get("columns"):
        accepted = "unset beside anonymization.columns, which are the content of a schema already"
        hint = "Unset those (anonymization.columns=) to read another schema."
        problems.append(Problem(path, name, accepted, hint, source(path)))
        return
    file = folder / name
    if not _is_file(file) and name.replace("_", "-") in schemas.names():
        file = schemas.path_of(name.replace("_", "-"))
    if not _is_file(file):
        accepted = f"a TOML file, or one of the built-in schemas: {', '.join(schemas.names())}"
        hint = registry.suggest(name, schemas.names())
        problems.append(Problem(path, name, accepted, hint, source(path)))
        return
    try:
        schema = read_schema(file)
    except ConfigError as error:
        problems += [_inside(found, source(path) or str(file)) for found in error.problems]
    except FedsimError as error:  # a file that cannot be read, or a taxonomy that is not there
        problems.append(
            Problem(path, name, f"a schema that can be read: {error}", "", source(path))
        )
    else:
        if schema.is_confirmed:
            table.update(schema.to_dict())
            return
        accepted = "a schema that a person has confirmed; this one is a draft"
        hint = "Check the roles, then set confirmed = true in it."
        problems.append(Problem(path, name, accepted, hint, source(path)))


def schema_of(settings: Anonymization) -> Schema:
    """Return the schema of an experiment. Raises `ConfigError` with every problem.

    Columns are in the order of their names: an experiment travels as JSON, which keeps no other,
    and a model's inputs must be in the same one everywhere.
    """
    columns = {name: settings.columns[name] for name in sorted(settings.columns)}
    content: dict[str, Any] = {"columns": columns}
    content |= {"subject": settings.subject} if settings.subject else {}
    content |= {"empty": list(settings.empty)} if settings.empty else {}
    return schema_from_dict(content)


def check(config: RunConfig, refuse: Refuse) -> None:
    """Refuse what cannot be anonymized, or cannot be trained on afterwards."""
    settings = config.anonymization
    if settings.name == "none":
        return
    if config.data is not None and not isinstance(config.data, Tabular):
        accepted = f"a data set that is a table of records: {', '.join(_tables())}"
        name = registry.name_of("data", config.data)
        refuse("data.name", name, accepted, "Or set anonymization.name=none.")
    if not settings.columns:
        accepted = f"a schema file, or a built-in one: {', '.join(schemas.names())}"
        refuse(SCHEMA, settings.schema, accepted, "`fedsim anonymize inspect` drafts one.")
    else:
        _check_schema(config, refuse)
    _check_cut(config, refuse)
    if config.privacy.unit != "none" and settings.name != "raw":
        _check_private(config, refuse)


def _check_schema(config: RunConfig, refuse: Refuse) -> None:
    """Refuse a schema that is none, and a target that would be hidden or is not declared."""
    settings, target = config.anonymization, getattr(config.data, "target", None)
    try:
        schema = schema_of(settings)
    except ConfigError as error:
        for problem in error.problems:
            found = _inside(problem, "")
            refuse(found.path, found.value, found.accepted, found.hint)
        return
    if not schema.having("quasi"):
        accepted = "at least one column with role quasi: else there is nothing to generalize"
        refuse(f"{_SECTION}.columns", list(schema.columns), accepted)
    for name, column in schema.columns.items():
        if (epsilon := getattr(column.treatment, "epsilon", None)) is not None:
            accepted = "unset: an epsilon of single cells is in no ledger of a run; give a scale"
            refuse(f"{_SECTION}.columns.{name}.treatment.epsilon", epsilon, accepted)
    is_about_values = settings.diversity != "none" or settings.t or settings.delta
    if is_about_values and not schema.having("sensitive"):
        accepted = "at least one column with role sensitive, or a protection of k alone"
        refuse(f"{_SECTION}.columns", list(schema.columns), accepted)
    if target:
        _check_target(schema, target, refuse)


def _check_target(schema: Schema, target: str, refuse: Refuse) -> None:
    """Refuse labels that would be hidden, changed or undeclared."""
    if target not in schema.columns:
        accepted = f"a role, sensitive or insensitive: {target!r} is what there is to learn"
        hint = registry.suggest(target, schema.columns)
        refuse(f"{_SECTION}.columns.{target}", None, accepted, hint)
    elif (role := schema.columns[target].role) in ("direct", "quasi"):
        accepted = f"sensitive or insensitive: {target!r} is what there is to learn"
        refuse(f"{_SECTION}.columns.{target}.role", role, accepted)
    elif schema.columns[target].treatment is not None:
        accepted = f"unset: models learn labels as they are, and {target!r} is one"
        refuse(f"{_SECTION}.columns.{target}.treatment", "set", accepted)


def _check_cut(config: RunConfig, refuse: Refuse) -> None:
    settings, secure = config.anonymization, config.secure_sum.name
    if settings.name == "raw":
        return
    _check_noise(settings, refuse)
    if settings.cut == "local":
        return
    path = f"{_SECTION}.cut"
    if secure not in _SECURE:
        accepted = (
            f"'local' with secure_sum.name = {secure!r}: a shared cut is agreed on by secure sums "
            "(secagg, secagg+, or ideal, which is simulated), or clients' counts would leak"
        )
        refuse(path, settings.cut, accepted, "Set secure_sum.name=secagg, or cut=local.")
    if settings.name == "full-domain":
        refuse(path, settings.cut, "'local' with name = 'full-domain'", "Or set name=nodes.")
    if settings.max_suppression:
        accepted = "0 with a cut that is shared: it suppresses nothing"
        refuse(f"{_SECTION}.max_suppression", settings.max_suppression, accepted)
    if settings.t_reference == "client" and settings.t is not None:
        accepted = "'federation' with a cut that is shared: t is from all clients' distribution"
        refuse(f"{_SECTION}.t_reference", settings.t_reference, accepted)


def _check_noise(settings: Anonymization, refuse: Refuse) -> None:
    """Refuse noise on sums that are not made, that promises nothing, or that hides too little."""
    names = ("counts_noise_multiplier", "counts_epsilon", "counts_delta")
    given = {name: value for name in names if (value := getattr(settings, name)) is not None}
    if not given:
        return
    if settings.cut == "local":
        accepted = "unset with cut = 'local': each client counts alone, and shows nobody its counts"
        for name, value in given.items():
            refuse(f"{_SECTION}.{name}", value, accepted)
        return
    for name in ("counts_noise_multiplier", "counts_delta"):
        if name not in given:
            accepted = "a number: noise, and the delta of what it promises, are given together"
            refuse(f"{_SECTION}.{name}", None, accepted)
    is_about_values = settings.diversity != "none" or settings.t or settings.delta
    if is_about_values or (settings.cut == "shared" and settings.k_over == "client"):
        accepted = "unset, or a protection of k alone, over the federation: noise hides the rest"
        refuse(f"{_SECTION}.counts_noise_multiplier", settings.counts_noise_multiplier, accepted)


def _check_private(config: RunConfig, refuse: Refuse) -> None:
    """Refuse where epsilon would not hold: where whom it hides decides how others are recoded."""
    settings, unit = config.anonymization, config.privacy.unit
    if unit == "example":
        accepted = (
            "'user' or 'local' with [anonymization]: a record decides how others of its client are "
            "generalized, and noise for one example would not hide that"
        )
        refuse("privacy.unit", unit, accepted, "Or set anonymization.name=none.")
    reason = f"with privacy.unit = {unit!r}: else a client decides what others train on"
    if settings.cut != "local":
        refuse(f"{_SECTION}.cut", settings.cut, f"'local' {reason}")
    if settings.t_reference != "client":
        refuse(f"{_SECTION}.t_reference", settings.t_reference, f"'client' {reason}")
    if settings.compare_raw:
        accepted = "false with privacy.unit: training on the raw records too would spend budget"
        refuse(f"{_SECTION}.compare_raw", True, accepted)


def _tables() -> list[str]:
    """Return the names of the data sets that are tables."""
    group = PARTS["data"][0]
    found = []
    for name in registry.names(group):
        try:
            kind = registry.load(group, name)
        except ConfigError:  # an installed package's that does not work: no other's problem
            continue
        found += [name] if hasattr(kind, "frames") else []
    return found


def _inside(problem: Problem, source: str) -> Problem:
    path = f"{_SECTION}.{problem.path}"
    return Problem(path, problem.value, problem.accepted, problem.hint, source or problem.source)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # such as a name that is too long, or has a zero byte
        return False
