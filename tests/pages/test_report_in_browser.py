"""The whole page of a run, opened on a screen and on a telephone."""

import numpy as np
import pytest

from pipeline.pages.viewer import ViewerVolume
from pipeline.report import write_report
from pipeline.synthetic.cells import make_cells
from pipeline.synthetic.organs import make_organs

EVIL = "<script>alert(1)</script>"
LONG = "a_case_with_a_name_without_any_space_" * 6
CASES = [EVIL, LONG, *(f"case_{number}" for number in range(10))]
CLASSES = ["background", "liver", "kidney", "vessel"]


def rows(classes):
    rng = np.random.default_rng(0)
    of_classes = [{f"dice/{name}": rng.random() for name in classes[1:]} for _ in CASES]
    return [{"case": c, "mean_dice": np.mean([*s.values()]), **s} for c, s in zip(CASES, of_classes, strict=True)]


def in_2d():
    image, instances = make_cells(1)
    mask = (instances > 0).astype(int)
    kept = {"image": image, "truth": mask, "prediction": np.roll(mask, 3, 0)}
    pictures = {"worst": [{"case": EVIL, "score": 0.1, **kept}], "best": [{"case": LONG, "score": 0.9, **kept}]}
    return {"cases": rows(CLASSES[:2]), "classes": CLASSES[:2], "pictures": pictures}


def in_3d():
    scan = make_organs(1)
    moved = np.roll(scan.labels, 2, 0)
    volumes = [ViewerVolume.of(case, scan.volume, scan.labels, moved, scan.affine, 0.5) for case in (EVIL, LONG)]
    return {"cases": rows(CLASSES), "classes": CLASSES, "volumes": volumes}


@pytest.mark.parametrize("width", [1200, 400])
@pytest.mark.parametrize("content", [in_2d, in_3d])
def test_the_page_opens_without_an_error_and_fits_the_screen(chromium, tmp_path, content, width):
    options = content()
    history = [{"epoch": n, "train/loss": 1 / n, "train/learning_rate": 0.1, "val/mean_dice": 0.5} for n in range(1, 5)]
    changes = [{"setting": LONG, "this run": LONG, "the bundle's own": EVIL}]
    told = {"title": LONG, "split": "validation", "scores": {}, "history": history, "changes": changes}
    file = write_report(tmp_path, **told, config={LONG: LONG}, facts={"command": LONG, EVIL: EVIL}, **options)
    chromium.open(file, width=width, touch=width == 400)
    if "volumes" in options:
        chromium.wait("document.querySelector('.viewer').dataset.shown")
    chromium.value("document.querySelector('details').open = true")
    assert chromium.value("document.documentElement.scrollWidth") <= width
    pictures = "[...document.images].every(image => image.complete && image.naturalWidth > 0)"
    chromium.wait(pictures)
    assert chromium.value("document.images.length") == {in_2d: 3 + 1 + 8, in_3d: 3 + 2}[content]
    assert chromium.problems == []


def test_the_worst_case_comes_first_after_a_click(chromium, tmp_path):
    file = write_report(tmp_path, title="a run", split="test", scores={}, **in_2d())
    chromium.open(file)
    chromium.click("[data-name=cases] th:nth-child(2) button")
    chromium.click("[data-name=cases] th:nth-child(2) button")
    rows_shown = "[...document.querySelectorAll('[data-name=cases] tbody tr')]"
    values = chromium.value(f"{rows_shown}.map(row => Number(row.cells[1].dataset.value))")
    assert values == sorted(row["mean_dice"] for row in rows(CLASSES[:2]))
    assert chromium.problems == []
