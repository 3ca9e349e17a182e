"""What the doctor says of a machine that is well, and of each thing that may be wrong with it."""

import re
from pathlib import Path

import pytest

from pipeline import doctor
from pipeline.doctor import Finding, examine

ROOT = Path(__file__).parents[1]


@pytest.fixture
def store(tmp_path):
    return f"sqlite:///{tmp_path / 'none.db'}"


def test_a_machine_that_is_well(tmp_path, capsys, store, monkeypatch):
    monkeypatch.setattr(doctor, "LEAST_MEMORY", 0)
    assert examine(store, str(tmp_path / "runs"), ROOT / "bundles" / "unet")
    said = capsys.readouterr().out
    assert re.search(r"ok training +two steps of .*train.json, validated and saved in \d+ s", said)
    assert "all is well" in said
    assert not (tmp_path / "runs").exists()  # it leaves nothing
    assert not (tmp_path / "none.db").exists()


@pytest.fixture
def untrained(monkeypatch):
    """Leave out the training, which takes seconds."""
    monkeypatch.setattr(doctor, "_training", lambda bundle: iter([Finding(None, "training", "left out")]))


def complaints(capsys):
    return [line for line in capsys.readouterr().out.splitlines() if line.startswith("!!")]


def test_a_server_that_does_not_answer(tmp_path, capsys, untrained):
    assert not examine("http://127.0.0.1:9", str(tmp_path))
    (line,) = complaints(capsys)
    assert "no server answers at http://127.0.0.1:9" in line
    assert "Remedy" in line


def test_a_folder_that_cannot_be_written(tmp_path, capsys, store, untrained, monkeypatch):
    def refuse(dir):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(doctor.tempfile, "NamedTemporaryFile", refuse)
    assert not examine(store, str(tmp_path / "runs"))
    lines = complaints(capsys)
    assert f"{tmp_path / 'runs'}: nothing can be written here (No space left on device)" in lines[0]


def test_too_little_disk_and_memory(tmp_path, capsys, store, untrained, monkeypatch):
    monkeypatch.setattr(doctor, "LEAST_DISK", 1e30)
    monkeypatch.setattr(doctor, "LEAST_MEMORY", 1e30)
    assert not examine(store, str(tmp_path))
    lines = complaints(capsys)
    assert "Remedy: close other programs" in lines[0]
    assert all("Remedy: make room" in line for line in lines[1:])


def test_a_package_that_is_missing(tmp_path, capsys, store, untrained, monkeypatch):
    monkeypatch.setattr(doctor, "NEEDED", ("torch", "no-such-package"))
    assert not examine(store, str(tmp_path))
    assert any("missing: no-such-package. Remedy" in line for line in complaints(capsys))


def test_what_breaks_in_a_check_is_shown_whole(tmp_path, capsys, store, monkeypatch):
    def broken(bundle):
        raise ZeroDivisionError("of this machine")

    monkeypatch.setattr(doctor, "_training", broken)
    assert not examine(store, str(tmp_path))
    said = capsys.readouterr().out
    assert "ZeroDivisionError: of this machine" in said
    assert "1 of these need attention" in said


def test_without_a_bundle_no_training_is_tried(tmp_path, capsys, store):
    examine(store, str(tmp_path), tmp_path / "bundle")
    assert "not tried: there is no" in capsys.readouterr().out
