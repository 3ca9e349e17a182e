import numpy as np
import pytest
import SimpleITK as sitk
from dicom_files import dicom_series
from PIL import Image
from volume_files import LAS, PIXELS, VOXELS, itk_image, nifti, refused, tiff

from pipeline.errors import InputError
from pipeline.volumes.reading import SUFFIXES, has_geometry, read_header, read_volume, reads_as_dicom, suffix_of


def test_suffixes():
    assert suffix_of("a/Scan.1.NII.GZ") == ".nii.gz"
    assert suffix_of("x.nii.TIF") == ".tif"
    with pytest.raises(InputError, match=r"unknown suffix '\.dcm'.*\.nii\.gz"):
        suffix_of("x.dcm")
    assert {suffix_of(f"x{suffix}") for suffix in SUFFIXES} == set(SUFFIXES)


def test_what_is_read_as_dicom_and_what_has_a_geometry(tmp_path):
    series = dicom_series(tmp_path / "scan.1", names=["a", "b.dcm", "1.2.3", "d.IMA"])
    for path in (series, *series.iterdir(), tmp_path / "gone.dcm"):
        assert reads_as_dicom(path)
        assert has_geometry(path)
    for suffix in SUFFIXES:
        assert not reads_as_dicom(tmp_path / f"a{suffix}")
        assert has_geometry(tmp_path / f"a{suffix.upper()}") == (suffix in (".nii", ".nii.gz", ".mha", ".mhd", ".nrrd"))


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".NII.GZ", ".mha", ".mhd", ".nrrd", ".MHA", ".NRRD"])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.float32, np.float64])
def test_volumes_agree_in_every_format(tmp_path, suffix, dtype):
    file = tmp_path / f"scan.1{suffix}"
    if "nii" in suffix.lower():
        nifti(tmp_path / f"scan.1{suffix.lower()}", VOXELS.astype(dtype)).rename(file)
    else:
        sitk.WriteImage(itk_image(VOXELS.astype(dtype)), str(tmp_path / f"scan.1{suffix.lower()}"))
        (tmp_path / f"scan.1{suffix.lower()}").rename(file)
    volume, header = read_volume(file, 3), read_header(file, 3)
    assert volume.array.dtype == header.dtype == dtype
    np.testing.assert_array_equal(volume.array, VOXELS[None])
    assert volume.array.flags["C_CONTIGUOUS"]
    assert volume.array.flags["WRITEABLE"]
    for known in (volume, header):
        np.testing.assert_allclose(known.affine, LAS, atol=1e-6)
        assert known.affine.dtype == np.float64
        assert known.spacing == pytest.approx((1.5, 2, 3))
        assert (known.shape, known.channels, known.stored_dims, known.file) == ((2, 3, 4), 1, 3, file)
    assert volume.format == {".ni": "NIfTI", ".mh": "MetaImage", ".nr": "NRRD"}[suffix.lower()[:3]]


def test_nibabel_and_simpleitk_agree_on_an_oblique_volume(tmp_path):
    turn = np.deg2rad(25)
    affine = np.eye(4)
    affine[:3, :3] = [[np.cos(turn), 0, -np.sin(turn)], [0, -1, 0], [np.sin(turn), 0, np.cos(turn)]]
    affine[:3, :3] *= [0.7, 0.8, 2.5]
    affine[:3, 3] = -12.5, 40, 7
    sitk.WriteImage(sitk.ReadImage(str(nifti(tmp_path / "a.nii", sform=affine, qform=affine))), str(tmp_path / "a.mha"))
    first, second = read_volume(tmp_path / "a.nii", 3), read_volume(tmp_path / "a.mha", 3)
    np.testing.assert_allclose(first.affine, affine, atol=1e-6)
    np.testing.assert_allclose(second.affine, affine, atol=1e-5)
    np.testing.assert_array_equal(first.array, second.array)


@pytest.mark.parametrize(
    ("dtype", "number"), [(np.uint16, 65535), (np.int32, 2**24 + 1), (np.uint32, 2**32 - 1), (np.int64, 2**53 + 1)]
)
@pytest.mark.parametrize("suffix", [".nii.gz", ".mha", ".nrrd", ".tif"])
def test_instance_numbers_are_exact(tmp_path, suffix, dtype, number):
    labels = np.zeros((2, 3, 4), dtype)
    labels[0, 1, 2], labels[1, 1, 2] = number, number - 1
    file = tmp_path / f"a{suffix}"
    if suffix == ".nii.gz":
        nifti(file, labels)
    elif suffix == ".tif":
        tiff(file, labels)
    else:
        sitk.WriteImage(itk_image(labels), str(file))
    volume = read_volume(file, 3, kind="label")
    assert volume.array.dtype == dtype
    np.testing.assert_array_equal(volume.array[0], labels)


def test_a_palette_is_a_label_map_of_indices(tmp_path):
    picture = Image.fromarray(PIXELS % 3)
    picture.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0])  # 0 black, 1 red, 2 green
    for name in ("a.png", "a.bmp", "a.tif"):
        picture.save(tmp_path / name)
        np.testing.assert_array_equal(read_volume(tmp_path / name, 2, kind="label").array, PIXELS[None] % 3)
        assert read_header(tmp_path / name, 2, kind="label").channels == 1
        refused(tmp_path / name, 2, "palette|PALETTE")


@pytest.mark.parametrize("grey", [False, True])
def test_only_an_opaque_alpha_channel_is_dropped(tmp_path, grey):
    opaque = np.full((3, 5, 2 if grey else 4), 255, np.uint8)
    opaque[..., :-1] = PIXELS[..., None]
    clear = opaque.copy()
    clear[1, 1, -1] = 254
    for name, options in (("a.png", None), ("a.tif", {"photometric": "minisblack" if grey else "rgb"})):
        for array, file in ((opaque, tmp_path / name), (clear, tmp_path / f"clear-{name}")):
            if options is None:
                Image.fromarray(array).save(file)
            else:
                tiff(file, array, planarconfig="contig", extrasamples=["unassalpha"], **options)
        expected = np.moveaxis(opaque[..., :-1], -1, 0)
        np.testing.assert_array_equal(read_volume(tmp_path / name, 2).array, expected)
        assert read_header(tmp_path / name, 2).channels == len(expected)
        refused(tmp_path / f"clear-{name}", 2, "has transparent pixels")


def test_voxels_that_are_no_numbers(tmp_path):
    for value in (np.nan, np.inf):
        voxels = VOXELS.astype(np.float32)
        voxels[1, 2, 3] = value
        bad = nifti(tmp_path / f"{value}.nii.gz", voxels)
        refused(bad, 3, r"1 of 24 voxels are NaN or infinite, the first at \(1, 2, 3\)")
        refused(bad, 3, "NaN or infinite", kind="label")


def test_files_that_are_not_what_their_suffix_says(tmp_path):
    refused(tmp_path / "missing.nii.gz", 3, "does not exist")
    refused(tmp_path / "missing.png", 4, "4 spatial axes")
    for name, dims in {"a.nii": 3, "b.nii.gz": 3, "a.mha": 3, "a.nrrd": 3, "a.tif": 2, "a.png": 2, "a.bmp": 2}.items():
        (tmp_path / name).write_bytes(b"something else altogether" * 40)
        refused(tmp_path / name, dims, "cannot be read|is not a|has no complete")
        (tmp_path / f"dir-{name}").mkdir()
        refused(tmp_path / f"dir-{name}", dims, r"cannot be opened \(Is a directory\)")


def test_too_little_memory(tmp_path, monkeypatch):
    def no_memory(*arguments):
        raise MemoryError

    monkeypatch.setattr(np, "require", no_memory)
    refused(nifti(tmp_path / "a.nii"), 3, "needs more memory than is free")


def damaged_files(folder):
    """Yield a whole file of each format with its number of dimensions."""
    yield nifti(folder / "a.nii"), 3
    yield nifti(folder / "a.nii.gz"), 3
    for packed in (False, True):
        for suffix in (".mha", ".nrrd"):
            sitk.WriteImage(itk_image(), str(folder / f"{packed}{suffix}"), packed)
            yield folder / f"{packed}{suffix}", 3
    pages = np.arange(3 * 8 * 8, dtype=np.uint8).reshape(3, 8, 8)
    packed = {"zlib": {"compression": "zlib"}, "lzw": {"compression": "lzw"}}
    for name, options in {"plain": {}, "bare": {"metadata": None}, **packed}.items():
        yield tiff(folder / f"{name}.tif", pages, **options), 3
    for name in ("a.png", "a.jpg", "a.bmp"):
        Image.fromarray(pages[0]).save(folder / name)
        yield folder / name, 2


def test_truncated_files(tmp_path):
    for file, dims in list(damaged_files(tmp_path)):
        whole = file.read_bytes()
        for end in {0, 1, 10, len(whole) // 3, len(whole) // 2, len(whole) - 20}:
            file.write_bytes(whole[:end])
            refused(file, dims, "truncated|cannot be read|header")


@pytest.mark.parametrize("name", ["a.nii.gz", "True.mha", "True.nrrd", "zlib.tif", "a.png"])
def test_a_flipped_bit_in_packed_voxels_is_found(tmp_path, name):
    file, dims = next((file, dims) for file, dims in damaged_files(tmp_path) if file.name == name)
    whole, right = file.read_bytes(), read_volume(file, dims).array
    starts = {"a.nii.gz": 10, "a.png": 0, "zlib.tif": whole.rfind(b"\x78\x9c")}
    start = starts.get(name, len(whole) - 60)
    end = len(whole) if name != "zlib.tif" else start + 20
    found = 0
    for position in range(start, end):
        file.write_bytes(whole[:position] + bytes([whole[position] ^ 4]) + whole[position + 1 :])
        try:
            np.testing.assert_array_equal(read_volume(file, dims).array, right, err_msg=f"byte {position}")
        except InputError:
            found += 1
    assert found > 0.85 * (end - start)  # the rest is time stamps and the like
