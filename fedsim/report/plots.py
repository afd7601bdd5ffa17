"""Plots as inline SVG: text stays text, the same numbers give the same bytes."""

import io
from collections.abc import Sequence
from typing import Any

__all__ = ["COLORS", "figure", "svg"]

COLORS = ("#2563a8", "#c2571a", "#2e7d4f", "#7a4fa3", "#8a6d1f", "#5b6770")


def figure(width: float = 7.2, height: float = 2.7, columns: int = 1) -> tuple[Any, Any]:
    """Return (figure, axes) in the report's style, without any global plotting state."""
    from matplotlib.figure import Figure

    fig = Figure(figsize=(width, height), layout="constrained")
    fig.patch.set_alpha(0)
    axes = fig.subplots(1, columns)
    for ax in axes if columns > 1 else [axes]:
        ax.patch.set_alpha(0)
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(axis="y", color="#888888", alpha=0.25, linewidth=0.6)
        ax.set_axisbelow(True)
        ax.tick_params(length=3, labelsize=9)
    return fig, axes


def svg(fig: Any, label: str) -> str:
    """Render a figure for inlining; lines and text take the page's own colour."""
    import matplotlib

    buffer = io.StringIO()
    settings = {"svg.fonttype": "none", "svg.hashsalt": label, "font.family": "sans-serif"}
    with matplotlib.rc_context(settings):
        fig.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    body = text[text.index("<svg") :]
    # Black is the only colour matplotlib uses for text and axes here: let it follow the theme.
    body = body.replace("stroke: #000000", "stroke: currentColor")
    body = body.replace('<text style="', '<text style="fill: currentColor; ')
    return _namespaced(body, label)


def thinned(values: Sequence[Any], most: int = 400) -> list[Any]:
    """Return at most `most` of the values, evenly spread, the first and last among them."""
    if len(values) <= most:
        return list(values)
    step = (len(values) - 1) / (most - 1)
    return [values[round(i * step)] for i in range(most)]


def _namespaced(body: str, label: str) -> str:
    """Make the ids of one figure differ from those of the others on the page."""
    import re

    prefix = re.sub(r"\W", "", label.title())[:24]
    body = re.sub(r'\bid="([^"]+)"', rf'id="{prefix}-\1"', body)
    body = re.sub(r'href="#([^"]+)"', rf'href="#{prefix}-\1"', body)
    return re.sub(r"url\(#([^)]+)\)", rf"url(#{prefix}-\1)", body)
