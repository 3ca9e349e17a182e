"""Networks that only ask where an image is above 0, and a batch with them in this process."""

import json
import shutil
from itertools import count
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from monai.bundle import ConfigParser

from pipeline.errors import InputError
from pipeline.predict import predict_with_bundle

pytest.register_assert_rewrite("kill_anywhere", "killed_commands")

TESTS = Path(__file__).parents[1]
BUNDLES = TESTS.parent / "bundles"


class Batch(NamedTuple):
    """What a batch came to: its folder, the summary's rows by case, and the error at its end."""

    out: Path
    rows: dict
    error: InputError | None

    @property
    def done(self):
        return {case for case, row in self.rows.items() if row["status"] == "done"}

    @property
    def reasons(self):
        return {case: row["reason"] for case, row in self.rows.items() if row["status"] != "done"}


def write_threshold_bundle(folder, dims):
    """A bundle whose weights give the logits (0, x): the class is 1 where the image is above 0."""
    configs = BUNDLES / {2: "unet", 3: "unet3d"}[dims] / "configs"
    config = ConfigParser.load_config_file(str(configs / "inference.json"))
    network = {"_target_": f"torch.nn.Conv{dims}d", "in_channels": 1, "out_channels": 2, "kernel_size": 1}
    config |= {"bundle_root": "$bundle.root()", "network_def": network, "class_names": ["background", "above 0"]}
    config["device"] = "cpu"
    if dims == 3:
        config |= {"normalisation": [], "spacing": [None, None, None], "crop_size": [32, 32, 32]}
    else:
        config["preprocessing"]["transforms"] = config["preprocessing"]["transforms"][:1]  # reading alone
    (folder / "configs").mkdir()
    shutil.copy(configs / "metadata.json", folder / "configs")
    (folder / "configs" / "inference.json").write_text(json.dumps(config))
    (folder / "models").mkdir()
    write_weights(folder, dims)
    return folder


def write_weights(folder, dims, at=0.0):
    """Weights of which the threshold is `at`."""
    state = {"weight": torch.tensor([0.0, 1.0]).reshape(2, 1, *[1] * dims), "bias": torch.tensor([0.0, -at])}
    torch.save(state, folder / "models" / "model.pt")


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    """Keep what the data check remembers out of the home folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="session")
def threshold(tmp_path_factory):
    """The two bundles by their dimension; nobody writes to them."""
    return {dims: write_threshold_bundle(tmp_path_factory.mktemp("threshold"), dims) for dims in (2, 3)}


@pytest.fixture
def predict(threshold, tmp_path):
    """Return `predict(source, out, dims, **overrides)`, which gives a Batch."""

    def call(source, out=None, dims=3, bundle=None, **overrides):
        out, error = Path(out or tmp_path / "out"), None
        try:
            predict_with_bundle(bundle or threshold[dims], str(source), str(out), **overrides)
        except InputError as caught:
            error = caught
        file = out / "summary.json"
        rows = json.loads(file.read_text()) if file.exists() else []
        return Batch(out, {row["case"]: row for row in rows}, error)

    return call


@pytest.fixture(scope="module")
def fresh_folder(tmp_path_factory):
    """Return a function that makes an empty folder, for each example."""
    top, numbers = tmp_path_factory.mktemp("examples"), count()

    def make():
        folder = top / str(next(numbers))
        folder.mkdir()
        return folder

    return make
