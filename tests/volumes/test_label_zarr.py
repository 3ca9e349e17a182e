import errno
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import zarr
from ome_zarr.io import parse_url
from ome_zarr.reader import Reader
from zarr_stores import check_by_model, entry_of, label_node, numbered, write_image

from pipeline.errors import InputError
from pipeline.volumes.label_zarr import LabelImage, scratch_labels, smallest_dtype
from pipeline.volumes.ome_zarr import Standing, open_ome_zarr

VERSIONS = ("0.4", "0.5")


def box_of(*ends):
    return tuple(slice(*pair) for pair in ends)


def image_of(folder, version, letters="czyx", shape=(2, 20, 18, 17), scale=(1, 2, 0.5, 0.25), shift=(0, 3, 2, 1)):
    entry = entry_of(letters, [scale], version=version, translations=[shift])
    write_image(folder, version, [numbered(*shape)], entry)
    return open_ome_zarr(folder).images(3)[0].image


def described(folder, version):
    if version == "0.4":
        return json.loads((folder / ".zattrs").read_text())
    return json.loads((folder / "zarr.json").read_text())["attributes"]["ome"]


@pytest.mark.parametrize("version", VERSIONS)
def test_labels_with_their_description(tmp_path, version):
    image = image_of(tmp_path / "in" / "x.zarr", version)
    made = LabelImage(tmp_path / "out" / "x.ome.zarr", "cells", image, np.uint8, chunk=(8, 8, 8))
    labels = (numbered(20, 18, 17) % 3).astype(np.uint8)
    store = made.labels(Standing())
    assert (store.shape, store.dtype, store.chunk) == ((20, 18, 17), np.uint8, (8, 8, 8))
    store.write(box_of((0, 20), (0, 18), (0, 17)), labels)
    assert not made.is_announced()
    made.announce([(1, 1, 1)], {1: "cell", 2: "debris"})
    assert made.is_announced()

    folder = tmp_path / "out" / "x.ome.zarr" / "labels" / "cells"
    fields = described(folder, version)
    axes = [{"name": name, "type": "space", "unit": "micrometer"} for name in "zyx"]
    (entry,) = fields["multiscales"]
    assert entry["axes"] == axes
    steps = [{"type": "scale", "scale": [2, 0.5, 0.25]}, {"type": "translation", "translation": [3, 2, 1]}]
    assert entry["datasets"] == [{"path": "0", "coordinateTransformations": steps}]
    assert fields["image-label"]["properties"] == [
        {"label-value": 1, "class": "cell"},
        {"label-value": 2, "class": "debris"},
    ]
    source = folder / fields["image-label"]["source"]["image"]
    assert source.resolve() == tmp_path / "in" / "x.zarr"
    assert described(folder.parent, version)["labels"] == ["cells"]
    check_by_model("ImageLabel", folder)
    check_by_model("Labels", folder.parent)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_viewer_finds_them_in_the_image(tmp_path, version):
    """ome-zarr's own reader, which napari uses, goes from an image to its labels."""
    image = image_of(tmp_path / "x.zarr", version)
    made = LabelImage(tmp_path / "x.zarr", "cells", image, np.uint8)
    labels = (numbered(20, 18, 17) % 3).astype(np.uint8)
    made.labels(Standing()).write(box_of((0, 20), (0, 18), (0, 17)), labels)
    (first, *others) = Reader(parse_url(str(tmp_path / "x.zarr")))()
    assert len(first.data) == 1
    assert not [node for node in others if node.data], "no label map before it is complete"
    made.announce([(1, 1, 1)], {1: "cell", 2: "debris"})
    found = label_node(tmp_path / "x.zarr")
    np.testing.assert_array_equal(np.asarray(found.data[0]), labels)
    assert set(found.metadata["color"]) == {1, 2}
    alone = label_node(tmp_path / "x.zarr" / "labels" / "cells")
    np.testing.assert_array_equal(np.asarray(alone.data[0]), labels)


@pytest.mark.parametrize("version", VERSIONS)
def test_time_points_and_planes_share_a_label_image_and_no_chunk(tmp_path, version):
    entry = entry_of("tczyx", [(1, 1, 2, 1, 1)], version=version)
    write_image(tmp_path / "x.zarr", version, [numbered(3, 2, 4, 18, 17)], entry)
    planes = open_ome_zarr(tmp_path / "x.zarr").images(2)
    image = planes[0].image
    made = LabelImage(tmp_path / "out.zarr", "cells", image, np.uint16, spatial_dims=2)
    assert made.array.chunks == (1, 1, 18, 17)
    for number, plane in enumerate(planes):
        made.labels(plane.standing).write(box_of((0, 18), (0, 17)), np.full((18, 17), number + 1, np.uint16))
    assert made.array[:, :, 3, 4].tolist() == [[1, 2, 3, 4], [5, 6, 7, 8], [9, 10, 11, 12]]
    store = pickle.loads(pickle.dumps(made.labels(Standing("", 1, 2))))
    assert np.unique(store.read(box_of((2, 5), (7, 9)))).tolist() == [7]
    volume = LabelImage(tmp_path / "out.zarr", "organs", image, np.uint8)
    assert volume.array.chunks == (1, 4, 18, 17)


def test_what_was_not_written_is_0_and_takes_no_room(tmp_path):
    made = LabelImage(tmp_path / "out.zarr", "cells", image_of(tmp_path / "x.zarr", "0.4"), np.uint8, chunk=(8, 8, 8))
    store = made.labels(Standing())
    everything = box_of((0, 20), (0, 18), (0, 17))
    assert not store.read(everything).any()
    store.write(box_of((8, 16), (0, 8), (0, 8)), np.ones((8, 8, 8), np.int64))
    assert [file.name for file in (made.folder / "0").rglob("0") if file.is_file()] == ["0"]
    store.write(everything, np.zeros((20, 18, 17), np.uint8))
    assert not [file for file in (made.folder / "0").rglob("[0-9]*") if file.is_file()]


def test_labels_that_do_not_fit(tmp_path):
    made = LabelImage(tmp_path / "out.zarr", "cells", image_of(tmp_path / "x.zarr", "0.4"), np.uint8)
    store = made.labels(Standing())
    for labels in (np.full((2, 2, 2), 256), np.full((2, 2, 2), -1), np.zeros((2, 2, 2)), np.zeros((2, 2), np.uint8)):
        with pytest.raises(ValueError, match=r"labels (of shape|from)"):
            store.write(box_of((0, 2), (0, 2), (0, 2)), labels)
    with pytest.raises(ValueError, match="does not lie within"):
        store.write(box_of((19, 21), (0, 2), (0, 2)), np.zeros((2, 2, 2), np.uint8))


def test_the_second_one_opens_what_the_first_one_made(tmp_path):
    image = image_of(tmp_path / "x.zarr", "0.5")
    first = LabelImage(tmp_path / "out.zarr", "cells", image, np.uint8, chunk=(8, 8, 8))
    first.labels(Standing()).write(box_of((0, 8), (0, 8), (0, 8)), np.ones((8, 8, 8), np.uint8))
    first.announce([(1, 1, 1)])
    second = LabelImage(tmp_path / "out.zarr", "cells", image, np.uint8, chunk=(8, 8, 8))
    assert second.is_announced()
    assert second.labels(Standing()).read(box_of((7, 9), (0, 1), (0, 1))).ravel().tolist() == [1, 0]
    with pytest.raises(InputError, match=r"is another label map.*uint8.*uint16.*remove it"):
        LabelImage(tmp_path / "out.zarr", "cells", image, np.uint16, chunk=(8, 8, 8))
    third = LabelImage(tmp_path / "out.zarr", "cells", image, np.uint16, replace=True)
    assert not third.is_announced()
    assert not third.array[:].any()
    LabelImage(tmp_path / "out.zarr", "organs", image, np.uint8).announce([(1, 1, 1)])
    assert described(tmp_path / "out.zarr" / "labels", "0.5")["labels"] == ["cells", "organs"]


def test_an_output_of_the_other_version(tmp_path):
    LabelImage(tmp_path / "out.zarr", "cells", image_of(tmp_path / "new.zarr", "0.5"), np.uint8)
    with pytest.raises(InputError, match=r"is a zarr store of another version than 0\.4"):
        LabelImage(tmp_path / "out.zarr", "cells", image_of(tmp_path / "old.zarr", "0.4"), np.uint8)


def test_names(tmp_path):
    image = image_of(tmp_path / "x.zarr", "0.4")
    for name in ("", "../x", "a/b", ".hidden"):
        with pytest.raises(InputError, match=r"the name '.*' of a label map"):
            LabelImage(tmp_path / "out.zarr", name, image, np.uint8)


WRITE_BLOCKS = """
import sys
import numpy as np
from pipeline.volumes.label_zarr import LabelImage
from pipeline.volumes.ome_zarr import open_ome_zarr

volume = open_ome_zarr(sys.argv[1]).images(3)[0]
store = LabelImage(sys.argv[2], "cells", volume.image, np.uint8, chunk=(4, 18, 17)).labels(volume.standing)
for number in map(int, sys.argv[3:]):
    box = (slice(4 * number, 4 * number + 4), slice(0, 18), slice(0, 17))
    store.write(box, np.full((4, 18, 17), number + 1, np.uint8))
"""


def test_several_processes_at_once(tmp_path):
    image = image_of(tmp_path / "x.zarr", "0.4")
    command = [sys.executable, "-c", WRITE_BLOCKS, tmp_path / "x.zarr", tmp_path / "out.zarr"]
    running = [subprocess.Popen([*command, *blocks]) for blocks in (("0", "2", "4"), ("1", "3"))]
    assert [process.wait(timeout=120) for process in running] == [0, 0]
    made = LabelImage(tmp_path / "out.zarr", "cells", image, np.uint8, chunk=(4, 18, 17))
    assert made.array[:, 3, 3].tolist() == np.repeat(range(1, 6), 4).tolist()
    assert not list(Path(tmp_path).rglob(".tmp-*"))


def test_the_race_to_make_it_is_won_once(tmp_path, monkeypatch):
    image = image_of(tmp_path / "x.zarr", "0.4")
    rename = Path.rename

    def late(self, target):
        monkeypatch.undo()
        LabelImage(tmp_path / "out.zarr", "cells", image, np.uint8).labels(Standing()).write(
            box_of((0, 1), (0, 1), (0, 1)), np.ones((1, 1, 1), np.uint8)
        )
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", late)
    made = LabelImage(tmp_path / "out.zarr", "cells", image, np.uint8)
    assert made.labels(Standing()).read(box_of((0, 1), (0, 1), (0, 2))).ravel().tolist() == [1, 0]
    assert not list(Path(tmp_path).rglob(".tmp-*"))


def test_a_scratch_label_map(tmp_path):
    store = scratch_labels(tmp_path / "scratch", (20, 300, 10), np.uint8)
    assert store.chunk == (20, 128, 10)
    store.write(box_of((0, 1), (299, 300), (9, 10)), np.full((1, 1, 1), 3))
    again = pickle.loads(pickle.dumps(scratch_labels(tmp_path / "scratch", (20, 300, 10), np.uint8)))
    assert again.read(box_of((0, 1), (298, 300), (9, 10))).ravel().tolist() == [0, 3]
    with pytest.raises(InputError, match="holds another label map"):
        scratch_labels(tmp_path / "scratch", (20, 300, 10), np.uint16)


@pytest.mark.parametrize(("highest", "expected"), [(0, "u1"), (255, "u1"), (256, "u2"), (65536, "u4"), (2**32, "u8")])
def test_the_smallest_type(highest, expected):
    assert smallest_dtype(highest) == np.dtype(expected)


def test_a_full_disk_and_a_damaged_chunk(tmp_path, monkeypatch):
    store = scratch_labels(tmp_path / "scratch", (8, 8, 8), np.uint8)
    box = box_of((0, 8), (0, 8), (0, 8))
    store.write(box, np.ones((8, 8, 8), np.uint8))
    (tmp_path / "scratch" / "c" / "0" / "0" / "0").write_bytes(b"damaged")
    with pytest.raises(InputError, match=r"file '.*scratch': cannot be read"):
        store.read(box)

    def full(*arguments, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(zarr.storage._local, "_put", full)
    with pytest.raises(InputError, match=r"file '.*scratch': disk full.*free space"):
        store.write(box, np.full((8, 8, 8), 2, np.uint8))


def test_an_image_whose_path_is_no_text(tmp_path):
    folder = tmp_path / os.fsdecode(b"\xff #.zarr")
    LabelImage(tmp_path / "out.zarr", "cells", image_of(folder, "0.4"), np.uint8).announce([(1, 1, 1)])
    fields = described(tmp_path / "out.zarr" / "labels" / "cells", "0.4")
    source = tmp_path / "out.zarr" / "labels" / "cells" / fields["image-label"]["source"]["image"]
    assert source.resolve() == folder
