"""Several processes of one training: what they share, and what they say when one is gone."""

import os
import signal
import socket

import pytest
import torch
import torch.distributed as dist
from forked_ranks import in_ranks

from pipeline import ranks
from pipeline.errors import InputError


def test_one_process_is_its_own_first_rank(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT"):
        monkeypatch.delenv(name, raising=False)
    assert (ranks.size(), ranks.rank(), ranks.restarts(), ranks.job()) == (1, 0, 0, None)
    assert not ranks.are_started()
    assert ranks.gather("own") == ranks.gather_first("own") == ["own"]
    value = torch.tensor(3.0, requires_grad=True)
    assert ranks.mean(value) == 3
    assert not ranks.mean(value).requires_grad
    assert ranks.says(InputError("x"))
    assert ranks.says(InputError("x"))
    assert ranks.lost(RuntimeError("gloo: connection closed")) is None
    ranks.leave("x")
    ranks.finish()


@pytest.mark.parametrize(
    ("batch_size", "size", "expected"),
    [(6, 1, 6), (6, 2, 3), (6, 3, 2), (4, 3, "--batch_size 3 or --batch_size 6"), (2, 3, "Remedy: --batch_size 3$")],
)
def test_a_batch_is_shared_evenly_or_refused(monkeypatch, batch_size, size, expected):
    monkeypatch.setattr(ranks, "size", lambda: size)
    if isinstance(expected, int):
        assert ranks.share(batch_size) == expected
    else:
        with pytest.raises(InputError, match=expected):
            ranks.share(batch_size)


def test_each_rank_has_the_gpu_of_its_number_on_its_machine(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert ranks.device() == "cpu"
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    monkeypatch.setenv("LOCAL_RANK", "3")
    monkeypatch.setenv("RANK", "11")
    assert ranks.device() == "cuda:3"
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    with pytest.raises(InputError, match=r"start 8 processes on this machine, which has 4 GPUs.*--nproc_per_node=4"):
        ranks.device()


def test_a_torchrun_keeps_its_name_through_restarts(monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "job-7")
    assert ranks.job() == "job-7"
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")  # torchrun's own word where it was given no id
    assert ranks.job() == f"{socket.gethostname()}-{os.getppid()}"


def shared():
    number = ranks.rank()
    device_before, mean = torch.tensor(float(number**2)), ranks.mean(torch.tensor(float(number**2)))
    assert device_before == number**2, "the rank's own number stays as it is"
    firsts = [ranks.says(InputError("same for all")), ranks.says(InputError(f"of rank {number}"))]
    gathered = (ranks.gather(number), ranks.gather_first(number))
    ranks.finish()
    ranks.start()  # once more, as a program that trains several folds
    return gathered, float(mean), firsts, ranks.gather("again")


def test_ranks_share_what_they_have_and_say_a_thing_once():
    found = in_ranks(3, shared)
    assert [gathered for gathered, *_ in found] == [([0, 1, 2], [0, 1, 2]), ([0, 1, 2], []), ([0, 1, 2], [])]
    assert [mean for _, mean, *_ in found] == [pytest.approx(5 / 3)] * 3
    assert sum(firsts[0] for *_, firsts, _ in found) == 1
    assert all(firsts[1] for *_, firsts, _ in found)
    assert {len(again) for *_, again in found} == {3}


def without_one(how):
    """Rank 1 ends in its own way; the others wait for it in a collective."""
    if ranks.rank() == 1:
        if how == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        ranks.leave("the disk is full")
        return "left"
    try:
        dist.all_reduce(torch.ones(1))
    except RuntimeError as error:
        lost = ranks.lost(error, "--resume true --run_name a")
        return str(lost), ranks.says(lost)


@pytest.mark.parametrize(
    ("how", "words"),
    [("killed", r"rank 1 of this training \(process \d+ on .+\) has died"), ("left", "the disk is full")],
)
def test_a_rank_that_is_gone_is_named_with_the_way_to_go_on(how, words):
    first, _, third = in_ranks(3, without_one, how)
    with pytest.raises(InputError, match=rf"{words}.*continue with --resume true --run_name a"):
        raise InputError(first[0])
    assert first[1]
    assert not third[1], "the first rank has said it"


def test_an_error_of_this_ranks_own_is_no_loss(monkeypatch):
    monkeypatch.setattr(ranks, "size", lambda: 2)
    assert ranks.lost(ValueError("x")) is None
    assert ranks.lost(SystemExit(143)) is None, "torchrun was told to stop, and no rank is gone"
