"""What pytest has to know of these tests wherever they are run."""

import pytest

__all__ = ["pytest_configure"]


def pytest_configure(config: pytest.Config) -> None:
    """Make the mark of long tests known; `-m "not slow"` leaves them out."""
    config.addinivalue_line("markers", "slow: long; needs Ray, or masks between clients")
