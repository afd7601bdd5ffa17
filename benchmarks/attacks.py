"""Attacks against rules: accuracy on digits for every pair, as the table in docs/methods.md.

python benchmarks/attacks.py --rounds 6
"""

import argparse
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from fedsim import config as configuration
from fedsim.engine.blocks import Population
from fedsim.engine.launch import open_grid
from fedsim.federation import Places, build, to_text
from fedsim.rounds import run_rounds, start_state

MALICIOUS = 3  # of ten clients
SETTING = [
    "partition.name=iid",
    "partition.clients=10",
    "model.name=linear",
    "local.epochs=1",
    "evaluation.federated_every=0",
    "evaluation.central_every=1000",  # the last round is tested anyway
    "engine.grid=inprocess",
]
ATTACKS: Mapping[str, Sequence[str]] = {
    "honest": [],
    "label-flip": [],
    "sign-flip": ["attack.scale=5"],
    "scaling": [],
    "gaussian": ["attack.std=1"],
    "ipm": ["attack.scale=5"],
    "alie": [],
    "min-max": [],
    "min-sum": [],
    "mimic": [],
    "backdoor": ["attack.scale=5"],
}
RULES: Mapping[str, Sequence[str]] = {
    "fedavg": [],
    "fedavg, clip 0.5": ["transform.name=clip", "transform.clipping_norm=0.5"],
    "coordinate-median": [f"strategy.f={MALICIOUS}"],
    "trimmed-mean": [f"strategy.f={MALICIOUS}"],
    "multi-krum": [f"strategy.f={MALICIOUS}"],
    "rfa": [f"strategy.f={MALICIOUS}"],
    "centered-clipping": [f"strategy.f={MALICIOUS}", "strategy.tau=0.5"],
    "dnc": [f"strategy.f={MALICIOUS}"],
    "fltrust": [],
}


def last(overrides: Sequence[str], cache: str) -> Mapping[str, float]:
    """Run an experiment in this process; return the metrics of its last round."""
    config, places = configuration.load("digits", overrides), Places(cache_dir=cache)
    federation = build(config, places)
    told = {"experiment": to_text(config, places), "tier": "resident"}
    population = Population(federation.population, told)
    with open_grid(config.engine, population, code=(), run="attacks") as opened:
        state: Any = start_state(federation)
        for record, _ in run_rounds(opened.grid, population.nodes, federation, state):
            metrics = record.metrics
    return metrics


def cell(attack: str, rule: str, rounds: int, cache: str) -> str:
    """Return the accuracy of a pair in percent, and a backdoor's success after a stroke."""
    more = [] if attack == "honest" else [f"attack.fraction={MALICIOUS / 10}"]
    chosen = [f"attack.name={attack}", *more, *ATTACKS[attack]]
    strategy = [f"strategy.name={rule.partition(',')[0]}", *RULES[rule]]
    found = last([*SETTING, f"rounds.count={rounds}", *chosen, *strategy], cache)
    text = f"{100 * found['test/accuracy']:.0f}"
    return f"{text} / {100 * found['attack/success']:.0f}" if attack == "backdoor" else text


def main() -> None:
    """Print the table as Markdown, row by row."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--attacks", nargs="*", default=list(ATTACKS), choices=list(ATTACKS))
    parser.add_argument("--rules", nargs="*", default=list(RULES), choices=list(RULES))
    given = parser.parse_args()
    torch.set_num_threads(1)
    print("| attack |", " | ".join(given.rules), "|")
    print("|---" * (len(given.rules) + 1) + "|")
    with tempfile.TemporaryDirectory() as cache:
        for attack in given.attacks:
            row = [cell(attack, rule, given.rounds, cache) for rule in given.rules]
            print("|", " | ".join([attack, *row]), "|", flush=True)


if __name__ == "__main__":
    main()
