"""However training ends, its MLflow run says so; what is tracked has names that MLflow takes."""

import hashlib
import json
import os
import shutil
import signal
import threading
from types import SimpleNamespace

import pytest
import torch
from engines import scripted_evaluator, trainer
from ignite.engine import Events
from mlflow.tracking import MlflowClient
from servers import absent, running

from pipeline.feeder import Feeder
from pipeline.handlers.history import History
from pipeline.handlers.mlflow_run import MLflowRun
from pipeline.run_folder import RunFolder, read_facts
from pipeline.stop_signals import STOPS
from pipeline.tracking import Tracking
from pipeline.volumes.contents import data_digest, look_at


@pytest.fixture
def uri(tmp_path, empty_store):
    shutil.copyfile(empty_store, tmp_path / "mlflow.db")
    return f"sqlite:///{tmp_path}/mlflow.db"


@pytest.fixture(autouse=True)
def signals_as_before():
    before = [signal.getsignal(number) for number in STOPS]
    yield
    assert [signal.getsignal(number) for number in STOPS] == before, "their handlers are given back"


def training(folder, uri, *, config=None, resume=False, scores=(0.5, 0.75, 0.25), epochs=None, **options):
    """A tracked training of a batch an epoch, not yet started."""
    network = torch.nn.Linear(3, 2)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    evaluator, run = scripted_evaluator(list(scores)), RunFolder(folder, "a", resume)
    tracking = Tracking(uri, "discs", system_metrics_every=0)
    handler = MLflowRun(tracking, run, config or {"epochs": 3}, evaluator, **options)
    engine = trainer(
        [History(optimizer, evaluator), handler],
        epochs=epochs or len(scores),
        network=network,
        optimizer=optimizer,
        evaluator=evaluator,
    )
    return SimpleNamespace(engine=engine, run=run, evaluator=evaluator, uri=uri, tracking=tracking)


def tracked(made):
    return MlflowClient(made.uri).get_run(read_facts(made.run.path)["mlflow_run_id"])


def steps(made, name):
    history = MlflowClient(made.uri).get_metric_history(tracked(made).info.run_id, name)
    return {metric.step: metric.value for metric in history}


def failing(made, iteration, fail):
    @made.engine.on(Events.ITERATION_STARTED)
    def now():
        if made.engine.state.iteration == iteration:
            fail()


def test_a_finished_training(tmp_path, uri):
    made = training(tmp_path / "runs", uri)
    made.engine.run()
    run = tracked(made)
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "a"
    assert run.data.tags["run_folder"] == str(tmp_path / "runs" / "a")
    assert not {"error", "data.digest"} & run.data.tags.keys()
    assert steps(made, "train/iteration_loss") == {1: 1.0, 2: 1.0, 3: 1.0}
    assert steps(made, "train/iteration_learning_rate") == {1: 0.1, 2: 0.1, 3: 0.1}
    assert steps(made, "val/mean_dice") == {1: 0.5, 2: 0.75, 3: 0.25}
    assert steps(made, "best/mean_dice") == {3: 0.75}
    assert steps(made, "best/epoch") == {3: 2}
    assert "epoch" not in run.data.metrics
    assert RunFolder(tmp_path / "runs", "a", resume=True).path, "another process may go on"


def test_the_data_is_a_tag_whichever_fold_validates(tmp_path, uri):
    records = []
    for name in "abc":
        (tmp_path / f"{name}.png").write_bytes(name.encode())
        look_at(tmp_path / f"{name}.png", 2)
        records.append({"id": name, "image": str(tmp_path / f"{name}.png")})
    digests = []
    for number, (trained, validated) in enumerate(((records[:2], records[2:]), (records[1:], records[:1]))):
        made = training(tmp_path / f"runs {number}", uri)
        for engine, own in ((made.engine, trained), (made.evaluator, validated)):
            engine.data_loader = Listed(engine.data_loader, own)
        made.engine.run()
        digests.append(tracked(made).data.tags["data.digest"])
    assert digests == [data_digest(records)] * 2


class Listed(list):
    """Batches of a data set that knows its records."""

    def __init__(self, batches, records):
        super().__init__(batches)
        self.dataset = SimpleNamespace(data=records)


def test_an_error_ends_the_run_as_failed_and_is_raised(tmp_path, uri):
    made, error = training(tmp_path / "runs", uri), ZeroDivisionError("the very one")

    def fail():
        raise error

    failing(made, 2, fail)
    with pytest.raises(ZeroDivisionError) as caught:
        made.engine.run()
    assert caught.value is error
    assert tracked(made).info.status == "FAILED"
    assert tracked(made).data.tags["error"] == "ZeroDivisionError: the very one"
    assert steps(made, "train/iteration_loss") == {1: 1.0}, "what was before the error is there"


def test_ctrl_c_ends_the_run_as_killed_and_says_how_to_continue(tmp_path, uri, caplog):
    made = training(tmp_path / "runs", uri)
    failing(made, 2, lambda: signal.raise_signal(signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        made.engine.run()
    assert tracked(made).info.status == "KILLED"
    assert steps(made, "train/iteration_loss") == {1: 1.0}
    assert said(caplog) == ["stopped by the user; continue with --resume true --run_name a"]


def said(caplog):
    return [record.getMessage() for record in caplog.records if record.name.startswith("pipeline")]


@pytest.mark.parametrize("which", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_run_as_killed_and_says_how_to_continue(tmp_path, uri, caplog, which):
    made = training(tmp_path / "runs", uri)
    failing(made, 2, lambda: signal.raise_signal(which))
    with pytest.raises(SystemExit) as caught:
        made.engine.run()
    assert caught.value.code == 128 + which
    assert tracked(made).info.status == "KILLED"
    assert said(caplog) == [f"stopped by {which.name}; continue with --resume true --run_name a"]


@pytest.mark.parametrize("which", STOPS)
def test_a_user_without_patience_leaves_no_run_running(tmp_path, uri, monkeypatch, which):
    made, heard = training(tmp_path / "runs", uri), []

    def strike_before(kind, name):
        real = getattr(kind, name)

        def struck(*arguments, **options):
            heard.append(name)
            signal.raise_signal(which)
            return real(*arguments, **options)

        monkeypatch.setattr(kind, name, struck)

    failing(made, 2, lambda: signal.raise_signal(which))
    for kind, name in ((Tracking, "tag"), (Tracking, "end"), (Feeder, "close"), (Tracking, "_leave")):
        strike_before(kind, name)
    with pytest.raises(KeyboardInterrupt if which == signal.SIGINT else SystemExit):
        made.engine.run()
    assert tracked(made).info.status == "KILLED"
    assert heard[:3] == ["tag", "end", "close"]


def test_an_exit_without_a_signal_is_a_failure(tmp_path, uri):
    made = training(tmp_path / "runs", uri)

    def fail():
        raise SystemExit(3)

    failing(made, 1, fail)
    with pytest.raises(SystemExit):
        made.engine.run()
    assert tracked(made).info.status == "FAILED"


def test_params_are_the_configs_leaves_under_names_that_mlflow_takes(tmp_path, uri):
    config = {
        "epochs": 3,
        "network": {"channels": [4, 8], "_target_": "x.Y", "dropout": None},
        "handlers": [{"_target_": "a"}, "@b"],
        "train#trainer": 1,
        "imports": ["$import os"],
        "weights (w0)": 0.5,
        "CD4+ cell": {"größe": True},
    }
    made = training(tmp_path / "runs", uri, config=config, epochs=1)
    made.engine.run()
    assert tracked(made).data.params == {
        "epochs": "3",
        "network/channels": "[4, 8]",
        "network/_target_": "x.Y",
        "handlers/0/_target_": "a",
        "handlers/1": "@b",
        "train/trainer": "1",
        "imports": "['$import os']",
        "weights _w0_": "0.5",
        "CD4_ cell/größe": "True",
    }


def test_a_class_with_an_unusual_name_costs_no_metric(tmp_path, uri):
    made = training(tmp_path / "runs", uri, epochs=1)

    @made.evaluator.on(Events.EPOCH_COMPLETED)
    def score(engine):
        engine.state.metrics["dice/CD4+ (T cell)"] = 0.5

    made.engine.run()
    assert steps(made, "val/dice/CD4_ _T cell_") == {1: 0.5}
    assert steps(made, "train/iteration_loss") == {1: 1.0}


def test_tags_name_bundle_and_data(tmp_path, uri):
    (tmp_path / "list.json").write_text('{"cases": []}')
    made = training(tmp_path / "runs", uri, data_list=tmp_path / "list.json", tags={"bundle": "unet", "seed": 3})
    made.engine.run()
    tags = tracked(made).data.tags
    assert tags["data_list"] == str(tmp_path / "list.json")
    assert tags["data_list.digest"] == hashlib.sha256(b'{"cases": []}').hexdigest()
    assert (tags["bundle"], tags["seed"], tags["device"]) == ("unet", "3", "cpu")


def test_a_resumed_training_continues_its_own_run(tmp_path, uri):
    first = training(tmp_path / "runs", uri)
    failing(first, 2, lambda: signal.raise_signal(signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        first.engine.run()
    run_id = tracked(first).info.run_id
    assert "error" in tracked(first).data.tags
    again = training(tmp_path / "runs", uri, resume=True, config={"epochs": 3, "rate": 0.2})
    again.engine.run()
    assert tracked(again).info.run_id == run_id
    assert tracked(again).info.status == "FINISHED"
    assert "error" not in tracked(again).data.tags
    assert tracked(again).data.tags["resumed.rate"] == "0.2"
    assert "resumed.epochs" not in tracked(again).data.tags
    assert steps(again, "train/iteration_loss") == {1: 1.0, 2: 1.0, 3: 1.0}


def test_which_run_to_continue_is_no_setting_of_it(tmp_path, uri):
    first = training(tmp_path / "runs", uri, config={"epochs": 3, "resume": False, "run_name": "a"})
    first.engine.run()
    assert tracked(first).data.params == {"epochs": "3"}
    again = training(tmp_path / "runs", uri, resume=True, config={"epochs": 3, "resume": True, "run_name": None})
    again.engine.run()
    assert not [key for key in tracked(again).data.tags if key.startswith("resumed.")]


def test_a_run_is_complete_when_it_has_ended(tmp_path, uri):
    made = training(tmp_path / "runs", uri)
    made.engine.run()
    assert read_facts(made.run.path)["completed_epoch"] == 3
    failed = training(tmp_path / "failed", uri)
    failing(failed, 2, lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        failed.engine.run()
    assert "completed_epoch" not in read_facts(failed.run.path)


def test_what_a_dead_server_lacks_waits_in_the_runs_folder(tmp_path, caplog):
    with running() as server:
        made = training(tmp_path / "runs", server.uri)

        @made.engine.on(Events.EPOCH_COMPLETED(once=2))
        def die():
            server.shutdown()
            server.server_close()

        made.engine.run()
    assert made.engine.state.epoch == 3, "training went on"
    folder = tmp_path / "runs" / "a"
    assert read_facts(folder)["completed_epoch"] == 3, "nothing is left to train"
    assert (folder / "mlflow.journal").is_file()
    assert said(caplog)[-1].endswith(f"python -m pipeline sync {folder}")


def test_a_run_that_is_opened_late_is_remembered(tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.tracking.OPEN_WITHIN", 0.5)
    with running() as server:
        server.awake.clear()
        made = training(tmp_path / "runs", server.uri)

        @made.engine.on(Events.EPOCH_COMPLETED(once=2))
        def wake():
            assert "mlflow_run_id" not in read_facts(made.run.path)
            server.awake.set()

        made.engine.run()
        assert server.steps("val/mean_dice") == [1, 2, 3]
    assert read_facts(made.run.path)["mlflow_run_id"] == "abc"


def test_before_a_checkpoint_the_store_has_all_iterations(tmp_path, uri):
    made, at_checkpoint = training(tmp_path / "runs", uri), []

    @made.engine.on(Events.EPOCH_COMPLETED)
    def look():  # stands after the last iteration of the epoch, as the checkpoint does
        at_checkpoint.append(sorted(steps(made, "train/iteration_loss")))

    made.engine.run()
    assert at_checkpoint == [[1], [1, 2], [1, 2, 3]]


def test_resumed_with_another_store_it_is_a_new_run_there(tmp_path, uri, empty_store):
    first = training(tmp_path / "runs", uri)
    first.engine.run()
    shutil.copyfile(empty_store, tmp_path / "other.db")
    again = training(tmp_path / "runs", f"sqlite:///{tmp_path}/other.db", resume=True)
    again.engine.run()
    assert tracked(again).info.status == "FINISHED"
    assert read_facts(again.run.path)["mlflow_uri"] == f"sqlite:///{tmp_path}/other.db"


def test_a_server_out_of_reach_is_no_reason_to_forget_the_run(tmp_path, uri):
    first = training(tmp_path / "runs", uri)
    first.engine.run()
    facts = read_facts(first.run.path)
    assert (facts["mlflow_uri"], facts["mlflow_experiment"], facts["completed_epoch"]) == (uri, "discs", 3)
    again = training(tmp_path / "runs", absent(), resume=True)
    again.engine.run()
    assert again.engine.state.epoch == 3, "training went on"
    assert json.loads((again.run.path / "run.json").read_text()) == facts
    back = training(tmp_path / "runs", uri, resume=True)
    back.engine.run()
    assert tracked(back).info.run_id == facts["mlflow_run_id"], "what was journaled meanwhile goes to it too"
    assert len(MlflowClient(uri).search_runs([tracked(back).info.experiment_id])) == 1


def test_other_ranks_track_nothing(tmp_path, uri):
    made = training(tmp_path / "runs", uri)
    made.engine.state.rank = 1
    made.engine.run()
    client = MlflowClient(uri)
    assert client.search_runs([client.get_experiment_by_name("discs").experiment_id]) == []
    assert not (tmp_path / "runs").exists()


def test_a_training_in_a_thread_is_tracked(tmp_path, uri):
    # Python lets no thread but the main one set signal handlers.
    made = training(tmp_path / "runs", uri)
    thread = threading.Thread(target=made.engine.run)
    thread.start()
    thread.join()
    assert tracked(made).info.status == "FINISHED"
    assert tracked(made).data.tags["pid"] == str(os.getpid())
