"""Every public layout from the command line: the list is written, the summary printed, a mistake is one error."""

import importlib
import json

import pytest
from layout_files import drawn, nifti, noise, png, tif

from pipeline.cli import main
from pipeline.datalists.datalist import load_data_list
from pipeline.verbs.data_verbs import PUBLIC_LAYOUTS

CELLS = drawn("1100", "1102", "0002")


@pytest.fixture
def sequences(tmp_path):
    """Two sequences of three frames, the first two annotated by experts, all by programs."""
    folder = tmp_path / "Toy"
    for number in (1, 2):
        for frame in range(3):
            tif(folder / f"0{number}" / f"t{frame:03d}.tif", noise(10 * number + frame, 3, 4))
            tif(folder / f"0{number}_ST" / "SEG" / f"man_seg{frame:03d}.tif", CELLS)
        for frame in range(2):
            tif(folder / f"0{number}_GT" / "SEG" / f"man_seg{frame:03d}.tif", CELLS)
    return folder


def run(*words):
    main(["datalist", *map(str, words)])


def test_the_summary_says_what_was_found_and_left_out(sequences, tmp_path, capsys):
    run("cell_tracking", sequences, "-o", tmp_path / "toy.json")
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "Toy: 4 frames with gold truth of 2 sequences.",
        "cases:    fold 0: 2, fold 1: 2",
        "size:     3 x 4 pixels",
        "classes:  background, cell (numbered objects)",
        "channels: intensity",
        f"left out: {sequences}/01/t002.tif: the frame has no segmentation (and 1 more file for this reason)",
        f"wrote {tmp_path}/toy.json; train with --data_list {tmp_path}/toy.json --dataset_dir {sequences}",
    ]
    assert len(load_data_list(tmp_path / "toy.json").cases) == 4


def test_options_reach_the_reader(sequences, tmp_path):
    options = ["--dataset_dir", tmp_path / "data", "--truth", "silver", "--folds", 2, "--seed", 3]
    run("cell_tracking", sequences, "-o", tmp_path / "toy.json", *options)
    listed = load_data_list(tmp_path / "toy.json")
    assert listed.made_by.endswith("truth='silver', partial='drop', n_folds=2, seed=3")
    assert all((tmp_path / "data" / case.image).is_file() for case in listed.cases)


def test_slices_of_a_challenge(tmp_path, capsys):
    for number in range(6):
        png(tmp_path / "isbi" / "images" / f"{number:02d}.png", noise(number, 8, 9))
        png(tmp_path / "isbi" / "labels" / f"{number:02d}.png", (noise(number + 10, 8, 9) > 60).astype("u1") * 255)
    run("isbi2012", tmp_path / "isbi", "-o", tmp_path / "a.json", "--dataset_dir", tmp_path / "data", "--folds", 3)
    assert "cases:    fold 0: 2, fold 1: 2, fold 2: 2" in capsys.readouterr().out
    listed = load_data_list(tmp_path / "a.json")
    assert [case.fold for case in listed.cases] == [0, 0, 1, 1, 2, 2]
    assert (tmp_path / "data" / listed.cases[0].label).is_file()


def test_without_a_folder_the_converted_files_go_below_data(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tif(tmp_path / "isbi" / "train-volume.tif", noise(1, 6, 8, 9))
    tif(tmp_path / "isbi" / "train-labels.tif", (noise(2, 6, 8, 9) > 60).astype("u1") * 255)
    run("isbi2012", "isbi", "-o", "x.json")
    *_, where, wrote = capsys.readouterr().out.splitlines()
    default = tmp_path.resolve() / "data" / "isbi2012"
    assert where == f"converted files are in {default}; another place: --dataset_dir"
    assert wrote == f"wrote x.json; train with --data_list x.json --dataset_dir {default}"
    assert all((default / case.label).is_file() for case in load_data_list("x.json").cases)


def test_images_in_colour(tmp_path, capsys):
    for number in range(5):
        png(tmp_path / "flat" / "images" / f"{number}.png", noise(number, 3, 4))
        png(tmp_path / "flat" / "labels" / f"{number}.png", CELLS)
    options = ["-o", tmp_path / "a.json", "--dataset_dir", tmp_path / "data", "--channels", "rgb"]
    run("dsb2018", tmp_path / "flat", *options)
    assert "channels: red, green, blue" in capsys.readouterr().out


def test_a_task_of_the_decathlon(tmp_path, capsys):
    pairs = []
    for number in range(5):
        pair = {"image": f"./imagesTr/t_{number}.nii.gz", "label": f"./labelsTr/t_{number}.nii.gz"}
        nifti(tmp_path / "task" / pair["image"], noise(number, 3, 4, 5))
        nifti(tmp_path / "task" / pair["label"], noise(number, 3, 4, 5) % 2)
        pairs.append(pair)
    task = {"modality": {"0": "CT"}, "labels": {"0": "background", "1": "spleen"}, "training": pairs, "test": []}
    (tmp_path / "task" / "dataset.json").write_text(json.dumps(task))
    run("decathlon", tmp_path / "task", "-o", tmp_path / "a.json")
    printed = capsys.readouterr().out
    assert "size:     3 x 4 x 5 voxels" in printed
    assert "classes:  background, spleen\n" in printed


@pytest.mark.parametrize("layout", PUBLIC_LAYOUTS)
def test_a_mistake_is_an_error_that_shows_the_tree_and_writes_nothing(layout, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    options = ["-o", tmp_path / "a.json", "--dataset_dir", tmp_path / "data"]
    with pytest.raises(SystemExit, match=r"^error: file '.*empty': has .*(?s:.)*<folder>/"):
        run(layout, tmp_path / "empty", *options)
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]


@pytest.mark.parametrize("layout", PUBLIC_LAYOUTS)
def test_every_reader_says_source_licence_and_layout(layout):
    module = importlib.import_module(f"pipeline.datalists.{layout}")
    for part in ("\nSource: ", "https://doi.org/", "\nLicence: ", "\nLayout", "<folder>/"):
        assert part in module.__doc__


def test_a_damaged_image_is_left_out_loudly(sequences, tmp_path, capsys):
    (sequences / "02" / "t001.tif").write_bytes(b"nothing")
    run("cell_tracking", sequences, "-o", tmp_path / "toy.json")
    assert len(load_data_list(tmp_path / "toy.json").cases) == 3
    assert f"left out: {sequences}/02/t001.tif: " in capsys.readouterr().out


def test_without_a_single_good_image_no_list_is_written(sequences, tmp_path):
    for image in sequences.glob("0?/t*.tif"):
        image.write_bytes(b"nothing")
    with pytest.raises(SystemExit, match=r"(?s)^error: .*4 problems.*case '02_t001', file '.*t001\.tif'"):
        run("cell_tracking", sequences, "-o", tmp_path / "toy.json")
    assert not (tmp_path / "toy.json").exists()


def test_partial_frames_are_dropped_or_kept(sequences, tmp_path, capsys):
    for number in (1, 2):
        tif(sequences / f"0{number}_GT" / "TRA" / "man_track000.tif", drawn("1100", "1100", "3000"))
    run("cell_tracking", sequences, "-o", tmp_path / "toy.json")
    reason = "tracked cells have no mask (--partial keep lists the frame) (and 1 more file for this reason)"
    assert f"left out: {sequences}/01/t000.tif: {reason}\n" in capsys.readouterr().out
    assert [case.id for case in load_data_list(tmp_path / "toy.json").cases] == ["01_t001", "02_t001"]
    run("cell_tracking", sequences, "-o", tmp_path / "toy.json", "--partial", "keep")
    assert "in 2 of them, tracked cells without a mask count as background" in capsys.readouterr().out
    assert len(load_data_list(tmp_path / "toy.json").cases) == 4
