"""What the doctor says of a machine that is well, and of each thing that may be wrong with it."""

import re
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import pytest
from mlflow.entities import ViewType
from mlflow.tracking import MlflowClient

import pipeline
from pipeline import doctor
from pipeline.doctor import Finding, examine


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def store(tmp_path):
    return f"sqlite:///{tmp_path / 'none.db'}"


def test_a_machine_that_is_well(tmp_path, capsys, store, monkeypatch):
    monkeypatch.setattr(doctor, "LEAST_MEMORY", 0)
    monkeypatch.chdir(tmp_path)  # the bundle is found from any folder
    assert examine(store, str(tmp_path / "runs"))
    said = capsys.readouterr().out
    assert re.search(r"ok training +two steps of .*train.json, validated and saved in \d+ s", said)
    assert f"ok folders    {tmp_path / 'cache' / 'unet-pipeline'}: can be written" in said
    assert "\nall that was tried is well (for a bug report" in said
    assert not any(tmp_path.iterdir())  # it leaves nothing


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
    assert f"{tmp_path / 'cache' / 'unet-pipeline'}: nothing can be written here" in lines[3]


def test_a_cache_for_which_there_is_no_place(tmp_path, capsys, store, untrained, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert not examine(store, str(tmp_path))
    (line,) = complaints(capsys)
    assert f"{tmp_path / 'file' / 'unet-pipeline'}: nothing can be written here (Not a directory)" in line


@pytest.mark.parametrize("folder", ["/proc/nope", "file"])
def test_a_store_that_is_not_there_and_cannot_be_made(tmp_path, capsys, untrained, monkeypatch, folder):
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    uri = f"sqlite:///{folder}/m.db"
    assert not examine(uri, str(tmp_path))
    (line,) = complaints(capsys)
    assert f"the MLflow store '{uri}' refuses: it is not there, and cannot be made in " in line
    assert "Remedy: check mlflow#uri and MLFLOW_TRACKING_URI" in line


def test_a_store_in_folders_that_the_first_run_makes(tmp_path, capsys, untrained):
    assert examine(f"sqlite:///{tmp_path}/a/b/m.db", str(tmp_path))
    assert "m.db: not there yet, the first run can make it" in capsys.readouterr().out
    assert not any(tmp_path.iterdir())


@pytest.fixture
def database(tmp_path, empty_store):
    return shutil.copyfile(empty_store, tmp_path / "mlflow.db")


def test_a_database_is_written_to_and_comes_out_as_it_was(tmp_path, capsys, untrained, database):
    with closing(sqlite3.connect(database)) as content:
        before = [*content.iterdump()]
    assert examine(f"sqlite:///{database}", str(tmp_path))
    assert re.search(r"ok MLflow +.*: 2 experiments, opened and written to in", capsys.readouterr().out)
    with closing(sqlite3.connect(database)) as content:
        assert [*content.iterdump()] == before


def test_a_database_that_can_only_be_read(tmp_path, capsys, untrained, database, monkeypatch):
    """As on a medium that is mounted for reading: the superuser's own file modes would not hinder him."""

    def connect(file, **options):
        return sqlite3.connect(file.replace("=rw", "=ro"), **options)

    monkeypatch.setattr(doctor, "sqlite3", SimpleNamespace(connect=connect, Error=sqlite3.Error))
    assert not examine(f"sqlite:///{database}", str(tmp_path))
    (line,) = complaints(capsys)
    assert "refuses: attempt to write a readonly database. Remedy" in line


def test_a_database_that_another_process_keeps_to_itself(tmp_path, capsys, untrained, database, monkeypatch):
    monkeypatch.setattr(doctor, "BUSY_FOR", 0.1)
    with closing(sqlite3.connect(database)) as other:
        other.execute("BEGIN IMMEDIATE")
        assert not examine(f"sqlite:///{database}", str(tmp_path))
    (line,) = complaints(capsys)
    assert "refuses: database is locked" in line


def test_a_file_that_is_no_database(tmp_path, capsys, untrained):
    (tmp_path / "mlflow.db").write_bytes(b"nothing of the kind " * 100)
    assert not examine(f"sqlite:///{tmp_path}/mlflow.db", str(tmp_path))
    (line,) = complaints(capsys)
    assert "refuses: file is not a database" in line


def test_a_store_of_another_kind_is_given_a_run_that_is_deleted_again(tmp_path, capsys, untrained, database):
    uri = f"sqlite+pysqlite:///{database}"  # stands for a server: not one whose file is written to
    assert examine(uri, str(tmp_path))
    assert re.search(r"ok MLflow +.* opened and written to in", capsys.readouterr().out)
    client = MlflowClient(f"sqlite:///{database}")
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    assert client.search_runs(experiments) == []
    (run,) = client.search_runs(experiments, run_view_type=ViewType.DELETED_ONLY)
    assert (run.info.run_name, run.info.status) == ("doctor", "FINISHED")


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


def test_without_a_bundle_no_training_is_tried_and_the_last_line_says_so(tmp_path, capsys, store, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pipeline, "__file__", str(tmp_path / "site-packages" / "pipeline" / "__init__.py"))
    assert examine(store, str(tmp_path))
    *said, verdict = capsys.readouterr().out.splitlines()
    words = "not tried: there is no bundles/unet here. Remedy: run this in the project's folder"
    assert any(words in line for line in said)
    assert verdict == "all that was tried is well; not tried: training (for a bug report, paste all of this)"
