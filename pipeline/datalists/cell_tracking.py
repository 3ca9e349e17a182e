"""The Cell Tracking Challenge: time-lapse sequences of cells in 2D and 3D, some of their frames segmented.

Source: Maška et al. 2023, https://doi.org/10.1038/s41592-023-01879-y; http://celltrackingchallenge.net.
Licence: free for the challenge and, with the permission of a data set's providers, for other research; cite the paper.

Layout, one folder for each data set, such as DIC-C2DH-HeLa:

    <folder>/01/t000.tif, t001.tif, ...
             01_GT/SEG/man_seg000.tif, ...      gold truth: cells numbered, annotated frames only
             01_GT/SEG/man_seg_000_012.tif      instead, in some 3D sets: slice 12 of frame 0, not used
             01_GT/TRA/man_track000.tif, ...    a marker for every cell, may be missing
             01_ST/SEG/man_seg000.tif, ...      silver truth, may be missing
             02/, 02_GT/, 02_ST/                a second sequence
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from pipeline.datalists.datalist import Case, DataList, assign_folds
from pipeline.datalists.dataset_folder import DatasetFolder, LeftOut, convert_most, wrong_layout
from pipeline.datalists.folders import Listing
from pipeline.errors import InputError
from pipeline.volumes.reading import read_header, read_volume

TRUTHS = {"gold": "GT", "silver": "ST"}


class Frame(NamedTuple):
    """An annotated frame; `markers` may not exist."""

    sequence: str
    image: Path
    label: Path
    markers: Path

    @property
    def id(self) -> str:
        """Sequence and frame: "01_t000"."""
        return f"{self.sequence}_{self.image.stem}"


def list_cell_tracking(
    folder: str | PathLike[str],
    dataset_dir: str | PathLike[str] | None = None,
    *,
    truth: Literal["gold", "silver"] = "gold",
    partial: Literal["drop", "keep"] = "drop",
    n_folds: int = 2,
    seed: int = 0,
) -> Listing:
    """List the annotated frames as cases with numbered cells; a sequence is a group and never divided.

    Args:
        folder: one data set, which holds 01 and 01_GT.
        dataset_dir: where the list's paths begin; `folder` unless given. Nothing has to be converted.
        truth: "gold" for the experts' masks, "silver" for the majority of several programs' masks.
        partial: what becomes of frames where a tracked cell has no mask, which a training would take for background:
            "drop" leaves them out, "keep" lists them and says so in the description.
        n_folds: at most the number of sequences.
        seed: seed of the folds.
    """
    top, left_out = Path(folder).resolve(), LeftOut()
    frames = _find_frames(top, TRUTHS[truth], left_out)
    if not frames:
        seen = "; ".join(sorted({f"{file.name}: {reason}" for file, reason in left_out})[:3])
        reason = f"has no frame with a {truth} segmentation" + (f" ({seen})" if seen else "")
        if truth == "gold" and _find_frames(top, TRUTHS["silver"], LeftOut()):
            raise InputError(reason, file=folder, remedy="take the masks by the majority of programs: --truth silver")
        raise wrong_layout(folder, reason, __doc__)
    target = DatasetFolder(top, dataset_dir)
    dims = _count_axes(frames)
    seen_partial = convert_most(frames, lambda frame: _is_partial(frame, dims), f"frames of '{top.name}'", left_out)
    incomplete = [frame for frame, is_partial in seen_partial if is_partial]
    frames = [frame for frame, is_partial in seen_partial if partial == "keep" or not is_partial]
    if partial == "drop":
        left_out += [
            (frame.image, "tracked cells have no mask (--partial keep lists the frame)") for frame in incomplete
        ]
    if not frames:
        reason = f"has no frame whose tracked cells all have a mask, in {len(incomplete)} frames"
        remedy = "list them with --partial keep, where cells without a mask count as background"
        raise InputError(reason, file=folder, remedy=remedy)
    folds = assign_folds([frame.id for frame in frames], [frame.sequence for frame in frames], n_folds, seed)
    found = f"{len(frames)} frames with {truth} truth of {len({frame.sequence for frame in frames})} sequences"
    note = f"; in {len(incomplete)} of them, tracked cells without a mask count as background"
    data_list = DataList(
        name=top.name,
        description=f"{found}{note if partial == 'keep' and incomplete else ''}.",
        licence="free for the challenge, for other research with the providers' permission",
        source="http://celltrackingchallenge.net, https://doi.org/10.1038/s41592-023-01879-y",
        made_by=f"pipeline.datalists.cell_tracking.list_cell_tracking, {truth=}, {partial=}, {n_folds=}, {seed=}",
        spatial_dims=dims,
        label_kind="instances",
        classes=("background", "cell"),
        channels=("intensity",),
        cases=tuple(
            Case(
                frame.id,
                target.use(frame.image, frame.image.relative_to(top).as_posix()),
                target.use(frame.label, frame.label.relative_to(top).as_posix()),
                frame.sequence,
                folds[frame.id],
            )
            for frame in frames
        ),
    )
    return Listing(data_list, target.root, left_out)


def _find_frames(top: Path, ending: str, left_out: LeftOut) -> list[Frame]:
    frames = []
    for sequence in sorted(path for path in top.glob("[0-9][0-9]") if path.is_dir()):
        segmented, tracked = top / f"{sequence.name}_{ending}" / "SEG", top / f"{sequence.name}_GT" / "TRA"
        images = _index(sequence, r"t(\d+)\.tif")
        labels = _index(segmented, r"man_seg(\d+)\.tif")
        for number in sorted(images.keys() & labels.keys()):
            markers = tracked / labels[number].name.replace("seg", "track")
            frames.append(Frame(sequence.name, images[number], labels[number], markers))
        left_out += [(images[n], "the frame has no segmentation") for n in sorted(images.keys() - labels.keys())]
        left_out += [(labels[n], "the segmentation has no frame") for n in sorted(labels.keys() - images.keys())]
        slices = _index(segmented, r"man_seg_(\d+_\d+)\.tif").values()
        left_out += [(file, "only a slice of the volume is segmented") for file in slices]
    return frames


def _index(folder: Path, pattern: str) -> dict[str, Path]:
    """Files by what the pattern's group matches in their name; none for a folder that does not exist."""
    matches = [(re.fullmatch(pattern, file.name), file) for file in sorted(folder.glob("*.tif"))]
    return {match[1]: file for match, file in matches if match}


def _count_axes(frames: Sequence[Frame]) -> int:
    """2 if any frame is a picture, otherwise 3; what can be read as neither is named when each frame is looked at."""
    for frame in frames:
        try:
            return len(read_header(frame.image, 2).shape)
        except InputError:
            continue
    return 3


def _is_partial(frame: Frame, spatial_dims: int) -> bool:
    """Tell whether a tracked cell has no mask; without markers nobody knows."""
    read_header(frame.image, spatial_dims, frame.id)
    if not frame.markers.is_file():
        return False
    label = read_volume(frame.label, spatial_dims, frame.id, "label").array
    markers = read_volume(frame.markers, spatial_dims, frame.id, "label").array
    if label.shape != markers.shape:
        reason = f"shape {label.shape[1:]} differs from {markers.shape[1:]} of '{frame.markers}'"
        raise InputError(reason, case=frame.id, file=frame.label, remedy="fetch the data set again from its source")
    return not set(np.unique(markers)) <= {0, *np.unique(markers[label > 0])}
