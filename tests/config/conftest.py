"""The schema of experiment files, built once: that takes most of a second."""

import jsonschema
import pytest

from fedsim import config as configuration


@pytest.fixture(scope="session")
def schema():
    """What validates an experiment by the JSON schema."""
    made = configuration.json_schema()
    jsonschema.Draft202012Validator.check_schema(made)
    return jsonschema.Draft202012Validator(made)
