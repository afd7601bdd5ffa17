"""Make what `compose.yaml` mounts: the federation's folders, and the database's passwords.

    python prepare.py FOLDER --address server --nodes node-a,node-b,node-c

Every argument goes to `fedsim deploy init` as it is; beside its folders there is then
FOLDER/secrets/ with `postgres-password` for the database and `pgpass`, what libpq reads, for the
server. Nothing that is there is overwritten.
"""

import os
import secrets
import subprocess
import sys
from pathlib import Path

MODE = 0o600  # libpq ignores a pgpass that others can read


def write_new(path: Path, text: str) -> None:
    """Write a file that only its owner can read, where there is none yet."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, MODE)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(text)


def passwords(folder: Path) -> None:
    """Write one new password in the two forms that the database and the server read."""
    folder.mkdir(mode=0o700)
    password = secrets.token_hex(24)  # hex: nothing that pgpass would need escaped
    write_new(folder / "postgres-password", password)
    write_new(folder / "pgpass", f"database:5432:fedsim:fedsim:{password}\n")


def main(arguments: list[str]) -> int:
    """Make both, or say what is in the way."""
    if not arguments or arguments[0].startswith("-"):
        sys.stderr.write("usage: prepare.py FOLDER [options of fedsim deploy init]\n")
        return 2
    folder = Path(arguments[0])
    if (folder / "secrets").exists():
        sys.stderr.write(f"{folder / 'secrets'} is there: this federation was made already\n")
        return 2
    made = subprocess.run(["fedsim", "deploy", "init", *arguments], check=False)
    if made.returncode == 0:
        passwords(folder / "secrets")
    return made.returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
