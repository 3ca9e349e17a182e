"""Disks that are full, places that may not be written or read, and names of every kind."""

import csv
import errno
import json
import os
import shutil
import unicodedata
from contextlib import ExitStack

import pytest
from bad_files import voxels, write_volume
from discs import write_discs
from mlflow.tracking import MlflowClient
from places import barred, bound_by_permissions, disk, fill, use_up_inodes
from run_files import last, steps
from sqlalchemy import event
from sqlalchemy.pool import Pool
from training_process import WITHOUT_BUNDLE

from pipeline.datalists.check import check_cases
from pipeline.datalists.datalist import load_data_list
from pipeline.errors import InputError
from pipeline.handlers.mlflow_run import MLflowRun
from pipeline.inference import predict_with_bundle
from pipeline.sync import sync
from pipeline.tracking import Tracking
from pipeline.volumes.reading import read_volume

pytestmark = pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")
ODD = [
    *("a b", "a#b", "a::b", "50%", "%20", "$x", "@x", "%x", "-dash", "'q' \"q\"", "<b>", "*?[x]", "a;b&c|d", "\\"),
    *("new\nline", "tab\t", "ü", "u\u0308", "日本", "😀", "~", " ", "a.b.c", "\udcff", "x" * 248),
]


@pytest.fixture
def scans(tmp_path):
    """A folder of three scans: a, b and sub/c."""
    for number, name in enumerate(("a", "b", "sub/c")):
        file = tmp_path / "in" / f"{name}.nii.gz"
        file.parent.mkdir(parents=True, exist_ok=True)
        write_volume(file, voxels(number))
    return tmp_path / "in"


@pytest.fixture
def small(tmp_path):
    """Return `small(options)`, a disk of its own in memory; see `places.disk`."""
    with ExitStack() as stack:

        def mount(options):
            folder = tmp_path / f"disk-{options.replace('=', '-')}"
            folder.mkdir()
            return stack.enter_context(disk(folder, options))

        yield mount


def tells(text, *parts):
    assert [part for part in parts if part not in text] == [], text


# --- no permission ----------------------------------------------------------------------------------------------------


def test_an_input_that_may_not_be_read_fails_alone(predict, scans):
    with barred(scans / "a.nii.gz", 0):
        batch = bound_by_permissions(predict, scans)
    assert batch.done == {"b", "sub/c"}
    tells(batch.reasons["a"], "case 'a'", "a.nii.gz'", "cannot be opened (Permission denied)", "Remedy: correct")
    with barred(scans / "sub", 0):
        batch = bound_by_permissions(predict, scans)
    assert batch.done == {"a", "b"}
    tells(batch.reasons["sub (unreadable)"], "in/sub'", "cannot be searched: Permission denied", "Remedy: correct")


def test_an_output_folder_that_may_not_be_written_is_refused_at_once(predict, scans, tmp_path):
    (tmp_path / "out").mkdir()
    with barred(tmp_path / "out"):
        batch = bound_by_permissions(predict, scans)
        inside = bound_by_permissions(predict, scans, tmp_path / "out" / "deeper")
    for error in (batch.error, inside.error):
        tells(str(error), "nothing may be written into", "Remedy: give another --output_dir")
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(("folder", "failing"), [("sub", {"sub/c"}), (".completed", {"a", "b", "sub/c"})])
def test_a_part_of_the_output_folder_that_may_not_be_written(folder, failing, predict, scans, tmp_path):
    (tmp_path / "out" / folder).mkdir(parents=True)
    with barred(tmp_path / "out" / folder):
        batch = bound_by_permissions(predict, scans)
    assert batch.reasons.keys() == failing
    for case, reason in batch.reasons.items():
        tells(reason, f"case '{case}'", f"out/{folder}/", "nothing can be written here (Permission denied)", "Remedy: ")
        assert ".tmp-" not in reason, "nobody knows this name"
    assert predict(scans, resume=True).done == {"a", "b", "sub/c"}


def test_a_bundle_of_somebody_else_needs_only_be_read(predict, threshold, scans, tmp_path):
    bundle = shutil.copytree(threshold[3], tmp_path / "bundle")
    with barred(bundle), barred(bundle / "configs"), barred(bundle / "models"):
        assert bound_by_permissions(predict, scans, None, 3, bundle).done == {"a", "b", "sub/c"}
    for name in ("models/model.pt", "configs/inference.json"):
        with barred(bundle / name, 0):
            error = bound_by_permissions(predict, scans, None, 3, bundle).error
        tells(str(error), f"bundle/{name}'", "cannot be opened (Permission denied)", "Remedy: correct")


def test_a_run_folder_that_may_not_be_written(run_bundle, trained, tmp_path):
    """At the start, when it is resumed, and from the second epoch on."""
    runs = tmp_path / "runs"
    runs.mkdir()
    options = {"epochs": 3, "val_interval": 9, **WITHOUT_BUNDLE}
    with barred(runs), pytest.raises(InputError, match=r"runs': nothing may be .*Remedy: give another --output_dir"):
        train(run_bundle, **options)
    shutil.copytree(trained, runs / "discs")
    with (
        barred(runs / "discs"),
        pytest.raises(InputError, match=r"runs/discs/run\.json': nothing can be written.*Remedy: "),
    ):
        train(run_bundle, run_name="discs", resume=True, epochs=20)
    before = (trained / "checkpoints" / "last.pt").read_bytes()
    assert (runs / "discs" / "checkpoints" / "last.pt").read_bytes() == before
    epoch = MLflowRun._epoch

    def bar(handler, engine):
        (runs / "a" / "checkpoints").chmod(0o555)
        epoch(handler, engine)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MLflowRun, "_epoch", bar)
        with pytest.raises(InputError, match=r"last\.pt': nothing can be written here \(Permission denied\)\. Remedy"):
            train(run_bundle, run_name="a", **options)
    assert last(runs / "a")["trainer"]["epoch"] == 1
    (runs / "a" / "checkpoints").chmod(0o755)
    train(run_bundle, run_name="a", resume=True, **options)
    assert last(runs / "a")["trainer"]["epoch"] == 3
    assert steps(tmp_path, runs / "a", "train/loss") == [1, 2, 3]


def train(run_bundle, **options):
    return bound_by_permissions(lambda: run_bundle("training", "train.json", **options))


def test_an_image_to_train_on_that_may_not_be_read(discs, tmp_path):
    folder = shutil.copytree(discs, tmp_path / "discs")
    with barred(folder / "images" / "disc_1.tif", 0), pytest.raises(InputError) as caught:
        bound_by_permissions(check_cases, load_data_list(folder / "discs.json"), folder)
    tells(str(caught.value), "case 'disc_1'", "images/disc_1.tif'", "cannot be opened (Permission denied)", "Remedy: ")


@pytest.mark.parametrize("fault", ["barred", "not to be read", "a file", "full", "no inodes"])
def test_a_cache_that_cannot_be_written_stops_nothing(fault, discs, small, tmp_path, monkeypatch):
    cache = {"full": lambda: small("size=64k"), "no inodes": lambda: small("nr_inodes=9")}.get(
        fault, tmp_path.joinpath
    )()
    if fault == "full":
        fill(cache)
    elif fault == "no inodes":
        use_up_inodes(cache)
    else:
        cache = cache / "cache"
        cache.touch() if fault == "a file" else cache.mkdir()
        cache.chmod({"barred": 0o555, "not to be read": 0}.get(fault, 0o644))
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    listed = load_data_list(discs / "discs.json")
    for _ in range(2):
        bound_by_permissions(check_cases, listed, discs)
    cache.chmod(0o755)


# --- full disks -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("leave", [0, 1, 8])
def test_a_full_inode_table(leave, predict, small, scans):
    place = small("nr_inodes=60")
    use_up_inodes(place, leave)
    batch = predict(scans, place / "out")
    tells(str(batch.error), "disk full: it has no room for another file's name", "Remedy: free space on this disk")
    assert not list(place.rglob(".tmp-*"))
    for filler in place.glob("filler-*"):
        filler.unlink()
    batch = predict(scans, place / "out", resume=True)
    assert batch.done == {"a", "b", "sub/c"}


def test_a_training_without_an_inode_for_its_folder(run_bundle, small, tmp_path):
    place = small("nr_inodes=20")
    for leave in range(4):
        for filler in place.glob("*"):
            shutil.rmtree(filler) if filler.is_dir() else filler.unlink()
        use_up_inodes(place, leave)
        with pytest.raises(InputError) as caught:
            run_bundle("training", "train.json", output_dir=str(place / "runs"), run_name="a")
        assert "No space left" in str(caught.value) or "disk full" in str(caught.value)
        tells(str(caught.value), "Remedy: ", f"{place}/runs/a")


@pytest.fixture
def let_stores_be_full():
    """Return a function that says whether SQLite may take no further page: a disk that is full for it alone."""
    is_full = False

    def limit(connection, *_):
        connection.execute(f"PRAGMA max_page_count = {1 if is_full else 2**30}")  # no less than there are

    def set_(value):
        nonlocal is_full
        is_full = value

    event.listen(Pool, "checkout", limit)
    yield set_
    event.remove(Pool, "checkout", limit)


def test_a_store_on_a_full_disk_gets_the_rest_when_there_is_room(
    run_bundle, let_stores_be_full, tmp_path, monkeypatch, caplog
):
    epoch, run = MLflowRun._epoch, tmp_path / "runs" / "a"

    def fill_after_the_first(handler, engine):
        epoch(handler, engine)
        if engine.state.epoch == 1:
            handler.tracking.flush()
            let_stores_be_full(True)
            handler.tracking.tag(note="x" * 5000)  # more than the last page has room for

    with monkeypatch.context() as patch:
        patch.setattr(MLflowRun, "_epoch", fill_after_the_first)
        run_bundle("training", "train.json", epochs=3, run_name="a", **WITHOUT_BUNDLE)
    assert last(run)["trainer"]["epoch"] == 3
    tells(caplog.text, "database or disk is full", "to write them: python -m pipeline sync")
    assert steps(tmp_path, run, "train/loss") == [1]
    let_stores_be_full(False)
    (done,) = sync([run])
    assert done.status == "FINISHED"
    assert steps(tmp_path, run, "train/loss") == [1, 2, 3]


def test_a_store_on_a_disk_that_is_full_from_the_start_is_refused(run_bundle, let_stores_be_full, tmp_path):
    let_stores_be_full(True)
    with pytest.raises(InputError, match=r"the MLflow store 'sqlite:.*' refuses: .*disk is full.*Remedy: "):
        run_bundle("training", "train.json", run_name="a")
    assert not list((tmp_path / "runs").rglob("*.pt"))


@pytest.mark.parametrize("way", ["a small disk", "a disk that says so"])
def test_what_a_journal_on_a_full_disk_does_not_take_reaches_the_store(
    way, empty_store, request, tmp_path, monkeypatch, caplog
):
    place, uri = tmp_path, f"sqlite:///{tmp_path}/mlflow.db"
    if way == "a small disk":
        place = request.getfixturevalue("small")("size=256k")
    shutil.copyfile(empty_store, tmp_path / "mlflow.db")
    tracking = Tracking(uri, "discs", system_metrics_every=0)
    run_id = tracking.start("a", {}, folder=place)
    tracking.metrics({"loss": 1.0}, 1)
    tracking.flush()
    if way == "a small disk":
        fill(place)
    else:
        monkeypatch.setattr(os, "write", no_space)
    for step in range(2, 200):  # more than what is left of the journal's last block
        tracking.metrics({"loss": 1.0}, step)
    assert tracking.end("FAILED")
    assert "its journal takes no more" in caplog.text
    client = MlflowClient(uri)
    assert client.get_run(run_id).info.status == "FAILED"
    assert [metric.step for metric in client.get_metric_history(run_id, "loss")] == list(range(1, 200))


def no_space(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_artifacts_that_cannot_be_written_wait(empty_store, tmp_path, caplog):
    uri, folder = f"sqlite:///{tmp_path}/mlflow.db", tmp_path / "run"
    shutil.copyfile(empty_store, tmp_path / "mlflow.db")
    client = MlflowClient(uri)
    (tmp_path / "artifacts").mkdir()
    client.create_experiment("tests", artifact_location=str(tmp_path / "artifacts"))
    folder.mkdir()
    (folder / "card.txt").write_text("a run")

    def log():
        tracking = Tracking(uri, "tests", system_metrics_every=0)
        tracking.start("a", {}, folder=folder)
        tracking.artifact(folder / "card.txt", "docs")
        tracking.metrics({"loss": 1.0}, 1)
        return tracking.end()

    with barred(tmp_path / "artifacts"):
        assert bound_by_permissions(log), "the journal has it"
    tells(caplog.text, "Permission denied", "to write them: python -m pipeline sync")
    (done,) = sync([folder])
    assert done.status == "FINISHED"
    assert [file.path for file in client.list_artifacts(done.run_id, "docs")] == ["docs/card.txt"]


# --- names ------------------------------------------------------------------------------------------------------------


def test_inputs_of_every_name_are_predicted(predict, tmp_path):
    source = tmp_path / "in #1 %20 'ü'"
    for number, name in enumerate(ODD):
        file = source / ("sub #" if number % 2 else "") / f"{name}.nii.gz"
        file.parent.mkdir(parents=True, exist_ok=True)
        write_volume(file, voxels(number % 5))
    batch = predict(source, tmp_path / "out $x @y #z")
    assert batch.reasons == {}
    assert len(batch.done) == len(ODD)
    for number, name in enumerate(ODD):
        result = batch.out / ("sub #" if number % 2 else "") / f"{name}.nii.gz"
        assert (read_volume(result, 3).array[0] == (voxels(number % 5) > 0)).all()
    before = {file: file.stat().st_mtime_ns for file in batch.out.rglob("*.gz")}
    assert len(predict(source, batch.out, resume=True).done) == len(ODD)
    assert {file: file.stat().st_mtime_ns for file in batch.out.rglob("*.gz")} == before


def test_a_name_that_leaves_no_room_for_the_results_fails_before_any_work(predict, tmp_path):
    names = {"x" * 248: True, "y" * 244: True, "z" * 243: False, "ä" * 124: True}  # 255 bytes with .nii.gz; with _prob
    (tmp_path / "in").mkdir()
    for name in names:
        write_volume(tmp_path / "in" / f"{name}.nii.gz", voxels(0))
    batch = predict(tmp_path / "in", save_probabilities=True)
    assert batch.done == {name for name, is_too_long in names.items() if not is_too_long}
    for name, reason in batch.reasons.items():
        tells(reason, f"case '{name}'", f"{name}.nii.gz'", f"'{name}_prob.nii.gz'", "bytes", "Remedy: rename the input")
        assert not (batch.out / f"{name}.nii.gz").exists(), "half of its results"
    assert predict(tmp_path / "in", tmp_path / "labels").done == set(names)


def test_a_data_set_and_a_run_of_odd_names(run_bundle, tmp_path):
    """Of the folders, the list, the cases, their files and the run, up to a prediction with what came of it."""
    folder = tmp_path / "data %20 'ü' $x"
    file = write_discs(folder)
    content = json.loads(file.read_text())
    odd = ["a b", "a#b", "50%", "-dash", "'q' \"q\"", "u\u0308", "<script>", "$x"]
    for case, name in zip(content["cases"], odd, strict=True):
        for kind in ("image", "label"):
            old = folder / case[kind]
            case[kind] = f"{kind}s/{name}.tif"
            old.rename(folder / case[kind])
        case["id"] = name
    file = file.rename(folder / "list (1) ü.json")
    file.write_text(json.dumps({**content, "name": "discs %1 ü"}))
    options = {"data_list": str(file), "dataset_dir": str(folder), "output_dir": str(tmp_path / "runs & 'more'")}
    run_bundle("training", "train.json", epochs=1, run_name="-run 50% ü <b>", **options)
    run = tmp_path / "runs & 'more'" / "-run 50% ü <b>"
    with (run / "evaluation" / "validation" / "cases.csv").open(newline="") as stream:
        assert {row["case"] for row in csv.DictReader(stream)} == {odd[0], odd[2], odd[4]}
    predict_with_bundle(run, str(folder / "images"), str(tmp_path / "out #1"), device="cpu")
    assert {result.stem for result in (tmp_path / "out #1").glob("*.tif")} == set(odd)


@pytest.mark.parametrize("name", ["a#b", "a/b", "..", "", "x" * 256, "ä" * 128, "new\nline", "\udcff"])
def test_a_run_name_that_cannot_be_one_is_refused(name, run_bundle, tmp_path):
    with pytest.raises(InputError, match=r"(?s)run.?name.*Remedy: give a"):
        run_bundle("training", "train.json", run_name=name)
    assert not list(tmp_path.glob("runs/*"))


@pytest.mark.parametrize("key", ["dataset_dir", "data_list", "output_dir"])
def test_a_path_that_monai_would_misread_is_refused(key, run_bundle, discs, tmp_path):
    folder = shutil.copytree(discs, tmp_path / "a #1")
    path = folder / "discs.json" if key == "data_list" else folder
    with pytest.raises(InputError, match=rf"the # of the path '{key}'.*Remedy: rename the folder"):
        run_bundle("training", "train.json", **{key: str(path)})


@pytest.mark.parametrize(("listed", "there"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_a_name_in_another_form_of_unicode_is_explained(listed, there, discs, tmp_path):
    folder = shutil.copytree(discs, tmp_path / "discs")
    content = json.loads((folder / "discs.json").read_text())
    content["cases"][0]["image"] = unicodedata.normalize(listed, "images/Müller.tif")
    (folder / "discs.json").write_text(json.dumps(content))
    (folder / "images" / "disc_0.tif").rename(folder / unicodedata.normalize(there, "images/Müller.tif"))
    with pytest.raises(InputError) as caught:
        check_cases(load_data_list(folder / "discs.json"), folder)
    tells(str(caught.value), "case 'disc_0'", "does not exist", "another form of Unicode")
