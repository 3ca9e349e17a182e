"""Draw `results.json` as one HTML page: each claim beside its goal, and what does not grow with size."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from pipeline.pages.page import Html, beside, figure, page, section, table, text
from pipeline.volumes.atomic import atomic_write_text

MET, MISSED, PLAIN = "#0072b2", "#d55e00", "#9aa7b4"
SMALLEST = 0.1  # of the drawn axis, in goals


def goal_of(entry: Mapping[str, Any]) -> float | None:
    """Return what a figure should be at least, or at most."""
    return entry.get("at_most", entry["at_least"])


def is_met(entry: Mapping[str, Any]) -> bool | None:
    """Whether a figure reaches its goal; None where it has none."""
    if "at_most" in entry:
        return entry["ratio"] <= entry["at_most"]
    return None if entry["at_least"] is None else entry["ratio"] >= entry["at_least"]


def reached(entry: Mapping[str, Any]) -> float:
    """Return how many times its goal a figure is, such that more is better."""
    return entry["at_most"] / entry["ratio"] if "at_most" in entry else entry["ratio"] / entry["at_least"]


def bars(entries: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw each figure as a multiple of its goal, on a logarithmic axis."""
    drawn = Figure(figsize=(9, 0.34 * len(entries) + 0.9), layout="constrained")
    axes = drawn.subplots()
    places = range(len(entries), 0, -1)
    values = [max(reached(entry), SMALLEST) for entry in entries]
    axes.barh(places, values, color=[MET if is_met(entry) else MISSED for entry in entries], height=0.6)
    axes.set_yticks(places, [entry["name"] for entry in entries], fontsize=8, parse_math=False)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(lambda value, place: f"{value:g}")
    axes.set_ylim(0.3, len(entries) + 0.7)
    axes.axvline(1, color="black", linewidth=1)
    axes.set_xlabel("times the goal (right of the line: reached)", fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    return drawn


def curve(entry: Mapping[str, Any]) -> Figure:
    """Draw a cost over a size, and the band within which it counts as flat."""
    (by, sizes), (what, costs) = entry["curve"].items()
    drawn = Figure(figsize=(4, 2.8), layout="constrained")
    axes = drawn.subplots()
    axes.plot(sizes, costs, marker="o", color=MET)
    axes.axhspan(min(costs), min(costs) * entry["at_most"], color=PLAIN, alpha=0.25)
    axes.set_xscale("log")
    axes.set_xticks(sizes, [f"{size:g}" for size in sizes], fontsize=8)
    axes.minorticks_off()
    axes.set_ylim(0, 1.3 * max(costs))
    axes.set_xlabel(by, fontsize=9)
    axes.set_ylabel(what, fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    return drawn


def row(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return a figure as a line of the table."""
    bound = "at most" if "at_most" in entry else "at least"
    goal = goal_of(entry)
    return {
        "claim": entry["name"],
        "measured": entry["ratio"],
        "unit": entry["unit"],
        "goal": None if goal is None else f"{bound} {goal:g}",
        "reached": {True: "yes", False: "no", None: "no goal"}[is_met(entry)],
        "command": entry["command"],
        "machine": entry["machine"],
        "date": entry["date"],
    }


def drawn_page(entries: Sequence[Mapping[str, Any]]) -> Html:
    """Return the whole page."""
    judged = [entry for entry in entries if is_met(entry) is not None]
    curves = [entry for entry in entries if "curve" in entry]
    sections = [
        section("Claims", figure(bars(judged)), table([row(entry) for entry in entries], name="claims")),
        section(
            "What does not grow with size",
            text("The grey band is what counts as flat: its top is the goal."),
            beside(*(figure(curve(entry), f"{entry['name']}: {entry['ratio']:.2f}") for entry in curves), most=420),
        ),
    ]
    met = sum(bool(is_met(entry)) for entry in judged)
    return page("Benchmarks", sections, f"{met} of {len(judged)} goals are reached")


def main() -> None:
    """Write the page beside the list."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path, nargs="?", default=Path(__file__).with_name("results.json"))
    options = parser.parse_args()
    file = options.results.with_suffix(".html")
    atomic_write_text(file, drawn_page(json.loads(options.results.read_text())))
    print(f"wrote {file}")


if __name__ == "__main__":
    main()
