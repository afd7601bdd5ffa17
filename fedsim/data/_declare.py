"""What a simulation reads off a pooled table, to be declared in public: `data.declared`."""

from typing import Any

import numpy as np

from fedsim.data._declared import filled, read_columns, split_own
from fedsim.data.table import kind_of_target, sort_key
from fedsim.errors import ConfigError, Problem
from fedsim.registry import suggest

__all__ = ["declare"]


def declare(data: Any, client: str, *, with_rows: bool = False) -> dict[str, Any]:
    """Return the content of `data.declared` for a table, as plain data.

    `client`: the column that names the clients. Means, deviations and categories are those of all
    clients' training rows; `with_rows` adds how many each client has. Raises what reading the table
    raises.
    """
    seen = read_columns(data.path, None)
    for key, column in (("data.target", data.target), ("partition.by", client)):
        if column not in seen.columns:
            accepted = f"a column: {', '.join(map(str, seen.columns))}"
            raise ConfigError([Problem(key, column, accepted, suggest(column, seen.columns))])
    task = kind_of_target(seen[data.target]) if data.task == "auto" else data.task
    numbers = {name for name in seen.columns if _is_number(seen[name])} - {client}
    numbers = numbers | {data.target} if task == "regression" else numbers - {data.target}
    kinds = {name: np.float64 if name in numbers else str for name in seen.columns}
    frame = read_columns(data.path, kinds)
    frame = filled(frame, data, data.path, {name: float(frame[name].mean()) for name in numbers})
    names = sorted(set(frame[client]))
    shards = [frame[frame[client] == name] for name in names]
    trains = [own.iloc[split_own(own[data.target].to_numpy(), data, task)[0]] for own in shards]
    train = {name: np.concatenate([own[name].to_numpy() for own in trains]) for name in kinds}
    found: dict[str, Any] = {
        "clients": names,
        "most_rows": max(map(len, trains)),
        "task": task,
        "columns": {
            name: _moments(values) if name in numbers else {"values": sorted(set(values))}
            for name, values in train.items()
            if name not in (client, data.target)
        },
    }
    if task == "regression":
        found |= _moments(train[data.target])
    else:
        found["classes"] = sorted(set(frame[data.target]), key=sort_key)
    return found | ({"rows": [len(own) for own in trains]} if with_rows else {})


def _is_number(column: Any) -> bool:
    from pandas.api.types import is_bool_dtype, is_numeric_dtype

    return bool(is_numeric_dtype(column)) and not is_bool_dtype(column)


def _moments(values: Any) -> dict[str, float]:
    return {"mean": float(values.mean()), "std": float(values.std()) or 1.0}
