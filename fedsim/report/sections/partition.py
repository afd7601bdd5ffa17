"""Who has what: the partition."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from fedsim.report.plots import COLORS, figure, svg
from fedsim.report.section import Picture, Section, Table

__all__ = ["section"]


def section(run: Any, clients: Sequence[dict[str, Any]]) -> Section:
    """Return the sizes of shards and, where examples have classes, who has which."""
    partition = run.partition
    sizes, heterogeneity = partition["sizes"], partition.get("heterogeneity")
    text = (
        f"{partition['examples']:,} training examples on {partition['clients']:,} clients: "
        f"{sizes['min']:,} to {sizes['max']:,} each, median {sizes['median']:g}."
    )
    if partition.get("is_declared"):
        text = (
            f"{partition['clients']:,} clients with rows of their own, of which no other machine "
            f"knows how many: declared are {sizes['min']:,} to {sizes['max']:,} at most."
        )
    if heterogeneity is not None:
        text += (
            f" Heterogeneity {heterogeneity:.2f}: the mean distance between a client's classes and "
            "everybody's, 0 is alike (IID), near 1 is nothing in common."
        )
    pictures = [_sizes(partition)]
    tables = []
    if partition.get("table"):
        pictures.insert(0, _classes(partition))
        names = partition.get("client_names") or []
        rows = [
            [names[i] if i < len(names) else i, *row, sum(row)]
            for i, row in enumerate(partition["table"])
        ]
        title = f"Examples by client and class{'' if len(rows) < 100 else ' (first 100 clients)'}"
        tables.append(Table(title, ["client", *partition["classes"], "all"], rows, is_folded=True))
    return Section("partition", "Partition", partition, text, pictures, tables)


def _classes(partition: dict[str, Any]) -> Picture:
    table = np.array(partition["table"])
    classes = partition["classes"]
    fig, ax = figure(height=2.9)
    bottom = np.zeros(len(table))
    for i, name in enumerate(classes):
        shade = _shade(i, len(classes))
        ax.bar(range(len(table)), table[:, i], bottom=bottom, color=shade, width=0.85, label=name)
        bottom += table[:, i]
    ax.set_xlabel("client", fontsize=9)
    ax.set_ylabel("examples, by class", fontsize=9)
    ax.grid(axis="x", visible=False)
    ax.xaxis.get_major_locator().set_params(integer=True)
    names = partition.get("client_names") or []
    if names and len(table) <= 12:
        ax.set_xticks(range(len(table)), names[: len(table)], fontsize=8)
    if len(classes) <= 12:
        ax.legend(fontsize=7, frameon=False, ncols=1, bbox_to_anchor=(1.0, 1.02), loc="upper left")
    text = f"Stacked bars: examples of each of {len(classes)} classes on {len(table)} clients."
    return Picture(svg(fig, "classes"), text)


def _sizes(partition: dict[str, Any]) -> Picture:
    histogram = partition["sizes"]["histogram"]
    edges = np.array(histogram["edges"])
    fig, ax = figure(height=2.0)
    ax.bar(
        edges[:-1], histogram["counts"], width=np.diff(edges) * 0.95, align="edge", color=COLORS[5]
    )
    ax.set_xlabel("training examples of a client", fontsize=9)
    ax.set_ylabel("clients", fontsize=9)
    text = f"Histogram of shard sizes, from {edges[0]:g} to {edges[-1]:g}."
    return Picture(svg(fig, "sizes"), text)


def _shade(i: int, count: int) -> Any:
    """Spread colours evenly over a map that is readable on light and dark ground."""
    from matplotlib import colormaps

    return colormaps["tab10"](i) if count <= 10 else colormaps["turbo"](0.08 + 0.84 * i / count)
