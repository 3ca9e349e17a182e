"""Figures are looked at: which colours stand where in the pixels."""

from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

from pipeline import figures
from pipeline.figures import CLASSES, DARK, INVENTED, MISSED, RIGHT
from pipeline.volumes.planes import Plane

BLACK, WHITE = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)


def half(colour, grey=0.0):
    """A colour that covers half of a grey."""
    return 0.5 * np.array(colour) + 0.5 * grey


def pixels(figure, tmp_path, dpi=50):
    figures.save(figure, tmp_path / "figure.png", dpi=dpi)
    return np.asarray(Image.open(tmp_path / "figure.png").convert("RGB")) / 255


def count(picture, colour):
    """How many pixels have a colour, to the rounding of 8 bits."""
    return int((np.abs(picture - np.array(colour)).max(axis=-1) < 1.5 / 255).sum())


def panel(picture, axes):
    """The part of a figure's pixels inside of an axes."""
    height, width = picture.shape[:2]
    box = axes.get_position()
    rows = slice(int((1 - box.y1) * height) + 2, int((1 - box.y0) * height) - 2)
    return picture[rows, int(box.x0 * width) + 2 : int(box.x1 * width) - 2]


# --- errors -----------------------------------------------------------------------------------------------------------

TRUTH = np.array([[0, 1, 1, 2, 0, 2]])
PREDICTION = np.array([[0, 1, 0, 1, 1, 2]])
EXPECTED = [BLACK, half(RIGHT), half(MISSED), half(INVENTED), half(INVENTED), half(RIGHT)]


def test_errors_by_hand_on_a_flat_image():
    picture = figures.errors(np.full((1, 6), 7.0), TRUTH, PREDICTION)
    np.testing.assert_allclose(picture[0], EXPECTED)


def test_beneath_the_colours_the_image_shines_through():
    image = np.zeros((10, 60))
    image[:5] = 1000
    picture = figures.errors(image, *(np.repeat(np.repeat(a, 10, 0), 10, 1) for a in (TRUTH, PREDICTION)))
    for row, grey in ((0, 1.0), (9, 0.0)):
        expected = [(grey,) * 3, *(half(c, grey) for c in (RIGHT, MISSED, INVENTED, INVENTED, RIGHT))]
        np.testing.assert_allclose(picture[row, ::10], expected)


def test_colours_of_an_image_are_averaged():
    image = np.zeros((100, 2, 3))
    image[:, 0] = (0, 0, 255)
    image[:, 1] = (255, 255, 255)
    image[0] = 0
    nothing = np.zeros((100, 2), int)
    picture = figures.errors(image, nothing, nothing)
    # Means 85 and 255; the 1st percentile of the 200 values is 84.15 (two zeros), so 85 is close to black.
    np.testing.assert_allclose(picture[1, 1], WHITE)
    assert picture[1, 0, 0] == picture[1, 0, 1] == picture[1, 0, 2] < 0.1


def test_one_bright_pixel_does_not_darken_the_rest():
    image = np.linspace(0, 1, 10_000).reshape(100, 100)
    image[0, 0] = 1e6
    nothing = np.zeros((100, 100), int)
    assert figures.errors(image, nothing, nothing).mean() == pytest.approx(0.5, abs=0.02)


# --- slice_of ---------------------------------------------------------------------------------------------------------


def test_a_2d_image_is_shown_as_it_is():
    image, truth = np.arange(12.0).reshape(1, 3, 4), np.ones((3, 4), int)
    shown, same_truth, same_prediction = figures.slice_of(image, truth, truth * 2)
    np.testing.assert_array_equal(shown, image[0])
    np.testing.assert_array_equal(same_truth, truth)
    np.testing.assert_array_equal(same_prediction, truth * 2)


def test_three_channels_are_colours_from_0_to_1():
    image = np.arange(36.0).reshape(3, 3, 4) - 10
    shown, *_ = figures.slice_of(image, np.zeros((3, 4), int), np.zeros((3, 4), int))
    assert shown.shape == (3, 4, 3)
    np.testing.assert_allclose(shown[..., 1], (12 + np.arange(12).reshape(3, 4)) / 35)
    flat, *_ = figures.slice_of(np.ones((3, 2, 2)), np.zeros((2, 2), int), np.zeros((2, 2), int))
    np.testing.assert_array_equal(flat, np.zeros((2, 2, 3)))


def test_of_other_channels_the_first_is_shown():
    image = np.stack([np.zeros((3, 4)), np.ones((3, 4))])
    shown, *_ = figures.slice_of(image, np.zeros((3, 4), int), np.zeros((3, 4), int))
    np.testing.assert_array_equal(shown, np.zeros((3, 4)))


@pytest.mark.parametrize("channels", [1, 3])
def test_of_a_volume_the_plane_with_most_foreground_of_both_is_shown(channels):
    image = np.broadcast_to(np.arange(4.0), (channels, 6, 5, 4))
    truth, prediction = np.zeros((2, 6, 5, 4), int)
    truth[:2, 0, 1] = 1  # 2 in the truth alone
    truth[:2, 0, 2], prediction[:2, 1, 2] = 3, 1  # 2 + 2 in one or the other
    truth[:3, 0, 3], prediction[:3, 0, 3] = 1, 1  # 3 in both, counted once
    shown, shown_truth, shown_prediction = figures.slice_of(image, truth, prediction)
    np.testing.assert_array_equal(shown_truth, truth[..., 2])
    np.testing.assert_array_equal(shown_prediction, prediction[..., 2])
    assert shown.shape == ((6, 5) if channels == 1 else (6, 5, 3))
    if channels == 1:
        assert (shown == 2).all()


def test_a_volume_without_foreground_has_a_plane_too():
    nothing = np.zeros((6, 5, 4), int)
    shown, truth, _ = figures.slice_of(np.ones((1, 6, 5, 4)), nothing, nothing)
    assert shown.shape == truth.shape == (6, 5)


# --- cases ------------------------------------------------------------------------------------------------------------


def picture_of(name, *, found=True, missed=True, invented=True, colour=False):
    """16 x 16, black, with a square each that is found, missed and invented, where asked for."""
    truth, prediction = np.zeros((2, 16, 16), int)
    truth[2:6, 2:6] = prediction[2:6, 2:6] = int(found)
    truth[2:6, 10:14] = int(missed)
    prediction[10:14, 2:6] = int(invented)
    image = np.zeros((16, 16, 3) if colour else (16, 16))
    return {"case": name, "score": 0.5, "image": image, "truth": truth, "prediction": prediction}


@pytest.mark.parametrize("colour", [False, True], ids=["grey", "RGB"])
@pytest.mark.parametrize("number", [1, 6])
def test_every_row_shows_where_truth_and_prediction_differ(tmp_path, number, colour):
    figure = figures.cases([picture_of(f"case {n}", colour=colour) for n in range(number)], "the worst cases")
    picture = pixels(figure, tmp_path)
    assert len(figure.axes) == 4 * number
    for axes in figure.axes[3::4]:
        seen = panel(picture, axes)
        square = seen.shape[0] * seen.shape[1] / 16
        for colour_of in (RIGHT, MISSED, INVENTED):
            assert count(seen, half(colour_of)) == pytest.approx(square, rel=0.25)
        # Where they stand: found upper left, missed upper right, invented lower left.
        height, width = seen.shape[0] // 2, seen.shape[1] // 2
        assert count(seen[:height, :width], half(RIGHT)) > 0
        assert count(seen[:height, width:], half(MISSED)) > 0
        assert count(seen[height:, :width], half(INVENTED)) > 0
        assert count(seen[height:, width:], BLACK) == pytest.approx(seen.shape[0] * seen.shape[1] / 4, rel=0.1)


def test_what_did_not_happen_is_not_shown(tmp_path):
    figure = figures.cases([picture_of("a", missed=False, invented=False)], "")
    seen = panel(pixels(figure, tmp_path), figure.axes[3])
    assert count(seen, half(RIGHT)) > 0
    assert count(seen, half(MISSED)) == count(seen, half(INVENTED)) == 0


def test_rows_are_labelled_and_columns_are_named():
    figure = figures.cases([picture_of("slide 1/a"), picture_of("b")], "validation: the worst cases")
    assert [axes.get_title() for axes in figure.axes[:4]] == ["image", "truth", "prediction", "where they differ"]
    assert [axes.get_ylabel() for axes in figure.axes[::4]] == ["slide 1/a\n0.5000", "b\n0.5000"]
    assert figure.get_suptitle() == "validation: the worst cases"
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "found",
        "missed",
        "invented, or another class",
    ]
    patches = [patch.get_facecolor()[:3] for patch in figure.legends[0].get_patches()]
    assert patches == [RIGHT, MISSED, INVENTED]


def test_truth_and_prediction_share_their_colours(tmp_path):
    made = picture_of("a", missed=False, invented=False)
    made["truth"] = made["truth"] * 2  # class 2, and the prediction says class 1
    figure = figures.cases([made], "")
    picture = pixels(figure, tmp_path)
    square = [panel(picture, axes)[25:30, 25:30].mean(axis=(0, 1)) for axes in figure.axes[1:3]]
    assert np.abs(square[0] - square[1]).max() > 0.1, "another class has another colour"


# --- curves -----------------------------------------------------------------------------------------------------------


def history(*scores):
    return [
        {"epoch": epoch, "train/loss": 1 / epoch, **({} if score is None else {"val/mean_dice": score})}
        for epoch, score in enumerate(scores, 1)
    ]


def test_the_best_epoch_is_marked(tmp_path):
    figure = figures.curves(history(0.25, None, 0.75, float("nan"), 0.5))
    loss, score = figure.axes
    np.testing.assert_array_equal(loss.lines[0].get_xdata(), [1, 2, 3, 4, 5])
    np.testing.assert_allclose(loss.lines[0].get_ydata(), [1, 1 / 2, 1 / 3, 1 / 4, 1 / 5])
    line, mark = score.lines
    np.testing.assert_array_equal(line.get_xdata(), [1, 3, 5])
    np.testing.assert_array_equal(line.get_ydata(), [0.25, 0.75, 0.5])
    assert (mark.get_xdata()[0], mark.get_ydata()[0]) == (3, 0.75)
    assert mark.get_label() == "best 0.7500, epoch 3"
    assert score.get_ylabel() == "validation: mean dice"
    assert count(pixels(figure, tmp_path), MISSED) > 5, "the mark is seen"


@pytest.mark.parametrize(("scores", "validated"), [([0.5], True), ([0.5] * 300, True), ([None] * 3, False)])
def test_curves_are_seen_for_one_and_for_many_epochs(tmp_path, scores, validated):
    figure = figures.curves(history(*scores))
    picture = pixels(figure, tmp_path, dpi=150)  # lines of 3 pixels, so that some are not blended with the white
    loss, score = (panel(picture, axes) for axes in figure.axes)
    assert count(loss, RIGHT) > 5
    assert (count(score, MISSED) > 0) is validated
    if len(scores) > 1 and validated:
        assert count(score, RIGHT) > 5


def test_accuracy_has_a_panel_where_it_is_known():
    rows = [row | {"val/accuracy": 0.9 + row["epoch"] / 100} for row in history(0.5, 0.6)]
    *_, accuracy = figures.curves(rows).axes
    assert accuracy.get_ylabel() == "validation: accuracy"
    np.testing.assert_allclose(accuracy.lines[0].get_ydata(), [0.91, 0.92])


def test_all_n_a_draws_no_score():
    figure = figures.curves(history(float("nan"), float("nan")))
    assert not figure.axes[1].lines


# --- picture ----------------------------------------------------------------------------------------------------------


def texts(figure):
    return {text.get_text(): np.array(text.get_position()) for text in figure.texts}


def plane(title="axial, k = 3", spacing=(1.0, 1.0), letters="RLAP", labels=()):
    """20 x 40, black on the left and white on the right, with squares of 10 x 10 of the labels along the top."""
    image, drawn = np.zeros((20, 40)), np.zeros((20, 40), np.uint8)
    image[:, 20:] = 1000
    for number, label in enumerate(labels):
        drawn[:10, 10 * number : 10 * number + 10] = label
    return Plane(title, image, drawn, spacing, letters)


def test_labels_let_the_image_through_their_rims_least():
    labels = np.zeros((8, 16), np.uint8)
    labels[:, 8:], labels[:, 15:] = 1, 12  # of ten colours 12 has that of 2
    painted = figures.coloured(labels)
    np.testing.assert_allclose(painted[0, [8, 12, 15], :3], [CLASSES[0], CLASSES[0], CLASSES[1]], atol=1e-6)
    np.testing.assert_allclose(painted[0, :, 3], [0] * 8 + [0.9] * 2 + [0.35] * 3 + [0.9] * 3, atol=1e-6)
    np.testing.assert_array_equal(painted, np.repeat(painted[:1], 8, axis=0))


def test_no_two_of_ten_classes_look_alike():
    colours = np.array(CLASSES)
    apart = np.abs(colours[:, None] - colours[None]).sum(axis=-1) + 9 * np.eye(len(colours))
    assert len(colours) == 10
    assert apart.min() > 0.15


def test_a_class_lies_where_its_labels_are(tmp_path):
    figure = figures.picture("case", [plane(labels=(1, 0, 2, 0))], {1: "liver  2 ml", 2: "kidney  1 ml"})
    seen = panel(pixels(figure, tmp_path, dpi=figures.DPI), figure.axes[0])
    rows, columns = np.array(seen.shape[:2]) // (4, 8)
    for column, label, grey in ((1, 1, 0.0), (3, 0, 0.0), (5, 2, 1.0), (7, 0, 1.0)):
        colour = grey if label == 0 else 0.35 * np.array(CLASSES[label - 1]) + 0.65 * grey
        np.testing.assert_allclose(seen[rows, column * columns], np.broadcast_to(colour, 3), atol=2 / 255)
    below = np.array([0, 0, 0, 1, 1, 1])
    np.testing.assert_allclose(seen[3 * rows, [columns * n for n in (1, 2, 3, 5, 6, 7)], 0], below, atol=2 / 255)
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["liver  2 ml", "kidney  1 ml"]
    for handle, colour in zip(figure.legends[0].legend_handles, CLASSES, strict=False):
        np.testing.assert_allclose(handle.get_facecolor()[:3], colour)


def test_planes_have_one_scale_and_the_shape_of_their_millimetres():
    planes = [plane(spacing=(1.0, 1.0)), plane("coronal, j = 1", (3.0, 1.0), "RLSI"), plane("s", (3.0, 0.5), "APSI")]
    figure = figures.picture("case", planes, {})
    width, height = figure.get_size_inches()
    boxes = [axes.get_position() for axes in figure.axes]
    sizes = np.array([(box.height * height, box.width * width) for box in boxes])
    np.testing.assert_allclose(sizes / sizes[0, 1], np.array([[20, 40], [60, 40], [60, 20]]) / 40, rtol=1e-6)
    assert all(one.x1 < other.x0 for one, other in pairwise(boxes))
    assert all(0 < box.x0 < box.x1 < 1 and 0 < box.y0 < box.y1 < 1 for box in boxes)


def test_letters_stand_at_the_sides_they_name():
    figure = figures.picture("case", [plane(letters="RLAP")], {})
    found, box = texts(figure), figure.axes[0].get_position()
    assert found["R"][0] < box.x0 < box.x1 < found["L"][0]
    assert found["P"][1] < box.y0 < box.y1 < found["A"][1] < found["axial, k = 3"][1] < found["case"][1]
    assert {"R", "L", "A", "P"}.isdisjoint(texts(figures.picture("case", [plane(letters="")], {})))


def test_a_case_without_foreground_says_so():
    figure = figures.picture("case", [plane()], {})
    assert "no foreground" in texts(figure)
    assert not figure.legends
    assert "no foreground" not in texts(figures.picture("case", [plane()], {1: "liver"}))


def test_names_are_shown_as_they_are(tmp_path):
    names = {n: f"class_{n} $x$ \\alpha" for n in range(1, 31)}
    bytes_of_latin1 = b"r\xf6ntgen".decode("utf-8", "surrogateescape")
    figure = figures.picture(f"a/$b_1$/{bytes_of_latin1}", [plane()], names)
    assert "a/$b_1$/r?ntgen" in texts(figure)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == list(names.values())
    figures.save(figure, tmp_path / "a.png")
    legend, box = figure.legends[0].get_window_extent(), figure.axes[0].get_window_extent()
    assert legend.y1 < box.y0
    assert legend.x0 > 0
    assert legend.x1 < figure.bbox.x1
    long = figures.picture("patient_0123/" * 40 + "end", [plane()], {})
    figures.save(long, tmp_path / "b.png")
    (title,) = [text for text in long.texts if text.get_text().endswith("/end")]
    assert title.get_text().startswith("…")
    assert 0 < title.get_window_extent().x0 < title.get_window_extent().x1 < long.bbox.x1


def test_images_of_any_numbers_and_sizes(tmp_path):
    for shape, image in (
        ((1, 1), np.zeros((1, 1), np.uint8)),
        ((2, 3000), np.full((2, 3000), -5, np.int16)),
        ((3000, 2500), np.broadcast_to(np.float32(1e30), (3000, 2500))),
    ):
        drawn = Plane("", image, np.zeros(shape, np.uint8), (1.0, 1.0))
        picture = pixels(figures.picture("case", [drawn], {}), tmp_path)
        assert 70 < picture.shape[0] < 500
        assert 200 < picture.shape[1] < 800
        np.testing.assert_allclose(picture[0, 0], np.array([int(DARK[n : n + 2], 16) for n in (1, 3, 5)]) / 255)


# --- save -------------------------------------------------------------------------------------------------------------


def test_a_figure_is_a_png_of_the_size_asked_for(tmp_path):
    figures.save(figures.curves(history(0.5, 0.6)), tmp_path / "new" / "curves.png", dpi=40)
    with Image.open(tmp_path / "new" / "curves.png") as image:
        assert image.format == "PNG"
        assert image.size == (9 * 40, 3.4 * 40)
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["curves.png"]
