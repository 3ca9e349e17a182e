"""Whether a network, the crops that it is trained on and the inferer of whole images fit together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from monai.inferers import SimpleInferer, SlidingWindowInferer

from pipeline.errors import InputError, raise_all
from pipeline.inferers.averaged import AveragedInferer
from pipeline.inferers.overlap_tile import OverlapTileInferer


def check_sizes(network: Any, crop_size: Sequence[int] | None, inferer: Any) -> None:
    """Raise one InputError with all that would end a training or a prediction in its course.

    A network of valid convolutions takes certain sizes only and predicts less than it sees, so it needs crops of such a
    size and tiles that overlap; one that pads needs tiles that are blended. A network that does not tell its sizes
    (`output_size`, `margin`) is not checked.

    Args:
        network: the network itself, such as `pipeline.networks.unet.UNet`.
        crop_size: voxels per axis that the training sees; None where nothing is trained.
        inferer: predicts whole images, directly or inside an `AveragedInferer`.
    """
    if not hasattr(network, "output_size"):
        return
    problems = []
    while isinstance(inferer, AveragedInferer):
        inferer = inferer.inferer
    if any(network.margin) and isinstance(inferer, SimpleInferer | SlidingWindowInferer):
        reason = f"tiling: {type(inferer).__name__} cannot put together what a network with padding='valid' predicts"
        remedy = "set tiling to pipeline.inferers.overlap_tile.OverlapTileInferer, as net_paper.yaml does"
        problems.append(InputError(reason, remedy=remedy))
    if not any(network.margin) and isinstance(inferer, OverlapTileInferer):
        reason = "tiling: OverlapTileInferer blends nothing, and this network fills up the border of each tile"
        remedy = "set tiling to pipeline.inferers.sliding_window.SlidingWindow, or network_def#padding to valid"
        problems.append(InputError(reason, remedy=remedy))
    if crop_size is not None:
        try:
            network.output_size(crop_size)
        except InputError as error:
            problems.append(InputError(f"crop_size: {error.reason}", remedy=error.remedy))
    raise_all(problems, "network_def, crop_size and tiling do not fit together")


def beyond(network: Any) -> list[int]:
    """Return by how many voxels, per axis, the image must reach beyond each end of what a network predicts of it.

    Crops that may reach so far beyond the image let its border be learnt as often as its centre: 92 in the paper, 0 for
    a network that pads or does not tell its `margin`.
    """
    return [cut // 2 for cut in getattr(network, "margin", (0,))]
