"""The folder where a list's paths begin: a file stays, is linked or is converted, and nothing there is overwritten."""

from __future__ import annotations

import filecmp
import shutil
import textwrap
from collections.abc import Callable, Iterable
from os import PathLike
from pathlib import Path
from typing import TypeVar

import numpy as np
from tqdm import tqdm

from pipeline.errors import InputError, raise_all
from pipeline.volumes.atomic import atomic_path
from pipeline.volumes.reading import read_volume
from pipeline.volumes.writing import write_volume

MOST_PROBLEMS = 20  # a broken download would fill the screen

LeftOut = list[tuple[Path, str]]  # files that are not in a list, with the reason
Item = TypeVar("Item")
Made = TypeVar("Made")


class OccupiedError(InputError):
    """A file would be written where another one is: a matter of the target folder, not of the case."""


class DatasetFolder:
    """Gives the files of a data set their paths below one folder, `root`.

    Args:
        folder: the data set as it was downloaded.
        dataset_dir: where converted files go and the list's paths begin; by default `folder` if nothing is converted.
        converted: the list's name if something is converted; the default is then `data/<name>` in the working
            directory, or `data/<name>_converted` where the first is `folder` itself, which is not written into.
    """

    def __init__(
        self, folder: str | PathLike[str], dataset_dir: str | PathLike[str] | None = None, converted: str | None = None
    ) -> None:
        self.root = Path(folder if dataset_dir is None else dataset_dir).resolve()
        if dataset_dir is None and converted is not None:
            default = Path("data", converted).resolve()
            self.root = default if default != self.root else default.with_name(f"{converted}_converted")

    def use(self, file: Path, name: str) -> str:
        """Return the path of a file that can stay as it is; one that lies elsewhere is linked as `name`.

        Where links are not allowed, it is copied.
        """
        if file.is_relative_to(self.root):
            return file.relative_to(self.root).as_posix()
        target = self.root / name
        if target.is_symlink() and not target.exists():
            target.unlink()  # what it led to has moved
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                target.symlink_to(file)
            except OSError:
                with atomic_path(target) as temporary:
                    shutil.copyfile(file, temporary)
        elif not target.samefile(file) and not filecmp.cmp(target, file, shallow=False):
            raise _occupied(target)
        return name

    def write(self, name: str, array: np.ndarray, case: str | None = None, affine: np.ndarray | None = None) -> str:
        """Write a channel-first array, (channels, *spatial), unless an equal one is there, and return its path."""
        target = self.root / name
        if not target.exists():
            write_volume(target, array, affine, case=case)
            return name
        stored = read_volume(target, array.ndim - 1, case).array
        if stored.dtype != array.dtype or not np.array_equal(stored, array):
            raise _occupied(target, case)
        return name


def convert_all(items: Iterable[Item], convert: Callable[[Item], Made], title: str) -> list[Made]:
    """Call `convert` on one item after another, behind a bar if it takes long, and raise all problems at once.

    Args:
        items: what to convert.
        convert: may raise InputError; after `MOST_PROBLEMS` of them no further item is tried.
        title: of the bar and of the problems.
    """
    made: list[Made] = []
    problems: list[InputError] = []
    for item in tqdm(list(items), title, delay=2):
        try:
            made.append(convert(item))
        except InputError as error:
            problems.append(error)
        if len(problems) == MOST_PROBLEMS:
            break
    raise_all(problems, title)
    return made


def convert_most(
    items: Iterable[Item], convert: Callable[[Item], Made], title: str, left_out: LeftOut
) -> list[tuple[Item, Made]]:
    """Call `convert` on one item after another, and return each with its result; what raises InputError is left out.

    Args:
        items: what to convert.
        convert: may raise InputError with a file, which goes to `left_out`; a file in the way ends everything.
        title: of the bar, and of the problems that are raised where no item is left.
        left_out: gets the files with their reasons.
    """
    made: list[tuple[Item, Made]] = []
    problems: list[InputError] = []
    for item in tqdm(list(items), title, delay=2):
        try:
            made.append((item, convert(item)))
        except OccupiedError:
            raise
        except InputError as error:
            problems.append(error)
    if not made:
        raise_all(problems[:MOST_PROBLEMS], title)
    for problem in problems:
        consequence = f", so case '{problem.case}' is left out" if problem.case is not None else ""
        left_out.append((Path(problem.file or title), f"{problem.reason}{consequence}"))
    return made


def wrong_layout(folder: str | PathLike[str], reason: str, docstring: str | None) -> InputError:
    """Return the error for a folder of another layout, with the tree below "Layout" in the reader's docstring."""
    tree = (docstring or "").partition("\nLayout")[2].partition("\n")[2]
    return InputError(reason, file=folder, remedy=f"give the folder that holds\n{textwrap.dedent(tree).strip()}")


def _occupied(file: Path, case: str | None = None) -> OccupiedError:
    remedy = "choose another --dataset_dir, or remove the file if nobody needs it"
    return OccupiedError("exists already and holds something else", case=case, file=file, remedy=remedy)
