"""A made-up microscopy field: touching cells under uneven light, with their exact instance labels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

FIELD = 256  # pixels: sizes below are those of a field of 256 x 256
OFFSET = 420.0  # camera offset: what a pixel reads in the dark
GAIN = 14.0  # grey levels for each photon
READ_NOISE = 18.0  # grey levels

Seed = int | Sequence[int]
Floats = NDArray[np.float64]


def make_cells(
    seed: Seed, shape: tuple[int, int] = (FIELD, FIELD), n_cells: int | None = None, slide: Seed | None = None
) -> tuple[NDArray[np.uint16], NDArray[np.uint16]]:
    """Draw one field: (image (H, W), instances (H, W)), both uint16; 0 is background, cells are 1..n.

    image = offset + gain * Poisson(light * PSF(background + debris + cells)) + read noise. Cells of one cluster touch
    without a gap, and their common border is dim at best.

    Args:
        seed: an integer or several; equal seeds give equal pictures.
        shape: height and width in pixels, at least 64 each.
        n_cells: how many cells to place (a few may vanish below others); by default 30 to 55 for each 256 x 256 pixels.
        slide: seed of what the fields of one slide share, light and stain; by default drawn from `seed`.
    """
    rng = np.random.default_rng(seed)
    of_slide = np.random.default_rng(slide) if slide is not None else rng
    light, stain, haze = _light(of_slide, shape), of_slide.uniform(0.8, 1.25), of_slide.uniform(13, 19)
    if n_cells is None:
        n_cells = max(1, round(rng.integers(30, 56) * shape[0] * shape[1] / FIELD**2))
    instances = _draw_instances(rng, shape, n_cells)
    photons = light * ndimage.gaussian_filter(haze + _debris(rng, shape) + stain * _glow(rng, instances), 1.2)
    image = OFFSET + GAIN * rng.poisson(photons) + rng.normal(0, READ_NOISE, shape)
    return np.clip(np.rint(image), 0, 65535).astype(np.uint16), instances


def smooth_noise(rng: np.random.Generator, shape: Sequence[int], sigma: float) -> Floats:
    """Gaussian noise of correlation length `sigma` pixels, mean 0 and standard deviation 1."""
    noise = ndimage.gaussian_filter(rng.standard_normal(shape), sigma, mode="wrap")
    return (noise - noise.mean()) / noise.std()


def _light(rng: np.random.Generator, shape: tuple[int, int]) -> Floats:
    """A lamp off the axis, a slow unevenness and the dark corners of a lens: factors of about 0.2 to 1.3."""
    y, x = np.meshgrid(*(np.linspace(-1, 1, size) for size in shape), indexing="ij")
    angle = rng.uniform(0, 2 * np.pi)
    tilt = 1 + 0.45 * (x * np.cos(angle) + y * np.sin(angle))
    bumps = 1 + 0.12 * smooth_noise(rng, shape, min(shape) / 6).clip(-2, 2)
    return tilt * bumps * (1 - 0.25 * (x**2 + y**2))


def _place(rng: np.random.Generator, shape: tuple[int, int], n_cells: int) -> tuple[Floats, Floats]:
    """Centres (n, 2) and mean radii (n,): most cells lie against one that was placed before."""
    centres, radii = np.empty((n_cells, 2)), rng.uniform(9, 15, n_cells)
    for cell in range(n_cells):
        best, room = np.zeros(2), -np.inf
        for _ in range(12):
            if cell and rng.random() < 0.8:
                host, angle = rng.integers(cell), rng.uniform(0, 2 * np.pi)
                step = rng.uniform(0.8, 0.95) * (radii[host] + radii[cell])
                point = centres[host] + step * np.array([np.sin(angle), np.cos(angle)])
            else:
                point = rng.uniform(0, shape)
            if not (0 <= point[0] < shape[0] and 0 <= point[1] < shape[1]):
                continue
            # Of twelve tries the one wins that keeps furthest from its neighbours, up to a slight overlap.
            gap = np.linalg.norm(centres[:cell] - point, axis=1) / (radii[:cell] + radii[cell])
            if (free := min(gap.min(initial=9), 0.85)) > room:
                best, room = point, free
        centres[cell] = best
    return centres, radii


def _draw_instances(rng: np.random.Generator, shape: tuple[int, int], n_cells: int) -> NDArray[np.uint16]:
    """Each pixel goes to the cell whose outline it lies deepest in, so neighbours meet in one line."""
    depth, labels = np.ones(shape), np.zeros(shape, np.uint16)
    for label, (centre, radius) in enumerate(zip(*_place(rng, shape, n_cells), strict=True), 1):
        low = np.maximum(centre - 2 * radius, 0).astype(int)
        high = np.minimum(centre + 2 * radius, shape).astype(int)
        window = (slice(low[0], high[0]), slice(low[1], high[1]))
        own = _wavy_ellipse(rng, radius, *(np.mgrid[window] - centre[:, None, None]))
        deeper = own < depth[window]
        depth[window][deeper], labels[window][deeper] = own[deeper], label
    return _whole(labels)


def _wavy_ellipse(rng: np.random.Generator, radius: float, y: Floats, x: Floats) -> Floats:
    """Distance from the centre in units of the way to the outline: 0 in the middle, 1 on the outline."""
    turn, stretch = rng.uniform(0, np.pi), rng.uniform(1, 1.3)
    u, v = x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)
    angle, outline = np.arctan2(v, u), np.full(x.shape, radius)
    for waves, height in ((2, 0.08), (3, 0.05), (5, 0.03)):
        outline += radius * rng.normal(0, height) * np.cos(waves * angle + rng.uniform(0, 2 * np.pi))
    return np.hypot(u / stretch, v * stretch) / outline


def _whole(labels: NDArray[np.uint16], smallest: int = 40) -> NDArray[np.uint16]:
    """Keep each label's largest piece if it has `smallest` pixels or more, and number what is left 1..n."""
    kept, count = np.zeros_like(labels), 0
    for label, window in enumerate(ndimage.find_objects(labels), 1):
        if window is None:
            continue
        pieces, _ = ndimage.label(labels[window] == label)
        sizes = np.bincount(pieces.ravel())[1:]
        if sizes.max() >= smallest:
            count += 1
            kept[window][pieces == sizes.argmax() + 1] = count
    return kept


def _glow(rng: np.random.Generator, instances: NDArray[np.uint16]) -> Floats:
    """Photons out of the cells: one brightness each, thinner at the rim, grainy, dim where two cells meet."""
    shape, n_cells = instances.shape, int(instances.max())
    brightness = np.concatenate([[0], rng.lognormal(np.log(38), 0.3, n_cells).clip(22, 90)])[instances]
    thickness = ndimage.distance_transform_edt(np.pad(instances > 0, 1))[1:-1, 1:-1]
    dome = 0.6 + 0.4 * (1 - np.exp(-thickness / 5))
    grain = 1 + 0.16 * smooth_noise(rng, shape, 1.6) + 0.08 * smooth_noise(rng, shape, 5)
    lowest = ndimage.minimum_filter(np.where(instances > 0, instances, n_cells + 1), 3)
    meeting = (instances > 0) & ((ndimage.maximum_filter(instances, 3) > instances) | (lowest < instances))
    # Along a border the dimming comes and goes: from nothing to about a third.
    seam = 0.35 * ndimage.gaussian_filter(meeting.astype(float), 1.0) * smooth_noise(rng, shape, 8).clip(0, 1.5)
    return brightness * dome * grain.clip(0.4, 1.8) * (1 - seam)


def _debris(rng: np.random.Generator, shape: tuple[int, int]) -> Floats:
    """Photons out of what is no cell: sharp specks as bright as a cell, and wide faint blurs out of focus."""
    field = np.zeros(shape)
    density = shape[0] * shape[1] / FIELD**2
    for count, width, bright in ((14, 1.2, (250, 1000)), (4, 7.0, (3000, 9000))):
        dots = np.zeros(shape)
        for _ in range(rng.poisson(count * density)):
            dots[tuple(rng.integers(0, shape))] += rng.uniform(*bright)
        field += ndimage.gaussian_filter(dots, width)
    return field
