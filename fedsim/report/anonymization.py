"""The report of an anonymized table: one HTML page that opens offline, and the same as JSON.

Made from the content alone (`fedsim.anonymize.report.content`), whose schema is
anonymization.schema.json in this folder.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedsim.errors import ConfigError, DataError, MissingDataError, Problem, SetupError
from fedsim.files import replacing
from fedsim.report._templates import template
from fedsim.report.section import Section, Table, number

__all__ = ["as_html", "check_paths", "read", "render", "summary", "write"]

_NEEDED = {"schema_version", "method", "reached", "risks", "utility", "columns", "hipaa", "pin"}
_FEW = "fewer than k"


def check_paths(report: Path, *others: Path) -> None:
    """Raise `ConfigError` for a report that is no HTML file, or would replace another one's."""
    if report.suffix.lower() not in (".html", ".htm"):
        raise ConfigError([Problem("--report", str(report), "a name that ends in .html")])
    mine = {report.absolute(), report.with_suffix(".json").absolute()}
    if mine & {other.absolute() for other in others}:
        raise ConfigError([Problem("--report", str(report), "a file of its own")])
    if not report.parent.is_dir():
        raise SetupError(f"there is no folder {report.parent} to write {report.name} into")


def write(content: Mapping[str, Any], path: Path) -> tuple[Path, ...]:
    """Write the page, and the content beside it as JSON; return both paths."""
    data = path.with_suffix(".json")
    text = json.dumps(content, indent=1, sort_keys=True, allow_nan=False) + "\n"
    _replace(data, text.encode())
    render(content, path)
    return path, data


def render(content: Mapping[str, Any], path: Path) -> None:
    """Write the page. Raises `SetupError` where it cannot be written."""
    _replace(path, as_html(content).encode())


def read(path: Path) -> dict[str, Any]:
    """Return a report's content from its JSON. Raises `MissingDataError`, `DataError`."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise MissingDataError(f"cannot read {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise DataError(f"{path} is no report: not JSON") from error
    if not isinstance(found, dict) or not found.keys() >= _NEEDED or found["schema_version"] != 1:
        raise DataError(f"{path} is no report of an anonymized table (schema_version 1)")
    return found


def as_html(content: Mapping[str, Any]) -> str:
    """Return the page; the same content gives the same bytes."""
    page: str = template("anonymization.html").render(
        title=_title(content),
        summary=summary(content),
        sections=[
            _sensitive(content),
            _risks(content),
            _utility(content),
            _columns(content),
            _hipaa(content),
            _release(content),
        ],
        checks=_checks(content),
        limits=content["limits"],
    )
    return page


def summary(content: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return what matters first, as label and text."""
    reached, method = content["reached"], content["method"]
    found = [
        ("every class", f"{reached['k']:,} rows at least (asked for: {method['k']})"),
        ("classes", f"{reached['classes']:,} of {content['rows']:,} rows"),
        ("suppressed", _suppressed(content)),
        ("risk to be found", f"{content['risks']['prosecutor_max']:.1%} at most"),
        ("utility lost", f"{content['utility']['gcp']:.4f} of 1 (GCP)"),
    ]
    if content.get("noise"):
        noise = content["noise"]
        delta = f" at delta {noise['delta']:g}" if noise["delta"] else ""
        names = ", ".join(each["column"] for each in noise["columns"])
        found.append(
            ("epsilon", f"{noise['epsilon']:g}{delta} for each record, of noise on {names}")
        )
    if reached["k_map"] is not None:
        found.insert(1, ("population", f"every class fits {reached['k_map']:,} people at least"))
    return found


def _title(content: Mapping[str, Any]) -> str:
    pseudonyms = any("pseudonym" in column["became"] for column in content["columns"])
    also = ", pseudonymized" if pseudonyms else ""
    return f"A table with k-anonymity, k = {content['method']['k']}{also}"


def _suppressed(content: Mapping[str, Any]) -> str:
    rows, share = content["suppressed"]["rows"], content["suppressed"]["share"]
    if rows is None:
        return _FEW
    kept = content["method"]["keep_suppressed"]
    return f"{rows:,} rows ({share:.2%}), {'kept as *' if kept else 'left out'}"


def _checks(content: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return what a reader has to look at: passed, or to be looked at."""
    leftovers = content["leftovers"]
    left = ", ".join(f"{one['column']} ({one['kind']})" for one in leftovers)
    still_open = [entry["letter"] for entry in content["hipaa"] if entry["status"] == "open"]
    again = content["pin"]["again"]
    return [
        _check("counted anew", True, "from the text of the written table, before it got its name"),
        _check("patterns of personal data", not leftovers, left or "none in what is let out"),
        _check(
            "HIPAA Safe Harbor",
            not still_open,
            f"open: {', '.join(still_open)}" if still_open else "nothing is open by the schema",
        ),
        _check(
            "let out once",
            not again,
            f"again, because: {content['pin']['reason']}" if again else "under this cut only",
        ),
    ]


def _check(name: str, is_fine: bool, reason: str) -> dict[str, str]:
    return {"check": name, "status": "pass" if is_fine else "warn", "reason": reason}


def _sensitive(content: Mapping[str, Any]) -> Section:
    method = content["method"]
    rows = [
        [
            column["name"],
            column["distinct"],
            number(column["entropy"]),
            column["recursive"],
            number(column["t_kept"]),
            number(column["t_all"]),
            column["distance"],
            "infinite" if column["delta"] is None else number(column["delta"]),
        ]
        for column in content["reached"]["sensitive"]
    ]
    columns = [
        "sensitive column", "l distinct", "l entropy", f"l recursive (c = {method['c']:g})",
        "t, rows let out", "t, all rows", "distance", "delta",
    ]  # fmt: skip
    text = (
        "What every class has at least (l) or at most (t, delta). At l = 1 there is a class whose "
        "rows share their value: who is known to be in it is known to have it."
    )
    return Section("reached", "Reached", None, text, tables=[Table(_asked(method), columns, rows)])


def _asked(method: Mapping[str, Any]) -> str:
    asked = [f"k = {method['k']}"]
    if method["diversity"] != "none":
        asked.append(f"{method['diversity']} l = {method['l']:g}")
    asked += [f"{key} = {method[key]:g}" for key in ("t", "delta") if method[key] is not None]
    if method["k_map"] is not None:
        asked.append(f"k-map = {method['k_map']}")
    return f"asked for: {', '.join(asked)}; recoding: {method['recoding']}"


def _risks(content: Mapping[str, Any]) -> Section:
    risks = content["risks"]
    rows = [
        ["prosecutor", "knows that the target is in it", risks["prosecutor_max"],
         risks["prosecutor_mean"]],
        ["journalist", "looks the target up in a population", risks["journalist_max"],
         risks["journalist_mean"]],
        ["marketer", "wants as many as possible", None, risks["marketer"]],
    ]  # fmt: skip
    shown = [[*row[:2], *[_share(value) for value in row[2:]]] for row in rows]
    text = (
        "The chance that a guess is right, of somebody who knows all quasi-identifiers of a target "
        "and nothing else (El Emam and Dankar 2008). "
        f"{risks['share_above']:.1%} of rows are above {risks['threshold']:.0%}."
    )
    if risks["journalist_is_prosecutor"]:
        text += " No population was given: the journalist's risk is the prosecutor's, or less."
    columns = ["attacker", "who", "largest", "mean"]
    return Section("risks", "Risk", None, text, tables=[Table("", columns, shown)])


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.2%}"


def _utility(content: Mapping[str, Any]) -> Section:
    utility = content["utility"]
    ncp = utility["ncp"]  # in the order of the table's columns: JSON keeps none
    names = [one["name"] for one in content["columns"] if one["name"] in ncp]
    rows = [[name, number(ncp[name])] for name in names]
    totals = [
        ["GCP", number(utility["gcp"])],
        ["average class, by k (C_avg)", number(utility["c_avg"])],
        ["discernibility", _count(utility["discernibility"])],
    ]
    return Section(
        "utility",
        "Utility lost",
        None,
        f"{utility['formula']}.",
        tables=[Table("", ["measure", ""], totals), Table("", ["NCP of", ""], rows)],
    )


def _count(value: int | None) -> str:
    return _FEW if value is None else f"{value:,}"


def _columns(content: Mapping[str, Any]) -> Section:
    rows = [[column["name"], column["role"], column["became"]] for column in content["columns"]]
    table = Table("", ["column", "role", "what became of it"], rows)
    return Section("columns", "Columns", None, tables=[table])


def _hipaa(content: Mapping[str, Any]) -> Section:
    rows = [
        [f"({e['letter']}) {e['identifier']}", e["status"], ", ".join(e["columns"]), e["why"]]
        for e in content["hipaa"]
    ]
    text = (
        "45 CFR 164.514(b)(2)(i), by the names of columns and what the schema does with them. "
        "Whether a column holds what its name says, and whether anybody knows how what is left "
        "could identify somebody (ii), a person has to say."
    )
    table = Table("", ["identifier", "status", "columns", "why"], rows)
    return Section("hipaa", "HIPAA Safe Harbor", None, text, tables=[table])


def _release(content: Mapping[str, Any]) -> Section:
    pin = content["pin"]
    rows: Sequence[Sequence[Any]] = [
        ["written", content["created"] or "-"],
        ["file, SHA-256", pin["released"]],
        ["schema", pin["schema"]],
        ["cut", pin["cut"]],
        ["let out before", ", ".join(pin["again"]) or "no"],
        ["reason", pin["reason"] or "-"],
    ]
    return Section("release", "This release", None, tables=[Table("", ["", ""], rows)])


def _replace(path: Path, content: bytes) -> None:
    try:
        with replacing(path) as file:
            file.write(content)
    except OSError as error:
        raise SetupError(f"cannot write {path}: {error.strerror or error}") from error
