"""Experiments as text: loaded, checked as a whole, written back."""

from fedsim.config._address import ADDRESSES, is_address
from fedsim.config._anonymization import schema_of
from fedsim.config._catalogue import catalogue
from fedsim.config._check import check, check_data
from fedsim.config._explain import explain
from fedsim.config._legality import experiment_of, legality
from fedsim.config._load import experiments, load
from fedsim.config._plain import dump_toml, from_dict, to_dict
from fedsim.config._schema import json_schema
from fedsim.config._secure_sum import session_parameters
from fedsim.config._template import template

__all__ = [
    "ADDRESSES",
    "catalogue",
    "check",
    "check_data",
    "dump_toml",
    "experiment_of",
    "experiments",
    "explain",
    "from_dict",
    "is_address",
    "json_schema",
    "legality",
    "load",
    "schema_of",
    "session_parameters",
    "template",
    "to_dict",
]
