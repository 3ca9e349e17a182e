"""Clients of schedulers that are there, that are not, and that are started for the occasion."""

import importlib.util
import os
import socket
import time

import psutil
import pytest

from pipeline.cluster.opening import Place, opened, share_of, visible_devices
from pipeline.errors import InputError


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({}, "none of them is given"),
        ({"scheduler": "tcp://a:1", "workers": 2}, "--scheduler and --workers are given"),
        ({"workers": 0}, "0 workers"),
    ],
)
def test_exactly_one_place(given, reason):
    with pytest.raises(InputError, match=reason):
        Place(**given)


def test_an_address_where_nothing_answers_is_named_within_seconds():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{one.getsockname()[1]}"
    begun = time.monotonic()
    with pytest.raises(InputError, match=f"no Dask scheduler answers at {address}"), opened(Place(address)):
        pass
    assert time.monotonic() - begun < 30, "10 seconds, and some for a busy machine"


def test_something_else_that_answers_is_no_scheduler(monkeypatch):
    monkeypatch.setattr("pipeline.cluster.opening.CONNECTED_WITHIN", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        address = f"tcp://127.0.0.1:{deaf.getsockname()[1]}"
        with pytest.raises(InputError, match=f"no Dask scheduler answers at {address}"), opened(Place(address)):
            pass


@pytest.mark.parametrize("word", ["host", "htp://x:1", "tcp://host:port"])
def test_a_mistyped_address(word):
    with pytest.raises(InputError, match=r"no Dask scheduler answers at .*tcp://host:8786"), opened(Place(word)):
        pass


def test_without_dask_the_extra_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r'pip install "unet-pipeline\[scale\]"'), opened(Place(workers=1)):
        pass


def test_processes_of_this_machine_share_its_cores_and_are_gone_at_the_end(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    before = {one.pid for one in psutil.Process().children(recursive=True)}
    with opened(Place(workers=2)) as client:
        client.wait_for_workers(2, timeout=60)
        found = client.run(lambda: [os.environ[key] for key in ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES")])
        assert sorted(found.values()) == [["3", "4"], ["3", "7"]]
        waits = client.run(lambda: os.environ["OMP_WAIT_POLICY"])
        assert set(waits.values()) == {"PASSIVE"}
    after = {one.pid for one in psutil.Process().children(recursive=True) if one.status() != psutil.STATUS_ZOMBIE}
    left = [psutil.Process(pid).cmdline() for pid in after - before]
    assert [line for line in left if "resource_tracker" not in " ".join(line)] == []


def test_what_the_user_has_set_stays(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    share = share_of(1, 2)
    assert share["OMP_NUM_THREADS"] == "5"
    assert "CUDA_VISIBLE_DEVICES" not in share


def test_gpus_are_counted_without_torch(tmp_path, monkeypatch):
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'GPU 0: H200'\necho 'GPU 1: H200'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert visible_devices({}) == ["0", "1"]
    assert visible_devices({"CUDA_VISIBLE_DEVICES": "1"}) == ["1"]
    tool.write_text("#!/bin/sh\nexit 9\n")
    assert visible_devices({}) == []
