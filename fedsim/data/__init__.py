"""Data sets (one file each, file name = key), and what they hand over."""

from fedsim.data._catalogue import describe, fetch
from fedsim.data._clients import (
    PooledClients,
    as_stored,
    cache_key,
    deal,
    gather,
    numbers,
    open_clients,
    pixels_of,
    sizes_of,
    tensors,
    together,
)
from fedsim.data._declared import Declared, Elsewhere, OwnRows, declared_of
from fedsim.data._public import HELD_OUT, Shown, show
from fedsim.data._raw import RawClients, open_raw
from fedsim.data._source import default_data_dir
from fedsim.data._summary import summarize
from fedsim.data._together import Together
from fedsim.data._types import (
    ClientData,
    Dataset,
    Examples,
    Meta,
    Partition,
    RawTable,
    Tabular,
)

__all__ = [
    "HELD_OUT",
    "ClientData",
    "Dataset",
    "Declared",
    "Elsewhere",
    "Examples",
    "Meta",
    "OwnRows",
    "Partition",
    "PooledClients",
    "RawClients",
    "RawTable",
    "Shown",
    "Tabular",
    "Together",
    "as_stored",
    "cache_key",
    "deal",
    "declared_of",
    "default_data_dir",
    "describe",
    "fetch",
    "gather",
    "numbers",
    "open_clients",
    "open_raw",
    "pixels_of",
    "show",
    "sizes_of",
    "summarize",
    "tensors",
    "together",
]
