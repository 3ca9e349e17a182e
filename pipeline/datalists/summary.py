"""What a reader of data found, in the few lines that a user reads."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path

from pipeline.datalists.datalist import SPLITS, Case, DataList
from pipeline.datalists.dataset_folder import LeftOut, convert_all
from pipeline.datalists.folders import Listing
from pipeline.volumes.reading import read_header

MOST_REASONS = 10


def describe(listing: Listing) -> list[str]:
    """Say in lines of text which cases were found, how they are dealt and how large they are, and what was left out.

    The first image's header of every case is read, so a file that is no image raises InputError here.
    """
    found = listing.data_list
    objects = " (numbered objects)" if found.label_kind == "instances" else ""
    return [
        f"{found.name}: {found.description}",
        f"cases:    {_count_cases(found.cases)}",
        f"size:     {_span_sizes(found, listing.dataset_dir)}",
        f"classes:  {', '.join(found.classes)}{objects}",
        f"channels: {', '.join(found.channels)}",
        *_group_reasons(listing.left_out),
    ]


def _count_cases(cases: Iterable[Case]) -> str:
    """The cases by place, as in "fold 0: 6, fold 1: 6, test: 5 (3 without a label)"."""
    total, bare = Counter(case.place for case in cases), Counter(case.place for case in cases if case.label is None)
    folds = sorted((place for place in total if place not in SPLITS), key=lambda place: int(place.split()[1]))
    places = folds + [place for place in SPLITS if place in total]
    return ", ".join(
        f"{place}: {total[place]}" + (f" ({bare[place]} without a label)" if bare[place] else "") for place in places
    )


def _span_sizes(found: DataList, root: Path) -> str:
    """Smallest and largest extent along each axis, as in "256..360 x 512 pixels"."""
    dims, title = found.spatial_dims, f"'{found.name}'"
    shapes = convert_all(found.cases, lambda case: read_header(root / case.images[0], dims, case.id).shape, title)
    spans = [(str(min(axis)), str(max(axis))) for axis in zip(*shapes, strict=True)]
    extents = [low if low == high else f"{low}..{high}" for low, high in spans]
    return " x ".join(extents) + (" pixels" if dims == 2 else " voxels")


def _group_reasons(left_out: LeftOut) -> list[str]:
    """One line for each reason, the most frequent first; names in quotes make no reason of their own."""
    groups: dict[str, LeftOut] = defaultdict(list)
    for file, reason in left_out:
        groups[re.sub(r"'[^']*'", "''", reason)].append((file, reason))
    ordered = sorted(groups.values(), key=lambda group: -len(group))
    lines = []
    for group in ordered[:MOST_REASONS]:
        (file, reason), more = group[0], len(group) - 1
        others = f" (and {more} more file{'s' * (more > 1)} for this reason)" if more else ""
        lines.append(f"left out: {file}: {reason}{others}")
    if rest := [entry for group in ordered[MOST_REASONS:] for entry in group]:
        lines.append(f"left out: {len(rest)} more files for {len(ordered) - MOST_REASONS} other reasons")
    return lines
