"""A batch on the workers of a cluster comes to what it comes to in one process."""

import csv
import json
import os
import signal
import subprocess
import sys

import psutil
import pytest
import tifffile
from dask_processes import ROOT, wait_until
from test_inference import bundle  # noqa: F401
from test_predict import write_images
from worker_tasks import starts

from pipeline.cluster import prediction
from pipeline.cluster.opening import Place
from pipeline.cluster.sameness import seen
from pipeline.errors import InputError
from pipeline.inference import predict_with_bundle

NAMES = [f"{letter}.tif" for letter in "abcdefgh"]


def change_predictor(bundle, **entries):  # noqa: F811
    file = bundle / "configs" / "inference.json"
    config = json.loads(file.read_text())
    config["predictor"] |= entries
    file.write_text(json.dumps(config))


def rows_of(folder):
    """The summary but for what differs from time to time."""
    with open(folder / "summary.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    return [{key: value for key, value in row.items() if not key.startswith("seconds")} for row in rows]


def files_of(folder):
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*.tif")}


def records_of(folder):
    """The records but for the seconds."""
    found = {}
    for file in (folder / ".completed").glob("*"):
        record = json.loads(file.read_bytes().partition(b"\n")[0])
        record["result"] = {key: value for key, value in record["result"].items() if not key.startswith("seconds")}
        found[file.name] = record
    return found


def test_the_same_files_rows_and_records_as_in_one_process(bundle, running, tmp_path, monkeypatch, capsys):  # noqa: F811
    monkeypatch.chdir(tmp_path)
    change_predictor(bundle, resume="@resume")
    write_images(tmp_path / "in" / "below", *NAMES)
    (tmp_path / "in" / "bad.tif").write_bytes(b"no TIFF")
    for out, place in (("alone", None), ("shared", Place(scheduler=running))):
        with pytest.raises(InputError, match="1 of 9 images were not predicted"):
            predict_with_bundle("bundle", str(tmp_path / "in"), out, place=place)
    assert len(files_of(tmp_path / "shared")) == 8
    assert files_of(tmp_path / "shared") == files_of(tmp_path / "alone")
    assert rows_of(tmp_path / "shared") == rows_of(tmp_path / "alone")
    assert records_of(tmp_path / "shared") == records_of(tmp_path / "alone")
    (tmp_path / "in" / "bad.tif").unlink()
    (tmp_path / "shared" / "below" / "b.tif").unlink()
    predict_with_bundle("bundle", "in", "shared", place=Place(scheduler=running), resume=True)
    assert "7 of 8 cases were complete" in capsys.readouterr().err
    assert files_of(tmp_path / "shared") == files_of(tmp_path / "alone")


def test_a_case_that_kills_each_worker_is_reported_and_the_rest_is_done(bundle, running, tmp_path):  # noqa: F811
    write_images(tmp_path / "in", *NAMES, "poison.tif")
    change_predictor(bundle, preprocessing={"_target_": "lethal_image.LethalImaged", "folder": str(tmp_path)})
    arguments = (bundle, str(tmp_path / "in"), str(tmp_path / "out"))
    with pytest.raises(InputError, match="entry 'predictor#preprocessing' is not run"):
        predict_with_bundle(*arguments, place=Place(scheduler=running))
    with pytest.raises(InputError, match="1 of 9 images were not predicted"):
        predict_with_bundle(*arguments, trust=True, place=Place(scheduler=running))
    assert len(starts(tmp_path, "tries")) == 3
    failed = [row for row in rows_of(tmp_path / "out") if row["status"] != "done"]
    assert [row["case"] for row in failed] == ["poison"]
    assert "case 'poison', file" in failed[0]["reason"]
    assert "killed its worker 3 times, mostly for lack of memory" in failed[0]["reason"]
    assert len(files_of(tmp_path / "out")) == 8


def test_workers_that_see_other_weights_say_so_once(bundle, running, tmp_path, monkeypatch, capsys):  # noqa: F811
    write_images(tmp_path / "in", *NAMES)
    weights = str(bundle / "models" / "model.pt")
    monkeypatch.setattr(prediction, "seen", lambda files: seen(files) | {weights: "another digest"})
    with pytest.raises(InputError, match=r"model\.pt.* they see another file by this name.*file system") as caught:
        predict_with_bundle(bundle, str(tmp_path / "in"), str(tmp_path / "out"), place=Place(scheduler=running))
    assert "the workers at tcp://127.0.0.1 cannot be used" in str(caught.value)
    assert capsys.readouterr().err.count("another file") == 1


def test_workers_that_compute_otherwise_are_refused():
    first = {"execution": {"precision": "bfloat16", "backend": "torch"}}
    prediction.judge(first, first)
    with pytest.raises(InputError, match="they compute in float32 with onnx, and the first one in bfloat16 with torch"):
        prediction.judge({"execution": {"precision": "float32", "backend": "onnx"}}, first)


def test_ctrl_c_keeps_what_is_done_and_leaves_no_process(bundle, tmp_path):  # noqa: F811
    write_images(tmp_path / "in", *(f"{number}.tif" for number in range(400)))
    command = [sys.executable, "-m", "pipeline", "predict", str(bundle), "in", "out", "--workers", "2"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with open(tmp_path / "log", "wb") as log:
        process = subprocess.Popen(
            command, cwd=tmp_path, env=environment, stdout=log, stderr=log, start_new_session=True
        )
        try:
            wait_until(lambda: len(list((tmp_path / "out").glob("*.tif"))) >= 3, 120)
            below = psutil.Process(process.pid).children(recursive=True)
            os.killpg(process.pid, signal.SIGINT)  # as a terminal does
            assert process.wait(60) != 0
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    said = (tmp_path / "log").read_text()
    assert len(below) >= 2
    wait_until(lambda: not any(one.is_running() and one.status() != psutil.STATUS_ZOMBIE for one in below), 30)
    assert "stopped before the end of the batch: run it again with --resume" in said
    rows = rows_of(tmp_path / "out")
    done = [row for row in rows if row["status"] == "done"]
    assert 0 < len(done) < len(rows) == 400
    for row in done:
        tifffile.imread(tmp_path / "out" / row["outputs"])
