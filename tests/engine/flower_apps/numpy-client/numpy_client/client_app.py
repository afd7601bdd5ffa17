"""numpy-client: the older way to write a client."""

import numpy as np
from flwr.client import NumPyClient
from flwr.clientapp import ClientApp
from flwr.common import Context


class Client(NumPyClient):
    """Moves half way to its own number."""

    def __init__(self, number):
        self.number = number

    def fit(self, parameters, config):
        """Return new parameters."""
        return [(p + self.number) / 2 for p in parameters], self.number + 1, {}

    def evaluate(self, parameters, config):
        """Return the distance."""
        return float(np.abs(parameters[0] - self.number).mean()), 1, {"seen": 1}


def client_fn(context: Context):
    """Make a client."""
    return Client(context.node_config["partition-id"]).to_client()


app = ClientApp(client_fn)
