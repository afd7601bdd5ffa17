"""What Flower starts as `flwr-clientapp` or `flwr-serverapp`: hands the work to a warm process.

    python -IS _shim.py SOCKET REAL ARGUMENT...

Runs on the standard library alone, by its path. The warm process gets the
arguments, the environment and the three standard streams, and answers with the exit status; where
it is gone, REAL is run instead.
"""

import json
import os
import socket
import sys
from pathlib import Path


def main() -> int:
    """Hand the arguments over and wait for the status."""
    place, real, *arguments = sys.argv[1:]
    folder = str(Path.cwd())
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            os.chdir(Path(place).parent)  # the path of a socket may have some hundred bytes only
            connection.connect(Path(place).name)
            asked = {"command": [Path(real).name, *arguments], "folder": folder}
            content = json.dumps({**asked, "environment": dict(os.environ)}).encode()
            head = len(content).to_bytes(8, "big")
            socket.send_fds(connection, [head + content], [0, 1, 2])
            answer = connection.recv(1)
    except OSError:
        answer = b""
        os.chdir(folder)
        if Path(real).name == "flwr-clientapp":  # by the way that runs this node's own app only
            command = [sys.executable, "-P", "-m", "fedsim.deploy.own_app"]
            os.execv(sys.executable, [*command, *arguments])
        os.execv(real, [real, *arguments])  # the program that this stands for
    return answer[0] if answer else 1


if __name__ == "__main__":
    raise SystemExit(main())
