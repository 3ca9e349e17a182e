"""Which slices an evaluation keeps, what they hold, and that files stay small and harmless."""

import hashlib
import io

import numpy as np
import pytest

from pipeline.slices import MOST_BYTES, KeptSlices, Slice, read_slices, slice_of, write_slices

RNG = np.random.default_rng(0)


def blank(score=0.5, side=8):
    return Slice(score, *(np.zeros((side, side), np.uint8) for _ in range(3)))


def keep(cases, scores=None):
    kept = KeptSlices()
    for position, case in enumerate(cases):
        square = np.zeros((6, 6), np.int64)
        kept.add(case, square[None], square, square, scores[position] if scores else 0.5)
    return kept.slices


def test_the_choice_depends_on_ids_alone():
    cases = [f"case_{number}" for number in range(100)]
    by_hash = sorted(cases, key=lambda case: hashlib.sha256(case.encode()).hexdigest())[:24]
    assert set(by_hash) <= set(keep(cases, [0.5 + 0.001 * n for n in range(100)]))
    assert set(by_hash) <= set(keep(cases[::-1], [0.1 + 0.001 * n for n in range(100)]))


def test_the_worst_are_kept_beside_the_chosen():
    cases = [f"case_{number}" for number in range(100)]
    scores = list(RNG.permutation(100) / 100)
    found = keep(cases, scores)
    assert {cases[scores.index(low)] for low in (0, 0.01, 0.02)} <= set(found)
    assert len(found) <= 27


def test_a_case_without_a_score_is_not_the_worst():
    cases = [f"case_{number}" for number in range(60)]
    chosen = set(keep(cases, [0.5] * 60))
    late = next(case for case in cases if case not in chosen)
    assert late not in keep([*(case for case in cases if case != late), late], [0.5] * 59 + [float("nan")])


def test_parts_of_several_processes_are_as_if_seen_by_one():
    cases = [f"case_{number}" for number in range(80)]
    scores = list(RNG.random(80))
    parts = [KeptSlices(), KeptSlices()]
    for rank, kept in enumerate(parts):
        for case, score in list(zip(cases, scores, strict=True))[rank::2]:
            kept.add(case, np.zeros((1, 4, 4)), np.zeros((4, 4), int), np.zeros((4, 4), int), score)
    parts[0].merge(parts[1].slices)
    assert parts[0].slices.keys() == keep(cases, scores).keys()


def test_of_a_volume_the_plane_with_most_truth_whatever_was_predicted():
    truth = np.zeros((5, 6, 4), np.int64)
    truth[:2, :2, 1], truth[:3, :3, 3] = 1, 2
    for prediction in (np.zeros_like(truth), np.ones_like(truth)):
        found = slice_of(RNG.random((1, 5, 6, 4)), truth, prediction, 0.5)
        np.testing.assert_array_equal(found.truth, truth[..., 3])
        np.testing.assert_array_equal(found.prediction, prediction[..., 3])


def test_greys_go_from_black_to_white_and_large_images_are_thinned():
    image = np.linspace(-500, 900, 1000)[None, :, None] * np.ones((3, 1, 600))
    labels = np.zeros((1000, 600), np.int64)
    found = slice_of(image, labels, labels, 1.0)
    assert found.image.shape == found.truth.shape == (200, 120)  # every fifth of 1000, which is below 224
    assert (found.image[0].min(), found.image[-1].max()) == (0, 255)
    assert found.image.dtype == np.uint8


def test_what_is_written_is_read(tmp_path):
    kept = slice_of(RNG.random((1, 9, 7)), RNG.integers(0, 3, (9, 7)), RNG.integers(0, 3, (9, 7)), 0.25)
    write_slices(tmp_path / "slices.npz", {"a/ü": kept, "b": blank(float("nan"))})
    found = read_slices((tmp_path / "slices.npz").read_bytes())
    assert list(found) == ["a/ü", "b"]
    assert found["a/ü"].score == 0.25
    for name in ("image", "truth", "prediction"):
        np.testing.assert_array_equal(getattr(found["a/ü"], name), getattr(kept, name))
    assert np.isnan(found["b"].score)
    write_slices(tmp_path / "none.npz", {})
    assert read_slices((tmp_path / "none.npz").read_bytes()) == {}


def test_27_noisy_slices_stay_below_two_megabytes(tmp_path):
    noise = {}
    for number in range(27):
        image, truth, prediction = RNG.random((1, 448, 448)), *RNG.integers(0, 2, (2, 448, 448))
        noise[f"case_{number}"] = slice_of(image, truth, prediction, 0.5)
    write_slices(tmp_path / "slices.npz", noise)
    assert (tmp_path / "slices.npz").stat().st_size < MOST_BYTES
    assert len(read_slices((tmp_path / "slices.npz").read_bytes())) >= 24


@pytest.mark.parametrize("damage", ["cut", "text", "object"])
def test_a_damaged_file_gives_no_slices(damage, tmp_path):
    write_slices(tmp_path / "slices.npz", {"a": blank()})
    content = (tmp_path / "slices.npz").read_bytes()
    if damage == "object":
        buffer = io.BytesIO()
        np.savez(buffer, cases=np.array([{"a": 1}], dtype=object))
        content = buffer.getvalue()
    assert read_slices({"cut": content[: len(content) // 2], "text": b"no archive"}.get(damage, content)) == {}
