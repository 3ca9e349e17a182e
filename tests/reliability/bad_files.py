"""Bad files, made for real: `spoil(file, array)` writes `array` as one, or spoils the sound file that is there."""

import struct

import nibabel as nib
import numpy as np
import SimpleITK as sitk
import tifffile
from PIL import Image
from volume_files import LAS, itk_image, nifti, tiff

SHAPE = (9, 8, 7)
BEYOND_FLOAT32 = 2**24 + 1  # float32 has no such number: it becomes 2^24


def voxels(number=0):
    """Noise around 0, int16: what a threshold at 0 gives has no smoothness, so a voxel out of place is seen."""
    return np.random.default_rng(number).integers(-500, 500, SHAPE).astype(np.int16)


def mask(number=0):
    return (voxels(number) > 0).astype(np.uint8)


def write_volume(file, array):
    """Write a sound volume, NIfTI, MetaImage, NRRD or a TIFF of several pages."""
    if file.name.endswith((".nii", ".nii.gz")):
        nifti(file, array)
    elif file.suffix == ".tif":
        tiff(file, array)
    else:
        sitk.WriteImage(itk_image(array), str(file))
    return file


# damage to the bytes


def cut(file, *_, part=0.6):
    """Leave the first part of the file."""
    whole = file.read_bytes()
    file.write_bytes(whole[: int(part * len(whole))])


def cut_voxels(file, *_):
    """Cut the second file of a MetaImage, which holds its voxels."""
    cut(file.with_suffix(".raw"))


def flip(file, *_, position=None):
    """Turn one bit around; in the middle, where compressed voxels are, unless a position is given."""
    whole = bytearray(file.read_bytes())
    whole[len(whole) // 2 if position is None else position] ^= 0x10
    file.write_bytes(whole)


def wrong_crc(file, *_):
    """Change the checksum at the end of a gzip file: 4 bytes, followed by 4 of the length."""
    flip(file, position=-7)


# voxels


def with_voxel(value):
    """Return a function that writes a volume with one voxel of this value."""

    def write(file, array):
        array = array.astype(np.float32)
        array[4, 3, 2] = value
        nifti(file, array)

    return write


# geometry: shape, and where the voxels lie


def _moved(millimetres=0.0, flipped=False, scale=1.0):
    affine = LAS * [scale, scale, scale, 1]
    affine[2, 3] += millimetres
    if flipped:  # the first axis runs the other way, over the same place
        affine[0] = -affine[0, 0], 0, 0, LAS[0, 3] + (SHAPE[0] - 1) * LAS[0, 0]
    return affine


def flipped_in_its_affine(file, array):
    nifti(file, array, sform=_moved(flipped=True), qform=_moved(flipped=True))


def shifted(file, array):
    nifti(file, array, sform=_moved(30), qform=_moved(30))


def of_other_spacing(file, array):
    nifti(file, array, sform=_moved(scale=1.5), qform=_moved(scale=1.5))


def on_a_finer_grid(file, array):
    affine = _moved(scale=0.5)
    nifti(file, array.repeat(2, 0).repeat(2, 1).repeat(2, 2), sform=affine, qform=affine)


def forms_that_disagree(file, array):
    nifti(file, array, qform=_moved(flipped=True))


def neither_form(file, array):
    nifti(file, array, sform=None, qform=None)


def sheared(file, array):
    affine = LAS.copy()
    affine[0, 1] = 0.4
    nifti(file, array, sform=affine, qform=None)


def zero_sform(file, array):
    nifti(file, array, qform=None, **dict.fromkeys(("srow_x", "srow_y", "srow_z"), [0.0] * 4))


def nan_sform(file, array):
    nifti(file, array, srow_y=[np.nan] * 4)


def thousandfold_spacing(file, array):
    nifti(file, array, sform=_moved(scale=1000), qform=_moved(scale=1000))


def thousandth_spacing(file, array):
    nifti(file, array, sform=_moved(scale=0.001), qform=_moved(scale=0.001))


def four_axes(file, array):
    nifti(file, np.stack([array, array, array], axis=-1))


def colours(file, array):
    rgb = np.zeros(array.shape, [("R", "u1"), ("G", "u1"), ("B", "u1")])
    rgb["R"] = array
    nifti(file, rgb)


def without_an_axis(file, array):
    nifti(file, array, dim=[3, SHAPE[0], 0, SHAPE[2], 1, 1, 1, 1])


def larger_than_it_is(file, array):
    """The header claims 54 TB of voxels."""
    nifti(file, array, dim=[3, 30000, 30000, 30000, 1, 1, 1, 1])


# label values


def value_beyond_the_classes(value):
    """Return a function that writes a label map with one voxel of this value."""

    def write(file, array):
        array = array.astype(np.int16)
        array[0, 1, 2] = value
        nifti(file, array)

    return write


def halves(file, array):
    nifti(file, array / np.float32(2))


def scaled(file, array):
    nifti(file, array, scl_slope=0.5, scl_inter=0)


def empty(file, array):
    nifti(file, np.zeros_like(array))


def ids_beyond_float32(file):
    """Two objects that touch, of neighbouring numbers above 2^24."""
    array = np.zeros(SHAPE, np.int32)
    array[2:4, 2:6, 2:5], array[4:7, 2:6, 2:5] = BEYOND_FLOAT32 - 1, BEYOND_FLOAT32
    nifti(file, array)
    return array


# pictures


def several_pages(file, array):
    tiff(file, np.moveaxis(array, -1, 0))


def palette(file, indices):
    """Indices 0, 1, 2 of the colours black, red and green, in an order that no grey value gives."""
    picture = Image.fromarray(indices)
    picture.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0])
    picture.save(file)


def one_bit(file, bits):
    """Eight pixels in a byte."""
    Image.fromarray(bits > 0).save(file)
    depth, colour_type = struct.unpack("BB", file.read_bytes()[24:26])
    assert (depth, colour_type) == (1, 0)


def stored(file):
    """The voxels of a file as a program without our readers sees them; axes as `write_volume` takes them."""
    if file.name.endswith((".nii", ".nii.gz")):
        return np.asarray(nib.load(file).dataobj)
    if file.suffix in (".mha", ".mhd", ".nrrd"):
        return sitk.GetArrayFromImage(sitk.ReadImage(str(file))).T
    return tifffile.imread(file) if file.suffix == ".tif" else np.asarray(Image.open(file))
