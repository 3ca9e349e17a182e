"""Files of runs, in a folder or from a server."""

import threading
from pathlib import Path

import pytest
from mlflow.environment_variables import MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR
from mlflow.exceptions import MlflowException

from pipeline.comparison.artifacts import at_once, local_folder, read_artifact
from pipeline.comparison.store import TrackedRun
from pipeline.errors import InputError


def run_at(uri):
    return TrackedRun("a1", "plain", "1", "FINISHED", 0, str(uri))


class Served:
    """A store whose server has some files of one run."""

    def __init__(self, **files):
        self.client, self.files, self.asked = self, files, []

    def download_artifacts(self, run, path, folder):
        self.asked.append((run, path))
        if path not in self.files:
            raise MlflowException(f"no {path}")
        file = Path(folder) / path
        file.write_bytes(self.files[path])
        return str(file)


@pytest.mark.parametrize(
    ("uri", "folder"),
    [
        ("/data/mlruns/1/artifacts", "/data/mlruns/1/artifacts"),
        ("mlruns/1/artifacts", "mlruns/1/artifacts"),
        ("file:///data/my%20runs/artifacts", "/data/my runs/artifacts"),
        ("mlflow-artifacts:/1/a1/artifacts", None),
        ("s3://bucket/1/a1/artifacts", None),
    ],
)
def test_only_a_path_or_a_file_uri_is_a_folder(uri, folder):
    found = local_folder(run_at(uri))
    assert (found if found is None else str(found)) == folder


@pytest.mark.parametrize("as_uri", [False, True], ids=["path", "file uri"])
def test_a_file_in_a_folder_is_read_without_a_question(tmp_path, as_uri):
    folder = tmp_path / "my runs"
    (folder / "evaluation").mkdir(parents=True)
    (folder / "evaluation" / "cases.csv").write_bytes(b"case\r\n")
    run = run_at(folder.as_uri() if as_uri else folder)
    assert read_artifact(None, run, "evaluation/cases.csv") == b"case\r\n"
    assert read_artifact(None, run, "evaluation/other.csv") is None
    assert read_artifact(None, run, "evaluation") is None, "a folder is no file"


def test_a_file_of_a_server_is_fetched_and_a_missing_one_is_none(monkeypatch):
    monkeypatch.setenv("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "true")  # set anew by the reading, and then restored
    served, run = Served(table=b"1,2"), run_at("mlflow-artifacts:/1/a1/artifacts")
    assert read_artifact(served, run, "table") == b"1,2"
    assert read_artifact(served, run, "picture") is None
    assert not MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR.get()
    assert served.asked == [("a1", "table"), ("a1", "picture")]


def test_answers_come_in_the_order_of_the_items_though_asked_at_once():
    both = threading.Barrier(2, timeout=10)  # breaks unless two are asked at the same time

    def question(item):
        both.wait()
        return 10 * item

    assert at_once(question, [3, 1]) == [30, 10]
    assert at_once(question, []) == []


def test_what_goes_wrong_in_a_thread_is_raised():
    with pytest.raises(ZeroDivisionError):
        at_once(lambda item: 1 / item, [1, 0])


def test_a_file_larger_than_any_of_ours_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.comparison.artifacts.MOST_BYTES", 3)
    (tmp_path / "table").write_bytes(b"1,2")
    assert read_artifact(None, run_at(tmp_path), "table") == b"1,2"
    (tmp_path / "table").write_bytes(b"1,23")
    for store, run in ((None, run_at(tmp_path)), (Served(table=b"1,23"), run_at("mlflow-artifacts:/1/a1/artifacts"))):
        with pytest.raises(InputError, match="its file table has 4 bytes"):
            read_artifact(store, run, "table")
