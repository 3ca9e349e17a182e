import math

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from pipeline.errors import InputError
from pipeline.networks.attention import ClassAttention, Context, GlobalAttention, SeparateAttention, refinements

SIZES = [(4, 5), (2, 3, 4)]
MODULES = {
    "context": lambda dims: Context(dims, 6),
    "global": lambda dims: GlobalAttention(6, 3),
    "separate": lambda dims: SeparateAttention(dims, 6, 2, 3, (3,) * dims),
}


def made(kind, dims=2, seed=0):
    torch.manual_seed(seed)
    return MODULES[kind](dims).double()


def maps(size=(4, 5), channels=6, batch=2):
    torch.manual_seed(1)
    return torch.randn(batch, channels, *size, dtype=torch.double)


# The formulas, with loops over channels, regions and positions.


def softmax(scores):
    exponentials = [math.exp(score) for score in scores]
    return [value / sum(exponentials) for value in exponentials]


def slow_context(x, weight, bias):
    """`x` is the map of one image as a list of channels, each a list over the positions."""
    means = [sum(channel) / len(channel) for channel in x]
    seen = [
        math.tanh(sum(w * mean for w, mean in zip(row, means, strict=True)) + b)
        for row, b in zip(weight, bias, strict=True)
    ]
    scale, shift = seen[: len(x)], seen[len(x) :]
    return [[value * (1 + scale[c]) + shift[c] for value in channel] for c, channel in enumerate(x)]


def slow_global_attention(x, queries, receive, send, fuse, bias):
    """`x` as in `slow_context`; every matrix is a list of rows."""
    channels, positions, regions = range(len(x)), range(len(x[0])), range(len(queries))

    def dot(a, b):
        return sum(p * q for p, q in zip(a, b, strict=True))

    columns = [[x[c][p] for c in channels] for p in positions]
    belongs = [softmax([dot(queries[r], columns[p]) / math.sqrt(len(x)) for r in regions]) for p in positions]
    means = []
    for r in regions:
        mass = sum(belongs[p][r] for p in positions)
        means.append([sum(belongs[p][r] * x[c][p] for p in positions) / mass for c in channels])
    told = []
    for r in regions:
        asks = [dot(row, means[r]) for row in receive]
        weights = softmax([dot(asks, [dot(row, means[s]) for row in send]) / math.sqrt(len(send)) for s in regions])
        seen = [sum(weights[s] * means[s][c] for s in regions) for c in channels]
        told.append([dot(row, seen) + b for row, b in zip(fuse, bias, strict=True)])
    return [[x[c][p] + sum(belongs[p][r] * told[r][c] for r in regions) for p in positions] for c in channels]


def by_image(function, x, *weights):
    """The slow function for each image of the batch."""
    lists = [weight.reshape(weight.shape[:2]).tolist() for weight in weights]  # 1x1 kernels without their axes
    out = [function(image.flatten(1).tolist(), *lists) for image in x]
    return torch.tensor(out, dtype=torch.double).view_as(x)


def slowly(attention, x):
    w = attention
    return by_image(slow_global_attention, x, w.queries, w.receive.weight, w.send.weight, w.fuse.weight, w.fuse.bias)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_context_against_loops(size):
    context, x = made("context", len(size)), maps(size)
    nn.init.normal_(context.conv.bias)
    torch.testing.assert_close(context(x), by_image(slow_context, x, context.conv.weight, context.conv.bias))


@pytest.mark.parametrize("size", [*SIZES, (1, 1)], ids=str)
def test_global_attention_against_loops(size):
    attention, x = made("global"), maps(size)
    torch.testing.assert_close(attention(x), slowly(attention, x))


def test_separate_attention_against_loops():
    attention, x = made("separate"), maps()
    found = []
    for part in attention.classes:
        y = torch.einsum("oc,nchw->nohw", part.reduce.weight[:, :, 0, 0], x) + part.reduce.bias[:, None, None]
        gate = torch.zeros_like(y)
        padded = functional.pad(y, (1, 1, 1, 1))
        for row in range(3):
            for column in range(3):
                seen = padded[:, :, row : row + 4, column : column + 5]
                gate += part.near.weight[:, 0, row, column, None, None] * seen
        gate += part.near.bias[:, None, None]
        found += [y / (1 + torch.exp(-gate)), slowly(part.far, y)]
    fused = torch.einsum("oc,nchw->nohw", attention.fuse.weight[:, :, 0, 0], torch.cat(found, dim=1))
    torch.testing.assert_close(attention(x), x + fused + attention.fuse.bias[:, None, None])


# By hand.


def test_context_by_hand():
    context = Context(2, 2)
    nn.init.zeros_(context.conv.bias)
    weight = [[100.0, 0], [-100, 0], [0, 0], [0, 100]]  # tanh: scales 1 and -1, shifts 0 and 1
    context.conv.weight.data = torch.tensor(weight)[:, :, None, None]
    x = torch.tensor([[[[1.0, 2, 3]], [[4, 5, 6]]]])
    torch.testing.assert_close(context(x), torch.tensor([[[[2.0, 4, 6]], [[1, 1, 1]]]]))


def test_global_attention_by_hand():
    attention = GlobalAttention(2, 2)
    attention.queries.data = torch.tensor([[100.0, 0], [0, 100]])  # region 0: where channel 0 is the greater
    attention.fuse.weight.data, attention.fuse.bias.data = torch.eye(2), torch.zeros(2)
    attention.receive.weight.data = torch.tensor([[100.0, 0]])  # region 0 asks, region 1 does not ...
    attention.send.weight.data = torch.tensor([[0.0, 100]])  # ... for channel 1, so for region 1
    x = torch.tensor([[[[1.0, 3, 0, 0]], [[0, 0, 2, 6]]]])
    # Means: (2, 0) and (0, 4). Region 0 sees region 1, and region 1 sees both alike: (1, 2).
    expected = torch.tensor([[[[1.0, 3, 1, 1]], [[4, 4, 4, 8]]]])
    torch.testing.assert_close(attention(x), expected)


def test_a_region_without_positions_does_no_harm():
    attention, x = made("global"), maps().abs()
    attention.queries.data[0] = -1e5
    scores = torch.einsum("rc,nchw->nrhw", attention.queries, x) / math.sqrt(6)
    assert not scores.softmax(1)[:, 0].any()  # each share is too small for a float, so their sum is no divisor
    out = attention(x)
    out.sum().backward()
    assert out.isfinite().all()
    assert all(parameter.grad.isfinite().all() for parameter in attention.parameters())


# What the modules promise.


def test_importance_is_a_weighting_of_the_regions():
    weights = made("global").importance(maps((3,)).transpose(1, 2))
    assert weights.shape == (2, 3, 3)
    assert (weights > 0).all()
    torch.testing.assert_close(weights.sum(2), torch.ones(2, 3, dtype=torch.double))


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("kind", MODULES)
def test_gradient_reaches_every_parameter(kind, dims):
    module = made(kind, dims)
    module(maps(SIZES[dims - 2])).square().sum().backward()
    assert [name for name, parameter in module.named_parameters() if not parameter.grad.any()] == []


@pytest.mark.parametrize("kind", MODULES)
def test_derivatives_are_exact(kind):
    module = made(kind)
    assert torch.autograd.gradcheck(module, maps((2, 3), batch=1).requires_grad_())


@pytest.mark.parametrize("kind", ["context", "global"])
def test_positions_in_another_order(kind):
    module, x, order = made(kind), maps(), torch.randperm(20)
    shuffled = x.flatten(2)[:, :, order].view_as(x)
    torch.testing.assert_close(module(shuffled), module(x).flatten(2)[:, :, order].view_as(x))


def test_regions_in_another_order():
    attention, x = made("global"), maps()
    expected = attention(x)
    attention.queries.data = attention.queries.data[[2, 0, 1]]
    torch.testing.assert_close(attention(x), expected)


@pytest.mark.parametrize("kind", MODULES)
def test_images_of_a_batch_do_not_mix(kind):
    module, x = made(kind), maps(batch=3)
    torch.testing.assert_close(module(x), torch.cat([module(image[None]) for image in x]))


@pytest.mark.parametrize("kind", MODULES)
def test_same_seed_same_output(kind):
    x = maps()
    assert torch.equal(made(kind, seed=3)(x), made(kind, seed=3)(x))
    assert not torch.equal(made(kind, seed=3)(x), made(kind, seed=4)(x))


@pytest.mark.parametrize("kind", ["global", "separate"])
def test_cost_is_linear_in_the_positions(kind):
    module, costs = made(kind), []
    for width in (10, 20, 30):
        with FlopCounterMode(display=False) as counter:
            module(maps((10, width)))
        costs.append(counter.get_total_flops())
    assert costs[2] - costs[1] == costs[1] - costs[0] > 0


@pytest.mark.parametrize("kind", MODULES)
def test_half_precision(kind):
    module, x = made(kind).float(), maps().float()
    with torch.autocast("cpu", torch.bfloat16):
        out = module(x)
    torch.testing.assert_close(out.float(), module(x), rtol=0.05, atol=0.05)


@pytest.mark.parametrize("kind", MODULES)
def test_memory_format_changes_nothing(kind):
    module, x = made(kind), maps()
    out = module(x.to(memory_format=torch.channels_last))
    torch.testing.assert_close(out, module(x))


# Each class of its own.


def test_classes_share_no_weights():
    attention = made("separate")
    first, second = attention.classes
    attention.fuse.weight.data[:, 6:] = 0  # what comes from the second class: 3 local and 3 global channels
    attention(maps()).square().sum().backward()
    assert all(parameter.grad.any() for parameter in first.parameters())
    assert not any(parameter.grad.any() for parameter in second.parameters())


@pytest.mark.parametrize(("channels", "classes", "width"), [(12, 3, 4), (12, 1, 12), (7, 2, 3), (2, 5, 1)])
def test_width_of_a_class(channels, classes, width):
    attention = SeparateAttention(2, channels, classes, 2, (3, 3))
    assert [part.reduce.out_channels for part in attention.classes] == [width] * classes
    assert attention(torch.zeros(1, channels, 3, 3)).shape == (1, channels, 3, 3)


def test_local_attention_sees_its_window_only():
    near = ClassAttention(3, 4, 2, 2, (1, 3, 5))
    near.far = nn.Identity()
    x = torch.randn(1, 4, 3, 7, 9, requires_grad=True)
    near(x)[0, :, 1, 3, 4].sum().backward()
    seen = x.grad[0].abs().sum(0).nonzero()
    assert seen.amin(0).tolist() == [1, 2, 2]
    assert seen.amax(0).tolist() == [1, 4, 6]


# Which level has what.


def kinds(**options):
    defaults = {"context": False, "attention": None, "levels": -1, "queries": 2}
    refined = refinements(2, (4, 6, 8), (3, 3), 2, **{**defaults, **options})
    return [[type(layer).__name__ for layer in level] for level in refined]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [[], [], []]),
        ({"context": True}, [["Context"]] * 3),
        ({"attention": "global"}, [[], [], ["GlobalAttention"]]),
        ({"attention": "separate", "levels": [0, -2]}, [["SeparateAttention"], ["SeparateAttention"], []]),
        ({"attention": "global", "levels": (2, -1)}, [[], [], ["GlobalAttention"]]),
        (
            {"attention": "global", "levels": 1, "context": True},
            [["Context"], ["GlobalAttention", "Context"], ["Context"]],
        ),
    ],
    ids=str,
)
def test_refinements(options, expected):
    assert kinds(**options) == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attention": "globel"}, "attention='globel' is unknown.*did you mean 'global'"),
        ({"attention": True}, "choose from 'global', 'separate'"),
        ({"levels": 3}, "attention_levels=3 does not fit 3 levels.*from 0 to 2, or -1"),
        ({"levels": [0, -4]}, "does not fit 3 levels"),
        ({"levels": []}, "does not fit 3 levels"),
        ({"levels": "lowest"}, "attention_levels='lowest' does not fit"),
        ({"levels": None}, "attention_levels=None does not fit"),
        ({"attention": "separate", "queries": 1}, "attention_queries=1 leaves no regions"),
    ],
    ids=str,
)
def test_wrong_refinements(options, message):
    with pytest.raises(InputError, match=message):
        kinds(**options)
