"""The client's process of a node: it runs the ClientApp that is installed here, and no other.

Flower sends every node an app bundle with a run and imports it, with the rights of the node: the
server, or whoever may submit, could run anything there, past any policy. A node of `fedsim deploy`
takes the bundle and imports nothing of it; it runs `fedsim.deployment`, whose guard decides.
"""

from flwr.supernode.cli.flwr_clientapp import flwr_clientapp
from flwr.supernode.runtime import run_clientapp

from fedsim.deployment import make_client_app

__all__ = ["main", "only_ours"]


def only_ours() -> None:
    """Have Flower's code that loads a bundle's ClientApp return this node's own."""
    if not hasattr(run_clientapp, "get_load_client_app_fn"):  # another Flower loads it elsewhere
        raise RuntimeError("this version of Flower cannot be kept from running code that is sent")
    run_clientapp.get_load_client_app_fn = lambda **_: lambda *_: make_client_app()


def main() -> None:
    """Do what `flwr-clientapp` does, with this node's own app."""
    only_ours()
    flwr_clientapp()


if __name__ == "__main__":
    main()
