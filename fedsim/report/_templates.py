"""The HTML templates of all reports."""

from importlib import resources
from typing import Any

__all__ = ["template"]


def template(name: str) -> Any:
    """Return a template of `fedsim/report/templates`; what it is given cannot become markup."""
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    folder = resources.files("fedsim") / "report" / "templates"
    environment = Environment(
        loader=FunctionLoader(lambda name: (folder / name).read_text(encoding="utf-8")),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name)
