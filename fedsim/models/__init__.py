"""Models by name, the user's own models, and a model as one flat vector."""

from fedsim.models._build import build
from fedsim.models._features import features, features_of, no_features
from fedsim.models._layout import arrange
from fedsim.models._user import UserModel
from fedsim.models._vector import (
    get_change,
    get_counters,
    get_vector,
    layout,
    named,
    set_counters,
    set_vector,
)

__all__ = [
    "UserModel",
    "arrange",
    "build",
    "features",
    "features_of",
    "get_change",
    "get_counters",
    "get_vector",
    "layout",
    "named",
    "no_features",
    "set_counters",
    "set_vector",
]
