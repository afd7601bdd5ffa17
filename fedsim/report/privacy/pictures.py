"""The plots: epsilon by round, delta against epsilon, and what an attacker can reach."""

from collections.abc import Mapping, Sequence
from typing import Any

from fedsim.report.plots import COLORS, figure, svg
from fedsim.report.privacy.words import bound, percent
from fedsim.report.section import Picture

__all__ = ["pictures"]


def pictures(content: Mapping[str, Any]) -> list[Picture]:
    """Return the plots that there are numbers for."""
    made = (_trajectory(content), _curve_and_roc(content))
    return [picture for picture in made if picture is not None]


def _finite(x: Sequence[float], y: Sequence[Any]) -> tuple[list[float], list[float]]:
    """Return points without those at infinity."""
    pairs = [(a, b) for a, b in zip(x, y, strict=True) if not isinstance(b, str)]
    return [a for a, _ in pairs], [b for _, b in pairs]


def _trajectory(content: Mapping[str, Any]) -> Picture | None:
    found, cap = content["plots"]["trajectory"], content["budget"]["cap"]
    if not any(_finite(found["entries"], each["epsilon"])[1] for each in found["epsilons"]):
        return None
    is_repeated = bool(content["rounds"]["repeated"])
    x = found["entries"] if is_repeated else found["rounds"]
    fig, ax = figure(height=3.0)
    marker = "o" if len(x) < 30 else ""
    for color, each in zip(COLORS, found["epsilons"], strict=False):
        label = f"this run, delta {each['delta']:.3g}"
        ax.plot(*_finite(x, each["epsilon"]), color=color, label=label, marker=marker, markersize=3)
    if found["data_set"]:
        label = f"all runs on these data, delta {content['guarantee']['delta']:.3g}"
        ax.plot(*_finite(x, found["data_set"]), color=COLORS[0], linestyle=":", label=label)
    if cap:
        label = f"cap, delta {cap['delta']:.3g}"
        ax.axhline(cap["epsilon"], color=COLORS[5], linestyle="--", linewidth=1.2, label=label)
    ax.set_ylim(bottom=0)
    ax.xaxis.get_major_locator().set_params(integer=True)
    ax.set_xlabel("entry in the ledger" if is_repeated else "round", fontsize=9)
    ax.set_title("epsilon", fontsize=10, loc="left")
    ax.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    ends = "; ".join(
        f"{bound(each['epsilon'][-1])} at delta {each['delta']:.3g}" for each in found["epsilons"]
    )
    return Picture(svg(fig, "privacy-epsilon"), f"Epsilon over rounds; it ends at {ends}.")


def _curve_and_roc(content: Mapping[str, Any]) -> Picture | None:
    curve, roc = content["plots"]["curve"], content["plots"]["roc"]
    if not curve["epsilons"]:
        return None
    fig, (left, right) = figure(height=3.0, columns=2)
    x, y = zip(*[p for p in zip(*curve.values(), strict=True) if p[1] > 0], strict=True)
    left.semilogy(x, y, color=COLORS[0])
    delta = content["guarantee"]["delta"]
    left.axhline(delta, color=COLORS[5], linestyle="--", linewidth=1, label=f"delta {delta:.3g}")
    left.set_xlabel("epsilon", fontsize=9)
    left.set_title("delta at each epsilon", fontsize=10, loc="left")
    left.legend(fontsize=8, frameon=False)
    rates, reached = roc["false_positive_rates"], roc["true_positive_rates"]
    right.fill_between(rates, rates, reached, color=COLORS[1], alpha=0.15, linewidth=0)
    right.plot(rates, reached, color=COLORS[1], label="worst attack")
    right.plot(rates, rates, color=COLORS[5], linestyle="--", linewidth=1, label="guessing")
    right.set_xscale("log")
    right.set_xlabel("false positive rate", fontsize=9)
    right.set_title("true positive rate, at most", fontsize=10, loc="left")
    right.legend(fontsize=8, frameon=False)
    stated = content["guarantee"]["run"]["true_positive_rate"]
    text = ", ".join(
        f"{percent(each['at_most'])} at {percent(each['false_positive_rate'])}" for each in stated
    )
    what = f"Privacy profile of this run, and the most any test for one member reaches: {text}."
    return Picture(svg(fig, "privacy-profile"), what)
