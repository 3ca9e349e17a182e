"""The same seed gives the same weights and the same labels, to the byte, however a training is fed, stopped or started.

Another number of threads and another number format give other numbers, each the same ones every time.
"""

import pytest
import torch
from batch_process import TIME_LIMIT, BatchProcess
from blobs import UNET3D, small_training_3d, write_blobs
from discs import UNET, small_training, write_discs
from forked import CONTEXT
from monai.bundle import ConfigParser, ConfigWorkflow
from run_files import last, same, without_times

from pipeline import figures
from pipeline.inference import predict_with_bundle
from pipeline.tracking import Tracking

OPTIONS = {"epochs": 2, "network_def#dropout": 0.3, "learning_rate": 0.02}
UNCACHED = {"train#dataset#cache_num": 0, "validate#dataset#cache_num": 0}
FED_OTHERWISE = {
    "no cache": UNCACHED,
    "one worker": {"num_workers": 1},
    "two workers for each epoch, no cache": {
        "num_workers": 2,
        "train#dataloader#persistent_workers": False,
        **UNCACHED,
    },
}
TABLES = ("cases.csv", "scores.json")


class Bundle:
    """A bundle with data that it trains on in a second.

    Args:
        folder: gets the data and the runs.
        dims: 2 or 3.
    """

    def __init__(self, folder, dims):
        self.folder, self.file = folder, str({2: UNET, 3: UNET3D}[dims] / "configs" / "train.json")
        {2: write_discs, 3: write_blobs}[dims](folder / "data")
        self.options = {2: small_training, 3: small_training_3d}[dims](folder / "data")
        self.options |= {**OPTIONS, "output_dir": str(folder / "runs")}

    def train(self, name, **options):
        """Train, untracked and without pictures, and return the run's folder."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Tracking, "start", lambda *_, **__: None)
            patch.setattr(figures, "save", lambda *_: None)
            settings = {**self.options, "run_name": name, **options}
            workflow = ConfigWorkflow(self.file, workflow_type="training", logging_file=False, **settings)
            workflow.initialize()
            workflow.run()
            loader = workflow.parser.get_parsed_content("train#dataloader")
            loader._iterator = None  # ends its workers now, not when it pleases
        return self.folder / "runs" / name

    def train_with_threads(self, name, threads):
        """Train in another process, whose sets and dictionaries need not have our order."""
        torch.set_num_threads(threads)
        self.train(name)


@pytest.fixture(scope="module", params=[2, 3], ids=["2D", "3D"])
def bundle(request, tmp_path_factory):
    """Each of the two bundles, with a run called "first"."""
    made = Bundle(tmp_path_factory.mktemp("determinism"), request.param)
    made.train("first")
    return made


@pytest.fixture
def first(bundle):
    """The folder of its run."""
    return bundle.folder / "runs" / "first"


def assert_same(run, other):
    """Weights, tables of scores and the record of the precision, byte for byte; the checkpoint but for its times."""
    for file in ("models/model.pt", "models/precision.json", *(f"evaluation/validation/{name}" for name in TABLES)):
        assert (run / file).exists() == (other / file).exists(), file
        assert not (run / file).exists() or (run / file).read_bytes() == (other / file).read_bytes(), file
    assert same(without_times(last(run)), without_times(last(other)))


@pytest.mark.parametrize("options", FED_OTHERWISE.values(), ids=list(FED_OTHERWISE))
def test_how_a_training_is_fed_changes_no_byte(bundle, first, options, request):
    assert_same(first, bundle.train(request.node.callspec.id, **options))


def test_a_training_that_was_stopped_and_resumed_has_every_byte(bundle, first):
    bundle.train("parts", num_workers=2, **{"train#trainer#max_epochs": 1})
    assert_same(first, bundle.train("parts", resume=True))


def test_another_process_trains_the_same_bytes(bundle, first):
    process = CONTEXT.Process(target=bundle.train_with_threads, args=("elsewhere", torch.get_num_threads()))
    process.start()
    process.join(TIME_LIMIT)
    assert process.exitcode == 0
    assert_same(first, bundle.folder / "runs" / "elsewhere")


def test_what_gives_other_numbers_gives_the_same_ones_every_time(tmp_path):
    """bfloat16 rounds; two threads add up in another order, which so small a network need not show."""
    small, found = Bundle(tmp_path, 2), {}
    settings = {"exact": {}, "bfloat16": {"precision": "bfloat16"}, "two threads": {"threads": 2}}
    for name, options in settings.items():
        before, options = torch.get_num_threads(), {"precision": "float32", **options}
        torch.set_num_threads(options.pop("threads", before))
        try:
            runs = [small.train(f"{name} {number}", **options) for number in range(2)]
        finally:
            torch.set_num_threads(before)
        assert_same(*runs)
        found[name] = last(runs[0])["network"]
    assert not same(found["exact"], found["bfloat16"])


def results(folder):
    """The label maps of a folder, byte by byte."""
    files = [file for file in folder.glob("*.*") if file.is_file() and not file.name.startswith("summary")]
    return {file.name: file.read_bytes() for file in files}


def test_labels_are_the_same_bytes_in_every_process_and_shard(bundle, first, tmp_path):
    images, log = bundle.folder / "data" / "images", tmp_path / "log"
    predict_with_bundle(first, str(images), str(tmp_path / "here"), device="cpu")
    expected = results(tmp_path / "here")
    assert len(expected) == 8
    for shard in (1, 0):
        predict_with_bundle(first, str(images), str(tmp_path / "shards"), device="cpu", num_shards=2, shard_id=shard)
    assert BatchProcess([first, images, tmp_path / "there", "--device", "cpu"], log).status() == 0, log.read_text()
    assert results(tmp_path / "shards") == results(tmp_path / "there") == expected


def test_labels_are_the_same_bytes_with_any_number_of_workers(bundle, first, tmp_path):
    """As other programs predict with a bundle: by its evaluator."""
    images = str(bundle.folder / "data" / "images")
    for workers in (0, 1, 2):
        parser = ConfigParser()
        parser.read_config(str(first / "configs" / "inference.json"))
        places = {"bundle_root": str(first), "dataset_dir": images, "input_dir": images, "device": "cpu"}
        out = tmp_path / str(workers)
        parser.update({**places, "output_dir": str(out), "dataloader#num_workers": workers})
        parser.get_parsed_content("evaluator").run()
        assert results(out) == results(tmp_path / "0")
    assert len(results(tmp_path / "0")) == 8
