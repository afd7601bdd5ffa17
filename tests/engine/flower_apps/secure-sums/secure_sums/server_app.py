"""secure-sums: Flower's SecAgg+ as a workflow of messages, four stages in each round."""

import json
from pathlib import Path

import numpy as np
from flwr.common import Context, ndarrays_to_parameters, parameters_to_ndarrays
from flwr.server import LegacyContext, ServerConfig
from flwr.server.strategy import FedAvg
from flwr.server.workflow import DefaultWorkflow, SecAggPlusWorkflow
from flwr.serverapp import Grid, ServerApp

app = ServerApp()


class Seeing(FedAvg):
    """FedAvg that keeps what it comes to."""

    def __init__(self, **options):
        super().__init__(**options)
        self.seen = []

    def aggregate_fit(self, server_round, results, failures):
        """Average, and keep."""
        parameters, metrics = super().aggregate_fit(server_round, results, failures)
        self.seen.append(parameters_to_ndarrays(parameters)[0].tolist())
        return parameters, metrics


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run two rounds."""
    initial = ndarrays_to_parameters([np.ones(3)])
    options = {"min_fit_clients": 4, "min_available_clients": 4, "fraction_evaluate": 0.0}
    strategy = Seeing(initial_parameters=initial, **options)
    legacy = LegacyContext(context=context, config=ServerConfig(num_rounds=2), strategy=strategy)
    secure = SecAggPlusWorkflow(num_shares=3, reconstruction_threshold=2, max_weight=1.0)
    DefaultWorkflow(fit_workflow=secure)(grid, legacy)
    Path(context.run_config["output"]).write_text(json.dumps({"v": strategy.seen}))
