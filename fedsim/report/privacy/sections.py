"""The report as sections of tables: the same for HTML and Markdown."""

from collections.abc import Mapping, Sequence
from typing import Any

from fedsim.report.privacy.registry import TIERS
from fedsim.report.privacy.words import NOT_RECORDED, bound, percent
from fedsim.report.section import Picture, Section, Table, number

__all__ = ["sections"]

_SUMS = {
    "user": "the sum of updates",
    "example": "a step's sum of gradients",
    "local": "an update",
}


def sections(content: Mapping[str, Any], pictures: Sequence[Picture] = ()) -> list[Section]:
    """Return the sections below the summary and the checks."""
    return [
        Section("curves", "What was promised", None, pictures=pictures, tables=_promise(content)),
        Section("open", "What is not protected", None, tables=[_unprotected(content)]),
        Section("budget", "Budget", None, tables=_budget(content)),
        Section("rounds", "Rounds", None, tables=[_rounds(content)]),
        Section("how", "How it is done", None, tables=_how(content)),
        *_distributed(content),
        Section("accounting", "Accounting", None, tables=_accounting(content)),
        Section("tried", "What was measured", None, tables=[_measured(content)]),
        Section(
            "hazards",
            "Hazards of NIST SP 800-226",
            None,
            text="From the guarantee down to how the data were collected: each layer is worth what "
            "those below it are.",
            tables=[_hazards(content)],
        ),
        Section(
            "registry",
            "Record for the OpenDP Deployments Registry, tier 3",
            None,
            text="Fields of the registry's template; what only the curator knows is left to them.",
            tables=[_registry(content)],
        ),
        Section("provenance", "Where this is from", None, tables=[_provenance(content)]),
    ]


def _promise(content: Mapping[str, Any]) -> list[Table]:
    promise = content["guarantee"]
    rows = [
        [
            name,
            bound(each["epsilon"]),
            f"{promise['delta']:.3g}",
            *(percent(rate["at_most"]) for rate in each["true_positive_rate"]),
            each["method"] + (f": {each['note']}" if each["note"] else ""),
        ]
        for name, each in (
            ("this run", promise["run"]),
            (f"the data set, {_many(promise['data_set']['runs'], 'run')}", promise["data_set"]),
        )
    ]
    rates = [percent(r["false_positive_rate"]) for r in promise["run"]["true_positive_rate"]]
    columns = ["of", "epsilon", "delta", *(f"TPR at {rate} FPR, at most" for rate in rates)]
    return [Table(promise["flavour"], [*columns, "method"], rows)]


def _many(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def _unprotected(content: Mapping[str, Any]) -> Table:
    rows = [[i["what"], i["status"], i["detail"]] for i in content["unprotected"]]
    return Table("Not covered by epsilon", ["what", "status", "detail"], rows)


def _budget(content: Mapping[str, Any]) -> list[Table]:
    found, cap = content["budget"], content["budget"]["cap"]
    rows = [
        ["cap", f"epsilon {cap['epsilon']:g} at delta {cap['delta']:.3g}" if cap else "none"],
        ["spent by this run", f"epsilon {bound(found['spent_by_run'])}"],
        ["spent on the data set", f"epsilon {bound(found['spent_on_data_set'])}"],
        ["remaining", f"epsilon {number(found['remaining'])}" if cap else "no cap"],
    ]
    if found["planned"]:
        rows.append(["all of this run's plan", f"epsilon {bound(found['planned']['epsilon'])}"])
    if clients := content["clients"]:
        rows.append(["most that one client spent", f"epsilon {bound(clients['most_exactly'])}"])
        rows += [
            [f"{key} over clients, coarsely", f"epsilon {low:.3g} to {high:.3g}"]
            for key, (low, high) in (clients["coarse"] or {}).items()
        ]
    runs = [
        [
            f"{each['run']} (this)" if each["is_this"] else each["run"],
            each["noise"],
            each["entries"],
            _span(each["rounds"]),
            each["first"],
            each["last"],
            bound(each["epsilon"]),
        ]
        for each in content["runs"]
    ]
    columns = ["run", "noise", "entries", "rounds", "first", "last", "epsilon alone"]
    return [
        Table("At the delta above", ["", ""], rows),
        Table("Runs in this ledger, all composed in the data set's total", columns, runs),
    ]


def _span(ends: Sequence[int]) -> str:
    return f"{ends[0]}" if ends[0] == ends[1] else f"{ends[0]}-{ends[1]}"


def _spans(ranges: Sequence[Sequence[int]]) -> str:
    shown = ", ".join(_span(ends) for ends in ranges[:20])
    return (shown + (", ..." if len(ranges) > 20 else "")) or "none"


def _rounds(content: Mapping[str, Any]) -> Table:
    found = content["rounds"]
    repeated = [f"{each['round']} ({each['times']} times)" for each in found["repeated"]]
    refused = found["refused"]
    if not isinstance(refused, str):
        refused = (
            "; ".join(f"{r['round']} at {r['time']}: {r['reason']}" for r in refused) or "none"
        )
    rows = [
        ["planned", found["planned"]],
        ["in the ledger", f"{_many(found['in_ledger'], 'round')}, {found['entries']:,} entries"],
        ["finished", found["finished"]],
        ["repeated, every time counted (a crash, a resume)", ", ".join(repeated[:20]) or "none"],
        ["in the ledger but not finished, counted", _spans(found["unfinished"])],
        ["finished without an entry", _spans(found["without_entry"])],
        ["refused by the budget, before any client trained", refused],
        ["planned, not reached", _spans(found["not_reached"])],
        ["first / last entry", f"{found['first']} / {found['last']}"],
    ]
    return Table("What the run meant to do, and did", ["", ""], rows)


def _how(content: Mapping[str, Any]) -> list[Table]:
    where, how, drawn = content["setting"], content["mechanism"], content["sampling"]
    trace, std = how["clipping_norm_by_round"], how["noise_std_of_sum"]
    shown = trace if isinstance(trace, str) else f"{number(trace[0][1])} to {number(trace[-1][1])}"
    rows = [
        ["setting", where["model"]],
        ["trusted", where["trusted"]],
        ["secure aggregation", where["secure_aggregation"]],
        ["released", where["released"]],
        ["data domain", where["domain"]],
        ["mechanism", how["name"]],
        ["clipping norm", f"{number(how['clipping_norm'])}, {how['clipping']}"],
        ["clipping norm by round", "the same" if how["clipping"] == "fixed" else shown],
        ["noise multiplier", number(how["noise_multiplier"])],
        [f"noise: standard deviation of {_SUMS[content['guarantee']['unit']]}", number(std)],
        ["noise: standard deviation of the mean", number(how["noise_std_of_mean"])],
        ["denominator, public", number(how["denominator"])],
        ["weight cap", number(how["weight_cap"])],
        ["participations of a client, at most", number(how["participations"]["most"])],
        ["rounds between them, at least", number(how["participations"]["least_separation"])],
        ["arithmetic", how["arithmetic"]],
        ["random numbers", how["random_numbers"]],
    ]
    return [Table("Setting and mechanism", ["", ""], rows), _sampling(drawn)]


def _sampling(drawn: Mapping[str, Any]) -> Table:
    cohorts = drawn["cohorts"]
    sizes = (
        cohorts
        if isinstance(cohorts, str)
        else f"{cohorts['least']} to {cohorts['most']}, mean {cohorts['mean']:.4g}"
    )
    rows = [
        ["accounted as", "; ".join(_sampled(each) for each in drawn["accounted"]) or "nothing"],
        ["configured", drawn["configured"]],
        ["drawn in secret", "yes" if drawn["drawn_in_secret"] else "no: it follows from the seed"],
        ["clients", number(drawn["population"])],
        ["expected in a round", number(drawn["expected_cohort"])],
        ["drawn in a round", sizes],
        ["answered / lost, all rounds", f"{number(drawn['answered'])} / {number(drawn['lost'])}"],
        ["p-value of the mean size", _p(drawn["p_mean"])],
        ["p-value of the spread of sizes", _p(drawn["p_spread"])],
    ]
    return Table("Who took part", ["", ""], rows)


def _p(value: Any) -> str:
    return value if isinstance(value, str) else f"{value:.2g}"


def _sampled(sampling: Mapping[str, Any]) -> str:
    parts = [f"{key} {number(value)}" for key, value in sampling.items() if key != "kind"]
    return f"{sampling['kind']} ({', '.join(parts)})"


def _distributed(content: Mapping[str, Any]) -> list[Section]:
    """Return the section about noise that clients add; none where they do not."""
    found = content["distributed"]
    if found is None:
        return []
    survivors, cost = found["survivors"], found["inflation"]
    seen, counted = found["against_server"], found["counted"]
    least = "completed by the server, to the noise of the largest cohort"
    if not found["completed_by_server"]:
        least = f"calibrated to {found['least_survivors']} survivors: with fewer no sum is opened"
    rows = [
        ["secure sum", found["secure_sum"]],
        ["secure sum alone", found["alone"]],
        ["bits of a number", found["bits"]],
        ["steps to a clipping norm", number(found["steps_per_clipping_norm"])],
        ["numbers sent by a client, rotated", number(found["rotated_dimension"])],
        ["noise", least],
        ["noises that are counted on", number(found["noises_counted_on"])],
        ["assumed to tell the server theirs, in a cohort", number(found["assumed_colluders"])],
        ["noise of one client: standard deviation", number(found["noise_std_of_one_client"])],
        [
            "survivors of a round",
            f"{survivors['least']} to {survivors['most']}" if survivors else NOT_RECORDED,
        ],
        ["rounds short of noise", ", ".join(map(str, found["short_of_noise"][:20])) or "none"],
    ]
    return [
        Section(
            "distributed",
            "Noise by clients",
            None,
            tables=[
                Table("What each adds, and who counts on it", ["", ""], rows),
                Table("What that comes to", ["", "epsilon"], _costs(cost, counted, seen)),
            ],
        )
    ]


def _costs(cost: Any, counted: Any, seen: Any) -> list[list[Any]]:
    rows = []
    if cost:
        more = "" if cost["percent"] is None else f", {max(0.0, cost['percent']):.2g} % more"
        rows = [
            [f"this run, by Rényi divergences{more}", bound(cost["epsilon"])],
            [
                "Gaussian noise by the server, by Rényi divergences",
                bound(cost["gaussian_by_renyi"]),
            ],
            ["Gaussian noise by the server, by loss distributions", bound(cost["gaussian"])],
        ]
    if counted:
        rows.append(["this run, with the survivors there were", bound(counted["epsilon"])])
    if seen is None:
        return [*rows, ["against the server itself", "none is stated: see who is trusted"]]
    return [
        *rows,
        ["against the server itself, a client that was in one round", bound(seen["one_round"])],
        ["against the server itself, in every round", bound(seen["every_round"])],
    ]


def _accounting(content: Mapping[str, Any]) -> list[Table]:
    found = content["accounting"]
    rows = [
        [
            f"{each['delta']:.3g}",
            bound(each["epsilon"]),
            bound(each["renyi"]),
            bound(each["without_amplification"]),
        ]
        for each in found["epsilons"]
    ]
    releases = [
        [
            each["mechanism"],
            number(each["noise_multiplier"]),
            _sampled(each["sampling"]),
            number(each["count"]),
            number(each.get("epsilon")),
        ]
        for each in found["releases"]
    ]
    other = [
        ["library", f"{found['library']} {found['version']}"],
        ["method", _method(content)],
        ["accounted for", found["of"]],
        ["Gaussian privacy: mu", f"{bound(found['mu']['mu'])}, loose by {found['mu']['gap']:.2g}"],
        *(
            [f"epsilon of {each['size']} members together", bound(each["epsilon"])]
            for each in found["groups"]
        ),
    ]
    columns = ["delta", "epsilon", "by Rényi divergences", "had everybody taken part each time"]
    return [
        Table("This run's epsilon at three deltas", columns, rows),
        Table("How", ["", ""], other),
        Table(
            "What was composed",
            ["mechanism", "noise multiplier", "sampling", "times", "own epsilon"],
            releases,
        ),
    ]


def _method(content: Mapping[str, Any]) -> str:
    """Say by which of two methods epsilon was found."""
    if content["guarantee"]["run"]["method"] == "rdp":
        return "Rényi divergences, converted at the best order (Canonne et al. 2020)"
    interval = content["accounting"]["interval"]
    return f"privacy loss distributions on a grid of {interval:g}, rounded up"


def _measured(content: Mapping[str, Any]) -> Table:
    useful, tried, tuned = content["utility"], content["empirical"], content["tuning"]
    rows = [
        *([name, number(value)] for name, value in useful["metrics"].items()),
        ["confidence interval", useful["confidence"]],
        ["gap to the same run without privacy", useful["gap_to_no_privacy"]],
        ["signal to noise by round", useful["signal_to_noise"]],
        ["audit: lower bound on epsilon", tried["audit"]],
        ["membership inference", tried["membership_inference"]],
        ["inversion of updates", tried["inversion"]],
        ["cost of choosing the settings", tuned["status"]],
        ["runs without privacy on these data, in this store", len(tuned["without_privacy"])],
    ]
    return Table("Utility, attacks, tuning", ["", ""], rows)


def _hazards(content: Mapping[str, Any]) -> Table:
    rows = [[h["hazard"], h["layer"], h["status"], h["reason"]] for h in content["hazards"]]
    return Table("Each with its status", ["hazard", "layer", "status", "reason"], rows)


def _registry(content: Mapping[str, Any]) -> Table:
    deployment = content["registry"]["deployment"]
    rows = [
        [f"{group}.{key}", tier, _value(deployment[group][key])]
        for group, keys in TIERS.items()
        for key, tier in keys.items()
    ]
    return Table(f"url_slug: {content['registry']['url_slug']}", ["field", "tier", "value"], rows)


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {bound(item)}" for key, item in value.items())
    return str(value)


def _provenance(content: Mapping[str, Any]) -> Table:
    run, ledger = content["run"], content["ledger"]
    rows = [
        ["run", f"{run['id']}, {run['status']}"],
        ["created / finished", f"{run['created']} / {run['finished'] or '-'} UTC"],
        ["fedsim of the run / of this report", f"{run['fedsim']} / {run['reported_with']}"],
        ["code", run["code"]],
        ["model sha256", run["model_sha256"]],
        ["data sha256", ledger["data_sha256"] or NOT_RECORDED],
        ["ledger", f"{ledger['file']}, {ledger['entries']} entries, verified"],
        ["last hash", ledger["hash"] or "none"],
        ["unfinished lines set aside", ledger["set_aside"]],
        ["ledgers of the same data in other units", ", ".join(ledger["other_units"]) or "none"],
    ]
    return Table("Ledger and run", ["", ""], rows)
