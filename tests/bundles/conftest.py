"""Data for overlays, and small trainings with them."""

import pytest
from overlays import merged, small, write_variant

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
