"""Which slices an evaluation keeps, what they hold, and that files stay small and harmless."""

import hashlib
import io
import tracemalloc
import zipfile
from collections import Counter
from random import Random

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


SOUND = {"cases": np.array(["a"]), "0/score": np.float64(0.5)}
SOUND |= {f"0/{name}": np.full((4, 5), value, np.uint8) for value, name in enumerate(("image", "truth", "prediction"))}


def archive(**changed):
    """An archive of one case with other parts."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **{**SOUND, **changed})
    return buffer.getvalue()


WRONG = {
    "a score of two numbers": {"0/score": np.zeros(2)},
    "a score in words": {"0/score": np.array("x")},
    "a score that is a date": {"0/score": np.array("2020-01-01", "M8[D]")},
    "an image of one axis": {"0/image": np.zeros(5, np.uint8)},
    "an image of three axes": {"0/image": np.zeros((2, 2, 2), np.uint8)},
    "images without pixels": {f"0/{name}": np.zeros((0, 3), np.uint8) for name in ("image", "truth", "prediction")},
    "an image that is too wide": {
        f"0/{name}": np.zeros((1, 225), np.uint8) for name in ("image", "truth", "prediction")
    },
    "a truth of another shape": {"0/truth": np.zeros((9, 9), np.uint8)},
    "a prediction of another shape": {"0/prediction": np.zeros((5, 4), np.uint8)},
    "words for pixels": {"0/image": np.full((4, 5), "x")},
    "complex pixels": {"0/image": np.zeros((4, 5), complex)},
    "other numbers": {"0/image": np.zeros((4, 5), np.float64)},
    "pixels with fields": {"0/image": np.zeros((4, 5), [("a", "i4"), ("b", "i4")])},
    "a table of cases": {"cases": np.array([["a", "b"]])},
    "a case by itself": {"cases": np.array("a")},
    "more cases than there are": {"cases": np.array(["a", "b"])},
    "too many cases": {"cases": np.array([str(number) for number in range(28)])},
    "a name of a million letters": {"cases": np.array(["a" * 1_000_000])},
}


@pytest.mark.parametrize("changed", WRONG.values(), ids=list(WRONG))
def test_what_is_not_written_here_gives_no_slices_and_one_warning(changed, caplog):
    assert list(read_slices(archive())) == ["a"]
    assert caplog.messages == []
    assert read_slices(archive(**changed), "run 'x'") == {}
    assert [message.split(" (")[0] for message in caplog.messages] == ["run 'x': its pictures of cases are damaged"]


def test_planes_that_lie_in_memory_the_other_way_round_are_read():
    tall = {f"0/{name}": np.asfortranarray(RNG.integers(0, 9, (4, 5)).astype(np.uint8)) for name in Slice._fields[1:]}
    found = read_slices(archive(**tall))["a"]
    for name in Slice._fields[1:]:
        np.testing.assert_array_equal(getattr(found, name), tall[f"0/{name}"])


def packed(parts, compression=zipfile.ZIP_DEFLATED):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as written:
        for name, content in parts.items():
            written.writestr(name, content)
    return buffer.getvalue()


def npy(shape, data=b"", version=b"\x01\x00", words=None):
    header = (words or f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}\n").encode()
    return b"\x93NUMPY" + version + len(header).to_bytes(2 if version[0] == 1 else 4, "little") + header + data


@pytest.mark.parametrize(
    "image",
    [
        npy((4, 5), bytes(30_000_000)),
        npy((5_000, 6_000), bytes(30_000_000)),
        npy("()", version=b"\x02\x00", words=" " * 30_000_000),
        npy("(" * 20_000),
    ],
    ids=["more than it says", "as much as it says", "a header of that size", "brackets without end"],
)
@pytest.mark.parametrize("compression", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2], ids=["deflate", "bzip2"])
def test_what_a_small_file_unpacks_to_is_not_unpacked(image, compression):
    with zipfile.ZipFile(io.BytesIO(archive())) as sound:
        parts = {name: sound.read(name) for name in sound.namelist()}
    content = packed({**parts, "0/image.npy": image}, compression)
    assert len(content) < MOST_BYTES
    tracemalloc.start()
    try:
        assert read_slices(content) == {}
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()


def test_a_file_that_is_larger_than_any_written_here_is_not_looked_into():
    content = archive()
    assert list(read_slices(bytes(MOST_BYTES - len(content)) + content)) == [], "no archive from its first byte on"
    assert read_slices(content + bytes(MOST_BYTES)) == {}


def test_any_damage_gives_either_slices_or_none():
    """Of 600 archives with up to three changed bytes, cut or doubled places."""
    sound, random = archive(), Random(0)
    changed = Counter()
    for _ in range(600):
        content = bytearray(sound)
        for _ in range(random.choice([1, 1, 2, 3])):
            content[random.randrange(len(content))] = random.randrange(256)
        if random.random() < 0.2:
            place, length = random.randrange(len(content)), random.randrange(1, 40)
            content[place : place + length] = content[place : place + length] * random.choice([0, 2])
        found = read_slices(bytes(content))
        changed[len(found)] += 1
        for kept in found.values():
            assert {part.shape for part in kept[1:]} == {(4, 5)}
            assert {part.dtype for part in kept[1:]} == {np.dtype(np.uint8)}
    assert changed[0] > 300
    assert changed.keys() <= {0, 1}
