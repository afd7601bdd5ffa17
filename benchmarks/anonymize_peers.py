"""The other tools of benchmarks/anonymize.py, in an environment of their own.

Called with a JSON file that says what to do; answers with one line of JSON. Imports nothing of
fedsim: the environment has not got it.
"""

import json
import sys
import time
from typing import Any

import pandas as pd


def main() -> None:
    with open(sys.argv[1], encoding="utf-8") as file:  # noqa: PTH123
        order = json.load(file)
    answer: dict[str, Any] = {"released": {}, "verified": {}}
    for name, path in order["verify"].items():
        answer["verified"][name] = _verified(path, order)
    for share in (0, 5):
        answer["released"][f"anjana k, {share} %"] = _timed(_anjana, order, share)
    answer["released"]["anonypy k"] = _timed(_anonypy, order, 0)
    print(json.dumps(answer))


def _timed(run: Any, order: dict[str, Any], share: int) -> dict[str, Any]:
    frame = pd.read_csv(order["raw"])
    wall, cpu = time.perf_counter(), time.process_time()
    released = run(frame, order, share)
    seconds = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
    return seconds | {"classes": released()}


def _anjana(frame: pd.DataFrame, order: dict[str, Any], share: int) -> Any:
    from anjana.anonymity import k_anonymity

    with open(order["hierarchies"], encoding="utf-8") as file:  # noqa: PTH123
        levels = json.load(file)
    for name in order["quasi"]:
        frame[name] = frame[name].astype(str)
    hierarchies = {
        name: {number: pd.array(level).to_numpy() for number, level in enumerate(levels[name])}
        for name in order["quasi"]
    }
    released = k_anonymity(frame, [], list(order["quasi"]), order["k"], share, hierarchies)

    def classes() -> list[Any]:
        sizes = released.groupby(list(order["quasi"]), observed=True).size()
        return [[int(size), [[str(cell)] for cell in cells]] for cells, size in sizes.items()]

    return classes


def _anonypy(frame: pd.DataFrame, order: dict[str, Any], _share: int) -> Any:
    import anonypy

    for name in (*order["quasi"], order["sensitive"]):
        if name != "age":
            frame[name] = frame[name].astype("category")
    quasi, sensitive = list(order["quasi"]), order["sensitive"]
    partitions = anonypy.Preserver(frame, quasi, sensitive).modrian.partition(order["k"])

    def classes() -> list[Any]:
        return [
            [len(rows), [sorted(map(str, set(frame.loc[rows, name]))) for name in quasi]]
            for rows in partitions
        ]

    return classes


def _verified(path: str, order: dict[str, Any]) -> dict[str, float]:
    from pycanon import anonymity

    frame, quasi = pd.read_csv(path, dtype=str), list(order["quasi"])
    sensitive = [order["sensitive"]]
    return {
        "k": int(anonymity.k_anonymity(frame, quasi)),
        "l": int(anonymity.l_diversity(frame, quasi, sensitive)),
        "t": float(anonymity.t_closeness(frame, quasi, sensitive)),
    }


if __name__ == "__main__":
    main()
