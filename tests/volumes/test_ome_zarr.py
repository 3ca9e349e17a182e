import os
import pickle
import shutil
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import fsspec
import numcodecs
import numpy as np
import pytest
from ome_zarr.io import parse_url
from ome_zarr.reader import Reader
from zarr.codecs import BloscCodec, GzipCodec, ZstdCodec
from zarr_stores import check_by_model, entry_of, numbered, write_group, write_image

from pipeline.errors import InputError
from pipeline.volumes import ome_zarr
from pipeline.volumes.ome_zarr import open_ome_zarr
from pipeline.volumes.store_contents import store_state

VERSIONS = ("0.4", "0.5")
SCALE = (2.0, 0.5, 0.25)  # z y x


def box_of(*ends):
    return tuple(slice(*pair) for pair in ends)


def only_image(place, spatial_dims=3, **options):
    (found,) = open_ome_zarr(place, **options).images(spatial_dims)
    return found


@pytest.mark.parametrize("version", VERSIONS)
def test_a_volume_with_channels(tmp_path, version):
    array = numbered(2, 20, 18, 17)
    write_image(tmp_path / "x.zarr", version, [array], entry_of("czyx", [(1, *SCALE)], version=version))
    found = only_image(tmp_path / "x.zarr")
    assert (found.shape, found.channels, found.dtype, found.chunk) == ((20, 18, 17), 2, np.uint16, (16, 16, 16))
    np.testing.assert_array_equal(found.affine, np.diag([0.002, 0.0005, 0.00025, 1]))
    box = box_of((3, 19), (15, 17), (0, 17))
    np.testing.assert_array_equal(found.read(box), array[:, 3:19, 15:17, :])
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(found)).read(box), array[:, 3:19, 15:17, :])
    assert str(found.standing) == ""


@pytest.mark.parametrize("version", VERSIONS)
def test_another_program_reads_the_same(tmp_path, version):
    """ome-zarr and ome-zarr-models agree on what the made stores hold, so that they are what they claim to be."""
    array = numbered(2, 20, 18, 17)
    folder = tmp_path / "x.zarr"
    write_image(folder, version, [array, array[:, :, ::2, ::2]], two_levels(version))
    check_by_model("Image", folder)
    (node, *_) = Reader(parse_url(str(folder)))()
    for level, theirs in enumerate(node.data):
        mine = only_image(folder, level=level)
        np.testing.assert_array_equal(mine.read(tuple(slice(0, n) for n in mine.shape)), np.asarray(theirs))


def two_levels(version):
    return entry_of("czyx", [(1, 2, 0.5, 0.25), (1, 2, 1.0, 0.5)], version=version)


def test_levels(tmp_path):
    array = numbered(4, 9, 8)
    coarse = array[:, ::2, ::2]
    entry = entry_of("zyx", [(2, 0.5, 0.5), (2, 1, 1)], translations=[(0, 0, 0), (0, 0.25, 0.25)])
    write_image(tmp_path / "x.zarr", "0.4", [array, coarse], entry)
    found = only_image(tmp_path / "x.zarr", level=1)
    np.testing.assert_array_equal(found.read(box_of((0, 4), (0, 5), (0, 4)))[0], coarse)
    np.testing.assert_allclose(found.affine[:3, 3], [0, 0.00025, 0.00025])
    with pytest.raises(InputError, match="has no level 2, but 2"):
        only_image(tmp_path / "x.zarr", level=2)


@pytest.mark.parametrize("version", VERSIONS)
def test_every_time_point_and_plane_is_an_image(tmp_path, version):
    array = numbered(2, 3, 4, 6, 5)  # t c z y x
    write_image(tmp_path / "x.zarr", version, [array], entry_of("tczyx", [(1, 1, *SCALE)], version=version))
    store = open_ome_zarr(tmp_path / "x.zarr")
    volumes = store.images(3)
    assert [str(one.standing) for one in volumes] == ["t0", "t1"]
    np.testing.assert_array_equal(volumes[1].read(box_of((1, 4), (0, 6), (2, 5))), array[1, :, 1:4, :, 2:5])
    planes = store.images(2)
    assert [(one.standing.time, one.standing.plane) for one in planes] == [(t, z) for t in range(2) for z in range(4)]
    assert (planes[5].shape, planes[5].channels, str(planes[5].standing)) == ((6, 5), 3, "t1/z1")
    np.testing.assert_array_equal(planes[5].read(box_of((2, 6), (1, 5))), array[1, :, 1, 2:6, 1:5])
    np.testing.assert_array_equal(planes[5].affine, np.diag([0.0005, 0.00025, 1, 1]))


def test_a_plane_without_z(tmp_path):
    array = numbered(6, 5)
    write_image(tmp_path / "x.zarr", "0.4", [array], entry_of("yx", [(3, 2)], unit=None))
    found = only_image(tmp_path / "x.zarr", 2)
    np.testing.assert_array_equal(found.affine, np.diag([3.0, 2, 1, 1]))
    np.testing.assert_array_equal(found.read(box_of((0, 6), (0, 5)))[0], array)
    with pytest.raises(InputError, match="holds a 2D image; this bundle takes 3D volumes"):
        only_image(tmp_path / "x.zarr", 3)


def test_axes_in_another_order(tmp_path):
    array = numbered(5, 6, 4)
    write_image(tmp_path / "x.zarr", "0.4", [array], entry_of("xyz", [(1, 2, 3)], unit="millimeter"))
    found = only_image(tmp_path / "x.zarr")
    np.testing.assert_array_equal(found.affine, np.diag([1.0, 2, 3, 1]))
    np.testing.assert_array_equal(found.read(box_of((0, 5), (0, 6), (0, 4)))[0], array)
    third = open_ome_zarr(tmp_path / "x.zarr").images(2)[3]
    np.testing.assert_array_equal(third.read(box_of((1, 5), (0, 6)))[0], array[1:, :, 3])
    np.testing.assert_array_equal(np.diag(third.affine), [1, 2, 1, 1])


def test_orientation_in_the_patient(tmp_path):
    """ITK's axes x y z point left, back and up: of z y x the first voxel step goes up, the last one to the left."""
    entry = entry_of("zyx", [(3, 2, 1)], unit="millimeter", translations=[(30, 20, 10)])
    write_image(tmp_path / "x.zarr", "0.4", [numbered(4, 6, 5)], entry)
    found = only_image(tmp_path / "x.zarr", orientation="LPS")
    expected = [[0, 0, -1, -10], [0, -2, 0, -20], [3, 0, 0, 30], [0, 0, 0, 1]]
    np.testing.assert_array_equal(found.affine, expected)
    with pytest.raises(InputError, match="the orientation is 'LRS'"):
        only_image(tmp_path / "x.zarr", orientation="LRS")


@pytest.mark.parametrize("codec", ["blosc", "zstd", "gzip", "raw"])
@pytest.mark.parametrize("version", VERSIONS)
def test_compressors(tmp_path, version, codec):
    new = {"blosc": BloscCodec(), "zstd": ZstdCodec(), "gzip": GzipCodec(), "raw": None}
    old = {"blosc": numcodecs.Blosc(), "zstd": numcodecs.Zstd(), "gzip": numcodecs.GZip(), "raw": None}
    array = numbered(20, 18, 17, dtype=">i2" if version == "0.4" else "i2")
    packed = (old if version == "0.4" else new)[codec]
    entry = entry_of("zyx", [SCALE], version=version)
    write_image(tmp_path / "x.zarr", version, [array], entry, compressors=packed)
    found = only_image(tmp_path / "x.zarr")
    assert found.dtype == np.dtype("i2")
    assert found.dtype.isnative
    np.testing.assert_array_equal(found.read(box_of((0, 20), (0, 18), (0, 17)))[0], array)


def test_shards(tmp_path):
    array = numbered(16, 32, 32)
    entry = entry_of("zyx", [SCALE], version="0.5")
    write_image(tmp_path / "x.zarr", "0.5", [array], entry, chunks=(4, 8, 8), shards=(8, 16, 32))
    found = only_image(tmp_path / "x.zarr")
    assert found.chunk == (4, 8, 8)
    np.testing.assert_array_equal(found.read(box_of((3, 16), (5, 30), (0, 32)))[0], array[3:16, 5:30])


def test_large_chunks_are_read_one_after_the_other(tmp_path, monkeypatch):
    array = numbered(20, 18, 17)
    write_image(tmp_path / "x.zarr", "0.4", [array], entry_of("zyx", [SCALE]), chunks=(8, 8, 8))
    monkeypatch.setattr(ome_zarr, "MANY", 8**3 * 2 - 1)
    found = only_image(tmp_path / "x.zarr")
    read = []
    monkeypatch.setattr(found, "_read_into", lambda result, piece, box: read.append(piece))
    found.read(box_of((3, 17), (9, 15), (0, 17)))
    assert len(read) == 3 * 1 * 3
    assert all(part.start // 8 == (part.stop - 1) // 8 for piece in read for part in piece)
    monkeypatch.undo()
    monkeypatch.setattr(ome_zarr, "MANY", 1)
    np.testing.assert_array_equal(found.read(box_of((3, 17), (9, 15), (0, 17)))[0], array[3:17, 9:15])


@pytest.mark.parametrize("version", VERSIONS)
def test_absent_chunks_hold_the_fill_value(tmp_path, version):
    group = write_group(tmp_path / "x.zarr", version, {"multiscales": [entry_of("zyx", [SCALE], version=version)]})
    made = group.create_array("0", shape=(64, 64, 64), chunks=(32, 32, 32), dtype="u1", fill_value=7)
    made[:32, :32, :32] = 1
    found = only_image(tmp_path / "x.zarr")
    corner = found.read(box_of((31, 33), (0, 1), (0, 1)))
    assert corner.ravel().tolist() == [1, 7]


@pytest.mark.parametrize(
    "name", ["with space#1%20.zarr", "percent%25.ome.zarr", "a::b.zarr", "memory:.zarr", b"not\xffutf8.zarr"]
)
def test_names_of_folders(tmp_path, name):
    folder = tmp_path / os.fsdecode(name)
    write_image(folder, "0.4", [numbered(4, 5, 6)], entry_of("zyx", [SCALE]))
    for source in (folder, str(folder), f"file://{folder}"):
        assert only_image(source).read(box_of((3, 4), (4, 5), (5, 6))).item() == 119


@pytest.mark.parametrize("version", VERSIONS)
def test_a_url(version):
    url = f"memory://bucket{version}/images/x.zarr"
    array = numbered(20, 18, 17)
    write_image(url, version, [array], entry_of("zyx", [SCALE], version=version))
    found = pickle.loads(pickle.dumps(only_image(url + "/")))
    np.testing.assert_array_equal(found.read(box_of((0, 20), (1, 18), (0, 17)))[0], array[:, 1:])
    fsspec.filesystem("memory").rm(f"/bucket{version}", recursive=True)
    with pytest.raises(InputError, match=r"file 'memory://bucket.*is no zarr store"):
        only_image(url)


@pytest.mark.parametrize("version", VERSIONS)
def test_the_series_of_a_file(tmp_path, version):
    folder = tmp_path / "x.zarr"
    write_group(folder, version, {"bioformats2raw.layout": 3})
    for number in range(2):
        write_image(
            folder / str(number), version, [numbered(4, 5, 6) + number], entry_of("zyx", [SCALE], version=version)
        )
    found = open_ome_zarr(folder).images(3)
    assert [str(one.standing) for one in found] == ["0", "1"]
    assert [
        one.read(
            box_of(
                (0, 1),
            )
            * 3
        ).item()
        for one in found
    ] == [0, 1]
    write_group(folder / "OME", version, {"series": ["1"]})
    assert [str(one.standing) for one in open_ome_zarr(folder).images(2)] == ["1/z0", "1/z1", "1/z2", "1/z3"]


@pytest.mark.parametrize("version", VERSIONS)
def test_the_fields_of_a_plate(tmp_path, version):
    folder = tmp_path / "x.zarr"
    write_group(folder, version, {"plate": {"wells": [{"path": "A/1"}, {"path": "B/2"}]}})
    for well, fields in (("A/1", ["0", "1"]), ("B/2", ["0"])):
        write_group(folder / well, version, {"well": {"images": [{"path": field} for field in fields]}})
        for field in fields:
            write_image(folder / well / field, version, [numbered(5, 6)], entry_of("yx", [(1, 1)], version=version))
    assert [str(one.standing) for one in open_ome_zarr(folder).images(2)] == ["A/1/0", "A/1/1", "B/2/0"]
    assert [str(one.standing) for one in open_ome_zarr(folder / "A" / "1").images(2)] == ["0", "1"]


def write_fields(folder, fields):
    write_group(folder, "0.4", fields)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "has no multiscales"),
        ({"multiscales": []}, "has no multiscales"),
        ({"labels": ["cells"]}, "holds label maps, no image"),
        ({"multiscales": [entry_of("zyx", [SCALE])], "image-label": {}}, "is a label map, no image"),
        ({"plate": {"wells": []}}, "the plate names no images"),
        ({"plate": {"wells": [{"path": "../A"}]}}, r"the path '\.\./A', which does not lie within it"),
        ({"bioformats2raw.layout": 3}, "holds no series"),
    ],
)
def test_stores_that_are_no_image(tmp_path, fields, message):
    write_fields(tmp_path / "x.zarr", fields)
    with pytest.raises(InputError, match=rf"x\.zarr.*{message}.*Remedy"):
        open_ome_zarr(tmp_path / "x.zarr").images(3)


def test_folders_that_are_no_store(tmp_path):
    with pytest.raises(InputError, match="is no zarr store, or there is nothing"):
        open_ome_zarr(tmp_path / "none.zarr")
    write_image(tmp_path / "x.zarr", "0.4", [numbered(4, 5, 6)], entry_of("zyx", [SCALE]))
    with pytest.raises(InputError, match=r"is an array of zarr, no image.*name the folder above"):
        open_ome_zarr(tmp_path / "x.zarr" / "0")
    for damage in (b"{", b"[1]", b'{"a":' * 100_000):
        (tmp_path / "x.zarr" / ".zattrs").write_bytes(damage)
        with pytest.raises(InputError, match=r"its '\.zattrs' (is no JSON|holds no fields)"):
            open_ome_zarr(tmp_path / "x.zarr")


def image_with(folder, shape=(4, 5, 6), **options):
    group = write_group(
        folder, options.pop("version", "0.4"), {"multiscales": [options.pop("entry", entry_of("zyx", [SCALE]))]}
    )
    return group.create_array("0", shape=shape, **{"dtype": "u1", "chunks": (4, 5, 6)} | options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "c8"}, "holds complex64 voxels"),
        ({"dtype": "M8[s]"}, "holds datetime64"),
        ({"shape": (4, 5)} | {"chunks": (4, 5)}, r"has the shape \(4, 5\), and 3 axes have names"),
        ({"shape": (0, 5, 6)}, "has an axis of size 0"),
        ({"chunks": (100_000, 100_000, 100_000), "shape": (10**5,) * 3}, "takes 931322.6 GiB of memory"),
        ({"filters": [numcodecs.Pickle()]}, "its chunks are packed by pickle, which is not supported"),
        ({"compressors": numcodecs.Pickle()}, "its chunks are packed by pickle"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*does not have a Zarr V3 specification")
def test_arrays_that_are_refused(tmp_path, options, message):
    image_with(tmp_path / "x.zarr", **options)
    with pytest.raises(InputError, match=message):
        only_image(tmp_path / "x.zarr")


def test_a_level_that_is_missing(tmp_path):
    array = numbered(4, 8, 8)
    folder = tmp_path / "x.zarr"
    write_image(folder, "0.4", [array, array[:, ::2, ::2]], entry_of("zyx", [(2, 1, 1), (2, 2, 2)]))
    shutil.rmtree(folder / "0")
    with pytest.raises(InputError, match=r"lacks its level 0, the array '0'"):
        only_image(folder)
    assert only_image(folder, level=1).shape == (4, 4, 4)


def test_levels_that_contradict(tmp_path):
    array = numbered(4, 32, 32)
    entry = entry_of("zyx", [(2, 1, 1), (2, 2, 2)])
    write_image(tmp_path / "x.zarr", "0.4", [array, array[:, ::4, ::2]], entry)
    with pytest.raises(InputError, match="contradict"):
        only_image(tmp_path / "x.zarr")


def test_voxels_that_are_damaged(tmp_path):
    folder = tmp_path / "x.zarr"
    write_image(folder, "0.4", [numbered(4, 5, 6)], entry_of("zyx", [SCALE]))
    found = only_image(folder)
    chunk = folder / "0" / "0" / "0" / "0"
    whole = chunk.read_bytes()
    chunk.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="cannot be read"):
        found.read(box_of((0, 4), (0, 5), (0, 6)))


def test_voxels_that_are_not_finite(tmp_path):
    array = np.zeros((8, 8, 8), np.float32)
    array[5, 6, 7] = np.nan
    write_image(tmp_path / "x.zarr", "0.4", [array], entry_of("zyx", [SCALE]))
    found = only_image(tmp_path / "x.zarr")
    assert not found.read(box_of((0, 5), (0, 8), (0, 8))).any()
    with pytest.raises(
        InputError, match=r"1 of 128 voxels.*the first at \(1, 6, 7\) of the box that begins at \(4, 0, 0\)"
    ):
        found.read(box_of((4, 6), (0, 8), (0, 8)))


def test_boxes_outside(tmp_path):
    write_image(tmp_path / "x.zarr", "0.4", [numbered(4, 5, 6)], entry_of("zyx", [SCALE]))
    found = only_image(tmp_path / "x.zarr")
    for box in (box_of((0, 5), (0, 5), (0, 6)), box_of((-1, 4), (0, 5), (0, 6)), box_of((0, 4), (0, 5))):
        with pytest.raises(ValueError, match="does not lie within"):
            found.read(box)


@pytest.mark.parametrize("missing", ["zarr", "fsspec"])
def test_without_the_extra(monkeypatch, missing):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(
        InputError, match=rf"the package {missing} is not installed.*pip install unet-pipeline\[scale\]"
    ):
        open_ome_zarr("memory://bucket/x.zarr")


@pytest.fixture
def web_server(tmp_path):
    """The URL under which a server of this machine, which lists nothing, shows the folder of the test."""

    class Silent(SimpleHTTPRequestHandler):
        def log_message(self, *arguments):
            pass

        def list_directory(self, path):
            self.send_error(403)

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Silent, directory=str(tmp_path)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("version", VERSIONS)
def test_a_web_server(tmp_path, web_server, version):
    array = numbered(20, 18, 17)
    group = write_image(tmp_path / "x.zarr", version, [array], entry_of("zyx", [SCALE], version=version))
    group["0"][16:] = 0  # whose chunks are no longer there
    found = only_image(f"{web_server}/x.zarr")
    box = box_of((3, 20), (0, 18), (0, 17))
    expected = array[3:].copy()
    expected[13:] = 0
    np.testing.assert_array_equal(found.read(box)[0], expected)
    assert store_state(f"{web_server}/x.zarr")[1] == len(list((tmp_path / "x.zarr").glob("[.z]*")))
    with pytest.raises(InputError, match=r"none\.zarr'.*is no zarr store"):
        only_image(f"{web_server}/none.zarr")
