"""A made-up CT of a small body: three organs in world space, scanned in any orientation, with exact labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from pipeline.synthetic.cells import Seed, smooth_noise

LIVER, KIDNEY, VESSEL = 1, 2, 3
ORIENTATIONS = ("RAS", "LPS", "LAS", "RPI", "PSR", "ASL", "SRA")
AIR, FAT, TISSUE, BONE = -1000.0, -90.0, 40.0, 420.0  # Hounsfield units
ENHANCED = {LIVER: 120.0, KIDNEY: 185.0, VESSEL: 300.0}  # Hounsfield units with contrast agent

Floats = NDArray[np.float64]


class Scan(NamedTuple):
    """A volume of int16 Hounsfield units (X, Y, Z), its uint8 labels and the 4 x 4 affine, voxel to RAS+ mm."""

    volume: NDArray[np.int16]
    labels: NDArray[np.uint8]
    affine: Floats


def make_organs(seed: Seed, shape: tuple[int, int, int] = (64, 64, 32), orientation: str | None = None) -> Scan:
    """Scan one body: a liver on its right (1), a kidney on either side (2) and a curved vessel before the spine (3).

    The body stands still in world space (mm, RAS+) and the grid is laid through it: in-plane spacing 0.8 to 1.2 mm,
    slices of 2 to 4 mm, tilted by up to 15 degrees, then its axes permuted and flipped to `orientation`.

    Args:
        seed: an integer or several; equal seeds give equal scans.
        shape: voxels left to right, back to front and along the body, before the axes are permuted.
        orientation: where the three array axes point, as in nibabel ("RAS"); by default one of `ORIENTATIONS`.
    """
    rng = np.random.default_rng(seed)
    drawn = ORIENTATIONS[rng.integers(len(ORIENTATIONS))]
    spacing = np.array([*[rng.uniform(0.8, 1.2)] * 2, rng.uniform(2, 4)])
    affine = np.eye(4)
    affine[:3, :3] = _rotation(rng.uniform(-1, 1, 3), np.radians(rng.uniform(0, 15))) * spacing
    affine[:3, 3] = rng.uniform(-2, 2, 3) - affine[:3, :3] @ (np.array(shape) - 1) / 2
    world = np.einsum("ij,j...->i...", affine[:3, :3], np.indices(shape)) + affine[:3, 3, None, None, None]
    body, labels = _anatomy(rng, world)
    volume = _expose(rng, body)
    turn = nib.orientations.ornt_transform(
        nib.orientations.axcodes2ornt("RAS"), nib.orientations.axcodes2ornt(orientation or drawn)
    )
    affine = affine @ nib.orientations.inv_ornt_aff(turn, shape)
    volume, labels = (np.ascontiguousarray(nib.orientations.apply_orientation(a, turn)) for a in (volume, labels))
    return Scan(volume, labels, affine)


def _rotation(axis: Sequence[float] | Floats, angle: float) -> Floats:
    """Rodrigues' formula: R = I + sin(a) K + (1 - cos(a)) K K for the cross product matrix K of the unit axis."""
    x, y, z = np.asarray(axis) / np.linalg.norm(axis)
    K = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + np.sin(angle) * K + (1 - np.cos(angle)) * K @ K


def _anatomy(rng: np.random.Generator, world: Floats) -> tuple[Floats, NDArray[np.uint8]]:
    """Hounsfield units and labels at the world coordinates (3, ...) in mm; the body's middle is the origin."""
    size = rng.uniform(0.92, 1.08)
    x, y, z = world / size
    waves = [smooth_noise(rng, x.shape, 5) for _ in range(2)]

    def blob(centre: Sequence[float], radii: Sequence[float], wave: Floats) -> NDArray[np.bool_]:
        shift = rng.normal(0, 0.8, 3)
        squares = (((p - c - s) / r) ** 2 for p, c, s, r in zip((x, y, z), centre, shift, radii, strict=True))
        return sum(squares) < 1 + 0.12 * wave

    outline = np.hypot(x / 24, y / 19)
    hu = np.select([outline < 0.88, outline < 1], [TISSUE, FAT], AIR)
    curve = 3 * np.sin(z / 18 + rng.uniform(-0.5, 0.5))  # the spine's bend, mm; the vessel follows it
    hu[np.hypot(x, y + 11 - curve) < 3.6 + 0.6 * np.cos(z / 1.6)] = BONE
    labels = np.zeros(x.shape, np.uint8)
    labels[blob((10, 3, 8), (11, 11, 19), waves[0]) & (outline < 0.84)] = LIVER
    for side in (-1, 1):
        labels[blob((12.5 * side, -6.5, -16 - 2 * side), (4.6, 4.4, 11), waves[1]) & (labels == 0)] = KIDNEY
    labels[np.hypot(x + 1.5 + 0.5 * curve, y + 3.5 - curve) < 2.4] = VESSEL
    for label, enhanced in ENHANCED.items():
        hu[labels == label] = enhanced + rng.normal(0, 8)
    return hu, labels


def _expose(rng: np.random.Generator, hu: Floats) -> NDArray[np.int16]:
    """What the scanner makes of it: blur, a slow shading of about 1.5 % of the attenuation, noise of 22 HU."""
    attenuation = ndimage.gaussian_filter(hu - AIR, (0.5, 0.5, 0.35))
    shading = 1 + 0.015 * smooth_noise(rng, hu.shape, min(hu.shape) / 3).clip(-2, 2)
    noisy = AIR + attenuation * shading + rng.normal(0, 22, hu.shape)
    return np.rint(noisy.clip(-1024, 3071)).astype(np.int16)
