"""Published tables, run again: what was published, what we get, and whether it agrees."""

from fedsim.reproduce._judge import Verdict, judge
from fedsim.reproduce._run import reproduce
from fedsim.reproduce._table import Table, tables
from fedsim.reproduce._write import as_markdown, write

__all__ = ["Table", "Verdict", "as_markdown", "judge", "reproduce", "tables", "write"]
