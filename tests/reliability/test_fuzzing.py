"""Files and texts changed by one who knows their format: an error with a name or a right result; and never a hang.

FUZZED_ITEMS=5000 in the environment asks for more of each kind than a run of all tests has time for.
"""

import json
import os
import random
import resource
import shutil
import signal
import struct
import traceback
import warnings
import zlib
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
import yaml
from batch_process import CONTEXT, BatchProcess, LittleMemory
from dicom_files import dicom_series, dicom_slice
from fuzzed_files import (
    encoded,
    fuzzed_metaimage,
    fuzzed_nifti,
    fuzzed_nrrd,
    fuzzed_png,
    fuzzed_tiff,
    judge_metaimage,
    judge_nifti,
    judge_nrrd,
    judge_png,
    judge_tiff,
)
from fuzzed_texts import bomb, fuzzed_list, fuzzed_overlay, fuzzed_table, walk
from PIL import Image
from pydicom.uid import RLELossless
from volume_files import VOXELS, chunk, itk_image, nifti, tiff

from pipeline.datalists.datalist import load_data_list, save_data_list
from pipeline.datalists.siim_acr import list_siim_acr
from pipeline.errors import InputError
from pipeline.settings import read_config
from pipeline.volumes.reading import files_of, read_header, read_volume

ITEMS = int(os.environ.get("FUZZED_ITEMS", "200"))
SHARES = {"dicom": 0.2, "overlay": 0.4, "run lengths": 0.4}  # of items, where one takes longer
SECONDS = 10  # for one file
MEBIBYTE = 2**20


# what happens to one item: "refused", "right", or what is wrong with it


def read(make, judge, dims=3):
    def outcome(chance, folder):
        fuzzed = make(chance)
        for other in folder.iterdir():  # ITK prefers a.nii to the a.nii.gz that it is asked for
            other.unlink()
        file = folder / f"a{fuzzed.suffix}"
        file.write_bytes(fuzzed.content)
        try:
            volume = read_volume(file, fuzzed.array.ndim if dims is None else dims, "c7")
        except InputError as error:
            return refusal(error, folder, "case 'c7'")
        return "right" if judge(file, volume, fuzzed) else f"wrong: {fuzzed.changes}"

    return outcome


def refusal(error, folder, *words):
    missing = [word for word in (*words, f"'{folder}/", "Remedy: ") if word not in str(error)]
    return f"without {missing}: {error}" if missing or "memory" in str(error) else "refused"


TAGS = [
    "Rows",
    "Columns",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "SamplesPerPixel",
    "PixelSpacing",
]
TAGS += [
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "SliceThickness",
    "NumberOfFrames",
    "RescaleSlope",
    "EchoTime",
]
TAGS += ["RescaleIntercept", "PhotometricInterpretation", "SeriesInstanceUID", "SOPClassUID", "PlanarConfiguration"]
VALUES = [
    None,
    0,
    1,
    2,
    7,
    8,
    12,
    16,
    32,
    64,
    255,
    65535,
    -1,
    0.5,
    1e30,
    "",
    "nan",
    "inf",
    "x",
    "1.2.3",
    "RGB",
    "MONOCHROME1",
]
VALUES += [
    [1, 1],
    [0, 0],
    [-1, 1],
    [0, 0, 0],
    [0, 0, 1e300],
    [1, 0, 0, 0, 1, 0],
    [0, 0, 0, 0, 0, 0],
    [1, 0, 0, 1, 0, 0],
]


def read_dicom(chance, folder):
    for file in folder.iterdir():
        file.unlink()
    dicom_series(folder, VOXELS, SliceThickness=2.5)
    changed = folder / f"{chance.randrange(4):03d}.dcm"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        header, changes = pydicom.dcmread(changed), []
        for _ in range(chance.choice([1, 1, 2])):
            try:
                changes.append((chance.choice(TAGS), chance.choice(VALUES)))
                setattr(header, *changes[-1])
                header.save_as(changed)
            except Exception:  # a value that cannot be written is none that can be read
                dicom_series(folder, VOXELS, SliceThickness=2.5)
        try:
            volume = read_volume(folder, 3, "c7")
        except InputError as error:
            return refusal(error, folder.parent, "case 'c7'")
        slices = sorted(map(pydicom.dcmread, folder.iterdir()), key=lambda one: one.ImagePositionPatient[2])
        planes = [
            one.pixel_array * float(one.get("RescaleSlope") or 1) + float(one.get("RescaleIntercept") or 0)
            for one in slices
        ]
    return "right" if np.allclose(volume.array[0], np.stack(planes).T) else f"wrong: {changes}"


def load_list(chance, folder):
    file = folder / "list.json"
    file.write_bytes(fuzzed_list(chance))
    try:
        data_list = load_data_list(file)
    except InputError as error:
        return refusal(error, folder)
    document = json.loads(file.read_text(encoding="utf-8-sig"))
    save_data_list(data_list, folder / "saved.json")
    same = load_data_list(folder / "saved.json")
    placed = [case.id for fold in data_list.folds or [0] for case in data_list.cases if case.split_for(fold)]
    is_right = data_list.document == document and same == data_list and same.digest == data_list.digest and placed
    return "right" if is_right else f"wrong: {document}"


def load_overlay(chance, folder):
    suffix, content = fuzzed_overlay(chance)
    file = folder / f"overlay{suffix}"
    file.write_bytes(content)
    try:
        config = read_config(file)
    except InputError as error:
        return refusal(error, folder)
    text = file.read_text()
    return (
        "right"
        if config == (json.loads(text) if suffix == ".json" else yaml.safe_load(text))
        else f"wrong: {text[:500]}"
    )


SHAPE = (5, 6)  # rows, columns


def list_table(chance, folder):
    top, names = folder / "siim", ["a", "b", "c"]
    if not top.exists():
        for name in names:
            dicom_slice(top / f"{name}.dcm", np.arange(30, dtype=np.uint8).reshape(SHAPE), PatientID=name)
    table = top / "train-rle.csv"
    shutil.rmtree(folder / "out", ignore_errors=True)
    table.write_bytes(fuzzed_table(chance, names, SHAPE[0] * SHAPE[1]))
    try:
        listing = list_siim_acr(top, folder / "out", n_folds=2)
    except InputError as error:
        if "cannot fill 2 folds" in str(error):  # of one case that is left
            return "refused"
        return refusal(error, folder)
    rows = [line.split(",") for line in table.read_text(encoding="utf-8-sig").splitlines()[1:]]
    for case in listing.data_list.cases:
        texts = [row[1].strip() for row in rows if len(row) == 2 and row[0].strip() == case.id]
        masks = [walk(text, *SHAPE) for text in texts if text not in ("", "-1")]
        expected = np.any([np.zeros(SHAPE, bool), *masks], axis=0)
        if not np.array_equal(read_volume(listing.dataset_dir / case.label, 2).array[0], expected):
            return f"wrong: {case.id} of {rows}"
    return "right"


KINDS = {
    "nifti": read(fuzzed_nifti, judge_nifti),
    "metaimage": read(fuzzed_metaimage, judge_metaimage),
    "nrrd": read(fuzzed_nrrd, judge_nrrd),
    "png": read(fuzzed_png, judge_png, dims=2),
    "tiff": read(fuzzed_tiff, judge_tiff, dims=None),
    "dicom": read_dicom,
    "data list": load_list,
    "overlay": load_overlay,
    "run lengths": list_table,
}


# a child, which an item may end


def run_items(kind, numbers, folder, pipe):
    """Send the outcome of each item; a second message of the same number means that it came to its end."""
    LittleMemory(1024 * MEBIBYTE)()
    quiet()
    for number in numbers:
        pipe.send((number, None))
        signal.setitimer(signal.ITIMER_REAL, SECONDS)  # nobody handles the signal: it ends the process, wherever it is
        try:
            outcome = KINDS[kind](random.Random(f"{kind} {number}"), folder)
        except BaseException:
            outcome = traceback.format_exc()
        signal.setitimer(signal.ITIMER_REAL, 0)
        pipe.send((number, outcome))


def quiet():
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    warnings.simplefilter("ignore")
    sitk.ProcessObject.SetGlobalWarningDisplay(False)


def outcomes(kind, folder):
    found, items = {}, int(ITEMS * SHARES.get(kind, 1))
    while len(found) < items:
        receiver, sender = CONTEXT.Pipe(duplex=False)
        child = CONTEXT.Process(target=run_items, args=(kind, range(len(found), items), folder, sender))
        child.start()
        sender.close()
        try:
            while True:
                number, outcome = receiver.recv()
                found[number] = outcome
        except EOFError:
            child.join()
        if child.exitcode:
            found[max(found, default=0)] = f"the process ended with {child.exitcode}"
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_fuzzed_input_is_refused_or_read_right(kind, tmp_path):
    (tmp_path / "in").mkdir()
    found = outcomes(kind, tmp_path / "in")
    faults = {number: text for number, text in found.items() if text not in ("refused", "right")}
    shown = "\n".join(f"{number}: {text}" for number, text in list(faults.items())[:20])
    assert not faults, f"{len(faults)} of {len(found)} {kind}:\n{shown}"
    assert min(list(found.values()).count("refused"), list(found.values()).count("right")) > len(found) // 20


# headers that claim 10^12 voxels


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


def claim_in_tiff(**options):
    def write(file):
        tiff(file, np.zeros((16, 16), np.uint8), metadata=None, **options)
        raw = bytearray(file.read_bytes())
        (place,) = struct.unpack_from("<I", raw, 4)
        for entry in range(place + 2, place + 2 + 12 * struct.unpack_from("<H", raw, place)[0], 12):
            if struct.unpack_from("<H", raw, entry)[0] in (256, 257):
                struct.pack_into("<HII", raw, entry + 2, 4, 1, 10**6)
        file.write_bytes(raw)

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
    "lzw.tif": claim_in_tiff(compression="lzw"),
    "tiles.tif": claim_in_tiff(tile=(16, 16)),
    "a.png": claim_in_png,
    "a.bmp": claim_in_bmp,
    "raw/a.dcm": claim_in_dicom(packed=False),
    "rle/a.dcm": claim_in_dicom(packed=True),
}


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
                function(folder / name, dims)
            except Exception as error:
                reasons.append(f"{type(error).__name__}: {error}")
        pipe.send((name, reasons, peak() - before))


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
        for reason in (of_header, of_voxels):
            assert reason.startswith("InputError: file "), reason
            assert "Remedy: " in reason
            assert "memory" not in reason
        assert taken < 16 * MEBIBYTE, name
    child.join()
    assert child.exitcode == 0


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("bomb.yaml", bomb(40), "unfolds to more than"),
        ("endless.yaml", "x: &a [*a]", "unfolds to more than"),
        ("python.yaml", "x: !!python/object/apply:os.abort []", "could not determine a constructor"),
        ("twice.json", '{"device": "cpu", "device": "cuda"}', "Duplicate key: `device`"),
        ("words.yaml", "1: 2", "its key 1 is no word"),
        ("list.yaml", "- device", "no mapping of settings"),
    ],
)
def test_an_overlay_that_is_no_config_ends_the_command_with_one_line(name, content, reason, threshold, tmp_path):
    (tmp_path / name).write_text(content)
    Path(tmp_path / "in").mkdir()
    nifti(tmp_path / "in" / "a.nii")
    arguments = [threshold[3], tmp_path / "in", tmp_path / "out", "--overlay", tmp_path / name]
    child = BatchProcess(arguments, tmp_path / "log", LittleMemory(1024 * MEBIBYTE))
    assert child.status() == 1
    log = (tmp_path / "log").read_text()
    assert reason in log
    assert str(tmp_path / name) in log
    assert "Traceback" not in log
