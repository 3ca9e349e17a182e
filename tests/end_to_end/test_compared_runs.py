"""Runs that were really trained, compared: the longer one is better, and other labels are other data."""

import shutil

import numpy as np
import pytest
import tifffile
from discs import write_discs

from pipeline.compare import compare

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")]


def test_a_longer_training_is_better_and_changed_labels_are_not_compared(run_bundle, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("pipeline.tracking.Tracking.model", lambda *arguments: None)  # takes most of the time
    data = tmp_path / "data"
    write_discs(data, 24)

    def train(name, folder=data, **options):
        places = {"dataset_dir": str(folder), "data_list": str(data / "discs.json"), "run_name": name}
        run_bundle("training", "train.json", learning_rate=0.02, **places, **options)

    train("short", epochs=1)
    train("twin", epochs=1)
    train("long", epochs=12)
    changed = shutil.copytree(data, tmp_path / "changed")
    for file in sorted((changed / "labels").iterdir())[:12]:
        tifffile.imwrite(file, np.roll(tifffile.imread(file), 9, 0))
    train("other labels", changed, epochs=1)

    found = compare(baseline="short", output=tmp_path / "out")
    rows = {row.label: row for row in found.rows}
    assert (rows["long"].verdict, len(rows["long"].common)) == ("better", 11)
    assert rows["twin"].verdict == "no difference shown"
    assert rows["twin"].difference.equal == 11, "the same seed gives the same network"
    assert 0 < len(rows["other labels"].common) < 11
    assert f"other data than the baseline's in {11 - len(rows['other labels'].common)} of 11 cases" in " ".join(
        capsys.readouterr().out.split()
    )
    digests = {row.label: row.entry.run.data_digest for row in found.rows}
    assert digests["short"] == digests["long"] != digests["other labels"]
    assert {column.key for column in found.columns} >= {"epochs", "dataset_dir"}
