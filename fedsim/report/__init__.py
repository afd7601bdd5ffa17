"""The report of a run: one HTML file that opens offline, and the same content as JSON."""

from fedsim.report.html import build, fragment, write

__all__ = ["build", "fragment", "write"]
