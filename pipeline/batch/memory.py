"""How much memory a case takes, and how much there is."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import psutil

from pipeline.errors import InputError
from pipeline.volumes.header import VolumeHeader
from pipeline.volumes.reading import read_header

CGROUP = Path("/sys/fs/cgroup")  # where limits of containers and jobs stand, which the machine's figures do not know
MEMBERSHIP = Path("/proc/self/cgroup")
ROOM = 3  # times the least that a case takes, for the slabs and what the steps leave behind
FLOAT = 4  # bytes


@dataclass(frozen=True)
class Need:
    """How many bytes a case takes beside its image.

    Args:
        grid_voxels: from a file's header to the voxels that the network sees; None: as many as the file has.
        kept_classes: float32 values for each of the network's voxels that are kept to the end, such as probabilities.
    """

    grid_voxels: Callable[[VolumeHeader], int] | None = None
    kept_classes: int = 0


@lru_cache(maxsize=4)  # asked several times of a case, and a series has hundreds of headers
def least_bytes(files: tuple[Path, ...], spatial_dims: int, need: Need = Need()) -> int:
    """Return what a case's voxels take as stored, and as float32 on the file's grid and on the network's.

    It is 0 if there is something wrong with a header: the reading says what.

    Args:
        files: what `read_volume` takes, for each channel or for all.
        spatial_dims: 2 or 3.
        need: what else is held.
    """
    total = voxels = 0
    for file in files:
        try:
            header = read_header(file, spatial_dims)
            stored = math.prod(header.shape)
            voxels = stored if need.grid_voxels is None else need.grid_voxels(header)
        except InputError:
            return 0
        resampled = 0 if need.grid_voxels is None else voxels * FLOAT
        total += header.channels * (stored * (header.dtype.itemsize + FLOAT) + resampled)
    return total + voxels * need.kept_classes * FLOAT


def free_bytes(cgroup: Path = CGROUP, membership: Path = MEMBERSHIP) -> int:
    """Return the memory that can be taken: the machine's, or what is left of a container's or job's limit."""
    free = int(psutil.virtual_memory().available)
    for folder in _groups(cgroup, membership):
        for limit, used, reclaimable in CGROUP_FILES:
            try:
                most, now = (int((folder / name).read_text()) for name in (limit, used))
                lines = (line.split() for line in (folder / "memory.stat").read_text().splitlines())
                spare = next(int(value) for key, value in lines if key == reclaimable)
            except (OSError, ValueError, StopIteration):  # another version's names, or no limit: "max"
                continue
            free = min(free, most - now + spare)
    return free


# Limit, use, and what of it can be taken back: of control groups version 2 and 1.
CGROUP_FILES = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)


def _groups(cgroup: Path, membership: Path) -> list[Path]:
    """Return the folders of this process's control groups and those above: each may have a limit."""
    folders = [cgroup, cgroup / "memory"]
    with suppress(OSError):
        for line in membership.read_text().splitlines():  # 4:memory:/job_7 or 0::/job_7
            _, controllers, place = line.split(":", 2)
            if controllers in ("", "memory"):
                own = cgroup / controllers / place.lstrip("/")
                folders += [own, *(above for above in own.parents if cgroup in above.parents)]
    return folders


def check_room(files: tuple[Path, ...], spatial_dims: int, case: str, need: Need = Need()) -> None:
    """Refuse a case that cannot fit before the system has to kill the whole batch for it."""
    needed, free = least_bytes(files, spatial_dims, need), free_bytes()
    if needed > free:
        reason = f"its voxels take {needed / 2**30:.1f} GiB of memory, of which {free / 2**30:.1f} are free"
        raise InputError(reason, case=case, file=files[0], remedy="predict it where there is more memory, or split it")


def wants_room(files: tuple[Path, ...], spatial_dims: int, need: Need = Need()) -> bool:
    """Tell whether a case is so large that no other one should be in memory beside it."""
    return ROOM * least_bytes(files, spatial_dims, need) > free_bytes() / 3
