"""Data for the bundles and their overlays, and small trainings with them."""

import shutil

import pytest
from blobs import small_training_3d, write_blobs
from kinds import KINDS, UNET3D_KIND
from monai.bundle import ConfigWorkflow
from overlays import merged, settings, small, write_variant

from pipeline import figures
from pipeline.tracking import Tracking


@pytest.fixture(scope="session")
def data_of(tmp_path_factory):
    """Return `find(overlays)`: discs with the channels, classes and kind of labels that the overlays expect."""
    made = {}

    def find(overlays):
        config = merged(*overlays).config
        kind = "classes" if "data_isbi2012.yaml" in overlays else "instances"
        key = config["in_channels"], tuple(config["class_names"]), kind
        if key not in made:
            made[key] = write_variant(tmp_path_factory.mktemp("discs"), *key)
        return made[key]

    return find


@pytest.fixture
def train(run_bundle, data_of, only_run, monkeypatch):
    """Return `train(overlays, **overrides)`, which trains two steps, small and untracked, and returns the run."""
    monkeypatch.setattr(Tracking, "start", lambda *_, **__: None)
    monkeypatch.setattr(figures, "save", lambda *_: None)

    def start(overlays, **overrides):
        run_bundle("training", "train.json", *overlays, **{**small(overlays, data_of(overlays)), **overrides})
        return only_run() if "output_dir" not in overrides else None

    return start


@pytest.fixture(scope="session")
def blobs(tmp_path_factory):
    """A folder with images/, labels/ and blobs.json; nobody writes to it."""
    return write_blobs(tmp_path_factory.mktemp("blobs")).parent


@pytest.fixture(scope="session")
def trained_3d(blobs, empty_store, tmp_path_factory):
    """The folder of a finished small run of bundles/unet3d, which nobody changes."""
    folder = tmp_path_factory.mktemp("trained_3d")
    options = {**small_training_3d(blobs), "output_dir": str(folder), "run_name": "blobs"}
    options |= {"epochs": 10, "crops_per_case": 4, "learning_rate": 0.02}
    shutil.copyfile(empty_store, folder / "mlflow.db")
    options["mlflow#uri"] = f"sqlite:///{folder}/mlflow.db"
    file = str(UNET3D_KIND.configs / "train.json")
    workflow = ConfigWorkflow(file, workflow_type="training", run_id="training", logging_file=False, **options)
    workflow.initialize()
    workflow.run()
    return folder / "blobs"


@pytest.fixture(scope="session", params=KINDS)
def kind(request):
    """Each of the two bundles."""
    return KINDS[request.param]


@pytest.fixture(scope="session")
def data(kind, request):
    """The folder of the bundle's data."""
    return request.getfixturevalue(kind.data)


@pytest.fixture(scope="session")
def trained_run(kind, request):
    """The folder of a finished small run of the bundle."""
    return request.getfixturevalue(kind.trained)


@pytest.fixture(scope="session")
def blobs_of(tmp_path_factory):
    """Return `find(overlays, in_channels)`: blobs with the classes that the overlays of bundles/unet3d expect."""
    made = {}

    def find(overlays, in_channels=1):
        classes = tuple(settings(*overlays, configs=UNET3D_KIND.configs)["class_names"])
        if (key := (classes, in_channels)) not in made:
            made[key] = write_blobs(tmp_path_factory.mktemp("blobs"), classes=classes, channels=in_channels).parent
        return made[key]

    return find


@pytest.fixture
def train_3d(run_bundle, blobs_of, only_run, monkeypatch):
    """Return `train(overlays, **overrides)` for bundles/unet3d: two steps, small and untracked; it gives the run."""
    monkeypatch.setattr(Tracking, "start", lambda *_, **__: None)
    monkeypatch.setattr(figures, "save", lambda *_: None)

    def start(overlays, **overrides):
        data = blobs_of(overlays, overrides.get("in_channels", 1))
        files = [UNET3D_KIND.configs / name for name in ("train.json", *overlays)]
        run_bundle("training", *files, **{**small_training_3d(data), "epochs": 1, **overrides})
        return only_run()

    return start
