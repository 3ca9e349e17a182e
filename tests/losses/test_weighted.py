from math import log

import pytest
import torch
from monai.data import MetaTensor
from monai.losses import DiceCELoss, DiceLoss

from pipeline.errors import InputError
from pipeline.losses.weighted import WeightedDiceCELoss, targets_with_weights

ONLY_CE = {"lambda_dice": 0.0}


def example(classes=3, shape=(2, 8, 6), dtype=torch.float32):
    torch.manual_seed(0)
    batch, *spatial = shape
    return torch.randn(batch, classes, *spatial).to(dtype), torch.randint(0, max(classes, 2), (batch, 1, *spatial))


def weighted(labels, weight):
    return torch.cat([labels.float(), weight.expand(labels.shape)], dim=1)


@pytest.mark.parametrize("shape", [(2, 8, 6), (2, 5, 4, 3)])
@pytest.mark.parametrize(
    "options", [{}, {"include_background": False, "batch": True}, {"smooth_nr": 0.0, "smooth_dr": 1.0}]
)
def test_without_weights_it_is_monais_loss(shape, options):
    logits, labels = example(shape=shape)
    expected = DiceCELoss(to_onehot_y=True, softmax=True, **options)(logits, labels)
    assert torch.equal(WeightedDiceCELoss(**options)(logits, labels), expected)


def test_one_channel_is_monais_sigmoid_loss():
    logits, labels = example(classes=1)
    expected = DiceCELoss(sigmoid=True)(logits, labels.float())
    torch.testing.assert_close(WeightedDiceCELoss()(logits, labels), expected)


def test_two_by_two_by_hand():
    # P(class 1) = 1/2, 3/4, 1/4, 1/2 as logits (0, log odds); the truth is 0 1 / 0 1.
    logits = torch.tensor([[[[0.0, 0.0], [0.0, 0.0]], [[0.0, log(3)], [-log(3), 0.0]]]])
    labels = torch.tensor([[[[0, 1], [0, 1]]]])
    weight = torch.tensor([[[[1.0, 2.0], [3.0, 10.0]]]])
    entropies = [-log(1 / 2), -log(3 / 4), -log(3 / 4), -log(1 / 2)]
    expected = (1 * entropies[0] + 2 * entropies[1] + 3 * entropies[2] + 10 * entropies[3]) / 4
    loss = WeightedDiceCELoss(**ONLY_CE)
    assert loss(logits, weighted(labels, weight)).item() == pytest.approx(expected, rel=1e-6)
    # Dice of class 1: 2 (3/4 + 1/2) / (2 + 2) = 0.625, and the same for class 0; it takes no weights.
    both = WeightedDiceCELoss(smooth_nr=0.0, smooth_dr=0.0, lambda_dice=2.0, lambda_ce=0.5)
    assert both(logits, weighted(labels, weight)).item() == pytest.approx(2 * 0.375 + 0.5 * expected, rel=1e-6)
    # Class weights 1 and 3: factors 1 3 / 1 3, divided by their mean 2.
    classes = WeightedDiceCELoss(class_weight=[1.0, 3.0], **ONLY_CE)
    expected = (1 * entropies[0] + 6 * entropies[1] + 3 * entropies[2] + 30 * entropies[3]) / 8
    assert classes(logits, weighted(labels, weight)).item() == pytest.approx(expected, rel=1e-6)
    # One channel holds the same log odds.
    assert classes(logits[:, 1:], weighted(labels, weight)).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("class_weight", [None, [0.5, 1.0, 4.0]])
def test_weights_of_one_change_nothing(class_weight):
    logits, labels = example()
    loss = WeightedDiceCELoss(class_weight=class_weight)
    torch.testing.assert_close(loss(logits, weighted(labels, torch.ones(1))), loss(logits, labels))


def test_class_weights_are_those_of_torch():
    logits, labels = example()
    weight = torch.tensor([0.5, 1.0, 4.0])
    expected = torch.nn.CrossEntropyLoss(weight)(logits, labels[:, 0])
    torch.testing.assert_close(WeightedDiceCELoss(class_weight=weight.tolist(), **ONLY_CE)(logits, labels), expected)


@pytest.mark.parametrize("classes", [1, 3])
def test_gradient(classes):
    logits, labels = example(classes, shape=(1, 3, 3))
    targets = weighted(labels, torch.rand(1, 1, 3, 3) * 10)
    logits = logits.requires_grad_()
    loss = WeightedDiceCELoss(class_weight=[1.0, 2.0, 3.0][: max(classes, 2)])
    loss(logits, targets).backward()
    step = 1e-2
    for index in [(0, 0, 0, 0), (0, classes - 1, 2, 1)]:
        values = []
        for sign in (1, -1):
            moved = logits.detach().clone()
            moved[index] += sign * step
            values.append(loss(moved, targets).item())
        assert logits.grad[index].item() == pytest.approx((values[0] - values[1]) / (2 * step), abs=1e-3)


def test_low_precision_logits_are_computed_in_float32():
    logits, labels = example(dtype=torch.bfloat16)
    targets = weighted(labels, torch.tensor(3.0))
    loss = WeightedDiceCELoss()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss([logits, logits], targets)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, loss(logits.float(), targets))


def test_deep_supervision_halves_the_weight_of_each_scale():
    torch.manual_seed(0)
    labels = torch.randint(0, 2, (2, 1, 8, 8))
    weight = torch.rand(2, 1, 8, 8)
    scales = [torch.randn(2, 2, size, size) for size in (8, 4, 2)]
    loss = WeightedDiceCELoss()
    full = [
        loss(scale, weighted(labels, weight)[:, :, ::step, ::step])
        for scale, step in zip(scales, (1, 2, 4), strict=True)
    ]
    expected = (full[0] + full[1] / 2 + full[2] / 4) / 1.75
    torch.testing.assert_close(loss(scales, weighted(labels, weight)), expected)
    torch.testing.assert_close(loss(tuple(scales[:1]), weighted(labels, weight)), full[0])


@pytest.mark.parametrize("cut", [1, 2])
def test_smaller_logits_are_compared_with_the_centre_of_the_targets(cut):
    logits, labels = example(shape=(2, 10, 9))
    weight = torch.rand(2, 1, 10, 9)
    inner = logits[..., cut : 10 - cut, cut : 9 - cut]
    targets = weighted(labels, weight)
    loss = WeightedDiceCELoss()(inner, targets)
    assert torch.equal(loss, WeightedDiceCELoss()(inner, targets[..., cut : 10 - cut, cut : 9 - cut]))
    # What lies outside the centre is not seen.
    targets[:, :, :cut] = targets[:, :, -cut:] = targets[..., :cut] = targets[..., -cut:] = 2
    assert torch.equal(loss, WeightedDiceCELoss()(inner, targets))


def test_meta_tensors_give_plain_losses():
    logits, labels = example()
    value = WeightedDiceCELoss()(MetaTensor(logits), MetaTensor(labels))
    assert type(value) is torch.Tensor
    assert torch.equal(value, WeightedDiceCELoss()(logits, labels))


def test_state_dict_is_empty():
    assert not WeightedDiceCELoss(class_weight=[1.0, 2.0]).state_dict()


def test_wrong_shapes_and_factors_are_input_errors():
    logits, labels = example()
    with pytest.raises(InputError, match="targets of shape"):
        WeightedDiceCELoss()(logits, labels.expand(-1, 3, -1, -1))
    with pytest.raises(InputError, match="targets of shape"):
        WeightedDiceCELoss()(logits, labels[..., :-1])
    with pytest.raises(InputError, match="targets of shape"):
        WeightedDiceCELoss()(logits[..., :-1], labels)
    with pytest.raises(InputError, match="lambda_dice"):
        WeightedDiceCELoss(lambda_dice=0.0, lambda_ce=0.0)


def batch_of(*spatial):
    image = MetaTensor(torch.rand(2, 1, *spatial))
    return {"image": image, "label": MetaTensor(torch.ones(2, 1, *spatial, dtype=torch.uint8))}


def test_targets_with_weights():
    batch = batch_of(4, 4)
    image, targets = targets_with_weights(batch, "cpu")
    assert type(image) is type(targets) is torch.Tensor
    assert torch.equal(image, batch["image"].as_tensor())
    assert targets.dtype == torch.uint8
    batch["weight"] = torch.rand(2, 1, 4, 4)
    _, targets = targets_with_weights(batch, "cpu", non_blocking=True)
    assert targets.dtype == torch.float32
    assert torch.equal(targets, torch.cat([torch.ones(2, 1, 4, 4), batch["weight"]], dim=1))
    image, targets = targets_with_weights({"image": batch["image"]})
    assert targets is None


@pytest.mark.parametrize("spatial", [(4, 4), (4, 4, 4)])
@pytest.mark.parametrize("memory_format", [torch.channels_last, torch.channels_last_3d, torch.contiguous_format])
def test_memory_format_is_applied_where_it_is_valid(spatial, memory_format):
    batch = batch_of(*spatial)
    batch["image"] = batch["image"].expand(-1, 3, *spatial)
    image, _ = targets_with_weights(batch, "cpu", memory_format=memory_format, dtype=torch.float64)
    assert image.dtype == torch.float64
    valid = {torch.channels_last: 2, torch.channels_last_3d: 3}.get(memory_format, len(spatial)) == len(spatial)
    assert image.is_contiguous(memory_format=memory_format) == valid


def masks(shape=(2, 3, 8, 6)):
    torch.manual_seed(1)
    return (torch.rand(*shape) > 0.5).to(torch.uint8)


def test_regions_are_monais_sigmoid_dice_and_binary_cross_entropy():
    logits = torch.randn(2, 3, 8, 6)
    dice = DiceLoss(sigmoid=True)(logits, masks().float())
    entropy = torch.nn.BCEWithLogitsLoss()(logits, masks().float())
    torch.testing.assert_close(WeightedDiceCELoss(regions=True)(logits, masks()), dice + entropy)
    torch.testing.assert_close(WeightedDiceCELoss(**ONLY_CE, regions=True)(logits, masks()), entropy)


def test_two_voxels_in_two_regions_by_hand():
    logits = torch.tensor([[[0.0, log(3)], [log(3), 0.0]]])  # probabilities 1/2 and 3/4, 3/4 and 1/2
    targets = torch.tensor([[[0, 1], [1, 1]]])
    # -log of 1/2, 3/4, 3/4 and 1/2, and their mean
    expected = (2 * log(2) + 2 * log(4 / 3)) / 4
    assert WeightedDiceCELoss(**ONLY_CE, regions=True)(logits, targets).item() == pytest.approx(expected)


def test_regions_of_lower_levels_are_taken_from_the_nearest_voxel():
    loss, targets = WeightedDiceCELoss(regions=True), masks()
    full, half = torch.randn(2, 3, 8, 6), torch.randn(2, 3, 4, 3)
    expected = (loss(full, targets) + 0.5 * loss(half, targets[..., ::2, ::2])) / 1.5
    torch.testing.assert_close(loss([full, half], targets), expected)


def test_regions_of_another_number_and_class_weights_are_refused():
    with pytest.raises(InputError, match="give a mask for each region"):
        WeightedDiceCELoss(regions=True)(torch.randn(2, 3, 8, 6), masks((2, 1, 8, 6)))
    with pytest.raises(InputError, match="exclude each other"):
        WeightedDiceCELoss(regions=True, class_weight=[1.0, 2.0])


def test_class_weights_of_another_number_than_the_classes_are_named():
    loss = WeightedDiceCELoss(class_weight=[1, 2, 3])
    with pytest.raises(InputError, match="class_weight has 3 factors for 2 classes"):
        loss(torch.zeros(1, 2, 4, 4), torch.zeros(1, 1, 4, 4))
