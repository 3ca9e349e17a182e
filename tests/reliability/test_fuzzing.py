"""Files and texts changed by one who knows their format: an error with a name or a right result; and never a hang.

FUZZED_ITEMS=5000 in the environment asks for more of each kind than a run of all tests has time for.
"""

import json
import os
import random
import shutil
import signal
import traceback
import warnings
from pathlib import Path

import numpy as np
import pydicom
import pytest
import yaml
from batch_process import BatchProcess, LittleMemory, quiet
from dicom_files import dicom_series, dicom_slice
from forked import CONTEXT
from fuzzed_files import (
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
from volume_files import VOXELS, nifti

from pipeline.datalists.datalist import load_data_list, save_data_list
from pipeline.datalists.siim_acr import list_siim_acr
from pipeline.errors import InputError
from pipeline.settings import read_config
from pipeline.volumes.reading import read_header, read_volume

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
        asked = fuzzed.array.ndim if dims is None else dims, "c7", chance.choice(["image", "image", "image", "label"])
        header = None
        try:
            if chance.random() < 0.5:
                header = read_header(file, *asked)
            volume = read_volume(file, *asked)
        except InputError as error:
            return refusal(error, folder, "case 'c7'")
        alike = header is None or (header.shape, header.channels) == (volume.shape, volume.channels)
        alike &= header is None or np.array_equal(header.affine, volume.affine)
        return "right" if alike and judge(file, volume, fuzzed) else f"wrong: {asked} {fuzzed.changes}"

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
    is_right = np.allclose(volume.array[0], np.stack(planes).T) and lies(volume.affine, slices)
    return "right" if is_right else f"wrong: {changes}"


def lies(affine, slices):
    """Whether a series lies where the tags of its slices say, of which all have two spacings."""
    spacings = np.array([list(one.PixelSpacing) for one in slices], float)  # between rows, between columns
    axes = np.reshape(np.array(slices[0].ImageOrientationPatient, float), (2, 3))
    places = np.array([one.ImagePositionPatient for one in slices], float)
    lps = np.eye(4)
    lps[:3, 0], lps[:3, 1] = axes[0] * spacings[0, 1], axes[1] * spacings[0, 0]
    lps[:3, 2], lps[:3, 3] = (places[-1] - places[0]) / (len(places) - 1), places[0]
    same = spacings.shape == (len(slices), 2) and np.allclose(spacings, spacings[0], rtol=2e-3)
    return same and np.allclose(np.diag([-1, -1, 1, 1]) @ lps, affine, rtol=2e-3, atol=2e-3)


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
