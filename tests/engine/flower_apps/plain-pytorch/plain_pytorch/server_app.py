"""plain-pytorch: the quickstart's server."""

import json
from pathlib import Path

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from plain_pytorch.task import Net

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run FedAvg."""
    config = context.run_config
    torch.manual_seed(0)
    strategy = FedAvg(fraction_evaluate=config["fraction-evaluate"])
    result = strategy.start(
        grid=grid,
        initial_arrays=ArrayRecord(Net().state_dict()),
        train_config=ConfigRecord({"lr": config["lr"]}),
        num_rounds=config["num-server-rounds"],
    )
    arrays = {k: v.flatten().tolist() for k, v in result.arrays.to_torch_state_dict().items()}
    metrics = {
        name: {number: dict(record) for number, record in found.items()}
        for name, found in [
            ("train", result.train_metrics_clientapp),
            ("evaluate", result.evaluate_metrics_clientapp),
        ]
    }
    Path(config["output"]).write_text(json.dumps({"arrays": arrays, "metrics": metrics}))
