"""The command line. Each command is a file: parse, one library call, print.

Nothing heavy is imported before a command runs, so that `--help` answers at once.
"""

from fedsim.cli._app import main

__all__ = ["main"]
