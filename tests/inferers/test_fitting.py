import gc
import weakref

import pytest
import torch

from pipeline.errors import InputError
from pipeline.inferers.fitting import HOST, Fitting, Shortage, allocate, attempt


def out_of_memory(message="no room\nfor this"):
    raise torch.OutOfMemoryError(message)


def test_an_attempt_returns_what_the_call_returns_or_why_not():
    assert attempt(lambda: 3) == 3
    assert attempt(lambda: "text") == "text"
    assert not isinstance(attempt(lambda: "text"), Shortage)
    reason = attempt(out_of_memory)
    assert (type(reason), reason) == (Shortage, "no room")
    assert attempt(lambda: out_of_memory("")) == "out of memory"


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: 8 bytes")])
def test_the_host_runs_out_of_memory_too(error):
    def fail():
        raise error

    assert isinstance(attempt(fail), Shortage)


@pytest.mark.parametrize("error", [RuntimeError("expected 3 channels"), ValueError("a"), InputError("b")])
def test_other_errors_pass(error):
    def fail():
        raise error

    with pytest.raises(type(error)):
        attempt(fail)


def test_after_a_shortage_what_the_call_held_is_free():
    held = []

    def fail():
        large = torch.zeros(10)
        held.append(weakref.ref(large))
        out_of_memory()

    gc.disable()  # nothing may wait for the collector
    try:
        attempt(fail)
        assert held[0]() is None
    finally:
        gc.enable()


def test_what_does_not_fit_a_device_is_allocated_on_the_host(monkeypatch, caplog):
    zeros = torch.zeros

    def full(shape, dtype, device):
        return out_of_memory() if torch.device(device).type == "meta" else zeros(shape, dtype=dtype, device=device)

    monkeypatch.setattr(torch, "zeros", full)
    made = allocate((2, 3), torch.float64, "meta", zeros=True)
    assert (made.shape, made.dtype, made.device, made.sum()) == ((2, 3), torch.float64, HOST, 0)
    assert "meta has no room for a prediction of shape (2, 3)" in caplog.text
    monkeypatch.setattr(torch, "zeros", lambda *args, **kwargs: out_of_memory())
    with pytest.raises(InputError, match="memory does not suffice to predict this image: no room"):
        allocate((2, 3), torch.float64, "meta", zeros=True)


class Network:
    def __init__(self, at_most):
        self.at_most, self.seen = at_most, []

    def __call__(self, batch):
        self.seen.append(list(batch))
        return out_of_memory() if len(batch) > self.at_most else torch.tensor(batch)


def test_every_window_is_predicted_once_in_order():
    network = Network(at_most=2)
    fitting = Fitting()
    found = [(list(batch), output.tolist()) for batch, output in fitting.predictions([*range(7)], 5, network, bool)]
    assert found == [([0, 1], [0, 1]), ([2, 3], [2, 3]), ([4, 5], [4, 5]), ([6], [6])]
    assert network.seen[0] == [0, 1, 2, 3, 4]
    assert fitting.limit == 2
    assert [len(batch) for batch, _ in fitting.predictions([*range(4)], 1, network, bool)] == [1] * 4


def test_room_is_made_only_where_a_single_window_does_not_fit():
    network, asked = Network(at_most=0), []

    def make_room():
        asked.append(len(network.seen))
        network.at_most = 1
        return len(asked) < 2

    assert len(list(Fitting().predictions([*range(3)], 2, network, make_room))) == 3
    assert asked == [2]
    network.at_most = 0
    with pytest.raises(InputError, match=r"no room\. Remedy: .*smaller window"):
        list(Fitting().predictions([1], 2, network, make_room))
