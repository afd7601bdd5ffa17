"""Shell completion of names."""

__all__ = ["experiment_names", "part_names", "run_names"]


def experiment_names(incomplete: str) -> list[str]:
    """Complete the built-in experiments."""
    from importlib import resources

    files = (resources.files("fedsim") / "experiments").iterdir()
    names = sorted(file.name.removesuffix(".toml") for file in files)
    return [name for name in names if name.startswith(incomplete)]


def run_names(incomplete: str) -> list[str]:
    """Complete the runs of the default store."""
    import os
    from pathlib import Path

    from fedsim.store import RunStore

    place = os.environ.get("FEDSIM_RUNS") or "runs"
    if "://" not in place and not Path(place).is_dir():
        return []  # opening a store would make it
    names = [run.id for run in RunStore().all()] + ["last"]
    return [name for name in names if name.startswith(incomplete)]


def part_names(incomplete: str) -> list[str]:
    """Complete the names of registered parts."""
    from fedsim import registry

    names = {name for group in registry.GROUPS for name in registry.names(group)}
    return sorted(name for name in names if name.startswith(incomplete))
