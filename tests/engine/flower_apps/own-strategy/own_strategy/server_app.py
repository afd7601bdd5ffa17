"""own-strategy: FedAdagrad that trusts some clients only and changes its own configuration."""

import json
from pathlib import Path

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAdagrad

app = ServerApp()


class Trusting(FedAdagrad):
    """Averages the clients that are sure."""

    def __init__(self, **options):
        super().__init__(**options)
        self.heard = []

    def configure_train(self, server_round, arrays, config, grid):
        """Lower the step every round."""
        config["eta"] = config["eta"] / server_round
        return super().configure_train(server_round, arrays, config, grid)

    def aggregate_train(self, server_round, replies):
        """Leave out who is not sure."""
        replies = sorted(replies, key=lambda reply: reply.content["told"]["name"])
        self.heard.append([reply.content["told"]["name"] for reply in replies])
        sure = [reply for reply in replies if reply.content["told"]["sure"]]
        return super().aggregate_train(server_round, sure)


def central(server_round, arrays):
    """Evaluate on the server."""
    from flwr.app import MetricRecord

    return MetricRecord({"norm": float(np.linalg.norm(arrays["v"].numpy()))})


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the strategy."""
    strategy = Trusting(eta=context.run_config["strategy.eta"])
    result = strategy.start(
        grid=grid,
        initial_arrays=ArrayRecord({"v": Array(np.arange(4.0))}),
        train_config=ConfigRecord({"eta": 0.1}),
        num_rounds=3,
        evaluate_fn=central,
    )
    found = {
        "v": result.arrays["v"].numpy().tolist(),
        "heard": strategy.heard,
        "central": {k: dict(v) for k, v in result.evaluate_metrics_serverapp.items()},
        "clients": {k: dict(v) for k, v in result.evaluate_metrics_clientapp.items()},
    }
    Path(context.run_config["output"]).write_text(json.dumps(found, sort_keys=True))
