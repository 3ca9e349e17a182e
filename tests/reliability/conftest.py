"""Networks that only ask where an image is above 0, and a batch with them in this process."""

import json
from itertools import count
from pathlib import Path
from typing import NamedTuple

import pytest
from threshold_bundle import write_threshold_bundle

from pipeline.errors import InputError
from pipeline.inference import predict_with_bundle

pytest.register_assert_rewrite("kill_anywhere", "killed_commands")


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
