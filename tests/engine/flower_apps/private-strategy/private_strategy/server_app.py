"""private-strategy: Flower's wrapper adds noise to what a strategy comes to."""

import json
from pathlib import Path

import numpy as np
from flwr.app import Array, ArrayRecord, Context
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import DifferentialPrivacyClientSideFixedClipping, FedAvg

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run FedAvg with noise; it is drawn here alone, from a seed."""
    np.random.seed(5)
    inner = FedAvg(fraction_evaluate=0.0, min_train_nodes=4)
    strategy = DifferentialPrivacyClientSideFixedClipping(
        inner, noise_multiplier=0.5, clipping_norm=1.5, num_sampled_clients=4
    )
    initial = ArrayRecord({"v": Array(np.zeros(5))})
    result = strategy.start(grid=grid, initial_arrays=initial, num_rounds=3)
    vector = result.arrays["v"].numpy().tolist()
    Path(context.run_config["output"]).write_text(json.dumps({"v": vector}))
