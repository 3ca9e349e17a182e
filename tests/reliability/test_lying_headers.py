"""Headers that claim 10^12 voxels, in every format; and small files that unfold to far more than they say."""

import gzip
import io
import resource
import struct
import zlib

import nibabel as nib
import numpy as np
import pydicom
import SimpleITK as sitk
from batch_process import LittleMemory, quiet
from dicom_files import dicom_slice
from forked import CONTEXT
from fuzzed_files import (
    encoded,
)
from PIL import Image
from pydicom.uid import DeflatedExplicitVRLittleEndian, RLELossless
from volume_files import VOXELS, chunk, itk_image, nifti, tiff

from pipeline.volumes.reading import files_of, read_header, read_volume

MEBIBYTE = 2**20


def claim_in_text(key, value):
    def write(file, packed=False):
        whole = encoded(itk_image(), file.suffix, packed)
        before = f"{key}2 3 4".encode()
        assert before in whole
        file.write_bytes(whole.replace(before, f"{key}{value}".encode()))

    return write


def claim_in_nifti_2(file):
    raw = bytearray(nib.Nifti2Image(VOXELS, np.eye(4)).to_bytes())
    header = np.frombuffer(raw, nib.Nifti2Header().structarr.dtype, count=1)
    header["dim"][0, 1:4] = 10**12, 1, 1
    file.write_bytes(raw)


def claim_in_tiff(side=10**6, more=0, **options):
    def write(file):
        tiff(file, np.zeros((16, 16), np.uint8), metadata=None, **options)
        raw = bytearray(file.read_bytes())
        (place,) = struct.unpack_from("<I", raw, 4)
        for entry in range(place + 2, place + 2 + 12 * struct.unpack_from("<H", raw, place)[0], 12):
            if struct.unpack_from("<H", raw, entry)[0] in (256, 257):
                struct.pack_into("<HII", raw, entry + 2, 4, 1, side)
        file.write_bytes(raw + bytes(more))

    return write


def claim_in_png(file):
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 10**6, 10**6, 8, 0, 0, 0, 0))
    file.write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b""))


def claim_in_bmp(file):
    Image.new("L", (16, 16)).save(file)
    raw = bytearray(file.read_bytes())
    struct.pack_into("<ii", raw, 18, 10**6, 10**6)
    file.write_bytes(raw)


def claim_in_dicom(packed):
    """Rows and columns are 16 bits wide: 4 x 10^9 pixels are the most."""

    def write(file):
        dicom_slice(file, np.zeros((16, 16), np.int16))
        header = pydicom.dcmread(file)
        if packed:
            header.compress(RLELossless)
        header.Rows = header.Columns = 65535
        header.save_as(file)

    return write


ZEROS = 32 * MEBIBYTE


def zeros_of_nifti(before=0, behind=0):
    """A header that claims some voxels, and gigabytes of zeros before or behind them."""

    def write(file):
        nifti(file, **({"vox_offset": 352 + before * ZEROS} if before else {}))
        raw, zeros = gzip.decompress(file.read_bytes()), gzip.compress(bytes(ZEROS))
        parts = [gzip.compress(raw[:352]), before * zeros, gzip.compress(raw[352:]), behind * zeros]
        file.write_bytes(b"".join(parts))

    return write


def zeros_of_dicom(file):
    """A deflated header that is an element of a gigabyte."""
    dicom_slice(file, np.zeros((16, 16), np.int16))
    header = pydicom.dcmread(file)
    header.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    stream = io.BytesIO()
    pydicom.dcmwrite(stream, header, enforce_file_format=True)
    meta = stream.getvalue()[: 144 + header.file_meta.FileMetaInformationGroupLength]
    element = struct.pack("<HH2sHI", 9, 0x1010, b"OB", 0, 32 * ZEROS)
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    start = packer.compress(element) + packer.flush(zlib.Z_FULL_FLUSH)
    zeros = packer.compress(bytes(ZEROS)) + packer.flush(zlib.Z_FULL_FLUSH)  # which may stand there any number of times
    file.write_bytes(meta + start + 32 * zeros + packer.flush())


CLAIMS = {
    "a.nii": lambda file: nifti(file, dim=[3, 10000, 10000, 10000, 1, 1, 1, 1]),
    "a.nii.gz": lambda file: nifti(file, dim=[3, 10000, 10000, 10000, 1, 1, 1, 1]),
    "seven axes.nii": lambda file: nifti(file, dim=[7, 2, 3, 4, 32767, 32767, 32767, 1]),
    "two.nii": claim_in_nifti_2,
    "a.mha": claim_in_text("DimSize = ", "10000 10000 10000"),
    "packed.mha": lambda file: claim_in_text("DimSize = ", "10000 10000 10000")(file, packed=True),
    "axes.mha": claim_in_text("DimSize = ", "2 3 4\nElementNumberOfChannels = 100000000"),
    "a.nrrd": claim_in_text("sizes: ", "10000 10000 10000"),
    "packed.nrrd": lambda file: claim_in_text("sizes: ", "10000 10000 10000")(file, packed=True),
    "a.tif": claim_in_tiff(),
    "packed.tif": claim_in_tiff(compression="zlib"),
    **{f"{codec}.tif": claim_in_tiff(compression=codec) for codec in ("lzw", "packbits", "lzma", "zstd", "jpeg")},
    "jpeg2000.tif": claim_in_tiff(compression="jpeg2000"),
    "as long as lzw can.tif": claim_in_tiff(60_000, more=60_000, compression="lzw"),
    "as long as packbits can.tif": claim_in_tiff(60_000, more=60_000, compression="packbits"),
    "tiles.tif": claim_in_tiff(tile=(16, 16)),
    "a.png": claim_in_png,
    "a.bmp": claim_in_bmp,
    "raw/a.dcm": claim_in_dicom(packed=False),
    "rle/a.dcm": claim_in_dicom(packed=True),
    "before.nii.gz": zeros_of_nifti(before=32),
    "behind.nii.gz": zeros_of_nifti(behind=32),
    "zeros/a.dcm": zeros_of_dicom,
}
SOUND_HEADERS = ("behind.nii.gz",)
MOST = {"zeros/a.dcm": 192}  # mebibytes, where a bound is unpacked; of others 16


def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def read_claims(folder, pipe):
    quiet()
    for name in CLAIMS:  # the formats' libraries are loaded by sound files
        if (folder / "sound" / name).exists():
            read_volume(folder / "sound" / name, 2 if name.endswith((".tif", ".png", ".bmp")) else 3)
    LittleMemory(256 * MEBIBYTE)()
    for name in CLAIMS:
        before, dims = peak(), 2 if name.endswith((".tif", ".png", ".bmp", ".dcm")) else 3
        reasons = []
        for function in (read_header, read_volume, files_of):
            try:
                reasons.append(function(folder / name, dims))
            except Exception as error:
                reasons.append(f"{type(error).__name__}: {error}")
        pipe.send((name, list(map(str, reasons)), peak() - before))


def test_a_header_that_claims_a_trillion_voxels_takes_no_memory(tmp_path):
    for name, write in CLAIMS.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write(tmp_path / name)
    sound = tmp_path / "sound"
    sound.mkdir()
    nifti(sound / "a.nii")
    nifti(sound / "a.nii.gz")
    for name in ("a.mha", "a.nrrd"):
        sitk.WriteImage(itk_image(), str(sound / name))
    tiff(sound / "a.tif", np.zeros((16, 16), np.uint8))
    tiff(sound / "lzw.tif", np.zeros((16, 16), np.uint8), compression="lzw")
    Image.new("L", (16, 16)).save(sound / "a.png")
    receiver, sender = CONTEXT.Pipe(duplex=False)
    child = CONTEXT.Process(target=read_claims, args=(tmp_path, sender))
    child.start()
    sender.close()
    for expected in CLAIMS:
        name, (of_header, of_voxels, *_), taken = receiver.recv()
        assert name == expected
        for reason in (of_voxels,) if name in SOUND_HEADERS else (of_header, of_voxels):
            assert reason.startswith("InputError: file "), reason
            assert "Remedy: " in reason
            assert "memory" not in reason
        assert taken < MOST.get(name, 16) * MEBIBYTE, name
    child.join()
    assert child.exitcode == 0
