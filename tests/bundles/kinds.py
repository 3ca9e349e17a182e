"""The two bundles, and what is small and takes seconds for each."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import nibabel as nib
import numpy as np
import tifffile
from blobs import UNET3D, small_training_3d
from discs import UNET, small_training


class Kind(NamedTuple):
    """A bundle.

    Args:
        root: its folder.
        data: the fixture with data for it.
        trained: the fixture with a run of it.
        small: overrides that make a training small.
        image_size: of an image that its network takes.
        pattern: finds its label maps.
        read: reads one.
        other_data: overlays that do not fit the data.
    """

    root: Path
    data: str
    trained: str
    small: Callable[[Path], dict]
    image_size: tuple[int, ...]
    pattern: str
    read: Callable[[Path], np.ndarray]
    other_data: tuple[str, ...]

    @property
    def configs(self):
        return self.root / "configs"

    @property
    def overlays(self):
        return sorted(file.name for file in self.configs.glob("*.yaml"))


def read_nifti(file):
    return np.asarray(nib.load(file).dataobj)


UNET_KIND = Kind(
    root=UNET,
    data="discs",
    trained="trained",
    small=small_training,
    image_size=(48, 40),
    pattern="*.tif",
    read=tifffile.imread,
    other_data=("data_dsb2018.yaml", "data_isbi2012.yaml", "net_keras3.yaml"),
)
UNET3D_KIND = Kind(
    root=UNET3D,
    data="blobs",
    trained="trained_3d",
    small=small_training_3d,
    image_size=(16, 20, 12),
    pattern="*.nii.gz",
    read=read_nifti,
    other_data=("data_hippocampus.yaml",),
)
KINDS = {"unet": UNET_KIND, "unet3d": UNET3D_KIND}
