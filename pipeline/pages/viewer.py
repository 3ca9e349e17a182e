"""Volumes inside of a page: made small, packed as text, and drawn by `viewer.js`."""

from __future__ import annotations

import base64
import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from html import escape
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from pipeline import figures
from pipeline.pages.page import Html, data_block, script

Array = NDArray[Any]
Bytes = NDArray[np.uint8]

MOST_VOXELS = 8_000_000  # of a volume in memory: 24 MB with its two label maps
MOST_CHARACTERS = 1_500_000  # of a volume in the page
WINDOW = (0.5, 99.5)  # percentiles of the image that become black and white
MARGIN = 0.25  # of the foreground's box, kept on either side of it where a volume is cropped

CONTROLS = """
<div class="bar">
<label>case <select class="case">{cases}</select></label>
<label><input type="checkbox" class="truth" checked> truth</label>
<label><input type="checkbox" class="prediction" checked> prediction</label>
<label>fill <input type="range" class="opacity" min="0" max="1" step="0.05" value="0.35"></label>
<label>level <input type="range" class="level" min="0" max="255" value="128"></label>
<label>window <input type="range" class="width" min="1" max="510" value="255"></label>
<button type="button" class="reset">reset</button>
</div>
<p class="state">The viewer needs JavaScript.</p>
<div class="planes"></div>
<p class="legend"></p>
<p class="readout"></p>
<p class="hint">Click or drag to move the lines, scroll or use the arrow keys for other slices; drag with the right
button (or Shift) for window and level; t and p switch the overlays, r resets the window.</p>
"""


@dataclass(frozen=True, eq=False)
class ViewerVolume:
    """A case as the viewer shows it; `ViewerVolume.of` makes it.

    Args:
        case: its id.
        score: the key metric.
        image: uint8 (X, Y, Z), `window[0]` as 0 and `window[1]` as 255.
        truth: uint8 class indices on the same grid.
        prediction: the same.
        affine: (4, 4), voxel index to RAS+ millimetres, its axes near to R, A and S; None for a stack of pages.
        window: values of the image.
        changes: what was done to make it small, such as "2 x 2 x 1 voxels drawn as one".
    """

    case: str
    score: float | None
    image: Bytes
    truth: Bytes
    prediction: Bytes
    affine: Array | None
    window: tuple[float, float]
    changes: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        case: str,
        image: Array,
        truth: Array,
        prediction: Array,
        affine: Array | None = None,
        score: float | None = None,
        most_voxels: int = MOST_VOXELS,
    ) -> ViewerVolume:
        """Turn a volume (X, Y, Z) of any type to RAS, its image to 8 bits, and what is larger to `most_voxels`."""
        if affine is not None:
            affine = np.asarray(affine, float)
            turn = nib.orientations.io_orientation(affine)
            affine = affine @ nib.orientations.inv_ornt_aff(turn, image.shape)
            image, truth, prediction = (nib.apply_orientation(array, turn) for array in (image, truth, prediction))
        window = _window(image)
        volume = cls(case, score, _grey(image, window), _labels(truth), _labels(prediction), affine, window)
        return volume.fitted(most_voxels)

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Distance between voxels along each axis, in mm; 1 for a stack of pages."""
        edges = np.ones(3) if self.affine is None else np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(edges[0]), float(edges[1]), float(edges[2])

    def fitted(self, most_voxels: int) -> ViewerVolume:
        """Return the volume with no more voxels: cropped around its foreground, then with several drawn as one."""
        if self.image.size <= most_voxels:
            return self
        cropped = self._cropped(most_voxels)
        factors = _factors(cropped.image.shape, cropped.spacing, most_voxels)
        return cropped._coarser(factors) if max(factors) > 1 else cropped

    def packed(self, most_characters: int = MOST_CHARACTERS) -> dict[str, Any]:
        """Return the volume for `viewer.js`, made so small that its voxels take no more than so many characters."""
        volume, most = self, float(self.image.size)
        while len(data := volume._deflated()) > most_characters:
            most *= 0.95 * most_characters / len(data)
            volume = self.fitted(int(most))
        return {
            "case": volume.case,
            "score": None if volume.score is None or not np.isfinite(volume.score) else float(volume.score),
            "shape": list(volume.image.shape),
            "spacing": volume.spacing,
            "affine": None if volume.affine is None else volume.affine[:3].tolist(),
            "window": volume.window,
            "changes": "; ".join(volume.changes.values()),
            "data": data,
        }

    def _deflated(self) -> str:
        """Image, truth and prediction one after the other, x fastest."""
        voxels = b"".join(array.tobytes(order="F") for array in self._arrays)
        return base64.b64encode(zlib.compress(voxels)).decode()

    def _cropped(self, most_voxels: int) -> ViewerVolume:
        """The foreground and as much around it, the same share of its box on every side, as there is room for."""
        foreground = (self.truth > 0) | (self.prediction > 0)
        if not foreground.any():
            return self
        share = MARGIN
        box = _box_around(foreground, share)
        while _size(wider := _box_around(foreground, 1.2 * share)) <= most_voxels:
            box, share = wider, 1.2 * share
        note = {"crop": "cropped around the foreground"}
        return self._changed([array[box] for array in self._arrays], [part.start for part in box], (1, 1, 1), note)

    def _coarser(self, factors: Sequence[int]) -> ViewerVolume:
        """The mean of the image's blocks, the labels in the middle of each."""
        arrays = []
        for array in self._arrays:
            wanted = [(-length % factor) for length, factor in zip(array.shape, factors, strict=True)]
            arrays.append(np.pad(array, [(0, more) for more in wanted], mode="edge"))
        blocks = [size for n, f in zip(arrays[0].shape, factors, strict=True) for size in (n // f, f)]
        image = np.rint(arrays[0].reshape(blocks).mean((1, 3, 5), dtype=np.float32)).astype(np.uint8)
        middle = tuple(slice(factor // 2, None, factor) for factor in factors)
        note = {"factors": " × ".join(map(str, factors)) + " voxels drawn as one"}
        labels = [array[middle] for array in arrays[1:]]
        return self._changed([image, *labels], [(factor - 1) / 2 for factor in factors], factors, note)

    @property
    def _arrays(self) -> tuple[Bytes, Bytes, Bytes]:
        return self.image, self.truth, self.prediction

    def _changed(
        self, arrays: Sequence[Bytes], start: Sequence[float], factors: Sequence[int], note: dict[str, str]
    ) -> ViewerVolume:
        """These arrays in place of the own ones; their first voxel lies at `start`, each is `factors` of the own."""
        affine = self.affine
        if affine is not None:
            change = np.diag([*map(float, factors), 1.0])
            change[:3, 3] = start
            affine = affine @ change
        image, truth, prediction = (array.copy() for array in arrays)  # a view would keep the whole alive
        changes = {**self.changes, **note}
        return replace(self, image=image, truth=truth, prediction=prediction, affine=affine, changes=changes)


def viewer(volumes: Sequence[ViewerVolume], classes: Sequence[str] = ()) -> Html:
    """Return three planes of each volume, with its truth and prediction as overlays that a reader switches.

    Args:
        volumes: the cases; a reader sees one at a time.
        classes: names by class index, the background first.
    """
    content = {
        "volumes": [volume.packed() for volume in volumes],
        "classes": list(classes),
        "colours": [_bytes(colour) for colour in figures.CLASSES],
        "differences": [_bytes(colour) for colour in (figures.RIGHT, figures.MISSED, figures.INVENTED)],
    }
    cases = "".join(f"<option>{escape(_named(volume))}</option>" for volume in volumes)
    return Html(
        f'<div class="viewer">{CONTROLS.format(cases=cases)}{data_block("viewer", content)}</div>\n'
        f"{script('volume.js', 'plane.js', 'viewer.js')}\n"
    )


def _bytes(colour: Sequence[float]) -> list[int]:
    return [round(255 * part) for part in colour]


def _named(volume: ViewerVolume) -> str:
    return volume.case if volume.score is None else f"{volume.case}: {volume.score:.4f}"


def _window(image: Array) -> tuple[float, float]:
    """Two percentiles, of every n-th voxel of a large image."""
    some = image[tuple(slice(None, None, max(length // 128, 1)) for length in image.shape)]
    some = some[np.isfinite(some)].astype(float)
    if not some.size:
        return 0.0, 1.0
    low, high = (float(value) for value in np.percentile(some, WINDOW))
    if low == high:  # a few bright voxels on a flat ground
        low, high = float(some.min()), float(some.max())
    return low, high if high > low else low + 1


def _grey(image: Array, window: tuple[float, float]) -> Bytes:
    """The image in 8 bits, a plane at a time, for a copy in floats would be large."""
    low, high = window
    grey = np.empty(image.shape, np.uint8)
    for index, plane in enumerate(image):
        part = (np.nan_to_num(plane.astype(np.float32), nan=low) - low) / (high - low)
        grey[index] = np.rint(255 * np.clip(part, 0, 1))
    return grey


def _box_around(foreground: NDArray[np.bool_], share: float) -> tuple[slice, ...]:
    """The box of the foreground, made wider on every side by a share of itself, four voxels at least."""
    box = []
    for axis, length in enumerate(foreground.shape):
        others = tuple(other for other in range(foreground.ndim) if other != axis)
        first, last = np.flatnonzero(foreground.any(axis=others))[[0, -1]].tolist()
        margin = max(round(share * (last - first + 1)), 4)
        box.append(slice(max(first - margin, 0), min(last + margin + 1, length)))
    return tuple(box)


def _size(box: Sequence[slice]) -> int:
    return math.prod(part.stop - part.start for part in box)


def _labels(labels: Array) -> Bytes:
    """Class indices in 8 bits; of more than 255 the 256th is the first again, so that none becomes the background."""
    labels = np.maximum(labels, 0)
    return np.where(labels > 255, (labels.astype(np.int64) - 1) % 255 + 1, labels).astype(np.uint8)


def _factors(shape: Sequence[int], spacing: Sequence[float], most_voxels: int) -> list[int]:
    """How many voxels of each axis become one: the finest axis is made coarser until there are few enough."""
    factors = [1] * len(shape)
    while math.prod(-(-length // factor) for length, factor in zip(shape, factors, strict=True)) > most_voxels:
        edges = [
            edge * factor if factor < length else np.inf
            for edge, factor, length in zip(spacing, factors, shape, strict=True)
        ]
        if np.isinf(min(edges)):
            break
        factors[int(np.argmin(edges))] += 1
    return factors
