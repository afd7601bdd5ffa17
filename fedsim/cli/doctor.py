"""`fedsim doctor`: is this machine fit to run, and if not, what to do."""

from fedsim.cli._output import Json, Runs, print_json, print_table
from fedsim.errors import SetupError

__all__ = ["doctor"]


def doctor(runs: Runs = None, as_json: Json = False) -> None:
    """Check Python, libraries, GPUs, limits, disk, shared memory, ports and write access."""
    import dataclasses

    from fedsim.doctor import examine

    checks = examine(runs)
    failed = [check.name for check in checks if check.status == "fail"]
    if as_json:
        content = [dataclasses.asdict(check) for check in checks]
        status = "error" if failed else "ok"
        print_json({"status": status, "exit_code": 3 if failed else 0, "checks": content})
        raise SystemExit(3 if failed else 0)
    rows = [[check.status.upper(), check.name, check.found, check.fix] for check in checks]
    print_table(["", "check", "found", "fix"], rows)
    if failed:
        raise SetupError(f"this machine is not ready: {', '.join(failed)}")
