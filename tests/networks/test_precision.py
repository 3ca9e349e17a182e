"""A network in bfloat16: near the same network in float32, with float32 outside and gradients for every weight."""

import copy
import pickle
import sys
import types

import pytest
import torch

from pipeline.errors import InputError
from pipeline.networks import precision
from pipeline.networks.compilation import has_compiler
from pipeline.networks.precision import Autocast, channels_last, has_bfloat16, number_format
from pipeline.networks.unet import UNet

STEP = 2**-8  # relative rounding error of a bfloat16, which has 8 significant bits


@pytest.fixture(params=[2, 3], ids=["2d", "3d"])
def dims(request):
    return request.param


def network(dims, **options):
    torch.manual_seed(0)
    return UNet(dims, 1, 3, [8, 16, 32], norm="instance", **options)


def images(dims, count=2):
    return torch.randn(count, 1, *[24, 20, 16][:dims], generator=torch.Generator().manual_seed(1))


def relative_error(found, expected):
    return ((found - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize("layout", [True, False])
def test_logits_are_those_of_float32_within_the_rounding_of_bfloat16(dims, layout):
    plain = network(dims)
    narrow = Autocast(copy.deepcopy(plain), torch.bfloat16, channels_last(dims) if layout else None)
    expected, found = plain(images(dims)), narrow(images(dims))
    assert found.dtype == torch.float32
    # About ten roundings one after the other, each of at most one step.
    assert 0 < relative_error(found, expected) < 10 * STEP


def test_in_float32_nothing_changes_but_the_layout(dims):
    plain = network(dims)
    wrapped = Autocast(copy.deepcopy(plain), torch.float32, channels_last(dims))
    torch.testing.assert_close(wrapped(images(dims)), plain(images(dims)), atol=1e-4, rtol=1e-4)


def test_every_weight_has_a_float32_gradient_that_points_where_that_of_float32_does(dims):
    plain = network(dims)
    narrow = Autocast(copy.deepcopy(plain), torch.bfloat16, channels_last(dims))
    for each in (plain, narrow):
        each(images(dims)).square().mean().backward()
    found = [parameter.grad for parameter in narrow.parameters()]
    assert all(gradient.dtype == torch.float32 for gradient in found)
    found, expected = (torch.cat([p.grad.flatten() for p in each.parameters()]) for each in (narrow, plain))
    assert torch.cosine_similarity(found, expected, dim=0) > 0.99


def test_a_list_for_deep_supervision_stays_a_list_of_float32(dims):
    narrow = Autocast(network(dims, deep_supervision=True))
    assert [level.dtype for level in narrow.train()(images(dims))] == [torch.float32, torch.float32]
    assert isinstance(narrow.eval()(images(dims)), torch.Tensor)


def test_what_others_read_of_the_network_is_found_and_copies_keep_it(dims):
    narrow = Autocast(network(dims))
    for same in (narrow, copy.deepcopy(narrow), pickle.loads(pickle.dumps(narrow))):
        assert (same.in_channels, same.divisor, same.output_size(24)) == (1, (4,) * dims, (24,) * dims)
    with pytest.raises(AttributeError, match="nothing_of_that_name"):
        narrow.nothing_of_that_name  # noqa: B018


def test_the_weights_themselves_are_the_networks():
    plain = network(2)
    assert [id(p) for p in Autocast(plain).parameters()] == [id(p) for p in plain.parameters()]


@pytest.mark.parametrize(
    ("choice", "has_unit", "expected"),
    [
        ("auto", True, torch.bfloat16),
        ("auto", False, torch.float32),
        ("float32", True, torch.float32),
        ("bfloat16", False, torch.bfloat16),
    ],
)
def test_the_format_on_a_cpu_follows_the_choice_and_the_unit(choice, has_unit, expected, monkeypatch):
    monkeypatch.setattr(precision, "has_bfloat16", lambda device: has_unit)
    assert number_format(choice, "cpu") == expected


def test_a_gpu_without_bfloat16_takes_float16(monkeypatch):
    monkeypatch.setattr(precision, "has_bfloat16", lambda device: False)
    assert number_format("auto", "cuda:0") == torch.float16
    assert number_format("float32", "cuda:0") == torch.float32


def test_an_unknown_choice_is_an_error():
    with pytest.raises(InputError, match=r"precision='bfloat' is unknown. Remedy: did you mean 'bfloat16'"):
        number_format("bfloat", "cpu")


@pytest.mark.parametrize(("units", "expected"), [({"avx512_bf16": True}, True), ({"avx2": True}, False), ({}, False)])
def test_the_unit_is_the_processors(units, expected, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: types.MappingProxyType(units))
    assert has_bfloat16("cpu") is expected
    assert has_bfloat16("meta") is False


def test_a_compiler_that_fails_costs_time_and_no_training(monkeypatch, caplog):
    def breaks(x):
        raise ImportError("file too short")

    monkeypatch.setattr(torch, "compile", lambda function, **options: breaks)
    plain = network(2)
    made = Autocast(plain, torch.float32, compiled=True)
    for _ in range(2):
        torch.testing.assert_close(made(images(2)), plain(images(2)))
    assert caplog.text.count("the network is not compiled: ImportError: file too short") == 1


@pytest.mark.slow
@pytest.mark.skipif(not has_compiler() or sys.platform == "win32", reason="there is no C++ compiler")
def test_2d_and_3d_compile_in_one_process_and_other_shapes_run_as_they_are():
    for dims in (2, 3, 2):
        plain = network(dims)
        made = Autocast(copy.deepcopy(plain), torch.float32, channels_last(dims), compiled=True)
        for count in (2, 1, 2):  # the last batch of an epoch is smaller
            torch.testing.assert_close(made(images(dims, count)), plain(images(dims, count)), atol=1e-3, rtol=1e-3)
        made.eval()
        torch.testing.assert_close(made(images(dims)), plain.eval()(images(dims)), atol=1e-3, rtol=1e-3)


def test_an_output_that_is_no_tensor_is_left_to_the_inferer():
    class Pair(torch.nn.Module):
        def forward(self, x):
            return x, x

    assert isinstance(Autocast(Pair(), torch.bfloat16)(torch.zeros(1, 1, 4, 4)), tuple)
