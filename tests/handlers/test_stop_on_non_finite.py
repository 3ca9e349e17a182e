"""A loss that is no number never reaches the weights, and the images that made it are named."""

import pytest
import torch
from engines import trainer

from pipeline.errors import InputError
from pipeline.handlers.stop_on_non_finite import StopOnNonFinite


def batch(values, ids=("first", "second")):
    images = torch.tensor([[value, 1.0, 1.0] for value in values])
    content = {"image": images, "label": torch.zeros(len(values), 2)}
    return content | ({"id": list(ids)} if ids else {})


def stop(*batches, epochs=1, loss=None):
    """Train, and return the error and the weights' change."""
    network = torch.nn.Linear(3, 2)
    before = network.weight.detach().clone()
    engine = trainer([StopOnNonFinite()], epochs=epochs, network=network)
    engine.data_loader = list(batches)
    engine.state.epoch_length = len(batches)
    engine.loss_function = loss or torch.nn.functional.mse_loss
    with pytest.raises(InputError) as caught:
        engine.run()
    return caught.value, (network.weight - before).detach().abs().sum()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_the_image_at_fault_is_named_and_no_other(value):
    error, change = stop(batch([1.0, value]))
    assert error.case == "second"
    assert "at epoch 1, iteration 1: these images are not finite" in error.reason
    assert "mend or remove these images" in error.remedy
    assert change == 0


def test_several_images_at_fault():
    assert stop(batch([float("nan"), float("nan")]))[0].case == "first, second"


def test_finite_images_put_the_blame_on_the_network():
    error, change = stop(batch([1.0, 2.0]), loss=lambda prediction, label: prediction.sum() * float("inf"))
    assert error.case == "first, second"
    assert "the images are finite, so the network's output is not" in error.reason
    assert "lower the learning rate" in error.remedy
    assert change == 0


def test_the_place_in_training_is_named():
    losses = iter([1.0, 1.0, 1.0, 1.0, float("nan")])
    error, change = stop(
        batch([1.0, 2.0]), batch([1.0, 2.0]), epochs=9, loss=lambda prediction, _: prediction.mean() * next(losses)
    )
    assert "the loss is nan at epoch 3, iteration 5" in error.reason
    assert change > 0, "what came before has trained"


def test_images_without_ids_are_counted():
    error, _ = stop(batch([1.0, 2.0, float("nan")], ids=None))
    assert error.case == "number 3 of the batch"


def test_a_finite_loss_goes_on():
    engine = trainer([StopOnNonFinite()], epochs=2, losses=(1e30, 0, -1))
    engine.run()
    assert engine.state.iteration == 6
