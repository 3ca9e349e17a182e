"""When a network is compiled for its training."""

import pytest
import torch

from pipeline.errors import InputError
from pipeline.networks import compilation
from pipeline.networks.compilation import WORTHWHILE, is_worthwhile, operations
from pipeline.networks.sync_batch_norm import synchronised
from pipeline.networks.unet import UNet

SHAPE = (4, 1, 32, 32)


@pytest.fixture
def network():
    return UNet(2, 1, 2, [4, 8])


@pytest.fixture
def compiler(monkeypatch):
    """Return `there(is_there)`, which says whether there is a C++ compiler."""
    monkeypatch.delenv("CXX", raising=False)

    def there(is_there):
        monkeypatch.setattr(compilation.shutil, "which", lambda name: "/bin/c++" if is_there else None)

    there(True)
    return there


def test_operations_by_hand():
    network = torch.nn.Conv2d(3, 5, 3, padding=1)
    # A product and a sum for each of 3 x 3 x 3 weights, 5 channels, 2 x 8 x 8 pixels; twice more in the backward pass.
    assert operations(network, (2, 3, 8, 8)) == 3 * (2 * 27 * 5 * 128)


def test_counting_asks_no_other_process(monkeypatch):
    network = UNet(2, 1, 2, [4, 8], norm="batch")
    expected = operations(network, SHAPE)
    monkeypatch.setattr("torch.distributed.is_initialized", lambda: True)
    monkeypatch.setattr("torch.distributed.get_world_size", lambda: 2)  # and no group that could answer
    assert operations(synchronised(network), SHAPE) == expected
    assert operations(torch.nn.SyncBatchNorm.convert_sync_batchnorm(network), SHAPE) == expected


def test_counting_leaves_the_network_where_and_what_it_is(network):
    network.eval()
    operations(network, SHAPE)
    assert next(network.parameters()).device.type == "cpu"
    assert not network.training


@pytest.mark.parametrize(("times", "expected"), [(0.5, False), (2, True)])
def test_auto_compiles_what_is_long_enough(times, expected, network, compiler):
    iterations = int(times * WORTHWHILE["cpu"] / operations(network, SHAPE))
    for _ in range(2):  # also when asked again, as a resumed run does
        assert is_worthwhile("auto", network, SHAPE, iterations, "cpu") is expected


def test_never_by_itself_without_a_compiler(network, compiler):
    compiler(False)
    assert not is_worthwhile("auto", network, SHAPE, 10**12, "cpu")
    assert is_worthwhile(True, network, SHAPE, 1, "cpu"), "whoever asks for it is told by torch what is missing"


def test_an_open_size_is_never_compiled_by_itself(network, compiler):
    assert not is_worthwhile("auto", network, (4, 1, -1, -1), 10**12, "cpu")


@pytest.mark.parametrize(("choice", "expected"), [(True, True), ("True", True), ("true", True), (False, False)])
def test_the_users_word_counts(choice, expected, network):
    assert is_worthwhile(choice, network, SHAPE, 1, "cpu") is expected


def test_an_unknown_choice_is_an_error(network):
    with pytest.raises(InputError, match=r"compile='atuo' is unknown. Remedy: did you mean 'auto'"):
        is_worthwhile("atuo", network, SHAPE, 1, "cpu")
