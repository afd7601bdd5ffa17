"""A run on a Ray cluster that changes: a node joins in the middle of a round, and is killed later.

Prints what the run came to and what a look at the cluster showed meanwhile. A process of its own,
because it is connected to a cluster of its own.
"""

import json
import os
import signal
import sys
import threading
import time
from dataclasses import asdict
from pathlib import Path

from several_nodes import cluster_of

import fedsim
from fedsim.engine.cluster import look
from fedsim.events import ClientsDone, Stage

# A dead node is found after three seconds in place of twenty.
QUICK = {"health_check_initial_delay_ms": 1000, "health_check_period_ms": 1000}
QUICK |= {"health_check_failure_threshold": 3}


def is_said(shown, head: str) -> bool:
    """Say whether the run has told by now that its worker beside the head node trains clients."""
    workers = shown.runs[0].workers if shown.runs else {}
    return any("busy" in states for node, states in workers.items() if node not in ("", head))


def main(folder: Path, config: dict) -> None:
    """Run `config` on one node; add one in round 2, kill it (kill -9) when a client asks for it."""
    cluster = cluster_of(num_cpus=1, _system_config=QUICK)
    head = cluster.head_node.node_id
    (folder / "first").write_text(head)
    seen, said, added = [], [], []

    def watch() -> None:
        while not (asked := list(folder.glob("*.kill"))):
            time.sleep(0.05)
        deadline = time.monotonic() + 60
        while not is_said(shown := look(cluster.address), head) and time.monotonic() < deadline:
            time.sleep(0.2)
        seen.append(asdict(shown))
        os.kill(int(asked[0].stem), signal.SIGKILL)

    def listen(event) -> None:
        if isinstance(event, Stage):
            said.append(event.text)
        if isinstance(event, ClientsDone) and event.round == 1 and not added:
            added.append(cluster.add_node(num_cpus=1, node_name="second"))

    threading.Thread(target=watch, daemon=True).start()
    config["engine"]["ray_address"] = cluster.address
    result = fedsim.run(config, runs=folder / "runs", listener=listen)
    print(
        json.dumps(
            {
                "sha": result.model_sha256,
                "lost": [entry["lost"] for entry in result.history],
                "incidents": result.stored.summary["incidents"],
                "log": [line.split() for line in (folder / "log").read_text().splitlines()],
                "first": head,
                "seen": seen[0],
                "after": asdict(look(cluster.address)),
                "run": result.run_id,
            }
        )
    )
    cluster.shutdown()


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(sys.argv[2]))
