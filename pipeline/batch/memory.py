"""How much memory a case takes, and how much there is."""

from __future__ import annotations

import math
from functools import lru_cache
from pathlib import Path

import psutil

from pipeline.errors import InputError
from pipeline.volumes.reading import read_header

CGROUP = Path("/sys/fs/cgroup")  # where a container's limit stands, which the machine's own figures do not know
ROOM = 4  # times the least that a case takes: its copy on the network's grid, the slabs, the labels, the file's bytes


@lru_cache(maxsize=4)  # asked several times of a case, and a series has hundreds of headers
def least_bytes(files: tuple[Path, ...], spatial_dims: int) -> int:
    """Return what the voxels of a case take as stored and as float32; 0 if a header cannot be read.

    Args:
        files: what `read_volume` takes, for each channel or for all.
        spatial_dims: 2 or 3.
    """
    total = 0
    for file in files:
        try:
            header = read_header(file, spatial_dims)
        except InputError:  # the reading says what is wrong
            return 0
        total += math.prod(header.shape) * header.channels * (header.dtype.itemsize + 4)
    return total


def free_bytes(cgroup: Path = CGROUP) -> int:
    """Return the memory that can be taken: the machine's, or what is left of the container's limit if that is less."""
    free = int(psutil.virtual_memory().available)
    try:
        limit = int((cgroup / "memory.max").read_text())
        used = int((cgroup / "memory.current").read_text())
        lines = (line.split() for line in (cgroup / "memory.stat").read_text().splitlines())
        reclaimable = next(int(value) for key, value in lines if key == "inactive_file")
    except (OSError, ValueError, StopIteration):  # no container, or one without a limit: "max"
        return free
    return min(free, limit - used + reclaimable)


def check_room(files: tuple[Path, ...], spatial_dims: int, case: str) -> None:
    """Refuse a case that cannot fit before the system has to kill the whole batch for it."""
    needed, free = least_bytes(files, spatial_dims), free_bytes()
    if needed > free:
        reason = f"its voxels take {needed / 2**30:.1f} GiB of memory, of which {free / 2**30:.1f} are free"
        raise InputError(reason, case=case, file=files[0], remedy="predict it where there is more memory, or split it")


def wants_room(files: tuple[Path, ...], spatial_dims: int) -> bool:
    """Tell whether a case is so large that no other one should be in memory beside it."""
    return ROOM * least_bytes(files, spatial_dims) > free_bytes() / 3
