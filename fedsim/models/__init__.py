"""Models by name, the user's own models, and a model as one flat vector."""

from fedsim.models._build import build
from fedsim.models._user import UserModel
from fedsim.models._vector import (
    get_counters,
    get_vector,
    layout,
    named,
    set_counters,
    set_vector,
)

__all__ = [
    "UserModel",
    "build",
    "get_counters",
    "get_vector",
    "layout",
    "named",
    "set_counters",
    "set_vector",
]
