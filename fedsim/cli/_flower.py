"""`fedsim run PATH/TO/APP`: somebody's Flower app on our grids."""

import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from fedsim.cli._output import print_json
from fedsim.errors import ConfigError, FedsimError, Problem, RunFailedError

__all__ = ["run_app"]


def run_app(
    folder: Path,
    overrides: Sequence[str],
    *,
    clients: int | None,
    workers: int | None,
    grid: str | None,
    ray_address: str | None,
    as_json: bool,
) -> None:
    """Run the app; what it prints is its own, one line about the run comes last."""
    from fedsim.engine.apps import override, read_flower_app, run_flower_app

    if grid not in (None, "ray", "inprocess"):
        raise ConfigError([Problem("--grid", grid, "ray or inprocess")])
    app = override(read_flower_app(folder), overrides)
    try:
        done = run_flower_app(
            app.server,
            app.client,
            num_clients=clients or app.clients,
            workers=workers,
            run_config=app.config,
            grid=grid or "ray",
            ray_address=ray_address,
            code=(str(app.folder),),
            show_output=True,
        )
    except FedsimError:
        raise
    except Exception as error:  # the app's own; its author wants all of it
        traceback.print_exc()
        raise RunFailedError(f"the app raised {type(error).__name__}: {error}") from error
    for incident in done.incidents:
        sys.stderr.write(f"{incident}\n")
    if as_json:
        names = ("clients", "workers", "messages", "errors", "seconds")
        print_json({name: getattr(done, name) for name in names})
        return
    lost = f", {done.errors} of them errors" if done.errors else ""
    sys.stdout.write(
        f"{done.messages} messages answered{lost}: {done.clients} clients, {done.workers} "
        f"worker(s), {done.seconds:.1f} s, {done.messages / done.seconds:.1f} messages/s\n"
    )
