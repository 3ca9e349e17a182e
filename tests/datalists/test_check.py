"""The check before training: each kind of damage is found, all of them at once, and a sound set passes quickly."""

import gzip
import json
import logging
import shutil
from dataclasses import replace

import numpy as np
import pytest
import tifffile
from checked_lists import (
    GRID,
    NAMES,
    flat_list,
    make_flat,
    make_solid,
    mask,
    message,
    nifti_fields,
    picture,
    scan,
    solid_list,
    with_case,
    write,
)
from PIL import Image

from pipeline.datalists.check import check_cases, check_fits, contradictions, examine_cases
from pipeline.datalists.datalist import load_data_list
from pipeline.datalists.embedded import ensure_data, make_data_list
from pipeline.errors import InputError


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch, tmp_path_factory):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def flat(tmp_path):
    """Four 2D cases: a and b validate, c trains, d tests."""
    return make_flat(tmp_path)


@pytest.fixture
def solid(tmp_path):
    """The same in 3D."""
    return make_solid(tmp_path)


def test_a_sound_set_passes(flat):
    report = check_cases(flat_list(), flat)
    assert (report.cases, report.labelled, report.with_foreground, report.warnings) == (4, 4, 4, ())
    assert check_cases(flat_list(), flat, split="validation").cases == 2
    assert check_cases(flat_list(), flat, split="validation", fold=1).cases == 1
    assert check_cases(flat_list(), flat, split="test").cases == 1


def test_a_sound_set_of_volumes_passes(solid):
    assert check_cases(solid_list(), solid).cases == 4


def test_the_embedded_cells_have_no_problem(tmp_path):
    cells = make_data_list("cells")
    ensure_data(cells, tmp_path)
    report = check_cases(cells, tmp_path)
    assert (report.cases, report.with_foreground, report.warnings) == (30, 30, ())


def test_missing_and_damaged_files_are_named(flat):
    (flat / "images/a.png").unlink()
    (flat / "labels/b.png").unlink()
    (flat / "images/c.png").write_bytes((flat / "images/c.png").read_bytes()[:60])
    text = message(flat_list(), flat)
    assert "3 problems" in text
    for case, file in (("a", "images/a.png"), ("b", "labels/b.png"), ("c", "images/c.png")):
        assert f"case '{case}', file '{flat / file}'" in text
    assert text.count("Remedy:") == 3


def test_only_the_chosen_split_is_read(flat):
    (flat / "images/c.png").unlink()
    assert check_cases(flat_list(), flat, split="validation").cases == 2
    assert "case 'c'" in message(flat_list(), flat, split="training")


def test_a_split_of_empty_labels_is_a_problem_but_for_a_test_set(flat):
    empty = np.zeros((6, 8), np.uint8)
    write(flat / "labels/a.png", empty)
    write(flat / "labels/d.png", empty)
    assert check_cases(flat_list(), flat).with_foreground == 2
    write(flat / "labels/b.png", empty)
    assert "every validation label is empty" in message(flat_list(), flat)
    write(flat / "labels/c.png", empty)
    text = message(flat_list(), flat)
    assert "every training label is empty" in text
    assert "every test label" not in text


def test_labels_that_cannot_be_read_are_not_called_empty(flat):
    (flat / "labels/c.png").unlink()
    assert "is empty" not in message(flat_list(), flat)


def test_a_case_without_a_label_may_only_test(flat):
    assert check_cases(with_case(flat_list(), 3, label=None), flat).labelled == 3
    text = message(with_case(flat_list(), 0, label=None), flat)
    assert "case 'a': a validation case has no label" in text


def test_an_empty_list_or_split_is_a_problem(flat):
    nothing = flat_list(cases=())
    assert "no training case" in message(nothing, flat)
    assert "no validation case" in message(nothing, flat)
    assert "has no test case" in message(nothing, flat, split="test")
    assert "has no fold 3" in message(flat_list(), flat, fold=3)
    assert "'all the rest' is not a split" in message(flat_list(), flat, split="all the rest")


def test_all_problems_come_in_one_go(flat):
    (flat / "images/a.png").unlink()
    write(flat / "labels/b.png", picture(1) % 2 * 7)
    write(flat / "labels/c.png", picture(2, (3, 3)) % 2)
    shutil.copy(flat / "images/b.png", flat / "images/d.png")
    text = message(flat_list(), flat)
    assert "4 problems" in text
    for part in ("images/a.png", "label values 7", "shape (3, 3)", "same content"):
        assert part in text


def test_a_config_that_contradicts_the_data_is_told_all_at_once():
    with pytest.raises(InputError) as caught:
        check_fits(make_data_list("organs"), ["background", "cell"], in_channels=2, spatial_dims=2)
    for words in (
        "3 problems",
        "class_names is background, cell",
        "background, liver, kidney, vessel",
        "in_channels is 2",
        "spatial_dims",
    ):
        assert words in str(caught.value)
    check_fits(make_data_list("cells"), ["background", "cell"], in_channels=1, spatial_dims=2)


def test_regions_are_made_of_the_lists_classes():
    organs = make_data_list("organs")  # background, liver, kidney, vessel
    fitting = (organs.classes, len(organs.channels), 3)
    assert contradictions(organs, *fitting, regions={"whole": [1, 2, 3], "vessel": [3]}) == []
    (problem,) = contradictions(organs, *fitting, regions={"whole": [1, 2, 3], "a": [3, 9, 0]})
    assert problem.reason == f"region 'a' has label 9, 0, which no label map of '{organs.name}' may hold"
    assert problem.remedy.endswith("1 liver, 2 kidney, 3 vessel")
    with pytest.raises(InputError, match="region 'a' has label 4"):
        check_fits(organs, *fitting, regions={"a": [4]})


def test_what_is_wrong_with_the_list_and_its_files_comes_in_one_go(flat):
    """A patient in two folds, a key that no case has, a case without a place, and a damaged file of each kind."""
    document = flat_list(licence="x", source="x", made_by="x").document
    document["cases"][0] |= {"group": "p1"}
    document["cases"][2] |= {"group": "p1", "colour": "red"}
    document["cases"].append({"id": "e", "image": "images/e.png"})
    (flat / "list.json").write_text(json.dumps(document))
    cut(flat / "images/b.png")
    (flat / "labels/c.png").unlink()
    listed = load_data_list(flat / "list.json", strict=False)
    text = message(listed, flat)
    assert "5 problems" in text
    assert text.count("Remedy: ") == 5
    for words in (
        "case 'c', file '{0}/list.json': $.cases[2]: Additional properties",
        "case 'e', file '{0}/list.json': $.cases[4]: a case has exactly one of 'fold' and 'split'",
        "case 'c', file '{0}/list.json': group 'p1' is divided: $.cases[0] (fold 0), $.cases[2] (fold 1)",
        "case 'b', file '{0}/images/b.png'",
        "case 'c', file '{0}/labels/c.png': does not exist",
    ):
        assert words.format(flat) in text


def cut(file, kept=0.6):
    whole = file.read_bytes()
    file.write_bytes(whole[: int(len(whole) * kept)])


def with_value(array, value):
    changed = array.copy()
    changed.flat[7] = value
    return changed


def flip_crc(file):
    whole = file.read_bytes()
    file.write_bytes(whole[:-6] + bytes([whole[-6] ^ 1]) + whole[-5:])  # the last 8 bytes: checksum, length


def moved(*origin):
    affine = GRID.copy()
    affine[:3, 3] = origin
    return affine


IMAGE, LABEL = "images/c.nii.gz", "labels/c.nii.gz"
FLIPPED, OTHER = GRID * [[-1], [1], [1], [1]], np.diag([1.0, 1, 3, 1])
SHEARED = GRID + np.array([[0, 0.1, 0, 0], *[[0] * 4] * 3])
CODES = {"qform_code": 0, "sform_code": 0}

# The file of case c that is spoiled, how, and what the error says.
SPOILED = {
    "truncated, packed": (IMAGE, cut, "truncated|cannot be read"),
    "damaged checksum": (IMAGE, flip_crc, "CRC"),
    "NaN": (IMAGE, lambda file: write(file, with_value(scan(2).astype("f4"), np.nan)), "1 of 120 voxels are NaN"),
    "Inf": (
        IMAGE,
        lambda file: write(file, with_value(scan(2).astype("f4"), np.inf)),
        "1 of 120 voxels are NaN or inf",
    ),
    "no label file": (LABEL, lambda file: file.unlink(), "does not exist"),
    "flipped label": (LABEL, lambda file: write(file, mask(2), FLIPPED), "point along LAS, not RAS"),
    "moved label": (
        LABEL,
        lambda file: write(file, mask(2), moved(0, 30, 0)),
        "origin lies 30 mm from that of '.*images",
    ),
    "label of other spacing": (
        LABEL,
        lambda file: write(file, mask(2), OTHER),
        "1 x 1 x 3 mm differs from 1 x 1 x 2 mm",
    ),
    "label of other size": (LABEL, lambda file: write(file, mask(2)[..., :4]), r"shape \(4, 5, 4\) differs"),
    "two forms": (
        IMAGE,
        lambda file: nifti_fields(file, scan(2), qoffset_x=9, qform_code=1),
        "qform and sform disagree",
    ),
    "no form": (IMAGE, lambda file: nifti_fields(file, **CODES), "neither a qform nor an sform"),
    "sheared": (IMAGE, lambda file: write(file, scan(2), SHEARED), "sheared"),
    "zero sform": (IMAGE, lambda file: nifti_fields(file, srow_x=[0] * 4), "axis of length 0"),
    "NaN sform": (IMAGE, lambda file: nifti_fields(file, srow_x=[np.nan] * 4), "non-finite"),
    "wrong unit": (IMAGE, lambda file: write(file, scan(2), GRID * 1e-3), "1000-fold from the list's median"),
    "four axes": (IMAGE, lambda file: write(file, np.stack([scan(2)] * 3, -1)), "3 channels, but the list names 1"),
    "coloured label": (LABEL, lambda file: write(file, np.stack([mask(2)] * 3, -1)), "a label map has one channel"),
    "size 0": (IMAGE, lambda file: nifti_fields(file, dim=[3, 4, 0, 6, 1, 1, 1, 1]), "axis of size 0"),
    "255": (LABEL, lambda file: write(file, mask(2) * 255), "label values 255 are not among the classes 0..1"),
    "-1": (LABEL, lambda file: write(file, mask(2).astype("i2") * -1), "label values -1 are not among"),
    "halves": (LABEL, lambda file: write(file, mask(2) * np.float32(0.5)), "label values are not whole numbers"),
    "scaled label": (LABEL, lambda file: nifti_fields(file, scl_slope=2), "scales its labels by 2"),
    "beyond float32": (
        IMAGE,
        lambda file: write(file, with_value(scan(2).astype("f8"), 1e39)),
        "beyond the range of flo",
    ),
}


@pytest.mark.parametrize(("name", "spoil", "words"), SPOILED.values(), ids=SPOILED)
def test_each_fault_of_a_volume_is_named(solid, name, spoil, words):
    spoil(solid / name)
    with pytest.raises(InputError, match=words) as caught:
        check_cases(solid_list(), solid, progress=False)
    assert "Remedy: " in str(caught.value)
    report = examine_cases(solid_list(), solid, progress=False)
    assert {problem.case for problem in report.problems} == {"c"}
    assert str(solid / name) in {problem.file for problem in report.problems}
    assert {fingerprint.case for fingerprint in report.fingerprints} >= {*"abd"}


@pytest.mark.parametrize("suffix", [".nii", ".mha", ".nrrd"])
def test_a_truncated_volume_of_any_format_is_named(solid, suffix):
    cut(write(solid / f"images/c{suffix}", scan(2)), 0.7)
    assert f"case 'c', file '{solid}/images/c{suffix}'" in message(
        with_case(solid_list(), 2, image=f"images/c{suffix}"), solid
    )


def test_pages_and_palettes_are_no_2d_image(flat):
    tifffile.imwrite(flat / "images/a.tif", np.stack([picture(0)] * 3), photometric="minisblack")
    listed = with_case(flat_list(), 0, image="images/a.tif")
    palette = Image.fromarray(picture(1) % 4)
    palette.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0, 0, 0, 255])
    palette.save(flat / "images/b.png")
    report = examine_cases(listed, flat, progress=False)
    assert [(problem.case, problem.reason.split(";")[0]) for problem in report.problems] == [
        ("a", "holds 3 pages"),
        ("b", "has a palette, so its values are no grey values"),
    ]


def test_a_1_bit_picture_is_0_and_1(flat):
    for kind in ("images", "labels"):
        Image.fromarray(picture(5 if kind == "images" else 6) % 2 > 0).save(flat / kind / "a.png")
    report = check_cases(flat_list(), flat)
    assert (report.fingerprints[0].channels[0].maximum, report.with_foreground) == (1, 4)


def test_every_fault_of_every_case_comes_in_one_go(solid):
    (solid / "images/a.nii.gz").unlink()
    write(solid / "labels/a.nii.gz", mask(0) * 7)  # both files of one case
    write(solid / "images/b.nii.gz", with_value(scan(1).astype("f4"), np.nan), OTHER)  # two faults of one file
    write(solid / "images/c.nii.gz", np.stack([scan(2)] * 2, -1), GRID * 1e-3)
    write(solid / "labels/c.nii.gz", mask(2), GRID * 1e-3)
    write(solid / "labels/d.nii.gz", mask(3), FLIPPED)
    report = examine_cases(solid_list(), solid, progress=False)
    assert [(problem.case, problem.reason.split(" ")[0]) for problem in report.problems] == [
        ("a", "does"),
        ("a", "label"),
        ("b", "1"),
        ("b", "spacing"),
        ("c", "2"),
        ("d", "its"),
    ]
    assert all(problem.file and problem.remedy for problem in report.problems)
    assert [fingerprint.case for fingerprint in report.fingerprints] == ["d"]


def test_a_patient_in_two_folds_or_splits_is_a_problem(flat):
    listed = with_case(with_case(flat_list(), 0, group="p1"), 3, group="p1")
    assert "case 'a': group 'p1' is divided: 'a' is in fold 0, 'd' is in test" in message(listed, flat)
    listed = with_case(with_case(flat_list(), 0, group="p1"), 1, group="p1")
    assert check_cases(listed, flat).problems == ()


def test_a_copy_in_another_packing_is_found(solid):
    raw = gzip.decompress((solid / "images/a.nii.gz").read_bytes())
    (solid / "images/c.nii").write_bytes(raw)
    text = message(with_case(solid_list(), 2, image="images/c.nii"), solid)
    assert f"case 'c', file '{solid}/images/c.nii': has the same content as the image of case 'a' (fold 0" in text


def test_the_network_grid_must_leave_something(solid):
    assert check_cases(solid_list(), solid, spacing=[1.0, 1.0, 2.0]).cases == 4
    assert check_cases(solid_list(), solid, spacing=[None, None, None]).cases == 4
    text = message(solid_list(), solid, spacing=[1.0, 1.0, 2000.0])
    assert "case 'a'" in text
    assert "spacing of 2000 mm makes 1 of 6 voxels of 2 mm (S) (4 volumes are like that)" in text


def test_what_did_not_change_is_not_read_again(solid, monkeypatch, caplog):
    caplog.set_level(logging.INFO, "pipeline")
    first = check_cases(solid_list(), solid)
    assert (first.unchanged, caplog.messages) == (0, [])
    monkeypatch.setattr("pipeline.datalists.check.look_at_case", None)  # calling it would raise
    second = check_cases(solid_list(), solid)
    assert second == replace(first, unchanged=4)
    assert caplog.messages == ["data list 'toy': all 4 cases are as they were when last checked"]
    other_fold = check_cases(solid_list(), solid, fold=1)
    assert other_fold.unchanged == 4
    assert [numbers.split for numbers in other_fold.fingerprints] == ["training", "training", "validation", "test"]


def test_only_what_changed_is_read_again(solid, monkeypatch):
    seen = []
    look = __import__("pipeline.datalists.check", fromlist=["x"]).look_at_case
    monkeypatch.setattr(
        "pipeline.datalists.check.look_at_case", lambda case, *rest: seen.append(case.id) or look(case, *rest)
    )
    check_cases(solid_list(), solid)
    assert sorted(seen) == [*NAMES]
    seen.clear()
    write(solid / "labels/b.nii.gz", mask(77))
    assert check_cases(solid_list(), solid).unchanged == 3
    assert seen == ["b"]
    seen.clear()
    check_cases(solid_list(classes=("background", "cell", "vessel")), solid)
    assert sorted(seen) == [*NAMES]  # the list now allows other values
    seen.clear()
    examine_cases(solid_list(classes=("background", "cell", "vessel")), solid, use_cache=False)
    assert sorted(seen) == [*NAMES]


def test_a_problem_is_found_anew_until_it_is_mended(solid):
    good = (solid / LABEL).read_bytes()
    flip_crc(solid / LABEL)
    assert "CRC" in message(solid_list(), solid)
    assert "CRC" in message(solid_list(), solid)
    (solid / LABEL).write_bytes(good)
    assert check_cases(solid_list(), solid).unchanged == 3


def test_a_warning_is_said_again_and_the_log_stays_short(flat, caplog):
    write(flat / "images/a.png", np.full((6, 8), 7, np.uint8))
    for _ in range(2):
        (warning,) = check_cases(flat_list(), flat).warnings
        assert (warning.case, warning.file) == ("a", str(flat / "images/a.png"))
        assert [record.message for record in caplog.records if record.levelname == "WARNING"] == [str(warning)]
        caplog.clear()
    for number in range(12):
        write(flat / f"images/{number}.png", np.full((6, 8), number, np.uint8))
    cases = [replace(flat_list().cases[0], id=str(n), image=f"images/{n}.png") for n in range(12)]
    examined = check_cases(flat_list(cases=(*flat_list().cases, *cases)), flat)
    assert len(caplog.messages) == 11
    assert caplog.messages[-1].startswith(f"{len(examined.warnings) - 10} more warnings of data list 'toy'")


def test_a_report_is_json(flat):
    write(flat / "images/a.png", np.full((6, 8), 7, np.uint8))
    (flat / "images/b.png").unlink()
    document = json.loads(json.dumps(examine_cases(flat_list(), flat).document, allow_nan=False))
    assert (document["name"], document["cases"], document["labelled"]) == ("toy", 4, 4)
    assert [(problem["case"], problem["reason"]) for problem in document["problems"]] == [("b", "does not exist")]
    assert [warning["case"] for warning in document["warnings"]] == ["a"]
    assert [numbers["case"] for numbers in document["fingerprints"]] == ["a", "c", "d"]
