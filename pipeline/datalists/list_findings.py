"""What the cases of a list show only together: copies, divided groups, empty splits, spacings in another unit."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median_low
from typing import NamedTuple

from pipeline.datalists.case_findings import CaseFindings
from pipeline.datalists.datalist import Case
from pipeline.datalists.fingerprint import Fingerprint
from pipeline.errors import InputError

OTHER_UNIT = 50  # times: slices 7.5 mm apart beside 0.3 mm are 25, the step from one unit to the next is 1000
USUAL_EDGE = (0.01, 100.0)  # mm, of a voxel that a scanner for patients makes
FEWEST_VOXELS = 4  # along an axis
AXIS = {letter: axis for axis, letters in enumerate(("LR", "PA", "IS")) for letter in letters}


@dataclass(frozen=True)
class Looked:
    """A case with what its files show: `image` is the first, `unchanged` says that an earlier check has seen them."""

    case: Case
    split: str
    image: Path
    found: CaseFindings
    unchanged: bool = False

    def problem(self, reason: str, remedy: str, file: Path | None = None) -> InputError:
        """Return an error that names this case and, unless another one is given, its image."""
        return InputError(reason, case=self.case.id, file=file or self.image, remedy=remedy)


class Findings(NamedTuple):
    """What is wrong, and what is odd but may be meant."""

    problems: list[InputError]
    warnings: list[InputError]


def compare_contents(looked: Sequence[Looked], root: Path) -> Findings:
    """Equal images: a problem between folds or splits, where one would be tested on what it learnt; else a warning.

    One equal channel suffices, in whatever file, type and orientation it is stored; each two cases are named once.
    Equal labels of different images are a warning: one of them may belong to another image.
    """
    found, pairs = Findings([], []), set()
    images = (
        (digest, look, file)
        for look in looked
        for file, channels in look.found.images.items()
        for digest in dict.fromkeys(channels)  # a grey picture stored in colours has one channel three times
    )
    for first, other, file in _copies(images):
        if (first.case.id, other.case.id) in pairs:
            continue
        pairs.add((first.case.id, other.case.id))
        places = f"({first.case.place}; this one: {other.case.place})"
        reason = f"has the same content as the image of case '{first.case.id}' {places}"
        divided = other.case.place != first.case.place
        remedy = "remove one, or put both into the same fold or split" if divided else "remove one"
        (found.problems if divided else found.warnings).append(other.problem(reason, remedy, root / file))
    labels = ((look.found.label, look, look.case.label) for look in looked if look.found.label and look.case.label)
    for first, other, file in _copies(labels):
        if (first.case.id, other.case.id) not in pairs:
            reason = f"has the same content as the label of case '{first.case.id}', whose image is another"
            remedy = "look whether each label belongs to its image"
            found.warnings.append(other.problem(reason, remedy, root / file))
    return found


def check_groups(cases: Iterable[Case]) -> list[InputError]:
    """A group, such as a patient, has to lie in one fold or split as a whole."""
    places: dict[str, dict[str, str]] = defaultdict(dict)
    for case in cases:
        if case.group is not None:
            places[case.group].setdefault(case.place, case.id)
    problems = []
    for group, where in places.items():
        if len(where) > 1:
            listed = ", ".join(f"'{case}' is in {place}" for place, case in where.items())
            reason, remedy = f"group '{group}' is divided: {listed}", "give all cases of a group the same fold or split"
            problems.append(InputError(reason, case=next(iter(where.values())), remedy=remedy))
    return problems


def check_foreground(looked: Sequence[Looked]) -> Findings:
    """Training on, or validating with, nothing but background is a mistake; a test set may be meant that way.

    A class that no label of such a split holds is a warning.
    """
    found = Findings([], [])
    for split in ("training", "validation"):
        known = [look for look in looked if look.split == split and look.found.foreground is not None]
        if not known:
            continue
        if not any(look.found.foreground for look in known):
            remedy = "check the labels" if split == "training" else "check the labels, or deal the folds anew"
            found.problems.append(InputError(f"every {split} label is empty", remedy=remedy))
            continue
        volumes = [look.found.fingerprint.classes or () for look in known if look.found.fingerprint]
        voxels = [[volume.voxels for volume in of_case] for of_case in volumes if of_case]
        names = [volume.name for volume in next((of_case for of_case in volumes if of_case), ())]
        for name, total in zip(names, map(sum, zip(*voxels, strict=True)), strict=False):
            if not total and len(voxels) == len(known):
                reason = f"no {split} label holds the class '{name}'"
                remedy = "check the labels" if split == "training" else "check the labels, or choose another fold"
                found.warnings.append(InputError(reason, remedy=remedy))
    return found


def check_units(looked: Sequence[Looked]) -> Findings:
    """Spacings of another unit than the list's others are a problem; ones that no scanner has are a warning.

    Microscopy has voxels of 0.0003 mm, so that a unit can be called wrong only beside others, or beside the spacing
    of a network (`check_spacing`).
    """
    found, placed = Findings([], []), list(_placed(looked))
    medians = [median_low(edges[axis][1] for _, edges in placed) for axis in range(3)] if placed else []
    unusual = []
    for look, edges in placed:
        spacing = [edge for _, edge in edges]
        ratio = max(max(edge / usual, usual / edge) for edge, usual in zip(spacing, medians, strict=True))
        if ratio > OTHER_UNIT:
            reason = f"spacing {_mm(spacing)} differs {ratio:.0f}-fold from the list's median, {_mm(medians)}"
            remedy = "correct the unit in its header (micrometres or metres taken for millimetres?), or leave it out"
            found.problems.append(look.problem(reason, remedy))
        elif min(spacing) < USUAL_EDGE[0] or max(spacing) > USUAL_EDGE[1]:
            unusual.append((look, spacing))
    if unusual:
        look, spacing = unusual[0]
        reason = f"spacing {_mm(spacing)} is none of a scanner for patients{_and_more(len(unusual))}"
        remedy = (
            "correct the unit in the headers, or, for microscopy, train with a spacing of that size; "
            "`check --spacing` says whether a network's spacing suits them"
        )
        found.warnings.append(look.problem(reason, remedy))
    return found


def check_spacing(looked: Sequence[Looked], spacing: Sequence[float | None], axcodes: str) -> list[InputError]:
    """A network's spacing must leave something of each volume, and not blow it up.

    Along an axis of n voxels of size e, `round(n e / spacing)` remain. A problem: fewer than 4 of ten times as many, or
    a factor `e / spacing` beyond 50 or 1/50.

    Args:
        looked: the cases.
        spacing: mm along each axis of the network's grid; None keeps the file's.
        axcodes: where these axes point, such as "RAS"; what ToGridd refuses is left to it.
    """
    problems = []
    placed = list(_placed(looked))
    sizes = [(code, size) for code, size in zip(axcodes, spacing, strict=False) if code in AXIS and size and size > 0]
    for look, edges in placed:
        for code, size in sizes:
            count, edge = edges[AXIS[code]]
            left = max(round(count * edge / size), 1)
            shrinks = size / edge > OTHER_UNIT or (left < FEWEST_VOXELS and count >= 10 * left)
            if shrinks or edge / size > OTHER_UNIT:
                reason = (
                    f"the network's spacing of {size:g} mm makes {left} of {count} voxels of {edge:.4g} mm ({code})"
                )
                remedy = "correct the unit in the file's header, or choose a spacing that suits the data"
                problems.append(look.problem(reason, remedy))
                break
    if len(problems) == len(placed) > 1:  # one mistake, not one for each case
        first = problems[0]
        reason = f"{first.reason}{_and_more(len(problems))}"
        return [InputError(reason, case=first.case, file=first.file, remedy=first.remedy)]
    return problems


def _copies(entries: Iterable[tuple[str, Looked, str]]) -> Iterator[tuple[Looked, Looked, str]]:
    """The first case that has a content, each further one, and that one's file."""
    seen: dict[str, Looked] = {}
    for digest, look, file in entries:
        if digest in seen:
            yield seen[digest], look, file
        else:
            seen[digest] = look


def _placed(looked: Iterable[Looked]) -> Iterator[tuple[Looked, list[tuple[int, float]]]]:
    """Volumes with a geometry, and for each axis of the patient (left-right, ...) their voxels and mm per voxel."""
    for look in looked:
        numbers: Fingerprint | None = look.found.fingerprint
        if numbers and numbers.axcodes and numbers.spacing:
            axes = {AXIS[letter]: index for index, letter in enumerate(numbers.axcodes)}
            yield look, [(numbers.shape[axes[axis]], numbers.spacing[axes[axis]]) for axis in range(3)]


def _and_more(count: int) -> str:
    return "" if count == 1 else f" ({count} volumes are like that)"


def _mm(spacing: Iterable[float]) -> str:
    return " x ".join(f"{edge:.4g}" for edge in spacing) + " mm"
