"""Make what `compose.yaml` mounts: the federation's folders, and the database's password.

    python prepare.py FOLDER --address server --nodes node-a,node-b,node-c [--trial]

Every argument but `--trial` goes to `fedsim deploy init` as it is. Beside its folders there is then
FOLDER/secrets/ with `postgres-password` for the database and `pgpass`, what libpq reads, for the
server, whose server.toml names the database. `--trial` gives the nodes a policy that lets whatever
was approved run, for trying out; without it each node's owner writes the policy. Nothing that is
there is overwritten.
"""

import os
import secrets
import subprocess
import sys
import tomllib
from pathlib import Path

import tomli_w

from fedsim.node.policy import trial

DATABASE = "postgresql://fedsim@database/fedsim"
TRIAL = "--trial"


def write(path: Path, text: str) -> None:
    """Write a file that only its owner can read: libpq ignores a pgpass that others can."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)


def add_database(folder: Path) -> None:
    """Make a password, in the two forms that are read, and name the database in server.toml."""
    kept = folder / "secrets"
    kept.mkdir(mode=0o700)
    password = secrets.token_hex(24)  # hex: nothing that pgpass would need escaped
    write(kept / "postgres-password", password)
    write(kept / "pgpass", f"database:5432:fedsim:fedsim:{password}\n")
    settings = folder / "server" / "server.toml"
    content = tomllib.loads(settings.read_text(encoding="utf-8"))
    content["server"]["runs"] = DATABASE
    write(settings, tomli_w.dumps(content))


def main(arguments: list[str]) -> int:
    """Make all of it; the exit code is that of `fedsim deploy init`."""
    if not arguments or arguments[0].startswith("-"):
        sys.stderr.write("usage: prepare.py FOLDER [--trial] [options of fedsim deploy init]\n")
        return 2
    folder = Path(arguments[0])
    passed = [argument for argument in arguments if argument != TRIAL]
    command = [sys.executable, "-m", "fedsim", "deploy", "init", *passed]
    made = subprocess.run(command, check=False)
    if made.returncode:
        return made.returncode
    add_database(folder)
    if TRIAL in arguments:
        for node in sorted((folder / "nodes").iterdir()):
            write(node / "policy.toml", trial())
        print("trial: every node runs whatever was approved; not for data of people")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
