"""numpy-client: the older way to write a server."""

import json
from pathlib import Path

import numpy as np
from flwr.common import Context, ndarrays_to_parameters, parameters_to_ndarrays
from flwr.server import ServerAppComponents, ServerConfig
from flwr.server.strategy import FedAvg
from flwr.serverapp import ServerApp


class Saving(FedAvg):
    """FedAvg that writes what it comes to."""

    def __init__(self, output, **options):
        super().__init__(**options)
        self.output = output

    def aggregate_fit(self, server_round, results, failures):
        """Average, and write."""
        parameters, metrics = super().aggregate_fit(server_round, results, failures)
        vector = parameters_to_ndarrays(parameters)[0].tolist()
        Path(self.output).write_text(json.dumps({"v": vector, "failures": len(failures)}))
        return parameters, metrics


def server_fn(context: Context):
    """Make the parts of the server."""
    strategy = Saving(
        context.run_config["output"],
        fraction_fit=1.0,
        min_available_clients=2,
        initial_parameters=ndarrays_to_parameters([np.ones(3)]),
    )
    config = ServerConfig(num_rounds=context.run_config["rounds"])
    return ServerAppComponents(strategy=strategy, config=config)


app = ServerApp(server_fn=server_fn)
