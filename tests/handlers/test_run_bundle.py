"""A run leaves a bundle from its first moment; at its end the best weights, their scores, and a proof that it runs."""

import json
from types import SimpleNamespace

import pytest
import torch
from discs import write_discs
from engines import trainer
from ignite.engine import Events
from monai.engines import SupervisedEvaluator
from monai.transforms import AsDiscreted, Compose

from pipeline.errors import InputError
from pipeline.handlers.case_scores import CaseScores, higher_is_better
from pipeline.handlers.checkpoints import save_tensors
from pipeline.handlers.evaluation_report import EvaluationReport, score_table
from pipeline.handlers.history import History
from pipeline.handlers.run_bundle import RunBundle
from pipeline.run_folder import RunFolder
from pipeline.tracking import Tracking

CONVOLUTION = {"_target_": "torch.nn.Conv2d", "in_channels": 1, "out_channels": 2, "kernel_size": 3, "padding": 1}
METADATA = {
    "description": "Finds squares.",
    "network_data_format": {
        "inputs": {"image": {"num_channels": 7, "type": "image"}},
        "outputs": {"pred": {"num_channels": 9}},
    },
}


def squares():
    image = torch.full((1, 1, 8, 8), 0.5)
    image[..., 2:6, 2:6] = 1
    return {"id": ["square"], "image": image, "label": (image == 1).long()}


class KeepWeights:
    """What Checkpoints does, with the best epoch given: its weights are kept, and the evaluator knows of it."""

    def __init__(self, made, best_epoch, metric):
        self.made, self.best_epoch, self.metric = made, best_epoch, metric

    def attach(self, engine):
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.keep)

    def keep(self, engine):
        if engine.state.rank == 0 and engine.state.epoch == (self.best_epoch or engine.state.max_epochs):
            save_tensors(self.made.run.best_model, self.made.network.state_dict())
        if engine.state.epoch == self.best_epoch:
            state = self.made.evaluator.state
            state.best_metric, state.best_metric_epoch = self.metric, self.best_epoch


def training(
    tmp_path, *, config=None, inference=CONVOLUTION, best_epoch=1, metric=0.5, epochs=3, first=(), data_list=None
):
    """A run of a convolution that was started from `source/configs`, not yet started."""
    configs = tmp_path / "source" / "configs"
    configs.mkdir(parents=True)
    if inference is not None:
        own = {"imports": [], "bundle_root": "elsewhere", "network_def": inference}
        (configs / "inference.json").write_text(json.dumps(own))
    torch.manual_seed(0)
    network = torch.nn.Conv2d(1, 2, 3, padding=1)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    scores = CaseScores(["background", "square"])
    report = EvaluationReport(scores, "validation")
    evaluator = SupervisedEvaluator(
        device="cpu",
        val_data_loader=[squares()],
        network=network,
        postprocessing=Compose([AsDiscreted(keys="pred", argmax=True)]),
        key_val_metric={"mean_dice": scores},
        metric_cmp_fn=higher_is_better,
        val_handlers=[report],
    )
    made = SimpleNamespace(run=RunFolder(tmp_path / "runs", "a"), network=network, evaluator=evaluator)
    handler = RunBundle(
        made.run,
        config or {"imports": [], "epochs": epochs, "network_def": CONVOLUTION},
        configs,
        METADATA,
        network,
        evaluator,
        report,
        Tracking("sqlite:///never-opened.db"),
        data_list,
    )
    made.engine = trainer(
        [*first, History(optimizer, evaluator), KeepWeights(made, best_epoch, metric), handler],
        epochs=epochs,
        network=network,
        optimizer=optimizer,
    )
    made.engine.data_loader = [squares()]
    made.engine.loss_function = lambda prediction, label: torch.nn.functional.cross_entropy(prediction, label[:, 0])
    made.folder = tmp_path / "runs" / "a"
    return made


def read(made, name):
    return json.loads((made.folder / "configs" / name).read_text())


def test_from_its_start_a_run_has_its_configs(tmp_path):
    made = training(tmp_path)

    @made.engine.on(Events.EPOCH_STARTED)
    def stop():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        made.engine.run()
    assert read(made, "train.json")["epochs"] == 3
    assert read(made, "inference.json")["network_def"] == CONVOLUTION
    assert not (made.folder / "docs").exists()


def test_the_metadata_has_the_channels_of_this_runs_network(tmp_path):
    made = training(tmp_path)
    made.engine.run()
    written = read(made, "metadata.json")
    assert written["description"] == "Finds squares."
    assert written["network_data_format"]["inputs"]["image"] == {"num_channels": 1, "type": "image"}
    assert written["network_data_format"]["outputs"]["pred"] == {"num_channels": 2}
    assert METADATA["network_data_format"]["inputs"]["image"]["num_channels"] == 7, "the bundle's own is left alone"


def test_the_metadata_have_the_scores_of_the_best_weights_once_there_are_any(tmp_path):
    made, at_the_start = training(tmp_path), {}

    @made.engine.on(Events.EPOCH_STARTED)
    def look():
        at_the_start.setdefault("metrics", read(made, "metadata.json")["eval_metrics"])

    made.engine.run()
    scores = json.loads((made.folder / "evaluation" / "validation" / "scores.json").read_text())["scores"]
    assert at_the_start == {"metrics": {}}
    found = read(made, "metadata.json")["eval_metrics"]
    assert found == {f"val/{name}": score["mean"] for name, score in scores.items()}
    assert found["val/mean_dice"] == pytest.approx(made.evaluator.state.metrics["mean_dice"], abs=1e-6)


def test_card_and_metadata_speak_of_the_runs_own_data(tmp_path):
    data_list = write_discs(tmp_path / "data")
    made = training(tmp_path, data_list=data_list)
    made.engine.run()
    words = "Segments 2D images into background and cell. Trained on the data list 'discs': discs"
    assert read(made, "metadata.json")["description"] == words
    assert (made.folder / "docs" / "README.md").read_text().startswith(f"# a\n\n{words}\n")


def test_at_its_end_a_run_has_the_best_weights_and_their_scores(tmp_path):
    made = training(tmp_path, best_epoch=2)
    at_the_end = {}

    @made.engine.on(Events.EPOCH_COMPLETED)
    def look(engine):
        at_the_end[engine.state.epoch] = made.network.weight.detach().clone()

    made.engine.run()
    assert torch.equal(made.network.weight, at_the_end[2])
    assert not torch.equal(at_the_end[2], at_the_end[3])
    folder = made.folder / "evaluation" / "validation"
    assert {file.name for file in folder.iterdir()} == {
        "cases.csv",
        "scores.json",
        "slices.npz",
        "report.html",
        "worst.png",
        "best.png",
        "curves.png",
    }
    prediction = made.network(squares()["image"]).argmax(1)
    truth = squares()["label"][:, 0]
    dice = 2 * (prediction * truth).sum() / (prediction.sum() + truth.sum())
    scores = json.loads((folder / "scores.json").read_text())
    assert scores["scores"]["mean_dice"]["mean"] == pytest.approx(float(dice), abs=1e-6)


def test_the_card_says_which_epoch_and_how_well(tmp_path):
    made = training(tmp_path, best_epoch=2)
    made.engine.run()
    card = (made.folder / "docs" / "README.md").read_text()
    scores = json.loads((made.folder / "evaluation" / "validation" / "scores.json").read_text())
    assert card.startswith("# a\n\nFinds squares.\n")
    assert "Trained for 3 epochs; the weights are those of epoch 2." in card
    assert score_table(scores) in card
    pictures = [line.split("(")[1].rstrip(")") for line in card.splitlines() if line.startswith("![")]
    assert pictures
    assert all((made.folder / "docs" / picture).is_file() for picture in pictures)


def test_evaluating_the_best_weights_again_makes_no_other_epoch_the_best(tmp_path):
    made = training(tmp_path, best_epoch=1, metric=-0.5)  # less than the evaluation at the end will find
    made.engine.run()
    assert made.evaluator.state.metrics["mean_dice"] > -0.5
    assert (made.evaluator.state.best_metric, made.evaluator.state.best_metric_epoch) == (-0.5, 1)
    assert "the weights are those of epoch 1." in (made.folder / "docs" / "README.md").read_text()


def test_without_a_validation_the_weights_are_those_of_the_last_epoch(tmp_path):
    made = training(tmp_path, best_epoch=None)
    made.engine.run()
    assert "Trained for 3 epochs; the weights are those of epoch 3." in (made.folder / "docs" / "README.md").read_text()


def test_a_run_without_any_foreground_says_so(tmp_path):
    made = training(tmp_path)
    made.evaluator.data_loader = [squares() | {"label": torch.zeros(1, 1, 8, 8, dtype=torch.long)}]
    made.engine.run()
    card = (made.folder / "docs" / "README.md").read_text()
    assert "| mean_dice | n/a | n/a | n/a | n/a | 1 |" in card
    assert "![" not in card, "there is no picture to show"


def test_a_config_that_describes_another_network_is_an_error(tmp_path):
    # The trained network stands under a key that inference.json lacks, whose own one has the same weights but wraps.
    config = {"imports": [], "my_network": CONVOLUTION}
    made = training(tmp_path, config=config, inference={**CONVOLUTION, "padding_mode": "circular"})
    with pytest.raises(InputError) as caught:
        made.engine.run()
    assert caught.value.file == str(made.folder / "configs" / "inference.json")
    assert "differs from the one that was trained" in caught.value.reason
    assert "network_def" in caught.value.remedy


def test_a_config_whose_network_does_not_take_the_weights_is_an_error(tmp_path):
    config = {"imports": [], "my_network": CONVOLUTION}
    made = training(tmp_path, config=config, inference={**CONVOLUTION, "out_channels": 5})
    with pytest.raises(InputError, match="do not fit the network"):
        made.engine.run()


def test_a_bundle_without_an_inference_config_is_complete_without_it(tmp_path):
    made = training(tmp_path, inference=None)
    made.engine.run()
    assert (made.folder / "docs" / "README.md").is_file()
    assert not (made.folder / "configs" / "inference.json").exists()


def test_a_resumed_run_that_has_nothing_left_to_train_is_completed(tmp_path):
    made = training(tmp_path, epochs=2)
    first = training(tmp_path / "first", epochs=2)
    first.engine.run()
    save_tensors(made.run.best_model, first.network.state_dict())

    @made.engine.on(Events.STARTED)
    def as_restored(engine):
        engine.state.epoch, engine.state.history = 2, first.engine.state.history
        made.evaluator.state.best_metric, made.evaluator.state.best_metric_epoch = 0.5, 1

    made.engine.run()
    assert "Trained for 2 epochs" in (made.folder / "docs" / "README.md").read_text()
    assert torch.equal(made.network.weight, first.network.weight)


class Done:
    """What Checkpoints and EarlyStop do when a run is resumed that has `epochs` behind it."""

    def __init__(self, epochs, stops=False):
        self.epochs, self.stops = epochs, stops

    def attach(self, engine):
        engine.add_event_handler(Events.STARTED, self.start)

    def start(self, engine):
        engine.state.epoch = self.epochs
        if self.stops:
            engine.terminate()


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize(
    ("done", "epochs", "words"),
    [
        (Done(3), 3, r"has done 3 of 3 epochs\. Remedy: raise --epochs"),
        (Done(3), 2, r"has done 3 of 2 epochs\. Remedy: raise --epochs"),
        (Done(2, stops=True), 5, r"has done 2 of 5 epochs and no better one came in time\. Remedy: raise --patience"),
    ],
)
def test_a_complete_run_is_not_written_anew(tmp_path, done, epochs, words, rank):
    made = training(tmp_path, epochs=epochs, first=[done])
    made.run.remember(completed_epoch=done.epochs)
    made.engine.state.rank = rank
    with pytest.raises(InputError, match=f"nothing left to train: the run '{made.folder}' {words}"):
        made.engine.run()
    assert {file.name for file in made.folder.iterdir()} == {".lock", "run.json"}


@pytest.mark.parametrize("done", [Done(2), Done(3)])
def test_a_run_completed_earlier_and_resumed_for_longer_is_trained_and_completed(tmp_path, done):
    made = training(tmp_path, epochs=3, first=[done])
    made.run.remember(completed_epoch=1)
    save_tensors(made.run.best_model, made.network.state_dict())
    made.evaluator.state.best_metric_epoch = 1
    made.engine.run()
    assert made.engine.state.epoch == 3
    assert (made.folder / "docs" / "README.md").is_file()


def test_other_ranks_evaluate_and_write_nothing(tmp_path):
    made = training(tmp_path)
    save_tensors(made.run.best_model, made.network.state_dict())
    made.engine.state.rank = 1
    made.engine.run()
    assert made.evaluator.state.metrics, "the ranks' scores are gathered, so every rank must give its own"
    assert {file.name for file in made.folder.iterdir()} == {"models", ".lock", "run.json"}
