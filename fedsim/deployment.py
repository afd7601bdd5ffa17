"""The ClientApp of `deploy/flower_app`: a fedsim experiment under Flower's own commands.

Flower hands both sides the same `run_config`; each turns it into the experiment's text by itself,
so nothing but messages travels between them. The ServerApp is `fedsim.deploy.server_app`, apart:
a client's process must not load a server.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from fedsim import adversaries, ckks_messages, cut_messages, root
from fedsim import config as configuration
from fedsim import data as datasets
from fedsim.clients._secure_sum import SECRET
from fedsim.clients.app import app as client_app
from fedsim.envelope import answering
from fedsim.environment import one_thread
from fedsim.federation import Places, to_text
from fedsim.node.app import guarded, has_folder
from fedsim.node.approval import TEXT, RefusedError
from fedsim.secure_messages import KINDS

__all__ = ["experiment_text", "make_client_app"]


def experiment_text(run_config: Mapping[str, Any]) -> str:
    """Return the experiment that a Flower run configuration names, as the text both sides read.

    Raises `ConfigError` for an experiment that cannot run.
    """
    experiment = str(run_config["experiment"])
    config = configuration.load(experiment, str(run_config["overrides"]).split())
    adversaries.must_be_simulated(config)
    root.must_have_rows(config.strategy, has_own=True)
    code = (str(Path(experiment).resolve().parent),) if Path(experiment).is_file() else ()
    data_dir = str(run_config["data-dir"]) or datasets.default_data_dir()
    return to_text(config, Places(data_dir=data_dir, code=code))


def make_client_app() -> ClientApp:
    """Return the ClientApp: fedsim's own, with the experiment in place of Flower's run config.

    On a node with a folder of its own, its guard decides first (`fedsim.node`). Whoever started the
    node, torch computes in one thread, as in a simulation.
    """

    def with_experiment(message: Message, context: Context, call: Any) -> Message:
        if has_folder(context):
            return guarded(message, context, call)
        if context.run_config.get(TEXT):
            raise RefusedError(
                "this SuperNode has no folder, so no policy, and nobody to check who approved the "
                "experiment: start it by fedsim deploy node FOLDER"
            )
        secret = context.run_config.get(SECRET)
        simulated = {SECRET: secret} if secret else {}
        # Flower refuses another run_config in its own context; the state in it is the same object.
        own = Context(
            run_id=context.run_id,
            node_id=context.node_id,
            node_config=context.node_config,
            state=context.state,
            run_config={"experiment": experiment_text(context.run_config)} | simulated,
        )
        reply: Message = call(message, own)
        return reply

    def in_one_thread(message: Message, context: Context, call: Any) -> Message:
        with one_thread():
            reply: Message = call(message, context)
        return reply

    app = ClientApp(mods=[answering, in_one_thread, with_experiment])
    for kind in ("train", "evaluate", "query"):
        getattr(app, kind)()(client_app)
    kinds = (*KINDS.values(), *ckks_messages.KINDS, *cut_messages.KINDS)
    for kind, action in (name.split(".") for name in kinds):
        getattr(app, kind)(action)(client_app)
    return app
