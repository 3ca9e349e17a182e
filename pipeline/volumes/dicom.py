"""A folder of DICOM files as volumes: series are told apart, put in order and read."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from pipeline.errors import InputError
from pipeline.volumes.dicom_file import DicomFile, is_dicom, no_dicom_file, read_dicom_file
from pipeline.volumes.dicom_geometry import at_one_place, orientation_groups, stack
from pipeline.volumes.header import RESTORE, Kind, Opened, VolumeHeader, split_axes

DICOM_SUFFIXES = (".dcm", ".dicom", ".dic", ".ima")


@dataclass(frozen=True, eq=False)
class DicomSeries:
    """The files of one folder that make one volume, in the order of their names.

    A series of several orientations, or of several images at each place (echoes, magnitude and phase), makes several.
    """

    uid: str
    files: tuple[DicomFile, ...]

    @property
    def paths(self) -> tuple[Path, ...]:
        """The names of the files."""
        return tuple(file.path for file in self.files)

    def __str__(self) -> str:
        described = next((f" '{file.description}'" for file in self.files if file.description), "")
        return f"{len(self.files)} files of series {self.uid}{described}, the first '{self.files[0].path.name}'"


def list_series(folder: str | os.PathLike[str]) -> list[DicomSeries]:
    """Return the image series of one folder, sub-folders left out, in the order of their first files.

    Objects without an image (reports, structure sets, segmentations, an index) are left out. A file that is too damaged
    to tell its series becomes part of all, which then cannot be read: it might be a slice of any.
    """
    files = _folder_files(Path(folder))
    damaged = [file for file in files if not file.series]
    by_uid: dict[str, list[DicomFile]] = {}
    for file in files:
        if file.series and file.is_image:
            by_uid.setdefault(file.series, []).append(file)
    groups = [(uid, group + damaged) for uid, of_one in by_uid.items() for group in _volumes_of(of_one)]
    if damaged and not groups:
        groups = [("", damaged)]
    found = [DicomSeries(uid, tuple(sorted(group, key=lambda file: file.path))) for uid, group in groups]
    return sorted(found, key=lambda series: series.paths[0])


def find_series(path: str | os.PathLike[str], spatial_dims: int) -> DicomSeries:
    """Return the series that a path means: the only one of a folder, or that of a file.

    With two spatial axes a file means itself alone.
    """
    path = Path(path)
    if not path.is_dir():
        file = read_dicom_file(path) if is_dicom(path) else no_dicom_file(path)
        file.check()
        series = [] if spatial_dims == 2 else list_series(path.parent)
        # A hidden file is in no listing, and stands alone.
        return next((one for one in series if path in one.paths), DicomSeries(file.series, (file,)))
    series = list_series(path)
    if len(series) == 1:
        return series[0]
    if series:
        listed = "; ".join(str(one) for one in series)
        raise InputError(f"holds {len(series)} volumes: {listed}", remedy="name one file of the series that is meant")
    others = sorted({file.holds for file in _folder_files(path)})
    what = f"no image, only {', '.join(others)}" if others else "no DICOM file"
    raise InputError(f"the folder holds {what}", remedy="name the folder in which the files of an image series lie")


def is_continued_by(one: DicomSeries, other: DicomSeries) -> bool:
    """Tell whether slices of the same series in another folder lie between or beyond these, in the same orientation."""
    if one.uid != other.uid or one.paths[0].parent == other.paths[0].parent:
        return False
    placed = [file for file in one.files + other.files if file.position is not None]
    return len(orientation_groups(placed)) == 1 and not at_one_place(placed)


def stack_series(path: str | os.PathLike[str], spatial_dims: int) -> tuple[list[DicomFile], np.ndarray]:
    """Return the files of a series from the first to the last along their normal, all sound, and their affine."""
    files = find_series(path, spatial_dims).files
    for file in files:
        file.check()
        if file.white_is_zero and spatial_dims == 3:  # is it the picture that is inverted, or Hounsfield units too?
            remedy = "convert it to grey values with 0 as black"
            raise InputError("has pixels of MONOCHROME1, in which 0 is white", file=file.path, remedy=remedy)
    if spatial_dims == 2 and len(files) > 1:
        raise InputError(f"holds {len(files)} images; this bundle takes 2D images", remedy="name one of the files")
    order, affine = stack(files, flat=spatial_dims == 2)
    unmeasured = next((file for file in files if not file.measured), None)
    if unmeasured is not None and spatial_dims == 3:
        reason = "does not say how far its pixels are apart in the patient (PixelSpacing)"
        remedy = "convert the series with its geometry, or use a 2D bundle"
        raise InputError(reason, file=unmeasured.path, remedy=remedy)
    return [files[index] for index in order], affine


def open_dicom(path: Path, spatial_dims: int, kind: Kind) -> Opened:
    """Check the headers of a series, and return what they say with the function that loads the voxels.

    Args:
        path: a folder that holds one series, or any file of a series; its axes become (x, y, z), z along the normal.
        spatial_dims: 2 or 3; with 2 a file is one image, of axes (row, column) as in the pictures made of radiographs.
        kind: a label map is refused.
    """
    if kind == "label":
        raise InputError("a label map is not read from DICOM", remedy="convert it to NIfTI")
    ordered, affine = stack_series(path, spatial_dims)
    first = ordered[0]
    size = (first.columns, first.rows, len(ordered))
    if flat := spatial_dims == 2:
        size, affine = (first.rows, first.columns, 1), affine[:, [1, 0, 2, 3]]
    shape, _ = split_axes(size, (), spatial_dims)

    def load() -> np.ndarray:
        planes = np.stack([_pixels(file) for file in ordered])  # (z, y, x)
        return planes if flat else planes.T[None]

    return VolumeHeader(path, "DICOM", shape, 1, first.dtype, affine, 3), load


def _volumes_of(files: list[DicomFile]) -> list[list[DicomFile]]:
    """Split the files of one series by orientation and, where several lie at one place, by their variant."""
    placed = [file for file in files if file.problem is None and file.position is not None]
    unsound = [file for file in files if file.problem is not None or file.position is None]
    groups = []
    for turned in orientation_groups(placed):
        group = [placed[index] for index in turned]
        several = at_one_place(group)
        variants: dict[tuple[str, ...], list[DicomFile]] = {}
        for file in group:
            variants.setdefault(file.variant if several else (), []).append(file)
        groups += list(variants.values())
    # Whichever volume an unsound file belongs to lacks a slice, perhaps the last, which no gap would show.
    return [group + unsound for group in groups] or [unsound]


def _folder_files(folder: Path) -> list[DicomFile]:
    entries = sorted(entry for entry in folder.iterdir() if entry.is_file() and not entry.name.startswith("."))
    stats = [entry.stat() for entry in entries]
    return _read_all(tuple((entry, stat.st_size, stat.st_mtime_ns) for entry, stat in zip(entries, stats, strict=True)))


@lru_cache(maxsize=8)  # the series of a folder are read one after the other, and their headers for the output again
def _read_all(entries: tuple[tuple[Path, int, int], ...]) -> list[DicomFile]:
    found = []
    for path, _, _ in entries:
        try:
            if is_dicom(path):
                found.append(read_dicom_file(path))
            elif _should_be_dicom(path):
                found.append(no_dicom_file(path))
        except OSError as error:
            problem = InputError(f"cannot be opened ({error.strerror})", remedy="correct its permissions")
            found.append(DicomFile(path, problem=problem))
    return found


def _should_be_dicom(path: Path) -> bool:
    """Tell a damaged DICOM file from a text beside: by its suffix, or zeros at its start where it has none."""
    if path.suffix and not path.suffix[1:].isdigit():  # 1.2.840.7 is a name without a suffix
        return path.suffix.lower() in DICOM_SUFFIXES
    with path.open("rb") as stream:
        return b"\0" in stream.read(132)


def _pixels(file: DicomFile) -> np.ndarray:
    """Read one plane of shape (rows, columns), rescaled. GDCM does it, since pydicom alone knows no lossless JPEG.

    It makes white out of MONOCHROME1's 0 by itself, from the end of the stored range: 0 of 12 bits becomes 4095.
    """
    try:
        array = sitk.GetArrayFromImage(sitk.ReadImage(str(file.path), imageIO="GDCMImageIO"))
    except RuntimeError as error:
        last = str(error).strip().splitlines()[-1].strip()
        raise InputError(
            f"its pixels cannot be decoded ({file.syntax}): {last}",
            file=file.path,
            remedy=f"{RESTORE}, or decompress it, for example with gdcmconv --raw",
        ) from error
    return array.reshape(file.rows, file.columns)
