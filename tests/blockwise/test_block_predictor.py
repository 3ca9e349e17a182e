"""A volume predicted block by block is the volume predicted in memory."""

import itertools
import logging
import pickle

import numpy as np
import pytest
import torch
from memory_volumes import ArrayReader, ArrayStore
from monai.data import MetaTensor
from monai.inferers import SimpleInferer
from monai.transforms import Compose, KeepLargestConnectedComponentd
from monai.utils import MetaKeys
from torch import nn

from pipeline.batch.summary import measure
from pipeline.blockwise.block_plan import Run
from pipeline.blockwise.block_predictor import BlockPredictor
from pipeline.errors import InputError
from pipeline.inferers.averaged import AveragedInferer
from pipeline.inferers.overlap_tile import OverlapTileInferer
from pipeline.inferers.sliding_window import SlidingWindow
from pipeline.label_slabs import predict_labels
from pipeline.networks.unet import UNet
from pipeline.transforms.classes_from_logits import ClassesFromLogitsd
from pipeline.transforms.instances import Instancesd
from pipeline.transforms.regions import LabelsFromRegionsd
from pipeline.transforms.standardise import Standardised
from pipeline.transforms.to_grid import FromGridd, ToGridd
from pipeline.volumes.label_zarr import scratch_labels

AFFINE = np.array([[0, 0, -1.2, 5], [2.0, 0, 0, -7], [0, -0.9, 0, 11], [0, 0, 0, 1]])  # axes AIL
CLASSES = ClassesFromLogitsd("pred")
NAMES = ["background", "a", "b"]


class Exact(nn.Module):
    """A network whose output for a window has the same bits whatever lies beside it: whole numbers alone are added."""

    def __init__(self, classes=3):
        super().__init__()
        self.classes = classes
        self.eval()

    def forward(self, windows):
        whole = windows.mul(4).round()
        sums = whole + whole.roll(1, dims=2) * 2 - whole.roll(-1, dims=3) * 3
        return torch.cat([(sums[:, :1] * (k + 1)).remainder(7 + k) for k in range(self.classes)], dim=1)


class Bright(nn.Module):
    """Whether a voxel is above 110, as one logit."""

    def forward(self, windows):
        return windows[:, :1] - 110


class Volume:
    """What a prediction needs, in memory and in blocks alike."""

    def __init__(self, tmp_path, shape, affine=None, channels=1, seed=0, dtype=np.float32, chunk=None):
        rng = np.random.default_rng(seed)
        array = rng.normal(100, 20, (channels, *shape))
        array[:, shape[0] // 2 :] += 40
        self.reader = ArrayReader(array.astype(dtype), affine, chunk)
        self.store, self.objects = ArrayStore(shape), ArrayStore(shape, np.uint32)
        self.folder, self.affine = tmp_path / "records", np.eye(4) if affine is None else affine

    def image(self, preprocessing):
        meta = {
            MetaKeys.ORIGINAL_AFFINE: torch.from_numpy(self.affine),
            MetaKeys.SPATIAL_SHAPE: np.array(self.reader.shape),
            "filename_or_obj": "a.nii.gz",
        }
        values = torch.from_numpy(self.reader.array.astype(np.float32))
        image = MetaTensor(values, affine=torch.from_numpy(self.affine), meta=meta)
        return Compose(preprocessing)({"image": image, "id": "a"})

    def in_memory(self, network, inferer, preprocessing=(), postprocessing=(CLASSES,)):
        return predict_labels(self.image(preprocessing), network, inferer, postprocessing, "cpu")

    def predictor(self, network, inferer, preprocessing=(), postprocessing=(CLASSES,), **options):
        options = {"block": [5, 6, 7][: len(self.reader.shape)], "class_names": NAMES, "identity": {}} | options
        options = {"records": self.folder, "instances": self.objects} | options
        return BlockPredictor(self.reader, self.store, network, inferer, preprocessing, postprocessing, **options)

    def check(self, network, inferer, preprocessing=(), postprocessing=(CLASSES,), **options):
        expected = self.in_memory(network, inferer, preprocessing, postprocessing)
        predictor = self.predictor(network, inferer, preprocessing, postprocessing, **options)
        row = predictor.run()
        assert predictor.plan.blocks > 3
        np.testing.assert_array_equal(self.store.array, expected["pred"][0].numpy())
        assert len(np.unique(self.store.array)) > 1
        assert row == measure(expected, predictor.class_names)


def window(size=6, overlap=0.5, **options):
    return SlidingWindow(roi_size=size, sw_batch_size=3, overlap=overlap, mode="gaussian", **options)


@pytest.mark.parametrize("overlap", [0, 0.25, 0.5, 0.625])
@pytest.mark.parametrize("shape", [(17, 14, 21), (26, 33)], ids=["3D", "2D"])
@pytest.mark.parametrize("classes", [3, 1])
def test_labels_are_those_of_the_whole(tmp_path, shape, overlap, classes):
    Volume(tmp_path, shape).check(Exact(classes), window(8, overlap))


@pytest.mark.parametrize("chunk", [(1, 1, 1), (2, 3, 5)])
@pytest.mark.parametrize("block", [(1, 6, 13), (3, 50, 4), (50, 2, 9), (7, 7, 7)])
def test_borders_may_lie_anywhere(tmp_path, block, chunk):
    Volume(tmp_path, (12, 11, 13), chunk=chunk).check(Exact(), window((5, 6, 4)), block=block)


def test_blocks_share_no_chunk_of_the_label_map(tmp_path):
    volume = Volume(tmp_path, (12, 11, 13), AFFINE)
    grid = [ToGridd("image")], [FromGridd("pred"), CLASSES]
    volume.check(Exact(), window(5), *grid, block=(3, 5, 4), chunk=(4, 3, 5))
    owner = {}
    for number, box in enumerate(volume.store.boxes):
        for chunk in itertools.product(
            *(range(p.start // c, -(-p.stop // c)) for p, c in zip(box, (4, 3, 5), strict=True))
        ):
            assert owner.setdefault(chunk, number) == number
    assert len(owner) == 3 * 4 * 3


@pytest.mark.parametrize("shape", [(3, 14, 9), (12, 4, 5), (5, 5, 5)])
def test_windows_shrink_to_a_small_volume(tmp_path, shape):
    Volume(tmp_path, shape).check(Exact(), window(8), block=(2, 3, 4), chunk=(1, 1, 1))


@pytest.mark.parametrize("inner", [window(6, 0.5), window(6, 0.25)])
@pytest.mark.parametrize("shape", [(17, 9, 11), (19, 23)], ids=["3D", "2D"])
def test_mirrored_versions(tmp_path, shape, inner):
    Volume(tmp_path, shape).check(Exact(), AveragedInferer(inner, "mirrors"))
    Volume(tmp_path / "one", shape, seed=1).check(Exact(1), AveragedInferer(inner, "none"))


@pytest.mark.parametrize("shape", [(14, 15, 13), (37, 45)], ids=["3D", "2D"])
@pytest.mark.parametrize("mirrored", [False, True])
def test_tiles_of_valid_convolutions(tmp_path, shape, mirrored):
    torch.manual_seed(0)
    network = UNet(spatial_dims=len(shape), channels=(2, 3), padding="valid", out_channels=3).eval()
    for values in network.parameters():
        nn.init.normal_(values, std=0.5)
    tiles = OverlapTileInferer(6, batch_size=2)
    normalised = [Standardised("image")]
    volume = Volume(tmp_path, shape)
    inferer = AveragedInferer(tiles, "mirrors") if mirrored else tiles
    with torch.no_grad():
        volume.check(network, inferer, normalised, block=(5, 20, 7)[: len(shape)])


@pytest.mark.parametrize("skip_below", [None, 20.0])
def test_constant_windows_are_predicted_once_and_empty_ones_never(tmp_path, skip_below):
    volume = Volume(tmp_path, (40, 16, 16), chunk=(8, 8, 8))
    volume.reader.array[:, :24] = 7
    seen = []

    class Counting(Exact):
        def forward(self, windows):
            seen.extend(windows)
            return super().forward(windows)

    inferer = window(8, 0.5, skip_below=skip_below)
    volume.check(Counting(), inferer, block=(8, 16, 8))
    blocks = volume.predictor(Counting(), inferer, records=tmp_path / "again", block=(8, 16, 8))
    seen.clear()
    blocks.run()
    constant = [one for one in seen if one.min() == one.max()]
    assert len(constant) == 1
    assert blocks.slabs.windows.windows > 60
    assert blocks.slabs.windows.forwards == len(seen)


def test_a_network_in_training_sees_every_window(tmp_path):
    volume = Volume(tmp_path, (16, 8, 8))
    volume.reader.array[:] = 7
    predictor = volume.predictor(Exact().train(), window(8))
    predictor.predict(Run(0, 0, 2))
    assert predictor.slabs.windows.forwards == predictor.slabs.windows.windows > 2


@pytest.mark.parametrize("inferer", [window(6), AveragedInferer(window(6), "mirrors", "sigmoid")])
def test_regions_that_overlap(tmp_path, inferer):
    last = LabelsFromRegionsd("pred", {"all": [1, 2], "core": [2]})
    Volume(tmp_path, (17, 14, 21)).check(Exact(2), inferer, postprocessing=[last])


@pytest.mark.parametrize("dtype", [np.float32, np.int16, np.uint8])
@pytest.mark.parametrize("channels", [1, 2])
def test_turned_and_normalised(tmp_path, dtype, channels):
    volume = Volume(tmp_path, (12, 13, 15), AFFINE, channels, dtype=dtype)
    torch.manual_seed(0)
    network = nn.Conv3d(channels, 3, 3, padding=1).requires_grad_(False)
    volume.check(network, window(6), [ToGridd("image"), Standardised("image")], [FromGridd("pred"), CLASSES])


@pytest.mark.parametrize("spacing", [1.5, 0.7, (None, 3.0, 1.0)])
def test_resampled_there_and_back_to_rounding(tmp_path, spacing):
    volume = Volume(tmp_path, (12, 13, 15), AFFINE)
    torch.manual_seed(0)
    network = nn.Conv3d(1, 3, 3, padding=1).requires_grad_(False)
    steps = [ToGridd("image", spacing=spacing), Standardised("image")], [FromGridd("pred")]
    expected = volume.in_memory(network, window(6), *steps)["pred"].numpy()
    predictor = volume.predictor(network, window(6), *steps)
    predictor.prepare()
    found = np.zeros_like(expected)
    for run in predictor.plan.runs(1):
        box = predictor.plan.box(*run)
        predictor.pointwise = [One(1)]
        labels = torch.cat([planes for _, planes in predictor._labels(box)])
        found[1][predictor.grid.in_file(box)] = predictor.grid.turn_back(labels.numpy())
    assert predictor.plan.blocks == 8
    np.testing.assert_allclose(found[1], expected[1], rtol=1e-4, atol=2e-5)


class One:
    """One channel of the logits, for a look at numbers that are else made classes of."""

    voxelwise = True

    def __init__(self, channel):
        self.channel = channel

    def __call__(self, record):
        return {"pred": record["pred"][self.channel : self.channel + 1]}


def test_a_block_that_is_recorded_is_not_predicted_again(tmp_path):
    volume = Volume(tmp_path, (20, 8, 9))
    expected = volume.in_memory(Exact(), window())["pred"][0].numpy()
    options = {"block": (4, 8, 4)}
    first = volume.predictor(Exact(), window(), **options)
    assert first.plan.runs() == [Run(0, 0, 5), Run(1, 0, 5), Run(2, 0, 5)]
    assert first.predict(Run(1, 2, 4)) == 2
    second = volume.predictor(Exact(), window(), **options)
    assert second.predict(Run(1, 0, 5)) == 3
    assert [box[0].start for box in volume.store.boxes] == [8, 12, 0, 4, 16]
    with pytest.raises(InputError, match="block 0 of pillar 0 has not been predicted"):
        second.finish()
    second.run()
    assert len(volume.store.boxes) == len(set(map(str, volume.store.boxes))) == 15
    np.testing.assert_array_equal(volume.store.array, expected)


def test_a_record_counts_for_its_own_input_and_labels_alone(tmp_path):
    volume = Volume(tmp_path, (8, 16, 16))
    volume.predictor(Exact(), window(), identity={"weights": "a"}).run()
    count = len(volume.store.boxes)
    assert count == volume.predictor(Exact(), window()).plan.blocks
    volume.predictor(Exact(), window(), identity={"weights": "a"}).run()
    assert len(volume.store.boxes) == count
    assert count == 4
    box = volume.store.boxes[1]
    volume.store.array[box] = 0  # the labels are gone, and the record stands
    volume.predictor(Exact(), window(), identity={"weights": "a"}).run()
    assert volume.store.boxes[count:] == [box]
    volume.predictor(Exact(), window(), identity={"weights": "b"}).run()
    assert len(volume.store.boxes) == 2 * count + 1


def test_numbers_of_the_whole_image_are_found_once(tmp_path):
    volume = Volume(tmp_path, (12, 12, 12))
    normalised = [Standardised("image")]
    volume.predictor(Exact(), window(), normalised).prepare()
    whole = len(volume.reader.boxes)
    assert whole > 0
    volume.predictor(Exact(), window(), normalised).prepare()
    assert len(volume.reader.boxes) == whole


def test_the_plan_of_an_earlier_call_is_kept_though_memory_has_changed(tmp_path, monkeypatch):
    volume = Volume(tmp_path, (40, 40, 40))
    first = volume.predictor(Exact(), window(), block=None).plan
    monkeypatch.setattr("pipeline.blockwise.block_plan.free_bytes", lambda: 2**19)
    assert volume.predictor(Exact(), window(), block=None).plan == first
    with pytest.raises(InputError, match="the sums of one row of windows"):
        volume.predictor(Exact(), window(), block=None, records=tmp_path / "others")


def test_it_can_be_sent_to_another_process(tmp_path):
    volume = Volume(tmp_path, (9, 8, 7))
    expected = volume.in_memory(Exact(), window())["pred"][0].numpy()
    sent = pickle.loads(pickle.dumps(volume.predictor(Exact(), window())))
    sent.run()
    np.testing.assert_array_equal(sent.store.array, expected)


@pytest.mark.parametrize("affine", [None, AFFINE])
def test_objects_are_numbered_as_in_the_whole(tmp_path, affine):
    steps = ([], [CLASSES]) if affine is None else ([ToGridd("image")], [FromGridd("pred"), CLASSES])
    volume = Volume(tmp_path, (24, 15, 13), affine)
    volume.reader.array[:] = 100 + 30 * (np.random.default_rng(0).random(volume.reader.array.shape) > 0.8)
    objects = Instancesd("pred", min_size=4)
    expected = objects(volume.in_memory(Bright(), window(), *steps))["pred_instances"][0].numpy()
    predictor = volume.predictor(Bright(), window(), steps[0], [*steps[1], objects])
    row = predictor.run()
    np.testing.assert_array_equal(volume.objects.array, expected)
    assert row["instances"] == expected.max() > 3


def test_a_label_map_on_disk_decides_on_the_chunks(tmp_path):
    pytest.importorskip("zarr")
    volume = Volume(tmp_path, (13, 9, 10))
    expected = volume.in_memory(Exact(), window())["pred"][0].numpy()
    volume.store = scratch_labels(tmp_path / "labels", volume.reader.shape, np.uint8, (4, 5, 3))
    predictor = volume.predictor(Exact(), window(), block=(1, 1, 1))
    predictor.run()
    assert predictor.plan.borders == ((0, 4, 8, 12, 13), (0, 5, 9), (0, 3, 6, 9, 10))
    np.testing.assert_array_equal(volume.store.read((slice(0, 13), slice(0, 9), slice(0, 10))), expected)


def test_what_it_takes_is_said(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    volume = Volume(tmp_path, (16, 8, 8))
    volume.predictor(Exact(), window(8), block=(8, 8, 4)).run()
    # 3 rows of windows along the first axis, each seen by both pillars.
    assert "a volume of 16 x 8 x 8 voxels: 4 blocks in 2 pillars, 6 windows of (8, 8, 8)" in caplog.text
    assert "0.0 of 0.0 megavoxels predicted" in caplog.text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"inferer": SimpleInferer()}, "SimpleInferer predicts no volume block by block"),
        ({"inferer": AveragedInferer(window(), "rotations7")}, "turns the image as a whole"),
        (
            {"postprocessing": [KeepLargestConnectedComponentd("pred")]},
            "KeepLargestConnectedComponentd in the postproc",
        ),
        ({"postprocessing": [CLASSES, Instancesd("pred", seeds="distance")]}, "parts objects by a watershed"),
        ({"postprocessing": [CLASSES, Instancesd("pred")], "instances": None}, "there is no store for their numbers"),
        ({"preprocessing": [ToGridd("image")]}, "no FromGridd"),
        ({"network": nn.Conv3d(2, 2, 1)}, "has 1 channels, and the network was trained on 2"),
        ({"block": (4, 4)}, "a block of"),
    ],
)
def test_what_cannot_be_is_refused_at_once(tmp_path, change, message):
    given = {"network": Exact(), "inferer": window()} | change
    with pytest.raises(InputError, match=message):
        Volume(tmp_path, (8, 8, 8)).predictor(**given)


def test_a_network_of_another_size_is_refused(tmp_path):
    predictor = Volume(tmp_path, (8, 8, 8)).predictor(nn.Conv3d(1, 2, 3), window())
    with pytest.raises(InputError, match="not one tensor of that size"):
        predictor.run()
