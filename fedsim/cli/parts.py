"""`fedsim strategies list` and its like: the parts of each kind, one line each."""

import typer

from fedsim.cli._output import Json, print_json, print_table
from fedsim.registry import GROUPS

__all__ = ["apps"]

#: What a kind is called on the command line, where it is not called as its group.
_NAMES = {"partition": "partitions"}
_SHOWN = {
    "secure_sum": "secure sum",
    "user": "DP user",
    "example": "DP example",
    "local": "DP local",
}


def apps() -> dict[str, typer.Typer]:
    """Return a command for each kind of parts; data sets have one of their own."""
    return {_NAMES.get(group, group): _app(group) for group in GROUPS if group != "data"}


def _app(group: str) -> typer.Typer:
    name = _NAMES.get(group, group)
    app = typer.Typer(help=f"List the {name} there are.", no_args_is_help=True)

    @app.command("list", help=f"List the {name}: what each is, its paper, what it goes with.")
    def list_(as_json: Json = False) -> None:
        from fedsim import config

        found = config.catalogue(group)
        if as_json:
            parts = [_flat(part) for part in found]
            print_json({"status": "ok", "exit_code": 0, "group": group, "parts": parts})
            return
        flags = list(dict.fromkeys(flag for part in found for flag in part["legality"]))
        rows = [
            [part["name"], *(_mark(part, flag) for flag in flags), part["paper"], part["summary"]]
            for part in found
        ]
        shown = [_SHOWN.get(flag, flag) for flag in flags]
        print_table(["name", *shown, "paper", "what"], rows)
        if flags:
            print("\nyes: the configuration check accepts it; fedsim explain NAME says why not.")

    app.callback(help=f"List the {name} there are.")(_nothing)
    return app


def _nothing() -> None:
    """Keep `list` a word of its own, though it is the only one."""


def _mark(part: dict[str, dict[str, str]], flag: str) -> str:
    if flag not in part["legality"]:
        return "-"
    return "no" if part["legality"][flag] else "yes"


def _flat(part: dict[str, dict[str, str]]) -> dict[str, object]:
    """Return a part with what it goes with as true and false, and the reasons beside."""
    reasons = part["legality"]
    legal = {flag: not reason for flag, reason in reasons.items()}
    refused = {flag: reason for flag, reason in reasons.items() if reason}
    return {**part, "legality": legal, "refused": refused}
