"""many-strategies: Flower's strategies, one after the other in one run."""

import json
from pathlib import Path

import numpy as np
from flwr.app import Array, ArrayRecord, Context
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import (
    Bulyan,
    FedAdagrad,
    FedAdam,
    FedAvgM,
    FedMedian,
    FedProx,
    FedTrimmedAvg,
    FedYogi,
    Krum,
    MultiKrum,
)

app = ServerApp()

# Of one neighbour each (four clients, one malicious) Krum would find two equally near, and take
# whichever reply came first.
STRATEGIES = {
    "adagrad": lambda: FedAdagrad(eta=0.1),
    "adam": lambda: FedAdam(eta=0.1),
    "avgm": lambda: FedAvgM(server_learning_rate=0.5, server_momentum=0.9),
    "bulyan": lambda: Bulyan(num_malicious_nodes=0),
    "krum": lambda: Krum(num_malicious_nodes=0),
    "median": FedMedian,
    "multi-krum": lambda: MultiKrum(num_malicious_nodes=0, num_nodes_to_select=2),
    "prox": lambda: FedProx(proximal_mu=0.1),
    "trimmed": lambda: FedTrimmedAvg(beta=0.25),
    "yogi": lambda: FedYogi(eta=0.1),
}


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run three rounds of each."""
    found = {}
    for name, make in STRATEGIES.items():
        initial = ArrayRecord({"v": Array(np.linspace(-1, 1, 6))})
        result = make().start(grid=grid, initial_arrays=initial, num_rounds=3)
        found[name] = {
            "v": result.arrays["v"].numpy().tolist(),
            "train": {n: dict(m) for n, m in result.train_metrics_clientapp.items()},
            "evaluate": {n: dict(m) for n, m in result.evaluate_metrics_clientapp.items()},
        }
    Path(context.run_config["output"]).write_text(json.dumps(found))
