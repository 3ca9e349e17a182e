"""Tables and volumes as a reader meets them: sorted, filtered, scrolled, switched, on a screen and on a telephone."""

import numpy as np
import pytest

from pipeline import figures
from pipeline.pages import page as pages
from pipeline.pages.viewer import ViewerVolume, viewer

EVIL = "<script>alert(1)</script><img src=x onerror=alert(2)>"
SHAPE = (40, 30, 20)
ROWS = [
    {"case": "case_10", "dice": 0.5, "distance": 100.0},
    {"case": "case_9", "dice": float("nan"), "distance": 9.0},
    {"case": "case_2", "dice": 0.9, "distance": float("inf")},
    {"case": "other_1", "dice": 0.00001, "distance": -20.0},
    {"case": "other_2", "dice": 0.8, "distance": 10.0},
    {"case": EVIL, "dice": 0.25, "distance": 1.0},
]


@pytest.fixture
def show(chromium, tmp_path):
    """Return a function that opens a page of some parts; at the end nothing has gone wrong in it."""

    def show(*parts, width=1200, touch=False):
        file = tmp_path / "page.html"
        file.write_text(pages.page(EVIL, [pages.section("Part", *parts)], "a page"))
        chromium.open(file, width=width, touch=touch)
        return chromium

    yield show
    chromium.value("0")  # whatever the page had to complain of has come by now
    assert chromium.problems == []


# --- tables -----------------------------------------------------------------------------------------------------------


def column(browser, number):
    """The texts of a column in the rows that are shown."""
    return browser.value(
        f"[...document.querySelectorAll('tbody tr')].filter(r => !r.hidden).map(r => r.cells[{number}].textContent)"
    )


def heading(number):
    return f"th:nth-child({number + 1}) button"


def fill(browser, words):
    browser.value(f"(() => {{ const i = document.querySelector('input'); i.value = '{words}';"
                  " i.dispatchEvent(new Event('input')); return 0 })()")  # fmt: skip


def test_a_column_of_numbers_sorts_as_numbers_the_largest_first(show):
    browser = show(pages.table(ROWS))
    browser.click(heading(2))
    assert column(browser, 2) == ["∞", "100.00", "10.00", "9.00", "1.00", "-20.00"]
    browser.click(heading(2))
    assert column(browser, 2) == ["-20.00", "1.00", "9.00", "10.00", "100.00", "∞"]


def test_what_is_not_there_comes_last_either_way(show):
    browser = show(pages.table(ROWS))
    browser.click(heading(1))
    assert column(browser, 1) == ["0.9000", "0.8000", "0.5000", "0.2500", "1e-05", "n/a"]
    browser.click(heading(1))
    assert column(browser, 1) == ["1e-05", "0.2500", "0.5000", "0.8000", "0.9000", "n/a"]
    assert browser.value("[...document.querySelectorAll('th')].map(h => h.ariaSort)") == ["none", "ascending", "none"]


def test_names_sort_by_the_numbers_in_them(show):
    browser = show(pages.table(ROWS[:5]))
    browser.click(heading(0))
    assert column(browser, 0) == ["case_2", "case_9", "case_10", "other_1", "other_2"]


def test_a_heading_is_reached_by_the_keyboard(show):
    browser = show(pages.table(ROWS))
    browser.value("document.querySelectorAll('th button')[2].focus()")
    browser.value("document.activeElement.click()")  # what Enter does on a button
    assert column(browser, 2)[0] == "∞"


@pytest.mark.parametrize(
    ("words", "cases"),
    [
        ("", [row["case"] for row in ROWS]),
        ("OTHER", ["other_1", "other_2"]),
        ("case_9", ["case_9"]),
        ("dice<0.8", ["case_10", "other_1", EVIL]),
        ("dice <= 0.8 other", ["other_1", "other_2"]),
        ("distance>50", ["case_10", "case_2"]),
        ("distance=-20", ["other_1"]),
        ("nothing<1", []),
        ("zebra", []),
    ],
)
def test_the_filter_keeps_what_holds_every_word(show, words, cases):
    browser = show(pages.table(ROWS))
    fill(browser, words)
    assert column(browser, 0) == cases
    assert browser.value("document.querySelector('output').textContent") == f"{len(cases)} of 6"


def test_a_short_table_has_no_filter_and_two_tables_do_not_mix(show):
    browser = show(pages.table(ROWS[:2]), pages.table(ROWS))
    assert browser.value("[...document.querySelectorAll('.tools')].map(t => t.hidden)") == [True, False]
    browser.click(".table:nth-of-type(2) " + heading(2))
    assert column(browser, 0)[:2] == ["case_10", "case_9"]


def test_a_click_shows_a_figure_in_full_size(show):
    browser = show(pages.picture(np.zeros((20, 20, 3)), "black"))
    assert browser.value("document.querySelector('img').naturalWidth") == 20
    browser.click("figure img")
    assert browser.value("document.querySelector('figure').className") == "full"


# --- volumes ----------------------------------------------------------------------------------------------------------


def half_bright(case="half", affine=None, score=0.5):
    """Bright where x is 20 or more. Both masks have y 5 to 24 and z 4 to 15.

    Truth is class 1 where x is 5 to 19; prediction is class 1 where x is 10 to 19, class 2 where x is 20 to 24.
    """
    image, truth, prediction = np.zeros((3, *SHAPE))
    image[20:] = 1000
    truth[5:20, 5:25, 4:16], prediction[10:20, 5:25, 4:16], prediction[20:25, 5:25, 4:16] = 1, 1, 2
    affine = np.diag([2.0, 2.0, 3.0, 1.0]) if affine is None else affine
    return ViewerVolume.of(case, image, truth, prediction, affine, score)


@pytest.fixture
def viewing(show):
    def viewing(*volumes, **options):
        browser = show(viewer(volumes or [half_bright()], ["background", "liver", "kidney"]), **options)
        browser.wait("document.querySelector('.viewer').dataset.shown")
        return browser

    return viewing


def pixel(browser, plane, x, y):
    """The colour of a canvas at a part of its width and height."""
    return browser.value(
        f"(() => {{ const c = document.querySelectorAll('.plane canvas')[{plane}]; return [...c.getContext('2d')"
        f".getImageData(Math.floor({x} * c.width), Math.floor({y} * c.height), 1, 1).data].slice(0, 3) }})()"
    )


def at(x, y):
    """Where the voxel (x, y) of the volume is on the axial canvas: the patient's right on the left, the front above."""
    return 1 - (x + 0.5) / SHAPE[0], 1 - (y + 0.5) / SHAPE[1]


def mixed(colour, grey, fill=0.35):
    return [255 * fill * part + (1 - fill) * grey for part in colour]


def told(browser, name):
    return browser.value(f"document.querySelector('.{name}').textContent")


def texts(browser, selector):
    return browser.value(f"[...document.querySelectorAll('{selector}')].map(e => e.textContent)")


def slices(browser):
    return texts(browser, ".plane output")


def test_the_viewer_opens_on_the_fullest_slices(viewing):
    browser = viewing()
    assert slices(browser) == ["5 / 20", "6 / 30", "6 / 40"]  # axial, coronal, sagittal: the first of equals
    names = "[...document.querySelectorAll('.plane')].map(p => p.querySelector('label').textContent.split(' ')[0])"
    assert [name.rstrip("0123456789") for name in browser.value(names)] == ["axial", "coronal", "sagittal"]
    assert told(browser, "state") == ""


def test_image_and_differences_stand_where_they_belong(viewing):
    browser = viewing()
    assert pixel(browser, 0, *at(35, 2)) == [255, 255, 255]  # x grows to the patient's right, the left of the screen
    assert pixel(browser, 0, *at(2, 27)) == [0, 0, 0]
    expected = {7: mixed(figures.MISSED, 0), 15: mixed(figures.RIGHT, 0), 22: mixed(figures.INVENTED, 255)}
    for x, colour in expected.items():
        assert pixel(browser, 0, *at(x, 15)) == pytest.approx(colour, abs=3)
    assert texts(browser, ".legend span") == [
        "found",
        "missed",
        "invented, or another class",
    ]


def test_the_front_is_above_and_the_head_is_above(viewing):
    image, labels = np.zeros((2, *SHAPE))
    image[:, 20:, :], image[:, :, 15:] = 500, 1000  # the front is grey, the head white
    browser = viewing(ViewerVolume.of("a", image, labels, labels, np.diag([2.0, 2.0, 3.0, 1.0])))
    grey = [[pixel(browser, plane, 0.3, y)[0] for y in (0.1, 0.9)] for plane in range(3)]
    assert grey[0] == [pytest.approx(128, abs=6), 0]  # axial: front, back, below the head
    assert grey[1] == [255, 0]  # coronal: up, down, behind the front
    assert grey[2] == [255, pytest.approx(128, abs=6)]  # sagittal: the left of the screen is the front
    assert pixel(browser, 2, 0.7, 0.9) == [0, 0, 0]


def test_the_letters_stand_on_the_side_that_they_name(viewing):
    browser = viewing()
    browser.value(
        "(() => { window.letters = []; CanvasRenderingContext2D.prototype.fillText = function (letter, x, y)"
        " { letters.push([letter, x / this.canvas.width, y / this.canvas.height]) }; return 0 })()"
    )
    browser.click("input.truth")  # everything is drawn anew
    drawn = [(letter, round(2 * x) / 2, round(2 * y) / 2) for letter, x, y in browser.value("letters")]
    left, right, top, bottom = (0, 0.5), (1, 0.5), (0.5, 0), (0.5, 1)
    sides = [*zip("RLAP", (left, right, top, bottom), strict=True)]  # axial
    sides += [*zip("RLSI", (left, right, top, bottom), strict=True)]  # coronal
    sides += [*zip("APSI", (left, right, top, bottom), strict=True)]  # sagittal
    # A window that is laid out late is drawn once more.
    assert drawn[-len(sides) :] == [(letter, *place) for letter, place in sides]


def test_overlays_are_switched_by_box_and_by_key(viewing):
    browser = viewing()
    browser.click("input.truth")  # off: what is left is the prediction
    assert pixel(browser, 0, *at(7, 15)) == [0, 0, 0]
    assert pixel(browser, 0, *at(15, 15)) == pytest.approx(mixed(figures.CLASSES[0], 0), abs=3)
    assert pixel(browser, 0, *at(22, 15)) == pytest.approx(mixed(figures.CLASSES[1], 255), abs=3)
    assert texts(browser, ".legend span") == [
        "liver",
        "kidney",
    ]
    browser.value("document.querySelector('select').focus()")
    browser.key("p")  # a letter in a list chooses in it
    assert browser.value("document.querySelector('input.prediction').checked")
    browser.value("document.activeElement.blur()")
    browser.key("p")
    assert pixel(browser, 0, *at(15, 15)) == [0, 0, 0]
    assert told(browser, "legend") == ""
    browser.value("document.querySelector('.plane canvas').focus()")
    browser.key("t")  # truth alone, class 1
    assert pixel(browser, 0, *at(7, 15)) == pytest.approx(mixed(figures.CLASSES[0], 0), abs=3)
    assert pixel(browser, 0, *at(22, 15)) == [255, 255, 255]


def test_scrolling_and_arrow_keys_go_through_the_slices(viewing):
    browser = viewing()
    browser.scroll(".plane canvas", -100)
    browser.wait("document.querySelector('.plane output').textContent == '6 / 20'")
    browser.value("document.querySelector('.plane canvas').focus()")
    for _ in range(3):
        browser.key("ArrowDown")
    assert slices(browser)[0] == "3 / 20"
    assert pixel(browser, 0, *at(15, 15)) == [0, 0, 0]  # below the foreground
    for _ in range(9):
        browser.key("ArrowDown")
    assert slices(browser)[0] == "1 / 20"
    assert browser.value("document.querySelector('.plane input').value") == "0"


def test_a_slider_moves_its_plane_alone(viewing):
    browser = viewing()
    browser.value("(() => { const s = document.querySelectorAll('.plane input')[2]; s.value = 39;"
                  " s.dispatchEvent(new Event('input')); return 0 })()")  # fmt: skip
    assert slices(browser) == ["5 / 20", "6 / 30", "40 / 40"]
    assert pixel(browser, 2, 0.3, 0.5) == [255, 255, 255]


def test_a_click_moves_the_lines_and_says_what_is_there(viewing):
    browser = viewing()
    browser.click(".plane canvas", *at(22, 12))
    assert slices(browser) == ["5 / 20", "13 / 30", "23 / 40"]
    # Voxel (22, 12, 4) of 2, 2 and 3 mm.
    words = told(browser, "readout")
    assert words.startswith("R 44.0  A 24.0  S 12.0 mm")
    for part in ("value 1000", "truth background", "prediction kidney", "window 1000, level 502"):
        assert part in words
    browser.drag(".plane canvas", (-30, 0))  # to the patient's right
    assert told(browser, "readout") > "R 40"
    assert int(slices(browser)[2].split()[0]) > 20


def test_the_left_of_the_patient_is_told_as_such(viewing):
    affine = np.diag([2.0, 2.0, 3.0, 1.0])
    affine[:3, 3] = -100
    browser = viewing(half_bright(affine=affine))
    browser.click(".plane canvas", *at(22, 12))
    assert told(browser, "readout").startswith("L 56.0  P 76.0  I 88.0 mm")


def test_window_and_level_by_the_right_button_and_back(viewing):
    image, labels = np.zeros((2, *SHAPE))
    image[:] = np.linspace(0, 1000, SHAPE[0])[:, None, None]
    browser = viewing(ViewerVolume.of("ramp", image, labels, labels, np.eye(4)))
    before = pixel(browser, 0, *at(30, 3))[0]
    browser.drag(".plane canvas", (0, 60), button="right")  # the level goes up, the picture becomes darker
    assert pixel(browser, 0, *at(30, 3))[0] == pytest.approx(before - 60, abs=4)
    browser.drag(".plane canvas", (-100, 0), button="right")
    assert browser.value("document.querySelector('.width').value") == "155"
    browser.click(".reset")
    assert pixel(browser, 0, *at(30, 3))[0] == before


def test_another_case_is_unpacked_when_it_is_chosen(viewing):
    browser = viewing(half_bright("first", score=0.25), half_bright("second", score=None))
    assert texts(browser, "option") == [
        "first: 0.2500",
        "second",
    ]
    browser.value("(() => { const s = document.querySelector('select'); s.selectedIndex = 1;"
                  " s.dispatchEvent(new Event('change')); return 0 })()")  # fmt: skip
    browser.wait("document.querySelector('.viewer').dataset.shown == 'second'")


def test_a_plane_has_the_shape_of_the_body(viewing):
    browser = viewing()
    ratios = browser.value("[...document.querySelectorAll('.plane canvas')].map(c => c.clientWidth / c.clientHeight)")
    assert ratios == pytest.approx([80 / 60, 80 / 60, 60 / 60], rel=0.02)  # mm: 40 x 2, 30 x 2, 20 x 3
    scales = browser.value("[...document.querySelectorAll('.plane canvas')].map(c => c.clientWidth)")
    assert scales[2] / scales[0] == pytest.approx(60 / 80, rel=0.02)  # one scale for all


def test_pages_without_a_place_in_a_patient(viewing):
    image, labels = np.zeros((2, *SHAPE))
    image[:, 0, 0] = 1000
    browser = viewing(ViewerVolume.of("stack", image, labels, labels))
    assert pixel(browser, 0, 0.01, 0.01)[0] > 200  # the first row and column of a page are above on the left
    assert told(browser, "readout").startswith("voxel 20, 15, 10")


def test_a_volume_made_smaller_says_so(viewing):
    noise = np.random.default_rng(0).normal(size=(90, 90, 90))
    labels = np.zeros((90, 90, 90))
    labels[1:-1, 1:-1, 1:-1] = 1
    volume = ViewerVolume.of("large", noise, labels, labels, np.eye(4), most_voxels=100_000)
    assert "2 × 2 × 2 voxels drawn as one" in told(viewing(volume), "state")


def test_a_telephone_has_the_planes_below_one_another_and_takes_a_tap(viewing):
    browser = viewing(width=400, touch=True)
    assert browser.value("document.documentElement.scrollWidth") <= 400
    canvases = "[...document.querySelectorAll('.plane canvas')]"
    boxes = browser.value(f"{canvases}.map(canvas => canvas.getBoundingClientRect().toJSON())")
    assert all(box["left"] >= 0 and box["right"] <= 400 and box["width"] > 250 for box in boxes)
    assert boxes[0]["bottom"] < boxes[1]["top"]
    assert pixel(browser, 0, *at(15, 15)) == pytest.approx(mixed(figures.RIGHT, 0), abs=3)
    browser.tap(".plane canvas", *at(22, 12))
    browser.wait("document.querySelectorAll('.plane output')[1].textContent == '13 / 30'")


def test_a_browser_that_cannot_unpack_says_so(chromium, show):
    script = chromium.send("Page.addScriptToEvaluateOnNewDocument", source="delete window.DecompressionStream")
    try:
        browser = show(viewer([half_bright()]))
        browser.wait("document.querySelector('.state').textContent.includes('DecompressionStream')")
    finally:
        chromium.send("Page.removeScriptToEvaluateOnNewDocument", identifier=script["identifier"])
