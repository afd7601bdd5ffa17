"""An ordinary Flower app on a workload, on our grid or on Flower's own engine.

python app.py FOLDER WORKLOAD ROUNDS fedsim|flower: prints `workloads.figures`.
"""

import os
import sys
from pathlib import Path
from time import perf_counter

import torch
import workloads
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from torch.nn import functional

client_app = ClientApp()


@client_app.train()
def train(message: Message, context: Context) -> Message:
    """Train on one's own data, as Flower's PyTorch examples do."""
    name, folder = os.environ["FEDSIM_WORKLOAD"], Path(os.environ["FEDSIM_BENCH"])
    module = workloads.model(name)
    module.load_state_dict(message.content["arrays"].to_torch_state_dict())
    x, y = workloads.examples(folder, name, int(context.node_config["partition-id"]))
    optimizer = torch.optim.SGD(module.parameters(), lr=workloads.LR)
    module.train()
    for start in range(0, len(x), workloads.BATCH):
        own = slice(start, start + workloads.BATCH)
        optimizer.zero_grad()
        functional.cross_entropy(module(x[own]), y[own]).backward()
        optimizer.step()
    metrics = MetricRecord({"num-examples": len(x)})
    content = RecordDict({"arrays": ArrayRecord(module.state_dict()), "metrics": metrics})
    return Message(content, reply_to=message)


def server(name: str, rounds: int, stamps: list[float]) -> ServerApp:
    """Return FedAvg that notes when each round begins."""

    class Timed(FedAvg):
        def configure_train(self, *args: object) -> object:
            stamps.append(perf_counter())
            return super().configure_train(*args)

    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        size = workloads.SIZES[name]
        share = size["cohort"] / size["clients"]
        strategy = Timed(
            fraction_train=share, fraction_evaluate=0.0, min_available_nodes=size["clients"]
        )
        arrays = ArrayRecord(workloads.model(name).state_dict())
        strategy.start(grid=grid, initial_arrays=arrays, num_rounds=rounds)
        stamps.append(perf_counter())

    return app


def main() -> None:
    """Run and print."""
    name, rounds, engine = sys.argv[2], int(sys.argv[3]), sys.argv[4]
    stamps: list[float] = []
    clients = workloads.SIZES[name]["clients"]
    app = server(name, rounds, stamps)
    torch.set_num_threads(1)
    if engine == "fedsim":
        from fedsim.engine import run_flower_app

        here = str(Path(__file__).parent)
        run_flower_app(app, "app:client_app", num_clients=clients, workers=2, code=(here,))
    else:
        import app as importable
        from flwr.simulation import run_simulation

        config = {"client_resources": {"num_cpus": 1}, "init_args": {"num_cpus": 2}}
        run_simulation(app, importable.client_app, clients, backend_config=config)
    print(workloads.figures(stamps))


if __name__ == "__main__":
    main()
