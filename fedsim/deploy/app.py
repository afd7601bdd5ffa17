"""The Flower app that is submitted: two names that point into the installed package.

Nothing of fedsim travels with it; nodes and server run the fedsim that is installed there. It is
`deploy/flower_app` of the repository, from here so that an installed package has it too.
"""

from pathlib import Path

__all__ = ["FILES", "write_app"]

_PYPROJECT = """\
# A thin Flower app: `flwr run deploy/flower_app` runs a fedsim experiment on Flower's own engine.
# The code is that of the installed fedsim package; only two names live here.
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "fedsim-app"
version = "0.1.0"
description = "A fedsim experiment as a Flower app"
license = "Apache-2.0"
dependencies = ["fedsim"]

[tool.hatch.build.targets.wheel]
packages = ["fedsim_app"]

[tool.flwr.app]
publisher = "fedsim"
fab-include = ["fedsim_app/**/*.py"]

[tool.flwr.app.components]
serverapp = "fedsim_app.server:app"
clientapp = "fedsim_app.client:app"

[tool.flwr.app.config]
experiment = "digits"  # a built-in experiment, or the absolute path of a TOML file
overrides = ""         # for example "rounds.count=3 optimizer.lr=0.05"
output = ""            # absolute path of a JSON-lines file: one line per round
data-dir = ""          # where data files are; empty takes the default
runs = ""              # the run store; empty takes FEDSIM_RUNS, or the folder runs
# Of secure sums. Deployed: what the server checks clients' keys against (`fedsim keys`). Simulated
# nodes have no keys of their own: 64 hex digits here stand for them, and protect nobody.
identities = ""
authority = ""
simulated-identities = ""
# `fedsim deploy submit` fills these: what nodes check and run, in place of the first two above, and
# the run of the server's store to go on with, and Flower's number of its first stretch.
experiment-text = ""
experiment-signature = ""
resume = ""
first-stretch = ""
"""

#: Content by path in the app's folder.
FILES = {
    "pyproject.toml": _PYPROJECT,
    "fedsim_app/__init__.py": '"""A fedsim experiment as a Flower app."""\n',
    "fedsim_app/client.py": (
        '"""The ClientApp: fedsim\'s client."""\n\n'
        "from fedsim.deployment import make_client_app\n\n"
        "app = make_client_app()\n"
    ),
    "fedsim_app/server.py": (
        '"""The ServerApp: fedsim\'s rounds."""\n\n'
        "from fedsim.deploy.server_app import make_server_app\n\n"
        "app = make_server_app()\n"
    ),
}


def write_app(folder: Path) -> Path:
    """Write the app into a folder; return the folder."""
    for name, content in FILES.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
    return folder
