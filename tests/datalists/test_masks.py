"""A mask has two values, whichever they are and however they are stored; anything else is refused."""

import numpy as np
import pytest
from layout_files import drawn, png, tif
from PIL import Image

from pipeline.datalists.masks import read_mask
from pipeline.errors import InputError

MASK = drawn("0110", "0100", "0000")


@pytest.mark.parametrize(
    "stored",
    [
        MASK,
        MASK * 255,
        MASK.astype(bool),
        np.dstack([MASK * 255] * 3),
        np.dstack([MASK * 255] * 3 + [np.full_like(MASK, 255)]),
        MASK.astype(np.uint16) * 65535,
    ],
    ids=["0 and 1", "0 and 255", "1 bit", "RGB", "RGBA", "16 bit"],
)
def test_two_values_are_a_mask(stored, tmp_path):
    read = read_mask(png(tmp_path / "a.png", stored))
    assert read.dtype == bool
    assert np.array_equal(read, MASK == 1)


@pytest.mark.parametrize("value", [0, 255])
def test_a_mask_may_have_one_value(value, tmp_path):
    assert (read_mask(png(tmp_path / "a.png", np.full_like(MASK, value))) == bool(value)).all()


def test_a_stack_of_masks(tmp_path):
    assert np.array_equal(read_mask(tif(tmp_path / "a.tif", np.stack([MASK, 1 - MASK])), 3), [MASK == 1, MASK == 0])


def test_the_indices_of_a_palette_are_a_label(tmp_path):
    picture = Image.fromarray(MASK * 7, "P")
    picture.putpalette([0, 0, 0] * 7 + [255, 0, 0])
    picture.save(tmp_path / "a.png")
    assert np.array_equal(read_mask(tmp_path / "a.png", kind="label"), MASK == 1)
    with pytest.raises(InputError, match="palette"):
        read_mask(tmp_path / "a.png")


@pytest.mark.parametrize(
    ("stored", "shown"),
    [
        (MASK * 254 + drawn("0000", "0000", "0001"), "it has 0, 1, 254"),
        (MASK + 1, "it has 1, 2"),
        (np.arange(12, dtype=np.uint8).reshape(3, 4), "it has 0, 1, 2, 3, 4, 5, ..."),
        (np.dstack([MASK * 255, MASK * 0, MASK * 0]), "it has 0, 255"),
    ],
    ids=["smooth edge", "no zero", "many", "red"],
)
def test_anything_else_is_refused(stored, shown, tmp_path):
    with pytest.raises(InputError) as caught:
        read_mask(png(tmp_path / "a.png", stored), case="a")
    assert shown in str(caught.value)
    assert str(caught.value).startswith(f"case 'a', file '{tmp_path}/a.png': is no mask")
