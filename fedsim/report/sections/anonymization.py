"""Anonymization: what was promised and reached, what it cost, and what it is not."""

from collections.abc import Mapping, Sequence
from typing import Any

from fedsim.report.section import Section, Table, metric_of, number

__all__ = ["line", "section"]

_METHODS = {
    "nodes": "values generalized to groups of their hierarchies, each class by itself",
    "sets": "values generalized to sets of values, each class by itself",
    "full-domain": "each column generalized to one level throughout",
    "raw": "raw records: nothing was anonymized",
}
_NOT = (
    "Generalized records are not anonymous by that alone, nor pseudonymized ones: k says how many "
    "records share the quasi-identifiers that the schema names, not what somebody knows besides. "
    "It is no differential privacy, and two releases of the same records together can tell more "
    "than either."
)


def section(run: Any, clients: Sequence[dict[str, Any]]) -> Section | None:
    """Return what anonymization came to; nothing where there is none."""
    facts = run.facts.get("anonymization") or {}
    if not facts:
        return None
    raw = run.summary.get("raw") if run.summary else None
    compared = _compared(run, raw)
    data = {**facts, "raw": raw, "compared": compared, "is_not": _NOT}
    return Section(
        "anonymization",
        "Anonymization",
        data,
        text=f"{line(facts)} {_NOT}" if facts["name"] != "raw" else line(facts),
        tables=[*_tables(facts), _inputs(facts), *_comparison(compared, facts)],
    )


def line(facts: Mapping[str, Any]) -> str:
    """Say in a sentence what was done, and what it reached."""
    method = _METHODS[facts["name"]]
    if facts["name"] == "raw":
        return f"Records: {method}; inputs are encoded as in the run it is compared with."
    where = "on every client" if facts["over"] == "client" else "over all clients together"
    if "reached" not in facts:
        return (
            f"Anonymization on the clients, before training: {method}; k = "
            f"{facts['declared']['k']} {where}, declared. What each reached stays on its node."
        )
    lost = facts["gcp"]["mean"]
    return (
        f"Anonymization on the clients, before training: {method}; k = {facts['reached']['k']} "
        f"{where} (declared {facts['declared']['k']}), {number(lost)} of the information lost "
        "(GCP)."
    )


def _tables(facts: Mapping[str, Any]) -> list[Table]:
    if facts["name"] == "raw":
        return []
    if "reached" not in facts:  # between nodes, which do not tell
        rows = [[name, _text(value)] for name, value in facts["declared"].items() if value]
        return [Table("Promised", ["", "declared"], rows), *_agreement(facts)]
    declared, reached, risks = facts["declared"], facts["reached"], facts["risks"]
    where = "least of all clients" if facts["over"] == "client" else "over all clients"
    rows = [["k", declared["k"], reached["k"]]]
    if declared["diversity"] != "none":
        rows.append([f"{declared['diversity']} l", declared["l"], _text(reached["l"])])
    reference = {"client": "a client's own", "federation": "all clients'"}[declared["t_reference"]]
    if reached["t"] is not None:
        rows.append(
            [f"t, from {reference} distribution", _text(declared["t"]), _text(reached["t"])]
        )
        delta = "infinite" if reached["delta"] is None else number(reached["delta"])
        rows.append(["delta-disclosure", _text(declared["delta"]), delta])
    gcp, suppressed = facts["gcp"], facts["suppressed"]
    left_out = "trained on with hidden values" if suppressed["kept"] else "left out of training"
    few = f"fewer than {declared['k']}"
    costs = [
        ["records", number(facts["rows"])],
        ["suppressed", few if suppressed["rows"] is None else number(suppressed["rows"])],
        ["share suppressed", "-" if suppressed["share"] is None else f"{suppressed['share']:.2%}"],
        ["suppressed records are", left_out],
        ["information lost (GCP), mean over clients", number(gcp["mean"])],
        ["least and most of a client", f"{number(gcp['least'])} / {number(gcp['most'])}"],
        *([f"NCP of {name}", number(value)] for name, value in facts["ncp"].items()),
    ]
    chances = [
        ["prosecutor (knows that the target is here), at most", number(risks["prosecutor"])],
        ["prosecutor, mean", number(risks["prosecutor_mean"])],
        ["journalist (no population given: at most)", number(risks["journalist"])],
        ["marketer (wants as many as possible), mean", number(risks["marketer"])],
    ]
    return [
        Table("Promised and reached", ["", "declared", f"reached, {where}"], rows),
        Table("What it cost", ["", ""], costs),
        Table("Chance that a record is found again", ["by", ""], chances),
        *_agreement(facts),
    ]


def _agreement(facts: Mapping[str, Any]) -> list[Table]:
    """Say how clients agreed on one cut, where they did."""
    agreed = facts.get("agreed")
    if not agreed:
        return []
    sums = f"{agreed['sums']} by {agreed['secure_sum']}"
    rows = [
        [
            "k is over",
            "all clients together" if agreed["k_over"] == "federation" else "each client",
        ],
        ["secure sums", sums if agreed["protects"] else f"{sums}: simulated, protecting nothing"],
        ["numbers in the longest", number(agreed["longest"])],
        ["classes", number(agreed["classes"])],
        ["cut, SHA-256", agreed["sha256"][:16]],
        ["clients that came late, and are in no sum", number(len(agreed["late"]))],
    ]
    if agreed["early"]:
        text = f"a client was gone, and classes are wider than they could be: {agreed['early']}"
        rows.append(["ended early", text])
    if agreed["epsilon"] is not None:
        text = f"{number(agreed['epsilon'])} (delta {agreed['delta']:g}), noise by the server"
        rows.append(["epsilon of a record, from the cut alone", text])
    return [Table("One cut for all clients", ["", ""], rows)]


def _inputs(facts: Mapping[str, Any]) -> Table:
    rows = [
        ["generalized", ", ".join(facts["quasi"])],
        ["as they are", ", ".join(facts["exact"]) or "none"],
        ["no inputs", ", ".join(facts["left_out"]) or "none"],
        ["inputs of the model", number(facts["inputs"])],
        ["schema, SHA-256", facts["schema"][:16]],
    ]
    return Table("Columns", ["", ""], rows, is_folded=True)


def _compared(run: Any, raw: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """Return each metric of both runs."""
    if not raw:
        return []
    own = run.summary.get("metrics") or {}
    first = metric_of(run)[0]
    names = [n for n in own if n.count("/") == 1 and not n.startswith("train/")]
    names.sort(key=lambda name: (not name.endswith(f"/{first}"), name))
    return [
        {"metric": name, "anonymized": own[name], "raw": raw["metrics"].get(name)} for name in names
    ]


def _comparison(compared: Sequence[Mapping[str, Any]], facts: Mapping[str, Any]) -> list[Table]:
    if facts["name"] == "raw":
        return []
    if not compared:
        rows = [["no run on raw records", "anonymization.compare_raw is off, or it has not ended"]]
        return [Table("Raw against anonymized", ["", ""], rows)]
    rows = [
        [one["metric"], *(number(one[name]) for name in ("raw", "anonymized"))] for one in compared
    ]
    title = "Raw against anonymized (tested on raw records)"
    return [Table(title, ["metric", "raw", "anonymized"], rows)]


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    return "-" if value is None else number(value)
