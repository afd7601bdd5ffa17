"""pfl-research on a workload.

torchrun peer_pfl.py FOLDER WORKLOAD ROUNDS, or with python, in one process: prints
`workloads.figures`. It takes the GPU where torch sees one.
Runs with the interpreter of an environment of its own: `torch`, `pfl`, and what pfl 0.6 needs
besides (`packaging<26`, `prv-accountant==0.2.0`, `scipy`, `multiprocess`).
"""

import sys
import types
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
import workloads

torch.set_num_threads(1)


def main() -> None:
    """Run and print."""
    from pfl.aggregate.simulate import SimulatedBackend
    from pfl.aggregate.weighting import WeightByDatapoints
    from pfl.algorithm.base import NNAlgorithmParams
    from pfl.algorithm.federated_averaging import FederatedAveraging
    from pfl.callback.base import TrainingProcessCallback
    from pfl.data import FederatedDataset
    from pfl.data.sampling import get_user_sampler
    from pfl.hyperparam import NNEvalHyperParams, NNTrainHyperParams
    from pfl.internal.ops.pytorch_ops import get_default_device
    from pfl.internal.ops.selector import get_default_framework_module
    from pfl.metrics import Metrics, Weighted
    from pfl.model.pytorch import PyTorchModel

    folder, name, rounds = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    size, stamps = workloads.SIZES[name], []
    np.random.seed(0)
    net = workloads.model(name)
    loss_of = torch.nn.functional.cross_entropy

    class Stamp(TrainingProcessCallback):  # type: ignore[misc]
        def on_train_begin(self, *, model: Any) -> Any:
            stamps.append(perf_counter())
            return Metrics()

        def after_central_iteration(self, *_: Any, **__: Any) -> Any:
            stamps.append(perf_counter())
            return False, Metrics()

    def loss(self: Any, x: Any, y: Any, eval: bool = False) -> Any:
        self.train(not eval)
        return loss_of(self(x), y)

    def metrics(self: Any, x: Any, y: Any, eval: bool = True) -> Any:
        return {"loss": Weighted(loss_of(self(x), y).item(), 1)}

    net.loss, net.metrics = types.MethodType(loss, net), types.MethodType(metrics, net)
    # As in pfl's own CIFAR10 benchmark, all clients are ready float tensors in memory; on a GPU in
    # its memory, which spares pfl a copy per batch.
    device = get_default_device()
    clients = {
        client: tuple(part.to(device) for part in workloads.examples(folder, name, client))
        for client in range(size["clients"])
    }
    data = FederatedDataset.from_slices(clients, get_user_sampler("random", list(clients)))
    model = PyTorchModel(
        model=net,
        local_optimizer_create=torch.optim.SGD,
        central_optimizer=torch.optim.SGD(net.parameters(), 1.0),
    )
    FederatedAveraging().run(
        algorithm_params=NNAlgorithmParams(
            central_num_iterations=rounds,
            evaluation_frequency=10**6,
            train_cohort_size=size["cohort"],
            val_cohort_size=0,
        ),
        backend=SimulatedBackend(
            training_data=data, val_data=data, postprocessors=[WeightByDatapoints()]
        ),
        model=model,
        model_train_params=NNTrainHyperParams(
            local_learning_rate=workloads.LR, local_num_epochs=1, local_batch_size=workloads.BATCH
        ),
        model_eval_params=NNEvalHyperParams(local_batch_size=1000),
        callbacks=[Stamp()],
    )
    if get_default_framework_module().distributed.global_rank == 0:
        print(workloads.figures(stamps), flush=True)


if __name__ == "__main__":
    main()
