"""What a training's process says to its worker, and hears from it."""

import threading
from multiprocessing import Pipe
from queue import SimpleQueue
from types import SimpleNamespace

import pytest
from filelock import FileLock

from pipeline.errors import InputError
from pipeline.sweeps import remote_trial
from pipeline.sweeps.remote_trial import Order, RemoteTrial, answer


def order(folder=""):
    return Order(3, {"learning_rate": 0.1}, b"", b"", "topic", str(folder))


def test_values_go_to_the_client_with_the_question_and_its_answer_comes_back():
    ours, theirs = Pipe()
    trial = RemoteTrial(order(), theirs)
    assert trial.params == {"learning_rate": 0.1}
    assert trial.user_attrs == {"number": 3}
    trial.report(0.5, 1)
    trial.report(0.6, 2)
    ours.send(True)
    assert trial.should_prune() is True
    assert ours.recv() == {"values": [(1, 0.5), (2, 0.6)], "asks": True}
    assert trial.send() is False, "there is nothing to say"
    assert not ours.poll(0)
    trial.report(0.7, 3)
    ours.send(False)
    trial.send()
    assert ours.recv() == {"values": [(3, 0.7)], "asks": False}


def test_an_answer_reaches_the_training_that_asked(monkeypatch):
    waiting = SimpleQueue()
    monkeypatch.setattr(remote_trial, "_answers", {"this": waiting})
    answer("another", True)
    answer("this", False)
    assert waiting.get_nowait() is False
    assert waiting.empty()


def test_a_training_that_nobody_wants_is_waited_for_no_longer(monkeypatch):
    monkeypatch.setattr(remote_trial, "LOOK_EVERY", 0.05)
    wanted = threading.Event()
    ours, theirs = Pipe()
    alive = SimpleNamespace(poll=lambda: None)
    theirs.send({"values": []})
    assert remote_trial._next_message(alive, ours, lambda: True) == {"values": []}
    assert remote_trial._next_message(alive, ours, wanted.is_set) is None
    assert remote_trial._wait_for(SimpleQueue(), wanted.is_set) is None
    assert remote_trial._next_message(SimpleNamespace(poll=lambda: -9), ours, lambda: True) is None
    theirs.close()
    assert remote_trial._next_message(alive, ours, lambda: True) is None


def test_two_processes_never_train_one_trial(tmp_path, monkeypatch):
    monkeypatch.setattr(remote_trial, "ENDS_WITHIN", 0.2)
    of_sweep = SimpleNamespace(sweep=SimpleNamespace(folder=tmp_path), name="tiny-003")
    with remote_trial._only_one(of_sweep):
        pass
    with (
        FileLock(tmp_path / ".tiny-003.lock"),
        pytest.raises(InputError, match="trial tiny-003 is still being trained"),
        remote_trial._only_one(of_sweep),
    ):
        pass
