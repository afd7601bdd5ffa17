"""Ray nodes as processes of this machine, for the scripts beside this file; no test."""

import os
import time

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
_TRIES = 8


def cluster_of(**first):
    """Start a cluster's first node, "first"; again, where a busy machine was too slow for Ray."""
    from ray.cluster_utils import Cluster

    options = {"include_dashboard": False, "node_name": "first", **first}
    for tries in range(1, _TRIES + 1):
        try:
            return Cluster(initialize_head=True, head_node_args=options)
        except Exception:
            if tries == _TRIES:
                raise
            time.sleep(5)
    raise AssertionError


def created_bytes(node):
    """Return how many bytes a node's object store has taken in, its own and others'."""
    from ray._private.internal_api import node_stats

    found = node_stats(node["NodeManagerAddress"], node["NodeManagerPort"], False)
    return found.store_stats.cumulative_created_bytes
