"""faulty: what of a cohort comes back."""

import json
import time
from pathlib import Path

from flwr.app import Context, Message, RecordDict
from flwr.serverapp import Grid, ServerApp

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Ask twice: with a short time to live, and without."""
    while len(nodes := list(grid.get_node_ids())) < 2:
        time.sleep(0.2)
    found = []
    for ttl in (2.0, None):
        messages = [Message(RecordDict(), node, "query", ttl=ttl) for node in nodes]
        replies = list(grid.send_and_receive(messages))
        good = [reply.content["m"]["client"] for reply in replies if not reply.has_error()]
        bad = [reply for reply in replies if reply.has_error()]
        found.append({"good": sorted(good), "errors": len(bad)})
    Path(context.run_config["output"]).write_text(json.dumps(found, sort_keys=True))
