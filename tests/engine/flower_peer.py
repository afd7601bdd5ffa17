"""Run Flower apps on Flower's own simulation engine: what ours is compared with.

python flower_peer.py CLIENTS FOLDER=OUTPUT ...
"""

import os
import sys
from pathlib import Path

os.environ["FLWR_TELEMETRY_ENABLED"] = "0"
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"


def run(folder: Path, clients: int, output: str) -> None:
    """Do what `flwr run` does once SuperLink has handed the run to the simulation process."""
    from flwr.app import Context, RecordDict
    from flwr.common.config import get_fused_config_from_dir, get_project_config
    from flwr.simulation.run_simulation import _run_simulation
    from flwr.supercore.constant import NOOP_FEDERATION_ID
    from flwr.supercore.run import Run
    from flwr.supercore.task_identity import TaskIdentity
    from flwr.supercore.telemetry import EventType

    parts = get_project_config(folder)["tool"]["flwr"]["app"]["components"]
    run = Run.create_empty(run_id=7)
    run.primary_task_id, run.federation_id = 7, NOOP_FEDERATION_ID
    run.override_config = {"output": output}
    config = get_fused_config_from_dir(folder, run.override_config)
    context = Context(7, 0, {}, RecordDict(), config)
    TaskIdentity.task_id = TaskIdentity.run_id = 7
    TaskIdentity.node_id = 1
    sys.path.insert(0, str(folder))
    _run_simulation(
        num_supernodes=clients,
        exit_event=EventType.PYTHON_API_RUN_SIMULATION_LEAVE,
        server_app_attr=parts["serverapp"],
        client_app_attr=parts["clientapp"],
        backend_name="ray",
        backend_config={"client_resources": {"num_cpus": 1}, "init_args": {"num_cpus": 2}},
        app_dir=str(folder),
        is_app=True,
        run=run,
        server_app_context=context,
    )


if __name__ == "__main__":
    for pair in sys.argv[2:]:
        folder, output = pair.split("=")
        run(Path(folder), int(sys.argv[1]), output)
