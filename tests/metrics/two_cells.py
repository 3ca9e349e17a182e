"""Two cells and what can go wrong with them: the pairs of truth and prediction that the measures meet."""

import numpy as np


def draw(sketch: str) -> np.ndarray:
    """Turn rows of `.` and digits into an array of ids; `#` is 1."""
    return np.array([[int(c.replace(".", "0").replace("#", "1")) for c in row] for row in sketch.split()])


TRUTH = draw("""
    .........
    .###.###.
    .###.###.
    .###.###.
    .###.###.
    .###.###.
    .........
""")


def changed(rows, columns, value) -> np.ndarray:
    """Return the truth with `value` in the given rows and columns."""
    prediction = TRUTH.copy()
    prediction[rows, columns] = value
    return prediction


PREDICTIONS = {
    "identical": TRUTH,
    "merged by a pixel": changed(3, 4, 1),
    "merged along the border": changed(slice(1, 6), 4, 1),
    "left cell split": changed(slice(1, 6), 2, 0),
    "left cell thinner": changed(slice(None), 1, 0),
    "left cell removed": changed(slice(None), slice(0, 4), 0),
    "hole in the left cell": changed(3, 2, 0),
    "shifted by one column": np.roll(TRUTH, 1, axis=1),
    "all cell": np.ones_like(TRUTH),
    "empty": np.zeros_like(TRUTH),
}


def stack(*slices: np.ndarray) -> np.ndarray:
    """Put slices on top of one another."""
    return np.stack(slices)


def cells_and_probability(
    seed: int, size: int = 96, cell_size: int = 150, noise: float = 0.7
) -> tuple[np.ndarray, np.ndarray]:
    """Return a field of cells with membranes between, and a noisy P(cell) of it with splits, merges and soft borders.

    `cell_size` is what a cell and its membrane take, in pixels.
    """
    from scipy import ndimage

    random = np.random.default_rng(seed)
    points = random.uniform(0, size, (size * size // cell_size, 2))
    rows, columns = np.mgrid[:size, :size]
    distances = np.sort(np.hypot(rows[..., None] - points[:, 0], columns[..., None] - points[:, 1]), axis=-1)
    truth = distances[..., 1] - distances[..., 0] > 2.5
    noisy = truth + random.normal(0, noise, truth.shape)
    return truth, ndimage.gaussian_filter(noisy, 1.2).clip(0, 1)
