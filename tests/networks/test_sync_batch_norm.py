"""Batch norm over ranks is batch norm over the batch of all."""

import pytest
import torch
from forked_ranks import in_ranks
from torch import nn

from pipeline import ranks
from pipeline.networks.sync_batch_norm import SyncBatchNorm, synchronised
from pipeline.networks.unet import UNet

SHARES = (3, 1, 2)  # samples of each rank


def whole(dims):
    torch.manual_seed(0)
    return 3 + 2 * torch.randn(sum(SHARES), 4, *[5] * dims), torch.randn(sum(SHARES), 4, *[5] * dims)


def network_of(dims, momentum=0.1):
    torch.manual_seed(1)
    norm = (nn.BatchNorm2d if dims == 2 else nn.BatchNorm3d)(4, momentum=momentum)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    return nn.Sequential(norm)


def trained(network, image, direction):
    """Two steps' outputs, the gradients of `sum(output * direction)`, and what the network keeps."""
    image = image.clone().requires_grad_()
    for _ in range(2):
        output = network(image)
    (output * direction).sum().backward()
    gradients = [image.grad, *(parameter.grad for parameter in network.parameters())]
    return output.detach(), gradients, network.state_dict()


def of_rank(dims, momentum):
    network = synchronised(network_of(dims, momentum))
    assert isinstance(network[0], SyncBatchNorm)
    begin = sum(SHARES[: ranks.rank()])
    own = slice(begin, begin + SHARES[ranks.rank()])
    return trained(network, *(part[own] for part in whole(dims)))


@pytest.mark.parametrize(("dims", "momentum"), [(2, 0.1), (3, None)])
def test_three_ranks_with_unequal_shares_are_one_batch(dims, momentum):
    found = in_ranks(3, of_rank, dims, momentum)
    output, gradients, state = trained(network_of(dims, momentum), *whole(dims))
    close = {"rtol": 1e-4, "atol": 1e-5}
    torch.testing.assert_close(torch.cat([part for part, *_ in found]), output, **close)
    torch.testing.assert_close(torch.cat([part[0] for _, part, _ in found]), gradients[0], **close)
    for number in (1, 2):  # weight and bias, whose gradients DistributedDataParallel adds
        torch.testing.assert_close(sum(part[number] for _, part, _ in found), gradients[number], **close)
    for *_, kept in found:
        assert kept.keys() == state.keys()
        for name, value in state.items():
            torch.testing.assert_close(kept[name], value, **close)


def test_a_network_keeps_its_weights_and_answers_as_before():
    torch.manual_seed(0)
    network = UNet(channels=(4, 6), norm="batch").eval()
    state, image = {name: value.clone() for name, value in network.state_dict().items()}, torch.randn(1, 1, 16, 16)
    expected, parameters = network(image), list(network.parameters())
    assert synchronised(network) is network
    assert [type(part) for part in network.modules()].count(SyncBatchNorm) == 6
    assert all(ours is theirs for ours, theirs in zip(network.parameters(), parameters, strict=True))
    assert list(network.state_dict()) == list(state)
    assert torch.equal(network(image), expected)
    network.train()(image)  # alone, it is what it was
    assert network.state_dict()["first.norm1.num_batches_tracked"] == 1
