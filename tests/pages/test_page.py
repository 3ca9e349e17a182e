"""Pages as text: what is written, escaped and rounded."""

import base64
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from matplotlib.figure import Figure

from pipeline.pages import page as pages
from pipeline.pages.page import Cell

EVIL = "<script>alert(1)</script>\"'&"
OPEN = {"meta", "link", "input", "img"}  # elements that have no end


class Reader(HTMLParser):
    """Elements as they open and close, attributes and texts."""

    def __init__(self, text):
        super().__init__()
        self.stack, self.starts, self.texts = [], [], []
        self.feed(text)
        assert not self.stack, "left open"

    def handle_starttag(self, tag, attributes):
        self.starts.append((tag, dict(attributes)))
        if tag not in OPEN:
            self.stack.append(tag)

    def handle_endtag(self, tag):
        assert self.stack.pop() == tag

    def handle_data(self, text):
        self.texts.append(text)

    def all(self, tag):
        return [attributes for name, attributes in self.starts if name == tag]


def cells(table):
    """The texts of a table's body, row by row."""
    body = re.search(r"<tbody>(.*)</tbody>", table, re.DOTALL)[1]
    return [re.findall(r"<td[^>]*>(?:<span[^>]*>)?([^<]*)", line) for line in body.strip().splitlines()]


def plot():
    figure = Figure(figsize=(3, 2))
    figure.subplots().plot([0, 1], [1, 0])
    return figure


def test_a_page_is_whole_and_names_nothing_outside_of_itself():
    text = pages.page("A run", [pages.section("Result", pages.text("fine"), pages.figure(plot(), "a line"))], "why")
    found = Reader(text)
    assert text.startswith("<!DOCTYPE html>")
    assert [attributes["href"] for attributes in found.all("a")] == ["#s1"]
    assert "default-src 'none'" in found.all("meta")[1]["content"]
    sources = [*found.all("img"), *found.all("link"), *found.all("script")]
    assert all(attributes.get(key, "data:").startswith("data:") for attributes in sources for key in ("src", "href"))
    assert not re.search(r"url\(|@import", text)


@pytest.mark.parametrize(
    "part",
    [
        pages.text(EVIL),
        pages.section(EVIL, EVIL),
        pages.subheading(EVIL),
        pages.facts({EVIL: EVIL}),
        pages.glance({EVIL: EVIL}),
        pages.folded(EVIL, EVIL),
        pages.beside(EVIL),
        pages.legend({EVIL: (0, 0, 0)}),
        pages.table([{EVIL: EVIL, "cell": Cell(1.0, EVIL)}], name=EVIL),
        pages.figure(plot(), EVIL),
        pages.picture(np.zeros((2, 2, 3)), EVIL),
    ],
)
def test_every_text_is_escaped(part):
    found = Reader(pages.page(EVIL, [part], EVIL))
    assert len(found.all("script")) == 1  # the page's own
    attributes = [str(value) for _, each in found.starts for value in each.values()]
    assert sum(EVIL in text for text in [*found.texts, *attributes]) > 3


def test_data_cannot_end_their_block():
    block = pages.data_block("viewer", {"case": "</script><b>"})
    assert block.count("</script>") == 1
    assert json.loads(re.search(r">(.*)</script>", block)[1]) == {"case": "</script><b>"}


def test_columns_are_all_that_rows_have_in_the_order_that_they_come():
    table = pages.table([{"a": 1}, {"b": 2, "a": 3}])
    assert re.findall(r"<button[^>]*>([^<]*)", table) == ["a", "b"]
    assert cells(table) == [["1", "n/a"], ["3", "2"]]
    assert cells(pages.table([{"a": 1, "b": 2}], ["b"])) == [["2"]]
    assert cells(pages.table([], ["b"])) == []


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "n/a"),
        (float("nan"), "n/a"),
        (np.float32("nan"), "n/a"),
        (0.123456, "0.1235"),
        (0.99996, "1.0000"),
        (0.0, "0.0000"),
        (0.0000123, "1.23e-05"),
        (7, "7"),
        (np.int64(7), "7"),
        (True, "yes"),
        (np.bool_(False), "no"),
        (float("inf"), "∞"),
        (-1.5, "-1.5000"),
        ("n", "n"),
    ],
)
def test_values_as_a_reader_sees_them(value, shown):
    assert cells(pages.table([{"x": value}])) == [[shown]]


def test_decimals_follow_the_largest_number_of_a_column():
    assert cells(pages.table([{"x": 123.456}, {"x": 0.5}])) == [["123.46"], ["0.50"]]
    assert cells(pages.table([{"x": 23456.78}])) == [["23457"]]


def test_numbers_are_marked_for_sorting_and_as_bars():
    table = Reader(pages.table([{"case": "a", "x": 0.25, "y": Cell(0.5, "0.5 [0, 1]")}], bars=["x"]))
    assert table.all("td") == [
        {},
        {"class": "n", "data-value": "0.25", "style": "--part:0.250"},
        {"class": "n", "data-value": "0.5"},
    ]


def kind_of(figure):
    return re.search(r'src="data:image/([a-z+]+);base64,([^"]*)"', figure).groups()


def test_a_plot_is_a_drawing_an_image_and_a_crowd_are_pixels():
    kind, data = kind_of(pages.figure(plot()))
    assert kind == "svg+xml"
    assert b"<svg" in base64.b64decode(data)
    image = Figure()
    image.subplots().imshow(np.eye(4))
    crowd = Figure()
    crowd.subplots().plot(np.random.default_rng(0).random(30_000), np.random.default_rng(1).random(30_000), ".")
    assert [kind_of(pages.figure(figure))[0] for figure in (image, crowd)] == ["png", "png"]


def test_equal_pages_are_equal_to_the_last_character():
    assert pages.figure(plot()) == pages.figure(plot())


def test_a_large_picture_becomes_small():
    found = base64.b64decode(kind_of(pages.picture(np.random.default_rng(0).random((1500, 3000, 3))))[1])
    assert found[:2] == b"\xff\xd8"  # JPEG
    assert len(found) < 400_000
