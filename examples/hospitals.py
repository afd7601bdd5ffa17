"""What federation is worth to four hospitals: federated, pooled and alone, from one experiment.

Needs the heart-disease files: `fedsim data fetch heart-disease`.
"""

import fedsim

SETTINGS = ["engine.grid=inprocess", "optimizer.lr=0.01"]


def main() -> None:
    rows = {
        "FedAvg": [],
        "FedAdam": ["strategy.name=fedadam", "strategy.lr=0.01"],
        "all data pooled": ["mode=pooled"],
        "each alone": ["mode=local-only"],
    }
    for name, overrides in rows.items():
        result = fedsim.run("heart-disease", [*SETTINGS, *overrides])
        metrics = result.metrics
        print(f"{name:16} {metrics['federated/accuracy']:.3f} of own patients", end=", ")
        print(f"{metrics['test/accuracy']:.3f} of everybody's, report {result.report}")


if __name__ == "__main__":
    main()
