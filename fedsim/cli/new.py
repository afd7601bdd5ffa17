"""`fedsim new`: an experiment and a model of one's own to start from."""

from pathlib import Path
from typing import Annotated

import typer

from fedsim.errors import ConfigError, Problem, SetupError

__all__ = ["new"]


def new(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The folder to make.")],
) -> None:
    """Write NAME/experiment.toml, commented, and NAME/model.py, a model of yours."""
    from fedsim.config import template

    folder = Path(name)
    if folder.exists():
        accepted = "a folder that does not exist yet: nothing is overwritten"
        raise ConfigError([Problem("NAME", name, accepted)])
    experiment, model = template(folder.name)
    try:
        folder.mkdir(parents=True)
        (folder / "experiment.toml").write_text(experiment, encoding="utf-8")
        (folder / "model.py").write_text(model, encoding="utf-8")
    except OSError as error:
        raise SetupError(f"cannot write {folder}: {error.strerror}") from error
    print(f"Run it with: fedsim run {folder / 'experiment.toml'}")
