"""What accounting costs: seconds for a report, for a round, and for a plan.

python benchmarks/privacy.py [--write]

Each figure is the least processor time of several runs, with nothing cached that a first call would
not find; importing dp-accounting and scipy (about 2 s, once) is not in it. `--write`: put the table
into docs/privacy.md.
"""

import argparse
import random
import time
from collections.abc import Callable
from dataclasses import replace

import page

from fedsim.privacy import _losses, _parts, _renyi, accounting
from fedsim.privacy.accounting import Renyi, account, trajectory
from fedsim.privacy.events import Release, Sampling
from fedsim.privacy.plan import Plan, outcome

PAGE = page.PAGE.with_name("privacy.md")
DELTA = 1e-5


def sampled(rate: float, count: int = 1, noise: float = 1.0) -> Release:
    return Release("gaussian", noise, Sampling("poisson", rate), count)


def forget() -> None:
    """Empty all caches, as at the start of a process."""
    for cached in (_losses.losses_of, _parts.part_of, _renyi._curves, accounting._account):
        cached.cache_clear()


def least(task: Callable[[], object], times: int = 3) -> float:
    found = []
    for _ in range(times):
        forget()
        start = time.process_time()
        task()
        found.append(time.process_time() - start)
    return min(found)


def online(rates: list[float]) -> float:
    """Return seconds per round of adding a release that was never seen, and asking for epsilon."""
    forget()
    state = Renyi("zero-out")
    start = time.process_time()
    for rate in rates:
        state = state.compose(sampled(rate))
        state.epsilon(DELTA)
    return (time.process_time() - start) / len(rates)


def rows() -> list[list[str]]:
    rng = random.Random(0)
    varied = [sampled(rng.uniform(0.01, 0.03)) for _ in range(1000)]
    truncated = Release("gaussian", 1.765, Sampling("truncated", 0.1, 6000, 723), 150)
    plan = Plan("user", 6000, DELTA, rounds=150, cohort=600, epsilon=3.0)
    cohorts = replace(plan, noise_multiplier=1.9, cohort=None)
    kinds = [
        replace(truncated, count=1),
        sampled(0.05),
        Release("gaussian", 5.0),
        Release("laplace", 20.0),
    ]
    rounds = [[kinds[i % 4]] for i in range(10_000)]

    def reported(releases: list[Release]) -> float:
        return account(releases, "zero-out").epsilon(DELTA)

    tasks: list[tuple[str, Callable[[], object], str]] = [
        ("100,000 equal rounds", lambda: reported([sampled(0.01, 100_000)]), "1"),
        ("150 rounds, truncated sampling", lambda: reported([truncated]), ""),
        ("1,000 rounds of different rates", lambda: reported(varied), "15"),
        ("epsilon by round, 10,000 rounds of 4 kinds, 3 deltas",
         lambda: trajectory(rounds, (1e-4, 1e-5, 1e-6), "zero-out"), "10"),
        ("a plan that finds the noise", lambda: outcome(plan), "10"),
        ("a plan that finds the cohort", lambda: outcome(cohorts), "10"),
    ]  # fmt: skip
    reported([sampled(0.02)])  # imports
    found = [[name, f"{least(task):.2f}", target] for name, task, target in tasks]
    rates = [rng.uniform(0.01, 0.03) for _ in range(20)]
    found.append(["one round online, rate never seen before", f"{online(rates):.3f}", "0.05"])
    same = online([0.01, *[0.02] * 200])
    found.append(["one round online, rate seen before", f"{same:.4f}", "0.05"])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="put the table into docs/privacy.md")
    arguments = parser.parse_args()
    text = "\n".join(page.table(["accounting", "seconds", "at most"], rows()))
    print(text)
    if arguments.write:
        page.put("accounting", text, PAGE)


if __name__ == "__main__":
    main()
