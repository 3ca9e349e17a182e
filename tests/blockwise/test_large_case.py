"""A case larger than memory comes to what it would come to in memory, as a store and as a NIfTI file."""

import json

import nibabel as nib
import numpy as np
import pytest
import torch
import zarr
from monai.transforms import Compose
from zarr_stores import entry_of, write_image

from pipeline.batch.inputs import find_inputs
from pipeline.blockwise.large_case import LargeCase
from pipeline.errors import InputError
from pipeline.inferers.sliding_window import SlidingWindow
from pipeline.predict import FolderPredictor
from pipeline.transforms.classes_from_logits import ClassesFromLogitsd
from pipeline.transforms.instances import Instancesd
from pipeline.transforms.load_image import StrictLoadImaged
from pipeline.transforms.save_image import AtomicSaveImaged
from pipeline.transforms.standardise import Standardised

CHUNK = {2: (16, 16), 3: (8, 16, 16)}


def voxels(seed=0, shape=(20, 33, 40)):
    return np.random.default_rng(seed).integers(0, 1000, shape, dtype=np.uint16)


@pytest.fixture
def predictor(tmp_path):
    """Return `make(dims, instances=False, **options)`: class 1 where what a voxel and its neighbours show is bright."""

    def make(dims, instances=False, out="out", more=(), **options):
        torch.manual_seed(0)
        kind = {2: torch.nn.Conv2d, 3: torch.nn.Conv3d}[dims]
        network = kind(1, 2, 3, padding=1)
        torch.save(network.state_dict(), tmp_path / "model.pt")
        writers = [AtomicSaveImaged(keys="pred", output_dir=tmp_path / out)]
        if instances:
            objects = AtomicSaveImaged(keys="pred_instances", output_dir=tmp_path / out, postfix="_instances")
            writers.append(Compose([Instancesd("pred"), objects]))
        return FolderPredictor(
            input_dir=str(tmp_path / "in"),
            output_dir=str(tmp_path / out),
            network=kind(1, 2, 3, padding=1),
            weights=str(tmp_path / "model.pt"),
            preprocessing=Compose([StrictLoadImaged(keys="image", spatial_dims=dims), Standardised("image")]),
            inferer=SlidingWindow(roi_size=(16,) * dims, sw_batch_size=3, overlap=0.5, mode="gaussian"),
            postprocessing=Compose([ClassesFromLogitsd(keys="pred"), *writers, *more]),
            spatial_dims=dims,
            class_names=["dark", "light"],
            **options,
        )

    return make


def store(folder, version, array, letters="zyx", **options):
    scale = [{"t": 1.0, "z": 2.0}.get(letter, 0.5) for letter in letters]
    write_image(folder, version, [array], entry_of(letters, [scale], version=version), **options)


def labels_of(folder, name="prediction"):
    return zarr.open_array(folder / "labels" / name / "0", mode="r")[...]


def nifti(file, array):
    file.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, np.diag([0.002, 0.0005, 0.0005, 1.0])), file)


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_a_store_has_the_labels_of_the_same_volume_in_memory(predictor, tmp_path, version):
    array = voxels()
    nifti(tmp_path / "in" / "a.nii.gz", array)
    store(tmp_path / "in" / "b.ome.zarr", version, array)
    rows = {row["case"]: row for row in predictor(3, instances=True).run()}
    expected = np.asarray(nib.load(tmp_path / "out" / "a.nii.gz").dataobj)
    assert 0.2 < expected.mean() < 0.8
    np.testing.assert_array_equal(labels_of(tmp_path / "out" / "b.ome.zarr"), expected)
    objects = np.asarray(nib.load(tmp_path / "out" / "a_instances.nii.gz").dataobj)
    np.testing.assert_array_equal(labels_of(tmp_path / "out" / "b.ome.zarr", "instances"), objects)
    same = ("voxels/dark", "voxels/light", "ml/light", "shape", "spacing")
    assert {key: rows["b"][key] for key in same} == {key: pytest.approx(rows["a"][key], rel=1e-5) for key in same}
    assert (rows["b"]["instances"], rows["b"]["outputs"]) == (objects.max(), ["b.ome.zarr"])


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_a_file_for_which_memory_is_too_small_is_the_same_file(predictor, tmp_path, monkeypatch, suffix):
    nifti(tmp_path / "in" / f"a{suffix}", voxels())
    (whole,) = predictor(3, instances=True, out="whole").run()
    monkeypatch.setattr("pipeline.batch.case_work.least_bytes", lambda *_: 2**60)
    (blocks,) = predictor(3, instances=True, out="blocks").run()
    for name in (f"a{suffix}", f"a_instances{suffix}"):
        first, second = (nib.load(tmp_path / out / name) for out in ("whole", "blocks"))
        assert first.header == second.header
        np.testing.assert_array_equal(np.asarray(first.dataobj), np.asarray(second.dataobj))
    assert blocks["voxels/light"] == whole["voxels/light"]
    assert not list((tmp_path / "blocks" / ".completed").rglob("*.raw")), "what was unpacked is gone"


def test_each_time_point_and_each_plane_of_a_2d_network_stands_for_itself(predictor, tmp_path):
    array = voxels(shape=(2, 3, 20, 33))
    store(tmp_path / "in" / "a.ome.zarr", "0.5", array, "tzyx")
    (row,) = predictor(2).run()
    found = labels_of(tmp_path / "out" / "a.ome.zarr")
    import tifffile

    for time, plane in np.ndindex(2, 3):
        (tmp_path / "planes").mkdir(exist_ok=True)
        tifffile.imwrite(tmp_path / "planes" / f"{time}{plane}.tif", array[time, plane])
    alone = predictor(2, out="alone")
    alone.input_dir = str(tmp_path / "planes")
    alone.run()
    for time, plane in np.ndindex(2, 3):
        expected = tifffile.imread(tmp_path / "alone" / f"{time}{plane}.tif")
        np.testing.assert_array_equal(found[time, plane], expected)
    assert (row["images"], row["voxels/dark"] + row["voxels/light"]) == (6, array.size)


def test_what_is_complete_is_not_done_again_and_another_input_is(predictor, tmp_path, caplog):
    store(tmp_path / "in" / "a.ome.zarr", "0.4", voxels())
    predictor(3).run()
    before = labels_of(tmp_path / "out" / "a.ome.zarr")
    seen = []
    again = predictor(3, resume=True)
    again.network.register_forward_hook(lambda *_: seen.append(1))
    again.run()
    assert not seen
    image = zarr.open_array(tmp_path / "in" / "a.ome.zarr" / "0", mode="r+")
    image[:4] = 1000 - image[:4]
    predictor(3, resume=True).run()
    assert (labels_of(tmp_path / "out" / "a.ome.zarr") != before).any()


def test_parts_may_be_predicted_by_others_in_any_order(predictor, tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.volumes.label_zarr.CHUNK", {3: 16, 2: 16})
    monkeypatch.setattr("pipeline.blockwise.block_plan.BLOCK", 4000)
    monkeypatch.setattr("pipeline.blockwise.large_case.RUN", 1)
    store(tmp_path / "in" / "a.ome.zarr", "0.5", voxels())
    (entry,) = find_inputs(tmp_path / "in", spatial_dims=3)
    parts = None
    for number in range(3):  # three processes, each with objects of its own
        work = predictor(3, memory=1.0).work()
        work.completion.begin(entry)
        case = LargeCase(entry, work)
        parts = case.parts() if parts is None else parts
        assert len(parts) > 1
        for part in parts[::-1][number::3]:
            case.predict(part)
    row = case.finish()
    predictor(3, out="alone").run()
    np.testing.assert_array_equal(
        labels_of(tmp_path / "out" / "a.ome.zarr"), labels_of(tmp_path / "alone" / "a.ome.zarr")
    )
    assert row["shape"] == [20, 33, 40]


def test_what_needs_the_whole_is_refused_by_name(predictor, tmp_path):
    store(tmp_path / "in" / "a.ome.zarr", "0.5", voxels())
    more = [AtomicSaveImaged(keys="probabilities", output_dir=tmp_path / "out", kind="probabilities")]
    with pytest.raises(InputError, match="'probabilities' needs the whole of it in memory"):
        predictor(3, more=more).run()
    assert json.loads((tmp_path / "out" / "summary.json").read_text())[0]["status"] == "failed"


@pytest.mark.parametrize("memory", [0, -1.0])
def test_no_memory_at_all_is_a_mistake(predictor, memory):
    with pytest.raises(InputError, match="memory is"):
        predictor(3, memory=memory)


@pytest.mark.parametrize("name", ["prediction", "instances"])
@pytest.mark.parametrize("predicted_before", [False, True])
def test_a_label_map_of_somebody_else_is_not_touched(predictor, tmp_path, name, predicted_before):
    store(tmp_path / "in" / "a.ome.zarr", "0.5", voxels())
    if predicted_before and name == "instances":  # without objects, of which somebody has put in his own
        predictor(3).run()
    store(tmp_path / "out" / "a.ome.zarr" / "labels" / name, "0.5", np.full((4, 4, 4), 7, np.uint8))
    with pytest.raises(InputError, match="a label map that no batch has recorded"):
        predictor(3, instances=True).run()
    assert (labels_of(tmp_path / "out" / "a.ome.zarr", name) == 7).all()


def test_a_label_map_of_an_earlier_batch_gives_way(predictor, tmp_path):
    store(tmp_path / "in" / "a.ome.zarr", "0.5", voxels(shape=(3, 20, 33)))
    predictor(2).run()
    predictor(3).run()
    predictor(3, out="alone").run()
    found, expected = (labels_of(tmp_path / out / "a.ome.zarr") for out in ("out", "alone"))
    np.testing.assert_array_equal(found, expected)
