"""Rows of pictures: which colour stands where, and how many there are."""

import numpy as np

from pipeline import figures
from pipeline.pages.gallery import covered, gallery


def test_a_class_covers_its_area_faintly_and_its_rim_strongly():
    labels = np.zeros((5, 7), int)
    labels[1:4, 2:7] = 2
    picture = covered(np.full((5, 7, 3), 0.5), labels)
    colour = np.array(figures.CLASSES[1])
    np.testing.assert_allclose(picture[2, 0], 0.5)
    np.testing.assert_allclose(picture[2, 4], 0.65 * 0.5 + 0.35 * colour)
    for y, x in ((1, 4), (3, 4), (2, 2)):
        np.testing.assert_allclose(picture[y, x], 0.1 * 0.5 + 0.9 * colour)


def test_the_background_of_a_label_map_beside_a_label_keeps_the_image():
    labels = np.array([[0, 1]])
    np.testing.assert_allclose(covered(np.full((1, 2, 3), 0.25), labels)[0, 0], 0.25)


def test_a_case_has_four_pictures_and_a_heading():
    mask = np.eye(8, dtype=int)
    grey = {"case": "a<b", "score": 0.5, "image": np.eye(8), "truth": mask, "prediction": mask}
    colour = {**grey, "case": "c", "image": np.zeros((8, 8, 3))}
    text = gallery({"worst": [grey], "best": [colour]}, ["background", "liver", "kidney"])
    assert text.count("<img") == 8
    assert "worst 1: a&lt;b, mean Dice 0.5000" in text
    assert "best 1: c, mean Dice 0.5000" in text
    assert all(word in text for word in ("missed", "invented", "liver", "kidney"))
