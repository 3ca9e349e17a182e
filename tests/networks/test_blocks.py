import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from pipeline.errors import InputError
from pipeline.networks.blocks import (
    ConvBlock,
    Down,
    Level,
    Trim,
    Up,
    activation_layer,
    check_choice,
    extrapolated,
    he_initialise,
    norm_layer,
    upsampling,
)


def ones(module: nn.Module, bias: float = 0.0) -> nn.Module:
    """The module with every weight 1 and every bias the same."""
    for name, parameter in module.named_parameters():
        nn.init.constant_(parameter, bias if name.endswith("bias") else 1.0)
    return module


# ConvBlock: with weights of 1, each voxel becomes the sum over its 3x3 neighbourhood, twice.


def test_valid_convolutions_of_ones():
    block = ones(ConvBlock(2, 1, 1, kernel_size=(3, 3), padding="valid"))
    out = block(torch.ones(1, 1, 7, 6))
    torch.testing.assert_close(out, torch.full((1, 1, 3, 2), 81.0))


def test_same_convolutions_see_zeros_beyond_the_border():
    block = ones(ConvBlock(2, 1, 1, kernel_size=(3, 3)))
    out = block(torch.ones(1, 1, 3, 3))[0, 0]
    # after the first:  4 6 4
    #                   6 9 6
    #                   4 6 4   (sum 49)
    torch.testing.assert_close(out, torch.tensor([[25.0, 35.0, 25.0], [35.0, 49.0, 35.0], [25.0, 35.0, 25.0]]))


def test_second_convolution_sees_all_channels_of_the_first():
    block = ones(ConvBlock(2, 2, 5, kernel_size=(1, 1)))
    torch.testing.assert_close(block(torch.ones(1, 2, 1, 1)), torch.full((1, 5, 1, 1), 10.0))  # 2 channels, then 5


def test_activation_follows_each_convolution():
    block = ones(ConvBlock(2, 1, 1, kernel_size=(1, 1)), bias=-2.0)
    # 1 - 2 < 0 -> 0, 0 - 2 < 0 -> 0;   5 - 2 = 3, 3 - 2 = 1
    torch.testing.assert_close(block(torch.tensor([[[[1.0, 5.0]]]])), torch.tensor([[[[0.0, 1.0]]]]))


def test_kernel_of_each_axis():
    block = ConvBlock(3, 1, 4, kernel_size=(1, 3, 5), padding="valid")
    assert block(torch.zeros(2, 1, 6, 6, 10)).shape == (2, 4, 6, 2, 2)


def test_kernel_of_the_first_convolution():
    block = ConvBlock(2, 1, 4, kernel_size=(3, 3), first_kernel=(7, 5), padding="valid")
    assert block(torch.zeros(1, 1, 12, 12)).shape == (1, 4, 4, 6)  # 12 - 6 - 2 and 12 - 4 - 2
    same = ConvBlock(2, 1, 4, kernel_size=(3, 3), first_kernel=(7, 5))
    assert same(torch.zeros(1, 1, 12, 12)).shape == (1, 4, 12, 12)


def test_refinement_comes_last():
    block = ones(ConvBlock(2, 1, 1, kernel_size=(1, 1), refine=nn.Threshold(2.5, -1)))
    torch.testing.assert_close(block(torch.tensor([[[[2.0, 3.0]]]])), torch.tensor([[[[-1.0, 3.0]]]]))


def test_convolution_has_no_bias_under_a_norm():
    assert ConvBlock(2, 1, 4, kernel_size=(3, 3), norm="batch").conv2.bias is None
    assert ConvBlock(2, 1, 4, kernel_size=(3, 3)).conv2.bias is not None


def test_dropout_in_training_only():
    torch.manual_seed(0)
    block = ones(ConvBlock(2, 1, 1, kernel_size=(1, 1), dropout=0.25))
    x = torch.ones(1, 1, 100, 100)
    out = block(x)
    assert out.unique().tolist() == pytest.approx([0, 1 / 0.75])  # what stays is enlarged, to keep the mean
    assert (out == 0).float().mean().item() == pytest.approx(0.25, abs=5 * math.sqrt(0.25 * 0.75 / 10_000))
    torch.testing.assert_close(block.eval()(x), x)


# Down and Up, with identities in place of convolutions.


def test_down_leaves_no_voxel_out():
    x = torch.tensor([[1.0, 0, 0, 0, 2], [0, 0, 3, 0, 0], [0, 4, 0, 0, 5]])
    out = Down(2, (2, 2), nn.Identity())(x[None, None])[0, 0]
    torch.testing.assert_close(out, torch.tensor([[1.0, 3, 2], [4, 0, 5]]))


def test_down_with_a_stride_per_axis():
    assert Down(3, (1, 2, 3), nn.Identity())(torch.zeros(1, 1, 4, 4, 9)).shape == (1, 1, 4, 2, 3)


def test_up_joins_same_maps_at_their_corner():
    up = Up(nn.Upsample(scale_factor=2), nn.Identity())
    skip = torch.arange(15.0).reshape(1, 1, 3, 5)
    out = up(torch.tensor([[[[1.0, 2, 3], [4, 5, 6]]]]), skip)
    expected = torch.tensor([[1.0, 1, 2, 2, 3], [1, 1, 2, 2, 3], [4, 4, 5, 5, 6]])
    torch.testing.assert_close(out, torch.stack([skip[0, 0], expected])[None])


def test_up_joins_valid_maps_at_their_centre():
    up = Up(nn.Upsample(scale_factor=2), nn.Identity(), padding="valid")
    skip = torch.arange(24.0).reshape(1, 1, 4, 6)
    out = up(torch.tensor([[[[1.0, 2]]]]), skip)
    # rows 1..2 and columns 1..4 of the 4 x 6
    expected = torch.tensor([[[7.0, 8, 9, 10], [13, 14, 15, 16]], [[1, 1, 2, 2], [1, 1, 2, 2]]])
    torch.testing.assert_close(out, expected[None])


def test_trim():
    x = torch.arange(12.0).reshape(1, 1, 3, 4)
    torch.testing.assert_close(Trim((1, 0))(x), x[:, :, 1:2, :])
    torch.testing.assert_close(Trim((0, 1))(x), x[:, :, :, 1:3])


# Up-sampling.


def test_deconvolution_places_one_kernel_per_voxel():
    torch.manual_seed(0)
    layer = upsampling(2, 3, 2, stride=(2, 3))
    x = torch.randn(1, 3, 4, 5)
    out = layer(x)
    assert out.shape == (1, 2, 8, 15)
    for channel, row, column in [(0, 0, 0), (1, 5, 7), (1, 7, 14), (0, 2, 11)]:
        weights = layer.weight[:, channel, row % 2, column % 3]
        value = layer.bias[channel] + (weights * x[0, :, row // 2, column // 3]).sum()
        torch.testing.assert_close(out[0, channel, row, column], value)


@pytest.mark.parametrize(
    ("dims", "mode", "torch_mode"),
    [
        (2, "nearest", "nearest"),
        (3, "nearest", "nearest"),
        (2, "linear", "bilinear"),
        (3, "linear", "trilinear"),
        (2, "cubic", "bicubic"),
    ],
)
def test_interpolation_before_or_after_the_convolution_is_the_same(dims, mode, torch_mode):
    torch.manual_seed(0)
    layer = upsampling(dims, 3, 2, stride=(2,) * dims, mode=mode)
    x = torch.randn(1, 3, *(3, 4, 5)[:dims])
    torch.testing.assert_close(layer(x), layer[0](functional.interpolate(x, scale_factor=2, mode=torch_mode)))


@pytest.mark.parametrize("stride", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("mode", ["deconv", "nearest", "linear", "cubic"])
def test_extrapolated_voxels_are_those_that_more_context_changes(mode, stride):
    torch.manual_seed(0)
    layer = upsampling(2, 1, 1, stride=(1, stride), mode=mode).double()
    whole = torch.randn(1, 1, 1, 30, dtype=torch.double)
    part = layer(whole[..., 10:20])
    same = torch.isclose(part, layer(whole)[..., 10 * stride : 20 * stride])[0, 0, 0].tolist()
    changed = [index for index, equal in enumerate(same) if not equal]
    cut = extrapolated(mode, stride)
    # Between the outermost ones an odd stride meets some voxels exactly, which are copied.
    assert changed[:1] + changed[-1:] == ([0, 10 * stride - 1] if cut else [])
    assert max([index for index in changed if index < 5 * stride], default=-1) == cut - 1
    assert min([index for index in changed if index > 5 * stride], default=10 * stride) == 10 * stride - cut


def test_valid_upsampling_trims_what_is_extrapolated():
    x = torch.randn(1, 2, 4, 4)
    assert upsampling(2, 2, 1, stride=(2, 2), mode="cubic", padding="valid")(x).shape == (1, 1, 2, 2)
    assert upsampling(2, 2, 1, stride=(1, 2), mode="linear", padding="valid")(x).shape == (1, 1, 4, 6)
    assert upsampling(2, 2, 1, stride=(2, 2), mode="nearest", padding="valid")(x).shape == (1, 1, 8, 8)


@pytest.mark.parametrize("mode", ["deconv", "linear"])
def test_norm_after_the_upsampling(mode):
    torch.manual_seed(0)
    layer = upsampling(2, 3, 4, stride=(2, 2), mode=mode, padding="valid", norm=("instance", {"eps": 0.0}))
    out = layer(torch.randn(1, 3, 5, 6)).flatten(2)
    torch.testing.assert_close(out.mean(2), torch.zeros(1, 4))
    torch.testing.assert_close(out.var(2, correction=0), torch.ones(1, 4))
    assert layer[0].bias is None  # the norm has its own


# Normalisation and activation.


@pytest.mark.parametrize("name", ["batch", "instance", "group"])
def test_norms_learn_scale_and_shift(name):
    layer = norm_layer(name, 2, 16)
    assert [tuple(parameter.shape) for parameter in layer.parameters()] == [(16,), (16,)]
    assert layer(torch.randn(2, 16, 3, 3)).shape == (2, 16, 3, 3)


@pytest.mark.parametrize(("channels", "groups"), [(32, 8), (12, 4), (6, 2), (5, 1)])
def test_groups_by_default(channels, groups):
    assert norm_layer("group", 3, channels).num_groups == groups


def test_norm_arguments_win():
    assert norm_layer(("group", {"num_groups": 4}), 2, 16).num_groups == 4
    assert norm_layer(["INSTANCE", {"affine": False}], 3, 16).weight is None


def test_instance_norm_by_hand():
    out = norm_layer(("instance", {"eps": 0.0}), 2, 1)(torch.tensor([[[[1.0, 3.0]]]]))
    torch.testing.assert_close(out, torch.tensor([[[[-1.0, 1.0]]]]))  # mean 2, standard deviation 1


def test_activation_by_hand():
    x = torch.tensor([-2.0, 3.0])
    torch.testing.assert_close(activation_layer("relu")(x), torch.tensor([0.0, 3.0]))
    torch.testing.assert_close(activation_layer(("LeakyReLU", {"negative_slope": 0.5}))(x), torch.tensor([-1.0, 3.0]))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: norm_layer("batsh", 2, 4), "norm='batsh' is unknown.*did you mean 'batch'"),
        (lambda: norm_layer(("group", {"num_groups": 3}), 2, 4), "does not fit 4 channels"),
        (lambda: norm_layer(("batch", {"momentun": 1}), 2, 4), "momentun"),
        (lambda: norm_layer("layer", 2, 4), "normalized_shape"),
        (lambda: norm_layer(3, 2, 4), "norm=3 is no layer"),
        (lambda: norm_layer({"name": "batch"}, 2, 4), "is no layer"),
        (lambda: activation_layer("rellu"), "did you mean 'relu'"),
        (lambda: activation_layer(("relu", {"slope": 1})), "slope"),
        (lambda: check_choice("colour", "xyz", ("red", "blue")), "colour='xyz' is unknown.*choose from 'red', 'blue'"),
    ],
)
def test_wrong_layers(make, message):
    with pytest.raises(InputError, match=message):
        make()


# Initialisation.


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(40, 60, 3, padding=1),
        nn.Conv2d(300, 40, 1),
        nn.Conv3d(20, 30, (1, 3, 3), padding=(0, 1, 1)),
        nn.Conv2d(60, 60, 3, padding=1, groups=60),
        nn.ConvTranspose2d(80, 40, 2, stride=2),
        nn.ConvTranspose3d(60, 30, (1, 2, 2), stride=(1, 2, 2)),
    ],
    ids=str,
)
def test_he_initialisation(layer):
    # Ones in and weights of one: a neuron in the middle of the output shows how many connections come in.
    x = torch.ones(1, layer.in_channels, *(5,) * (layer.weight.dim() - 2))
    incoming = ones(layer)(x)[(0, 0, *(2,) * (layer.weight.dim() - 2))].item()
    torch.manual_seed(0)
    he_initialise(layer)
    weights = layer.weight.detach().flatten()
    std = math.sqrt(2 / incoming)
    assert weights.std().item() == pytest.approx(std, rel=4 / math.sqrt(2 * len(weights)))  # 4 standard errors
    assert weights.mean().item() == pytest.approx(0, abs=4 * std / math.sqrt(len(weights)))
    assert torch.count_nonzero(layer.bias) == 0


def test_he_initialisation_leaves_norms_alone():
    layer = nn.BatchNorm2d(3)
    he_initialise(layer)
    torch.testing.assert_close(layer.weight, torch.ones(3))


# Gradient checkpointing.


class Counted(Level):
    """x -> w x^2, counting its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.w, self.calls = nn.Parameter(torch.tensor(3.0)), 0

    def forward(self, x):
        self.calls += 1
        return self.w * x**2


@pytest.mark.parametrize(("checkpointing", "training", "calls"), [(True, True, 2), (True, False, 1), (False, True, 1)])
def test_checkpointing_computes_twice_in_training(checkpointing, training, calls):
    level = Counted().train(training)
    level.checkpointing = checkpointing
    x = torch.tensor(2.0, requires_grad=True)
    level(x).backward()
    assert level.calls == calls
    assert (x.grad.item(), level.w.grad.item()) == (12.0, 4.0)  # 2 w x and x^2
