"""The page of a comparison, opened on a screen and on a telephone."""

import numpy as np
import pytest
from test_report_in_browser import EVIL, LONG

from pipeline.comparison.choice import Metric
from pipeline.comparison.comparison import compare_entries
from pipeline.comparison.comparison_page import comparison_page
from pipeline.comparison.entries import Entry
from pipeline.comparison.store import TrackedRun
from pipeline.slices import Slice

BASE = np.linspace(0.6, 0.9, 12)
NAMES = [EVIL, LONG, "$lr$ \\frac{", "細胞", "case", "run"]


def entry(name, scores, **params):
    settings = {key: str(value) for key, value in params.items()}
    run = TrackedRun(name, name, "1", "FINISHED", 0, "", settings)
    rows = {f"case {n}": {"mean_dice": s, "dice/a": s, f"dice/{EVIL}": s / 2} for n, s in enumerate(scores)}
    return Entry(name, run, (run,), rows)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """A page of six runs with everything on it."""
    entries = [
        entry(name, BASE + 0.01 * n, **{"epochs": n, "run": n % 2, "overlay": f"{LONG}{n % 3}"})
        for n, name in enumerate(NAMES)
    ]
    found = compare_entries(entries, entries[4], Metric("mean_dice", "validation"), lambda *_: None)
    square = np.random.default_rng(0).integers(0, 2, (24, 24)).astype(np.uint8)
    kept = {case: Slice(row["mean_dice"], 200 * square, square, square) for case, row in entries[0].scores.items()}
    histories = {one.run.id: [(epoch, 0.1 * epoch) for epoch in range(1, 6)] for one in entries}
    file = tmp_path_factory.mktemp("comparison") / "comparison.html"
    file.write_text(comparison_page(found, LONG, histories, [kept, kept], "now"))
    return file


@pytest.mark.parametrize("width", [1200, 400])
def test_the_page_opens_without_an_error_and_fits_the_screen(chromium, file, width):
    chromium.open(file, width=width, touch=width == 400)
    assert chromium.value("document.documentElement.scrollWidth") <= width
    chromium.wait("[...document.images].every(image => image.complete && image.naturalWidth > 0)")
    # Differences, curves, spread, two classes, five panels of cases, settings, worst cases.
    assert chromium.value("document.images.length") == 12
    assert chromium.problems == []


def test_no_picture_is_empty(chromium, file):
    chromium.open(file)
    chromium.wait("[...document.images].every(image => image.complete && image.naturalWidth > 0)")
    colours = (
        "[...document.images].map(image => { const canvas = document.createElement('canvas');"
        " canvas.width = canvas.height = 200; const context = canvas.getContext('2d', {willReadFrequently: true});"
        " context.drawImage(image, 0, 0, 200, 200); const data = context.getImageData(0, 0, 200, 200).data;"
        " return new Set(new Uint32Array(data.buffer)).size })"
    )
    assert min(chromium.value(colours)) > 20


def test_the_table_of_runs_is_sorted_by_a_click(chromium, file):
    chromium.open(file)
    column = "[...document.querySelectorAll('[data-name=runs] tbody tr')].map(row => row.cells[1].dataset.value)"
    first = chromium.value(column)
    assert first == sorted(first, reverse=True), "the best comes first"
    chromium.click("[data-name=runs] th:nth-child(2) button")
    clicked = chromium.value(column)
    chromium.click("[data-name=runs] th:nth-child(2) button")
    assert {tuple(clicked), tuple(chromium.value(column))} == {tuple(first), tuple(first[::-1])}


def test_settings_that_differ_are_seen_on_a_desk_without_scrolling(chromium, tmp_path):
    entries = [entry(f"fewer-flips-{n}", BASE, seed=n, flips=0.5, epochs=6 + n // 2) for n in range(4)]
    found = compare_entries(entries, entries[0], Metric("mean_dice", "validation"), lambda *_: None)
    (tmp_path / "page.html").write_text(comparison_page(found, "cells", {}, [], "now"))
    chromium.open(tmp_path / "page.html", width=1200)
    right = "getBoundingClientRect().right"
    (edge,) = chromium.value(f"[...document.querySelectorAll('[data-name=runs] .scroll')].map(box => box.{right})")
    headings = chromium.value(
        f"[...document.querySelectorAll('[data-name=runs] th')].map(cell => [cell.textContent, cell.{right}])"
    )
    assert {name for name, place in headings if place < edge} >= {"run", "mean_dice", "difference", "seed", "epochs"}
    bar = "getComputedStyle(document.querySelector('[data-name=runs] .scroll'), '::-webkit-scrollbar').height"
    assert chromium.value(bar) == "10px", "to be seen where a table is wider than the screen"
