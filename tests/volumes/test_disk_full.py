"""Every writer on a disk that is really full: a small one in memory, mounted for a process of its own.

That process runs this file as a program.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from dicom_files import dicom_series

from pipeline import figures
from pipeline.batch.summary import write_summary
from pipeline.errors import InputError
from pipeline.volumes.atomic import write_json
from pipeline.volumes.dicom_seg import write_dicom_seg
from pipeline.volumes.planes import fullest_planes
from pipeline.volumes.writing import write_label_map, write_volume

NOISE = np.random.default_rng(0).random((1, 60, 50, 50), np.float32)  # 600 kB that nothing packs
PIXELS = np.random.default_rng(0).integers(0, 65536, (1, 600, 600), np.uint16)
MASK = np.random.default_rng(0).integers(0, 2, (300, 300, 12), np.uint8)  # 135 kB as bits
ROWS = [{"case": f"case {number}", "status": "done", "reason": "x" * 1000} for number in range(400)]
DISK = 256 * 1024
FREE = (0, 20_000, 100_000)  # bytes left before the write: it fails at once, in the middle, or near its end
SUFFIXES = (".nii", ".nii.gz", ".mha", ".mhd", ".nrrd", ".tif", ".tiff")


def writers(series):
    planes = fullest_planes(NOISE[0], (99 * NOISE[0]).astype(int))
    return {
        **{f"a{suffix}": lambda file: write_volume(file, NOISE) for suffix in SUFFIXES},
        "a.png": lambda file: write_volume(file, PIXELS),
        "label.nii.gz": lambda file: write_label_map(file, PIXELS[0]),
        "label.tif": lambda file: write_label_map(file, PIXELS[0]),
        "a.seg.dcm": lambda file: write_dicom_seg(file, MASK, series, ["background", "liver"]),
        "a_picture.png": lambda file: figures.save(figures.picture("a", planes, {}), file, dpi=200),
        "summary.csv": lambda file: write_summary(file.with_suffix(""), ROWS),
        "a.json": lambda file: write_json(file, ROWS),
    }


def fill(disk, free):
    """Fill a disk with one file but for so many bytes."""
    with open(disk / "ballast", "wb", buffering=0) as ballast:
        try:
            while True:
                ballast.write(bytes(4096))
        except OSError:
            ballast.truncate(ballast.tell() - free)


def main(disk, series):
    """Print what became of each write, and which files it left."""
    found = []
    for free in FREE:
        for name, write in writers(series).items():
            for old in disk.iterdir():
                old.unlink()
            fill(disk, free)
            try:
                write(disk / name)
                outcome = "written"
            except Exception as error:
                outcome = error.reason if isinstance(error, InputError) else repr(error)
            left = sorted(file.name for file in disk.iterdir() if file.name != "ballast")
            found.append([name, free, outcome, left])
    print(json.dumps(found))


@pytest.fixture
def in_small_disk(tmp_path):
    """Return a function that runs a command where `tmp_path/disk` is a disk of 256 KiB; skip where none is mounted."""
    disk = tmp_path / "disk"
    disk.mkdir()

    def run(*command):
        mount = f'mount -t tmpfs -o size={DISK} tmpfs "$0" && exec "$@"'
        shell = ["unshare", "--map-root-user", "--mount", "sh", "-c", mount, str(disk), *command]
        try:
            return subprocess.run(shell, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": paths()})
        except FileNotFoundError:
            pytest.skip("there is no unshare")

    def paths():
        tests = Path(__file__).parents[1]
        return os.pathsep.join([str(tests), str(tests.parent), os.environ.get("PYTHONPATH", "")])

    if run("true").returncode:
        pytest.skip("a disk may not be mounted here")
    return run


@pytest.mark.slow
def test_every_writer_says_that_the_disk_is_full_and_leaves_nothing(tmp_path, in_small_disk):
    series = dicom_series(tmp_path / "scan", np.zeros(MASK.shape, np.int16))
    ended = in_small_disk(sys.executable, __file__, str(tmp_path / "disk"), str(series))
    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout.splitlines()[-1])
    assert len(found) == len(FREE) * len(writers(series))
    for name, free, outcome, left in found:
        assert (outcome, left) == ("disk full", []), f"{name} with {free} bytes left"


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
