"""The privacy report of a run: what its ledger promises, and what it does not.

content = build(gather(store, "last"))
as_html(content), as_json(content), as_markdown(content)
"""

from fedsim.report.privacy.content import build
from fedsim.report.privacy.evidence import Evidence, gather
from fedsim.report.privacy.render import as_html, as_json, as_markdown, rendered, write

__all__ = ["Evidence", "as_html", "as_json", "as_markdown", "build", "gather", "rendered", "write"]
