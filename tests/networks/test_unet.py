import copy
import io
import math
import pickle
from itertools import pairwise

import numpy as np
import onnxruntime
import pytest
import torch
from monai.data import MetaTensor
from monai.networks.utils import convert_to_onnx, convert_to_torchscript
from torch import nn
from torch.nn import functional

from pipeline.errors import InputError
from pipeline.networks import UNet

PAPER = {
    "spatial_dims": 2,
    "in_channels": 1,
    "out_channels": 2,
    "channels": (64, 128, 256, 512, 1024),
    "padding": "valid",
    "norm": None,
    "upsample": "deconv",
}
SMALL = {"channels": (4, 6, 8)}
TINY = {"channels": (4, 6)}  # for what takes seconds per level
EXTRAS = {
    "out_channels": 1,
    "norm": "batch",
    "upsample_norm": True,
    "stem_kernel": 7,
    "context": True,
    "attention": "separate",
}

VARIANTS = [
    {},
    {"padding": "valid"},
    {"padding": "valid", "upsample": "linear"},
    {"upsample": "cubic", "norm": "batch"},
    {"upsample": "nearest", "norm": ("group", {"num_groups": 2}), "activation": "prelu"},
    {"norm": "instance", "activation": ("leakyrelu", {"negative_slope": 0.01})},
    {"deep_supervision": True, "dropout": 0.1, "kernel_size": 5},
    {"checkpointing": True},
    {"spatial_dims": 3, "in_channels": 2, "upsample": "linear"},
    {"spatial_dims": 3, "strides": ((1, 2, 2), 2), "kernel_size": (1, 3, 3)},
    {"spatial_dims": 3, "padding": "valid", "strides": (2, (1, 2, 2))},
    {"padding": "valid", "stem_kernel": 7, "upsample": "linear", "norm": "batch", "upsample_norm": True},
    {"context": True, "upsample_norm": True, "norm": "instance"},
    {"attention": "global", "attention_levels": (0, -1), "deep_supervision": True},
    {"attention": "separate", "context": True, "spatial_dims": 3, "stem_kernel": (3, 5, 5), "checkpointing": True},
]


def name(options):
    return ", ".join(f"{key}={value}" for key, value in options.items()) or "default"


@pytest.fixture(scope="module")
def paper():
    torch.manual_seed(0)
    return UNet(**PAPER)


def small(seed=0, **options):
    torch.manual_seed(seed)
    return UNet(**{**SMALL, **options})


def images(network, at_least=11, batch=2):
    """Random images whose output has at least so many voxels per axis."""
    torch.manual_seed(1)
    return torch.randn(batch, network.in_channels, *network.valid_input_size(at_least))


# The network of the paper.


def test_parameters_of_the_paper(paper):
    c = PAPER["channels"]

    def conv(before, after, kernel):
        return before * after * kernel**2 + after

    by_hand = conv(1, c[0], 3) + conv(c[0], c[0], 3) + conv(c[0], 2, 1)
    for above, below in pairwise(c):
        by_hand += conv(above, below, 3) + conv(below, below, 3)  # down
        by_hand += conv(below, above, 2) + conv(2 * above, above, 3) + conv(above, above, 3)  # up
    assert sum(parameter.numel() for parameter in paper.parameters()) == by_hand == 31_030_658


def test_layers_of_the_paper(paper):
    convolutions = [layer for layer in paper.modules() if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d)]
    census = [(type(layer).__name__, layer.kernel_size, layer.stride, layer.padding) for layer in convolutions]
    assert len(census) == 23
    assert census.count(("Conv2d", (3, 3), (1, 1), (0, 0))) == 18
    assert census.count(("ConvTranspose2d", (2, 2), (2, 2), (0, 0))) == 4
    assert census.count(("Conv2d", (1, 1), (1, 1), (0, 0))) == 1
    assert sum(isinstance(layer, nn.MaxPool2d) for layer in paper.modules()) == 4
    assert sum(isinstance(layer, nn.ReLU) for layer in paper.modules()) == 18


def test_maps_of_figure_1():
    # A sixteenth of the channels, since only the sizes are asked for.
    network = UNet(**{**PAPER, "channels": (4, 8, 16, 32, 64)}).eval()
    sizes = []
    for level in (network.first, *network.downs, *network.ups, network.heads[0]):
        level.register_forward_hook(lambda _module, _inputs, out: sizes.append((out.shape[1], *out.shape[2:])))
    with torch.no_grad():
        network(torch.zeros(1, 1, 572, 572))
    down = [(4, 568, 568), (8, 280, 280), (16, 136, 136), (32, 64, 64), (64, 28, 28)]
    up = [(32, 52, 52), (16, 100, 100), (8, 196, 196), (4, 388, 388), (2, 388, 388)]
    assert sizes == down + up


def test_sizes_of_the_paper(paper):
    assert paper.output_size(572) == (388, 388)
    assert paper.output_size((572, 188)) == (388, 4)
    assert paper.valid_input_size(388) == (572, 572)
    assert paper.valid_input_size((389, 1)) == (588, 188)
    assert (paper.divisor, paper.margin) == ((16, 16), (184, 184))
    assert (paper.spatial_dims, paper.in_channels, paper.out_channels) == (2, 1, 2)


def test_initial_weights_of_the_paper(paper):
    for layer in paper.modules():
        if isinstance(layer, nn.Conv2d):
            incoming = layer.weight[0].numel()
        elif isinstance(layer, nn.ConvTranspose2d):
            incoming = layer.in_channels  # one voxel under each kernel position
        else:
            continue
        count = layer.weight.numel()
        assert layer.weight.std().item() == pytest.approx(math.sqrt(2 / incoming), rel=4 / math.sqrt(2 * count))
        assert torch.count_nonzero(layer.bias) == 0


def test_dropout_stands_on_the_two_lowest_levels():
    network = UNet(**PAPER | {"dropout": 0.5, "channels": (2, 3, 4, 5, 6)})
    names = [name for name, layer in network.named_modules() if isinstance(layer, nn.Dropout)]
    assert names == ["downs.2.block.dropout", "downs.3.block.dropout"]


def slow_unet(image, w):
    """The valid U-Net of three levels as one writes it down, with the weights `w` of the network."""

    def convolve(x, name):
        return functional.relu(functional.conv2d(x, w[f"{name}.weight"], w[f"{name}.bias"]))

    def crop(x, size):
        cut = (x.shape[-1] - size) // 2
        return x[:, :, cut : cut + size, cut : cut + size]

    def deconvolve(x, name):
        weight, bias = w[f"{name}.weight"], w[f"{name}.bias"]
        out = torch.zeros(x.shape[0], weight.shape[1], 2 * x.shape[2], 2 * x.shape[3])
        for row in (0, 1):
            for column in (0, 1):
                out[:, :, row::2, column::2] = torch.einsum("bihw,io->bohw", x, weight[:, :, row, column])
        return out + bias[None, :, None, None]

    level0 = convolve(convolve(image, "first.conv1"), "first.conv2")
    level1 = convolve(convolve(functional.max_pool2d(level0, 2), "downs.0.block.conv1"), "downs.0.block.conv2")
    level2 = convolve(convolve(functional.max_pool2d(level1, 2), "downs.1.block.conv1"), "downs.1.block.conv2")
    up1 = deconvolve(level2, "ups.0.upsample")
    up1 = torch.cat([crop(level1, up1.shape[-1]), up1], dim=1)
    up1 = convolve(convolve(up1, "ups.0.block.conv1"), "ups.0.block.conv2")
    up0 = deconvolve(up1, "ups.1.upsample")
    up0 = torch.cat([crop(level0, up0.shape[-1]), up0], dim=1)
    up0 = convolve(convolve(up0, "ups.1.block.conv1"), "ups.1.block.conv2")
    return functional.conv2d(up0, w["heads.0.weight"], w["heads.0.bias"])


def test_valid_network_against_a_plain_one():
    network = small(padding="valid", in_channels=2, out_channels=3)
    for parameter in network.parameters():  # biases as well
        nn.init.normal_(parameter, std=0.5)
    x = images(network)
    torch.testing.assert_close(network(x), slow_unet(x, network.state_dict()), rtol=1e-4, atol=1e-4)


# Sizes.


def slow_sizes(longest, kernel, stem, strides, trimmed):
    """{input: output} of all lengths that a valid network takes, found by walking through it."""
    sizes = {}
    for length in range(1, longest):
        now, legal = length, True
        for level, stride in enumerate(strides):
            now -= (kernel if level else stem) - 1 + kernel - 1
            legal = legal and now > 0 and now % stride == 0
            now //= stride
        now -= 2 * (kernel - 1)
        for stride in reversed(strides):
            legal = legal and now > 0
            now = now * stride - trimmed
            legal = legal and now > 0
            now -= 2 * (kernel - 1)
        if legal and now > 0:
            sizes[length] = now
    return sizes


@pytest.mark.parametrize(
    ("kernel", "stem", "strides", "upsample", "trimmed"),
    [
        (3, 3, (2, 2), "deconv", 0),
        (3, 3, (2, 2, 2, 2), "deconv", 0),
        (5, 5, (2, 3), "nearest", 0),
        (3, 3, (3, 1, 2), "deconv", 0),
        (1, 1, (2,), "deconv", 0),
        (3, 3, (2,), "linear", 2),
        (3, 3, (2, 2), "cubic", 6),
        (3, 7, (2, 2), "deconv", 0),
        (5, 1, (2,), "nearest", 0),
    ],
)
def test_valid_sizes_against_a_walk_through_the_network(kernel, stem, strides, upsample, trimmed):
    kernels = {"kernel_size": kernel, "stem_kernel": None if stem == kernel else stem}
    channels = (1,) * (len(strides) + 1)
    network = UNet(channels=channels, padding="valid", strides=strides, upsample=upsample, **kernels)
    expected = slow_sizes(260, kernel, stem, strides, trimmed)
    for length in range(1, 230):
        if length in expected:
            assert network.output_size(length) == (expected[length],) * 2
        else:
            with pytest.raises(InputError, match=rf"\({length}, {length}\)"):
                network.output_size(length)
    for wanted in range(1, 30):
        smallest = min(length for length, out in expected.items() if out >= wanted)
        assert network.valid_input_size(wanted) == (smallest, smallest)


@pytest.mark.parametrize("options", VARIANTS, ids=name)
def test_output_has_the_announced_size(options):
    network = small(**options).eval()
    x = images(network, at_least=(7, 10, 9)[: network.spatial_dims])
    assert network(x).shape == (2, network.out_channels, *network.output_size(x.shape[2:]))


def test_illegal_size_names_the_nearest(paper):
    with pytest.raises(InputError, match=r"\(570, 572\) voxels.*556 or 572 on axis 0, 572 on axis 1"):
        paper(torch.zeros(1, 1, 570, 572))
    with pytest.raises(InputError, match="188 on axis 0, 188 on axis 1"):
        paper.output_size(20)


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (5, 3), (8, 8), (13, 22)])
def test_same_takes_any_size(size):
    network = small()
    assert network(torch.randn(1, 1, *size)).shape == (1, 2, *size)
    assert network.output_size(size) == network.valid_input_size(size) == size
    assert network.margin == (0, 0)


def test_odd_sizes_differ_from_even_ones_only_near_the_far_border():
    # One column more reaches 20 columns through the convolutions (half the margin of the valid network) and fewer than
    # 4 through the windows of the pooling.
    network = small().double().eval()
    x = torch.randn(1, 1, 40, 41, dtype=torch.double)
    torch.testing.assert_close(network(x)[..., :16], network(x[..., :40])[..., :16])


def test_anisotropic_strides_pool_in_plane_only():
    network = small(spatial_dims=3, strides=((1, 2, 2), (1, 2, 2))).eval()
    lowest = []
    network.downs[-1].register_forward_hook(lambda _module, _inputs, out: lowest.append(tuple(out.shape[2:])))
    assert network(torch.randn(1, 1, 3, 16, 24)).shape == (1, 2, 3, 16, 24)
    assert lowest == [(3, 4, 6)]
    assert network.divisor == (1, 4, 4)


# What the output depends on.


@pytest.mark.parametrize("options", [option for option in VARIANTS if option.get("padding") == "valid"], ids=name)
def test_tile_equals_the_whole(options):
    network = small(**options).eval()
    shift = [3 * step for step in network.divisor]
    tile = network.valid_input_size(9)
    whole = network.valid_input_size([9 + 2 * offset for offset in shift])
    x = torch.randn(1, network.in_channels, *whole)
    cut = [slice(offset, offset + size) for offset, size in zip(shift, tile, strict=True)]
    kept = [slice(offset, offset + size) for offset, size in zip(shift, network.output_size(tile), strict=True)]
    torch.testing.assert_close(network(x[:, :, *cut]), network(x)[:, :, *kept], rtol=1e-5, atol=1e-5)


def test_same_seed_same_network():
    first, second, other = small(3), small(3), small(4)
    x = images(first)
    assert torch.equal(first(x), second(x))
    assert not torch.equal(first(x), other(x))


@pytest.mark.parametrize("options", VARIANTS, ids=name)
def test_gradient_reaches_every_parameter(options):
    network = small(**options)
    outputs = network(images(network, at_least=16))
    outputs = outputs if isinstance(outputs, list) else [outputs]
    sum(out.square().mean() for out in outputs).backward()
    assert [name for name, parameter in network.named_parameters() if not parameter.grad.any()] == []


NEAR = [{}, {"stem_kernel": 7}]
FAR = [
    {"context": True},
    {"attention": "global"},
    {"attention": "separate"},
    {"spatial_dims": 3, "attention": "global"},
    {"spatial_dims": 3, "context": True, "norm": "batch"},
]


@pytest.mark.parametrize("options", NEAR + FAR, ids=name)
def test_corner_to_corner(options):
    # A voxel depends on those up to 20 away through the 3x3 convolutions (half the margin of the valid network), 22
    # with the stem, and fewer than 4 more through the windows of the pooling. The corners are 32 apart.
    network = small(**options).double().eval()
    x = torch.randn(1, 1, *(40, 41, 42)[: network.spatial_dims], dtype=torch.double)
    changed = x.clone()
    changed[(0, 0, *(0,) * network.spatial_dims)] += 1
    corner = (0, slice(None), *(slice(-8, None),) * network.spatial_dims)
    assert torch.equal(network(x)[corner], network(changed)[corner]) == (options in NEAR)


def test_deep_supervision_in_training_only():
    network = UNet(channels=(4, 6, 8, 10), deep_supervision=True)
    x = torch.randn(1, 1, 21, 32)
    assert [tuple(out.shape) for out in network(x)] == [(1, 2, 21, 32), (1, 2, 11, 16), (1, 2, 6, 8)]
    full = network(x)[0]
    torch.testing.assert_close(network.eval()(x), full)


def test_checkpointing_computes_each_level_twice_and_changes_no_gradient():
    plain, saving = small(dropout=0.3), small(dropout=0.3, checkpointing=True)
    levels, calls = (saving.first, *saving.downs, *saving.ups), []
    for level in levels:
        level.register_forward_pre_hook(lambda module, _inputs: calls.append(module))
    for network in (plain, saving):
        torch.manual_seed(5)
        network(images(network)).square().sum().backward()
    assert [calls.count(level) for level in levels] == [2] * 5
    for expected, found in zip(plain.parameters(), saving.parameters(), strict=True):
        torch.testing.assert_close(found.grad, expected.grad)


@pytest.mark.parametrize(
    ("options", "compiled"),
    [
        ({}, False),
        ({"dropout": 0.3}, False),
        ({"padding": "valid"}, False),
        ({"deep_supervision": True}, False),
        ({"spatial_dims": 3}, False),
        (EXTRAS, False),
        ({"dropout": 0.3, "deep_supervision": True}, True),
    ],
    ids=lambda value: name(value) if isinstance(value, dict) else str(value),
)
def test_checkpointing_counts_a_batch_once_in_the_statistics(options, compiled):
    torch.compiler.reset()
    options = {"norm": "batch", **TINY, **options}
    states, gradients = [], []
    for checkpointing in (False, True):
        network = small(**options, checkpointing=checkpointing)
        forward = torch.compile(network, backend="aot_eager") if compiled else network
        for step in range(2):
            torch.manual_seed(step)
            output = forward(images(network, batch=3))
            sum(level.square().sum() for level in (output if isinstance(output, list) else [output])).backward()
        states.append(network.state_dict())
        gradients.append({key: parameter.grad for key, parameter in network.named_parameters()})
    assert states[0]["first.norm1.num_batches_tracked"] == 2
    for expected, found in (states, gradients):
        assert found.keys() == expected.keys()
        for key in expected:
            torch.testing.assert_close(found[key], expected[key], msg=lambda text, key=key: f"{key}: {text}")


def test_monai_tensor():
    network = small().eval()
    x = images(network)
    torch.testing.assert_close(network(MetaTensor(x)).as_tensor(), network(x))


# Variants that have a name.


def parameters(network):
    return sum(parameter.numel() for parameter in network.parameters())


def by_hand(c, before, after, *, stem=3, norm=False, deconv=True, upsample_norm=False):
    """Parameters of a 2D network with the channels `c`, without context and attention."""

    def layer(inputs, outputs, kernel, norm):
        return inputs * outputs * kernel**2 + (2 if norm else 1) * outputs  # scale and shift, or a bias

    count = layer(before, c[0], stem, norm) + layer(c[0], c[0], 3, norm) + layer(c[0], after, 1, False)
    for above, below in pairwise(c):
        count += layer(above, below, 3, norm) + layer(below, below, 3, norm)
        count += layer(below, above, 2 if deconv else 1, upsample_norm)
        count += layer(2 * above, above, 3, norm) + layer(above, above, 3, norm)
    return count


def test_compact():
    c = (8, 16, 32, 64, 128)
    network = UNet(out_channels=1, channels=c, norm="batch", upsample="deconv", upsample_norm=True).eval()
    with torch.no_grad():
        assert network(torch.zeros(1, 1, 224, 224)).shape == (1, 1, 224, 224)
    assert parameters(network) == by_hand(c, 1, 1, norm=True, upsample_norm=True)
    for up in network.ups:
        deconvolution, norm = up.upsample
        assert isinstance(deconvolution, nn.ConvTranspose2d)
        assert isinstance(norm, nn.BatchNorm2d)


def test_three_levels_with_nearest_neighbours():
    c = (64, 128, 256)
    network = UNet(in_channels=3, out_channels=1, channels=c, upsample="nearest").eval()
    with torch.no_grad():
        assert network(torch.zeros(1, 3, 32, 48)).shape == (1, 1, 32, 48)
    assert parameters(network) == by_hand(c, 3, 1, deconv=False)
    assert [layer.mode for layer in network.modules() if isinstance(layer, nn.Upsample)] == ["nearest"] * 2


def test_context_encoding_with_a_wide_stem():
    c = (32, 64, 128)
    network = UNet(channels=c, stem_kernel=7, context=True).eval()
    with torch.no_grad():
        assert network(torch.zeros(1, 1, 24, 40)).shape == (1, 2, 24, 40)
    assert network.first.conv1.kernel_size == (7, 7)
    assert network.first.conv2.kernel_size == (3, 3)
    assert parameters(network) == by_hand(c, 1, 2, stem=7) + sum(2 * (width**2 + width) for width in c)


def test_global_attention_on_the_lowest_level():
    c, regions = (8, 16, 32), 5
    network = UNet(channels=c, attention="global", attention_queries=regions).eval()
    assert network(torch.zeros(1, 1, 24, 40)).shape == (1, 2, 24, 40)
    of_attention = regions * 32 + 2 * 32 * 16 + 32 * 32 + 32  # queries, importance, fusion
    assert parameters(network) == by_hand(c, 1, 2) + of_attention
    assert [name for name in network.state_dict() if "queries" in name] == ["downs.1.block.refine.attention.queries"]


def test_separate_attention_on_two_levels():
    network = UNet(channels=(8, 16, 32), out_channels=4, attention="separate", attention_levels=(1, 2)).eval()
    assert network(torch.zeros(1, 1, 24, 40)).shape == (1, 4, 24, 40)
    queries = {name: tuple(value.shape) for name, value in network.state_dict().items() if "queries" in name}
    lowest = {f"downs.1.block.refine.attention.classes.{k}.far.queries": (16, 8) for k in range(4)}
    above = {f"ups.0.block.refine.attention.classes.{k}.far.queries": (16, 4) for k in range(4)}
    assert queries == lowest | above


def test_weights_of_the_plain_network_fit_the_others():
    plain, other = small(), small(context=True, attention="global")
    missing, unexpected = other.load_state_dict(plain.state_dict(), strict=False)
    assert unexpected == []
    assert all(".refine." in name for name in missing)


# Into other hands.


@pytest.mark.parametrize("options", VARIANTS, ids=name)
def test_copies(options):
    network = small(**options).eval()
    x = images(network)
    for twin in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        assert torch.equal(twin(x), network(x))
        assert twin.output_size(x.shape[2:]) == network.output_size(x.shape[2:])


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
@pytest.mark.parametrize("options", VARIANTS, ids=name)
def test_script(options):
    network = small(**options).eval()
    file = io.BytesIO()
    torch.jit.save(torch.jit.script(network), file)
    file.seek(0)
    scripted = torch.jit.load(file)
    for at_least in (11, 18):
        x = images(network, at_least)
        torch.testing.assert_close(scripted(x), network(x))


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
@pytest.mark.parametrize(
    "options", [{}, {"padding": "valid", "upsample": "linear"}, {"spatial_dims": 3}, EXTRAS], ids=name
)
def test_trace_takes_other_sizes(options):
    network = small(**options).eval()
    traced = torch.jit.trace(network, images(network))
    x = images(network, at_least=18, batch=3)
    torch.testing.assert_close(traced(x), network(x))


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
@pytest.mark.parametrize("use_trace", [False, True])
def test_torchscript_by_monai(use_trace, tmp_path):
    network = small()
    x = images(network)
    file = str(tmp_path / "model.ts")
    convert_to_torchscript(network, file, inputs=[x], use_trace=use_trace, verify=True, device="cpu", atol=1e-6)
    torch.testing.assert_close(torch.jit.load(file)(x), network.eval()(x))


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"padding": "valid"},
        {"spatial_dims": 3, "norm": "instance"},
        EXTRAS,
    ],
    ids=name,
)
def test_export(options, strict):
    network = small(**TINY, **options).eval()
    x = images(network)
    program = torch.export.export(network, (x,), strict=strict)
    torch.testing.assert_close(program.module()(x), network(x))


def test_export_of_any_batch_and_any_multiple_of_the_divisor():
    network = small(**TINY).eval()
    Dim = torch.export.Dim
    sizes = {axis: divisor * Dim(f"d{axis}") for axis, divisor in enumerate(network.divisor, 2)}
    program = torch.export.export(network, (torch.randn(2, 1, 16, 24),), dynamic_shapes=({0: Dim("n"), **sizes},))
    for shape in [(1, 1, 8, 8), (5, 1, 40, 12)]:
        x = torch.randn(shape)
        torch.testing.assert_close(program.module()(x), network(x))


def onnx_by_monai(network, file, **options):
    """ONNX session of the network, made as `python -m monai.bundle onnx_export` makes it."""
    names = {"input_names": ["image"], "output_names": ["pred"]}
    convert_to_onnx(network, [images(network)], filename=str(file), use_trace=False, **names, **options)
    return onnxruntime.InferenceSession(file)


def check_onnx(session, network, x):
    expected = network(x).detach().numpy()
    np.testing.assert_allclose(session.run(None, {"image": x.numpy()})[0], expected, rtol=0, atol=1e-4)


@pytest.mark.filterwarnings("ignore:.*treespec:FutureWarning")
@pytest.mark.parametrize(
    "options",
    [
        {"padding": "valid", "upsample": "cubic"},
        {"spatial_dims": 3, "upsample": "linear", "norm": "instance"},
        EXTRAS,
    ],
    ids=name,
)
def test_onnx(options, tmp_path):
    network = small(**TINY, **options)
    check_onnx(onnx_by_monai(network, tmp_path / "model.onnx"), network, images(network))


@pytest.mark.filterwarnings("ignore:.*treespec:FutureWarning", "ignore:.*dynamic_axes:UserWarning")
@pytest.mark.filterwarnings("ignore:.*dynamic_axes:DeprecationWarning")
def test_onnx_of_any_size(tmp_path):
    network, axes = small(**TINY, attention="global"), {0: "n", 2: "height", 3: "width"}
    session = onnx_by_monai(network, tmp_path / "model.onnx", dynamic_axes={"image": axes, "pred": axes})
    for shape in [(1, 1, 16, 16), (3, 1, 13, 18)]:
        check_onnx(session, network, torch.randn(shape))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"padding": "valid"},
        {"checkpointing": True},
        {"checkpointing": True, "norm": "batch"},
        {"spatial_dims": 3},
        EXTRAS,
    ],
    ids=name,
)
def test_compile_in_one_graph(options):
    torch.compiler.reset()
    network = small(**TINY, **options)
    compiled = torch.compile(network, fullgraph=True, backend="aot_eager")
    x = images(network)
    compiled(x).square().sum().backward()
    found = [parameter.grad.clone() for parameter in network.parameters()]
    network.zero_grad()
    network(x).square().sum().backward()
    for gradient, parameter in zip(found, network.parameters(), strict=True):
        torch.testing.assert_close(gradient, parameter.grad)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_compile_to_machine_code(spatial_dims):
    torch.compiler.reset()
    network = small(**TINY, spatial_dims=spatial_dims, norm="instance").eval()
    x = images(network)
    torch.testing.assert_close(torch.compile(network, fullgraph=True)(x), network(x), rtol=1e-4, atol=1e-4)


def test_compiled_network_still_names_the_legal_sizes():
    torch.compiler.reset()
    with pytest.raises(InputError, match="44 or 48 on axis 0"):
        torch.compile(small(padding="valid"), backend="eager")(torch.zeros(1, 1, 45, 48))


# Mistakes.


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"padding": "vaild"}, "padding='vaild' is unknown.*did you mean 'valid'"),
        ({"upsample": "deconf"}, "did you mean 'deconv'"),
        ({"upsample": "pixelshuffle"}, "choose from 'deconv', 'nearest', 'linear', 'cubic'"),
        ({"upsample": "cubic", "spatial_dims": 3}, "exists in 2D only"),
        ({"norm": "instanse"}, "did you mean 'instance'"),
        ({"norm": ("group", {"num_groups": 5})}, "does not fit 4 channels"),
        ({"activation": "relo"}, "did you mean 'relu'"),
        ({"spatial_dims": 1}, "neither 2 nor 3"),
        ({"channels": (8,)}, "fewer than two levels"),
        ({"channels": (8, 0)}, "below 1"),
        ({"in_channels": 0}, "below 1"),
        ({"dropout": 1.0}, r"not in \[0, 1\)"),
        ({"kernel_size": 4}, "even"),
        ({"kernel_size": (3, 3, 3)}, "does not fit 2 axes"),
        ({"strides": (2, 2, 2)}, "3 entries, but 3 levels have 2 steps"),
        ({"strides": (2, (1, 2, 2))}, "does not fit 2 axes"),
        ({"strides": 0}, "strides=0 does not fit"),
        ({"deep_supervision": True, "padding": "valid"}, "use padding='same'"),
        ({"upsample_norm": True}, "without a norm"),
        ({"stem_kernel": 6}, "stem_kernel=6 is even"),
        ({"stem_kernel": (7, 7, 7)}, "stem_kernel=.* does not fit 2 axes"),
        ({"context": True, "padding": "valid"}, "depend on where it was cut"),
        ({"attention": "global", "padding": "valid"}, "use padding='same'"),
        ({"attention": "seperate"}, "did you mean 'separate'"),
        ({"attention": "global", "attention_levels": 3}, "attention_levels=3 does not fit 3 levels"),
        ({"attention": "separate", "attention_queries": 1}, "attention_queries=1"),
    ],
    ids=lambda value: name(value) if isinstance(value, dict) else "",
)
def test_wrong_options(options, message):
    with pytest.raises(InputError, match=message):
        small(**options)


@pytest.mark.parametrize("shape", [(1, 16, 16), (1, 3, 16, 16), (1, 1, 16, 16, 16)])
def test_wrong_images(shape):
    with pytest.raises(InputError, match=r"give \(batch, 1, 2 sizes\)"):
        small()(torch.zeros(shape))
