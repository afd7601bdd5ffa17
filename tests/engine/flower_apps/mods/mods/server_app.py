"""mods: FedAvg."""

import json
from pathlib import Path

import numpy as np
from flwr.app import Array, ArrayRecord, Context
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run FedAvg."""
    strategy = FedAvg(fraction_evaluate=0.0)
    initial = ArrayRecord({"v": Array(np.ones(2))})
    result = strategy.start(grid=grid, initial_arrays=initial, num_rounds=3)
    metrics = {number: dict(record) for number, record in result.train_metrics_clientapp.items()}
    arrays = result.arrays["v"].numpy().tolist()
    Path(context.run_config["output"]).write_text(json.dumps({"v": arrays, "metrics": metrics}))
