import numpy as np
import pytest
import torch
from memory_volumes import ArrayReader

from pipeline.blockwise.file_grid import FileGrid
from pipeline.blockwise.network_image import NetworkImage
from pipeline.blockwise.single_tiles import tile_slabs
from pipeline.inferers.overlap_tile import OverlapTileInferer
from pipeline.inferers.slabs import joined
from pipeline.networks.unet import UNet


@pytest.mark.parametrize("padding", ["reflect", "replicate", "circular"])
@pytest.mark.parametrize("mirrored", [(), (2,), (2, 3)])
@pytest.mark.parametrize("shape", [(23, 31), (5, 40)])
def test_a_box_is_that_of_the_whole(padding, mirrored, shape):
    torch.manual_seed(0)
    network = UNet(spatial_dims=2, channels=(2, 3), padding="valid", out_channels=2).eval().requires_grad_(False)
    array = np.random.default_rng(0).normal(size=(1, *shape)).astype(np.float32)
    image = NetworkImage(ArrayReader(array), FileGrid.of(ArrayReader(array), None))
    tiling = OverlapTileInferer((4, 6), batch_size=1, padding=padding)
    batch = torch.from_numpy(array)[None]
    whole, _ = joined(tiling.slabs(batch, network, mirrored=mirrored), batch)
    assert whole.std() > 1e-3
    for box in [(slice(0, shape[0]), slice(0, shape[1])), (slice(2, 5), slice(7, 30)), (slice(4, 5), slice(29, 31))]:
        slabs = list(tile_slabs(tiling, network, image, box, mirrored))
        found = torch.cat([slab.logits for slab in slabs], 2)
        assert (slabs[0].start, slabs[-1].stop) == (box[0].start, box[0].stop)
        torch.testing.assert_close(found, whole[:, :, *box], rtol=1e-6, atol=1e-6)
