"""A folder of keys, made anew for each test; and the time at which it was."""

from datetime import UTC, datetime

import pytest

from fedsim import keys

NOW = datetime.now(UTC).replace(microsecond=0)  # as certificates have it


@pytest.fixture
def now():
    return NOW


@pytest.fixture(params=["standard", "fips"])
def folder(request, tmp_path):
    return keys.init(
        tmp_path / "keys", profile=request.param, now=NOW, days=90, authority_days=3650
    )
