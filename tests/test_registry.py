"""A run's bundle goes into the model registry and comes out of it as it was; what cannot be promoted says why."""

import json
import logging
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import mlflow.pyfunc
import numpy as np
import pytest
import servers
import tifffile
from made_runs import DIGEST, made_run
from mlflow.tracking import MlflowClient

from pipeline.errors import InputError
from pipeline.inference import predict_with_bundle
from pipeline.registry import bundle_digest, fetch, promote


@pytest.fixture
def client(empty_store, tmp_path, monkeypatch):
    """An empty store of this test's own, which MLflow takes without being told."""
    shutil.copyfile(empty_store, tmp_path / "mlflow.db")
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setattr(sys, "path", list(sys.path))  # where MLflow puts a model's code
    client = MlflowClient(uri)
    client.create_experiment("cells", artifact_location=str(tmp_path / "artifacts"))
    return client


def tracked(client, bundle, name="a", **options):
    """Make a run that has a bundle, and return its id."""
    run = made_run(client, "cells", name, **{"scores": {"x": 0.75, "y": 1.0}, **options})
    for part in ("configs", "models", "docs"):
        client.log_artifacts(run, str(bundle / part), f"bundle/{part}")
    return run


def versions(client, name="unet"):
    return {int(found.version): found for found in client.search_model_versions(f"name = '{name}'")}


def variant(trained, folder, **settings):
    """A copy of a bundle whose inference config says something else."""
    bundle = shutil.copytree(trained, folder / "variant")
    file = bundle / "configs" / "inference.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **settings}))
    return bundle


def predicted(bundle, discs, out):
    predict_with_bundle(bundle, str(discs / "images"), str(out), device="cpu")
    return {file.name: tifffile.imread(file) for file in sorted(out.glob("*.tif"))}


# --- promote ----------------------------------------------------------------------------------------------------------


def test_a_version_says_where_it_comes_from(client, trained):
    tags = {"data_list": "lists/cells.json", "mlflow.source.git.commit": "c0ffee", "git.dirty": "false"}
    run = tracked(client, trained, tags=tags)
    assert promote("a", "champion") == "models:/unet/1"
    found = client.get_model_version_by_alias("unet", "champion")
    assert (found.version, found.run_id) in ((1, run), ("1", run))
    assert found.tags.pop("bundle.digest")
    assert found.tags == {
        "run_id": run,
        "run_name": "a",
        "data_list": "lists/cells.json",
        "data_list.digest": DIGEST,
        "git.commit": "c0ffee",
        "git.dirty": "false",
        "best/mean_dice": "0.875",  # of 0.75 and 1
    }
    (model,) = client.search_logged_models([client.get_experiment_by_name("cells").experiment_id])
    assert (model.status, model.source_run_id, model.artifact_location) == ("READY", run, found.source)


def test_a_bundle_has_one_version_however_often_it_is_promoted(client, trained, tmp_path):
    run = tracked(client, trained)
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "run.json").write_text(
        json.dumps({"mlflow_run_id": run, "mlflow_uri": f"sqlite:///{tmp_path}/mlflow.db"})
    )
    for meant in ("a", "a", run, run[:8], folder, str(folder)):
        assert promote(meant, "champion") == "models:/unet/1"
    assert promote("a", "challenger") == "models:/unet/1"
    assert list(versions(client)) == [1]
    assert set(client.get_registered_model("unet").aliases) == {"champion", "challenger"}


def test_the_alias_moves_to_the_run_that_is_promoted(client, trained, caplog):
    tracked(client, trained, "a")
    tracked(client, trained, "b")
    promote("a", "champion")
    promote("a", "first")
    with caplog.at_level(logging.INFO):
        assert promote("b", "champion") == "models:/unet/2"
    assert "unet@champion is version 2, of the run 'b', no longer version 1" in caplog.text
    assert {alias: int(number) for alias, number in client.get_registered_model("unet").aliases.items()} == {
        "champion": 2,
        "first": 1,
    }


def test_a_run_that_went_on_is_a_new_version(client, trained, tmp_path):
    run = tracked(client, trained)
    assert promote("a", "champion") == "models:/unet/1"
    (tmp_path / "README.md").write_text("trained for longer")
    client.log_artifact(run, str(tmp_path / "README.md"), "bundle/docs")
    assert promote("a", "champion") == "models:/unet/2"
    assert (fetch("models:/unet@champion") / "docs" / "README.md").read_text() == "trained for longer"
    assert (fetch("models:/unet/1") / "docs" / "README.md").read_text() != "trained for longer"


def test_another_network_needs_another_name(client, trained, tmp_path):
    tracked(client, trained, "a")
    tracked(client, variant(trained, tmp_path, class_names=["background", "vessel"]), "b")
    promote("a", "champion")
    with pytest.raises(InputError, match=r"'unet' has the class_names .*cell.*this run has .*vessel.*--name"):
        promote("b", "champion")
    assert list(versions(client)) == [1]
    assert promote("b", "champion", name="vessels") == "models:/vessels/1"
    client.create_registered_model("somebody's")
    with pytest.raises(InputError, match="'somebody's' has the spatial_dims unknown"):
        promote("a", "champion", name="somebody's")


def test_what_cannot_be_promoted_says_why(client, trained, tmp_path):
    parent = tracked(client, trained, "done")
    tracked(client, trained, "running", status="RUNNING")
    tracked(client, trained, "failed", status="FAILED")
    made_run(client, "cells", "test of done", {"x": 0.5}, "test", tags={"evaluation": "test"}, parent=parent)
    made_run(client, "cells", "empty", {"x": 0.5})
    no_config = made_run(client, "cells", "no config")
    client.log_artifacts(no_config, str(trained / "models"), "bundle/models")
    (tmp_path / "untracked").mkdir()
    (tmp_path / "untracked" / "run.json").write_text("{}")
    for run, words in (
        ("running", "not finished: RUNNING"),
        ("failed", "not finished: FAILED"),
        ("empty", "file 'models/model.pt': the run 'empty' has no weights"),
        ("no config", "'no config' has no configs/inference.json"),
        ("test of done", "is an evaluation"),
        ("dome", "no run has the name or id 'dome'. Remedy: did you mean done"),
        (tmp_path / "untracked", "in no MLflow store"),
        (tmp_path / "nothing", "no run has the name or id"),
    ):
        with pytest.raises(InputError, match=words):
            promote(run, "champion")
    assert client.search_registered_models() == []
    with pytest.raises(InputError, match="refuses: Invalid model name 'a/b'"):
        promote("done", "champion", name="a/b")
    for alias in ("my champion", "", "v2", "Latest"):
        with pytest.raises(InputError, match=f"'{alias}' can be no alias"):
            promote("done", alias)
    assert client.search_registered_models() == []
    assert promote("done", "vessels-2_b") == "models:/unet/1"


def test_a_store_without_a_registry_says_so():
    with servers.running() as server, pytest.raises(InputError, match="has no model registry"):
        promote("a", "champion", uri=server.uri)
    with pytest.raises(InputError, match="no MLflow server answers"):
        promote("a", "champion", uri=servers.absent())


def test_a_training_is_promoted_by_its_folder(client, trained, discs, tmp_path):
    """What training itself leaves in a store, in a copy whose new artifacts go elsewhere."""
    shutil.copyfile(trained.parent / "mlflow.db", tmp_path / "trained.db")
    with sqlite3.connect(tmp_path / "trained.db") as database:
        database.execute("UPDATE experiments SET artifact_location = ?", [str(tmp_path / "new")])
    database.close()
    uri = f"sqlite:///{tmp_path}/trained.db"
    assert promote(trained, "champion", uri=uri) == "models:/unet/1"
    bundle = fetch("models:/unet@champion", uri)
    assert bundle.is_relative_to(tmp_path / "new")
    found, expected = predicted(bundle, discs, tmp_path / "a"), predicted(trained, discs, tmp_path / "b")
    assert len(expected) == 8
    assert found.keys() == expected.keys()
    for name, labels in expected.items():
        np.testing.assert_array_equal(found[name], labels)


# --- fetch ------------------------------------------------------------------------------------------------------------


def test_a_bundle_comes_out_as_it_went_in(client, trained, tmp_path):
    tracked(client, trained)
    promote("a", "champion")
    folder = fetch("models:/unet@champion")
    assert folder == fetch("models:/unet/1")
    assert folder.is_relative_to(tmp_path / "artifacts")  # nothing is copied
    parts = {part.name for part in folder.iterdir()}
    assert parts == {"configs", "docs", "models"}
    for part in parts:
        assert bundle_digest(folder / part) == bundle_digest(trained / part)


def test_a_changed_or_lost_bundle_is_not_used(client, trained):
    tracked(client, trained)
    promote("a", "champion")
    folder = fetch("models:/unet@champion")
    (folder / "configs" / "extra.json").write_text("{}")
    with pytest.raises(InputError, match="not those that were registered"):
        fetch("models:/unet@champion")
    (folder / "configs" / "extra.json").unlink()
    assert fetch("models:/unet@champion") == folder
    shutil.rmtree(folder)
    with pytest.raises(InputError, match="in a folder that is not here"):
        fetch("models:/unet@champion")


def test_a_name_that_means_nothing_says_what_there_is(client, trained, tmp_path):
    with pytest.raises(InputError, match=r"no registered model 'unet'.* Remedy: register one"):
        fetch("models:/unet@champion")
    tracked(client, trained)
    promote("a", "champion")
    client.create_registered_model("other")
    client.create_model_version("other", str(tmp_path))
    for uri, words in (
        ("models:/umet@champion", "no registered model 'umet'.*did you mean unet"),
        ("models:/unet@champoin", "no alias 'champoin'.*did you mean champion"),
        ("models:/other@champion", "no alias 'champion'.*promote RUN --alias champion"),
        ("models:/unet/7", "refuses: .*7"),
        ("models:/unet", "write models:/NAME@ALIAS"),
        ("models:/unet/latest", "write models:/NAME@ALIAS"),
        ("models:/other/1", "is no bundle"),
    ):
        with pytest.raises(InputError, match=words):
            fetch(uri)


# --- as MLflow knows it -----------------------------------------------------------------------------------------------


def test_mlflow_loads_it_as_a_function(client, trained, discs, tmp_path):
    tracked(client, trained)
    uri = promote("a", "champion")
    assert not list((tmp_path / "artifacts").rglob("*.pkl"))
    assert list((tmp_path / "artifacts").rglob("code/pipeline/networks/unet.py"))  # where the package is not installed
    model = mlflow.pyfunc.load_model(uri)
    expected = predicted(trained, discs, tmp_path / "out")["disc_0.tif"]
    file = discs / "images" / "disc_0.tif"
    np.testing.assert_array_equal(model.predict(tifffile.imread(file)), expected)
    np.testing.assert_array_equal(model.predict(str(file)), expected)
    written = model.predict([str(file)], params={"output_dir": str(tmp_path / "written")})
    assert written == [str(tmp_path / "written" / "disc_0.tif")]
    np.testing.assert_array_equal(tifffile.imread(written[0]), expected)


@contextmanager
def running(folder, ready, *arguments):
    """Run `mlflow ...` until the block ends; it is there once its address `/<ready>` answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"http://127.0.0.1:{listener.getsockname()[1]}"
    command = [sys.executable, "-m", "mlflow", *arguments, "--port", address.rpartition(":")[2], "--workers", "1"]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # as in an activated environment: it calls uvicorn
    with open(folder / "log.txt", "w") as log:
        options = {"cwd": folder, "env": {**os.environ, "PATH": path}, "start_new_session": True}
        process = subprocess.Popen(command, stdout=log, stderr=log, **options)
    try:
        for _ in range(900):
            try:
                with urlopen(f"{address}/{ready}", timeout=1):
                    break
            except OSError:
                assert process.poll() is None, (folder / "log.txt").read_text()[-2000:]
                time.sleep(0.2)
        yield address
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def ask(address, **question):
    request = Request(
        f"{address}/invocations", json.dumps(question).encode(), {"Content-Type": "application/json"}, method="POST"
    )
    with urlopen(request, timeout=120) as answer:
        return json.load(answer)["predictions"]


@pytest.mark.slow
def test_mlflow_serves_it(client, trained, discs, tmp_path):
    tracked(client, trained)
    promote("a", "champion")
    expected = predicted(trained, discs, tmp_path / "out")
    paths = [str(discs / "images" / f"disc_{number}.tif") for number in (0, 1)]
    images = np.stack([tifffile.imread(path) for path in paths])[:, None]
    labels = [expected["disc_0.tif"], expected["disc_1.tif"]]
    arguments = ["models", "serve", "--model-uri", "models:/unet@champion", "--env-manager", "local"]
    with running(tmp_path, "ping", *arguments) as address:
        np.testing.assert_array_equal(ask(address, inputs=images.tolist()), labels)
        np.testing.assert_array_equal(ask(address, inputs=images[0, 0].tolist()), labels[0])
        np.testing.assert_array_equal(ask(address, inputs=paths), labels)
        np.testing.assert_array_equal(ask(address, inputs=paths[0]), labels[:1])  # MLflow makes it a list of one
        np.testing.assert_array_equal(ask(address, dataframe_records=[{"path": paths[1]}]), labels[1:])
        files = ask(address, inputs=paths, params={"output_dir": str(tmp_path / "written")})
        assert files == [str(tmp_path / "written" / f"disc_{number}.tif") for number in (0, 1)]
        np.testing.assert_array_equal([tifffile.imread(file) for file in files], labels)
        with pytest.raises(HTTPError) as caught:
            ask(address, inputs=["nowhere.tif"])
        assert caught.value.code == 400
        assert "the input does not exist" in caught.value.read().decode()


@pytest.mark.slow
def test_a_server_sends_a_bundle_once(empty_store, trained, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    shutil.copyfile(empty_store, tmp_path / "mlflow.db")
    places = ["--backend-store-uri", f"sqlite:///{tmp_path}/mlflow.db", "--artifacts-destination", f"{tmp_path}/kept"]
    with running(tmp_path, "health", "server", *places) as uri:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        tracked(MlflowClient(uri), trained)
        assert promote("a", "champion") == promote("a", "champion") == "models:/unet/1"
        folder = fetch("models:/unet@champion")
        assert folder.is_relative_to(tmp_path / "cache")
        assert bundle_digest(folder / "models") == bundle_digest(trained / "models")
        (folder / "configs" / "inference.json").write_text("damaged")
        assert json.loads((fetch("models:/unet@champion") / "configs" / "inference.json").read_text())
        shutil.rmtree(tmp_path / "kept")
        assert fetch("models:/unet@champion") == folder
        shutil.rmtree(tmp_path / "cache")
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")  # else it asks for a minute
        with pytest.raises(InputError, match="refuses"):
            fetch("models:/unet@champion")
