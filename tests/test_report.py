"""The page of a run as text; how it looks in a browser is tested beside the pages."""

import math
import re
from copy import deepcopy

import numpy as np
import pytest
import torch
from discs import UNET
from monai.bundle import ConfigParser
from monai.data import MetaTensor

from pipeline import settings
from pipeline.pages.viewer import ViewerVolume
from pipeline.report import ExtremeVolumes, changed_settings, origin_facts, write_report

NAN = float("nan")
TWO_CLASSES = [
    {"case": "a", "mean_dice": 0.5, "dice/liver": 0.5, "dice/kidney": NAN, "accuracy": 0.9, "hausdorff": 12.0},
    {"case": "b", "mean_dice": 0.5, "dice/liver": 0.4, "dice/kidney": 0.6, "accuracy": 0.9, "hausdorff": NAN},
    {"case": "c", "mean_dice": 0.8, "dice/liver": 0.6, "dice/kidney": 1.0, "accuracy": 0.9, "hausdorff": 24.0},
]


def written(tmp_path, cases=TWO_CLASSES, **options):
    options = {"title": "a run", "split": "test", "scores": {}, **options}
    return write_report(tmp_path, cases=cases, **options).read_text()


def table(text, name):
    """A table's rows by column."""
    part = re.search(rf'data-name="{name}".*?</table>', text, re.DOTALL)[0]
    columns = re.findall(r"<button[^>]*>([^<]*)", part)
    lines = part[part.index("<tbody>") :].strip().splitlines()[1:-1]
    return [dict(zip(columns, re.findall(r"<td[^>]*>(?:<span[^>]*>)?([^<]*)", line), strict=True)) for line in lines]


def test_scores_stand_by_class(tmp_path):
    everything, liver, kidney = table(written(tmp_path), "scores of classes")
    assert everything["class"] == "all classes"
    assert [row["cases"] for row in (everything, liver, kidney)] == ["3", "3", "2"]
    assert everything["dice"].startswith("0.600 [0.5")  # (0.5 + 0.5 + 0.8) / 3
    assert liver["dice"].startswith("0.500 [0.4")
    assert kidney["dice"].startswith("0.800 [0.6")
    low, high = map(float, re.search(r"\[(.*), (.*)\]", liver["dice"]).groups())
    assert 0.4 <= low < 0.5 < high <= 0.6


def test_scores_of_no_class_and_of_all_cases_as_one(tmp_path):
    text = written(tmp_path, scores={"stack": {"rand_error": 0.25, "vrand": None}})
    accuracy, hausdorff, rand, vrand = table(text, "other scores")
    assert accuracy["mean"] == "0.900 [0.900, 0.900]"
    assert hausdorff["mean"].startswith("18.0 [12.0")
    assert (float(hausdorff["lowest"]), float(hausdorff["highest"]), hausdorff["cases"]) == (12, 24, "2")
    assert (rand["score"], rand["mean"]) == ("rand_error, of all cases as one", "0.250")
    assert vrand["mean"] == "n/a"


def test_a_single_class_stands_once_and_a_single_case_has_no_interval(tmp_path):
    text = written(tmp_path, [{"case": "a", "mean_dice": 0.5, "dice/cell": 0.5}])
    assert table(text, "scores of classes") == [{"class": "cell", "cases": "1", "dice": "0.500"}]
    assert "95% interval" not in text
    assert "test split, 1 case<" in text


def test_every_case_has_a_row(tmp_path):
    rows = table(written(tmp_path), "cases")
    assert [row["case"] for row in rows] == ["a", "b", "c"]
    assert rows[0]["dice/kidney"] == "n/a"
    assert rows[2]["mean_dice"] == "0.8000"


def test_a_page_without_any_case(tmp_path):
    text = written(tmp_path, [])
    assert "n/a" in text
    assert "0 cases" in text


def test_what_ran(tmp_path):
    changes = [{"setting": "epochs", "this run": "40", "the bundle's own": "30"}]
    text = written(tmp_path, changes=changes, config={"a": {"b": 1}}, facts={"device": "cpu", "time": "3 s"})
    assert table(text, "settings") == [{"setting": "epochs", "this run": "40", "the bundle&#x27;s own": "30"}]
    assert table(text, "all settings") == [{"setting": "a/b", "value": "1"}]
    assert "<dt>device</dt><dd>cpu</dd>" in text
    assert "<b>3 s</b><span>time</span>" in text
    assert "<b>4 s</b><span>time in epochs</span>" in written(tmp_path, facts={"time in epochs": "4 s"})
    assert "All settings are the bundle" in written(tmp_path, changes=[])
    assert "All settings are the bundle" not in written(tmp_path)


def test_names_are_harmless(tmp_path):
    evil = "</script><script>alert(1)</script>"
    image, labels = np.zeros((2, 4, 4))
    cases = [{"case": evil, "mean_dice": 0.5, f"dice/{evil}": 0.5, "dice/b": 0.5}]
    picture = {"case": evil, "score": 0.5, "image": image, "truth": labels, "prediction": labels}
    options = {"title": evil, "split": evil, "classes": ["background", evil], "config": {evil: evil}}
    options |= {"facts": {evil: evil}, "changes": [{"setting": evil}]}
    plain = written(tmp_path, cases, pictures={"worst": [picture]}, **options)
    volume = ViewerVolume.of(evil, *np.zeros((3, 4, 4, 4)))
    assert evil not in plain
    assert evil not in written(tmp_path, cases, volumes=[volume], **options)
    assert plain.count("<script") == 1


def test_the_page_stays_small(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (4, 3, 110, 110, 110))
    text = written(tmp_path, volumes=[ViewerVolume.of(str(n), *each) for n, each in enumerate(noise)])
    assert 4_000_000 < len(text) < 4 * 1_500_000 + 300_000


def test_only_leaves_that_differ_are_settings_that_differ():
    defaults = {"epochs": 30, "net": {"norm": "batch", "channels": [16, 32]}, "gone": 1}
    config = {"epochs": 30, "net": {"norm": "instance", "channels": [16, 64]}, "new": None}
    assert changed_settings(config, defaults) == [
        {"setting": "net/norm", "this run": "instance", "the bundle's own": "batch"},
        {"setting": "net/channels", "this run": "[16, 64]", "the bundle's own": "[16, 32]"},
        {"setting": "gone", "this run": "–", "the bundle's own": "1"},
        {"setting": "new", "this run": "None", "the bundle's own": "–"},
    ]
    assert changed_settings(defaults, defaults) == []


def test_what_nobody_changed_is_the_same_in_the_file_and_while_it_runs():
    own = ConfigParser.load_config_file(str(UNET / "configs" / "train.json"))
    running = ConfigParser(deepcopy(own))
    running.parse()
    config = {**settings.of(running), "run_name": "mine", "resume": True}
    assert changed_settings(config, own) == []
    changed = {"setting": "batch_size", "this run": "7", "the bundle's own": str(own["batch_size"])}
    assert changed_settings({**config, "batch_size": 7}, own) == [changed]


def test_a_reference_in_a_list_and_a_macro_are_what_they_stand_for():
    file = {"training": ["$@train#trainer.run()"], "run": "%training"}
    runs = {"training": ["$@train::trainer.run()"], "run": ["$@train::trainer.run()"]}
    assert changed_settings(runs, file) == []


def test_where_a_result_comes_from():
    tags = {"data_list": "cells.json", "data_list.digest": "ab12", "pipeline.version": "0.1.0", "device": "cpu"}
    tags |= {"mlflow.source.git.commit": "0123456789abcdef", "git.dirty": "true"}
    tags |= {"bundle": "unet", "bundle.version": "1"}
    found = origin_facts(tags, seconds=200)
    assert found["code"] == "unet-pipeline 0.1.0, commit 0123456789ab with changes of its own"
    assert (found["bundle"], found["data list"], found["its SHA-256"]) == ("unet 1", "cells.json", "ab12")
    assert found["time"] == "3 min 20 s"
    assert "seed" not in found
    assert "pruned" not in found
    assert origin_facts({"pruned": 3})["pruned"] == "after epoch 3: the trial was not worth more"
    assert origin_facts({}, 200, "time in epochs") == {**origin_facts({}), "time in epochs": "3 min 20 s"}
    assert origin_facts({"pipeline.version": "0.1.0"})["code"] == "unet-pipeline 0.1.0"


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(4.24, "4.2 s"), (59.97, "1 min 0 s"), (60, "1 min 0 s"), (3599.6, "1 h 0 min"), (7500, "2 h 5 min")],
)
def test_times_as_a_reader_says_them(seconds, told):
    assert origin_facts({}, seconds)["time"] == told


# --- volumes of the extreme cases -------------------------------------------------------------------------------------


def look(extremes, scores, shape=(4, 4, 4), label=None):
    for number, score in enumerate(scores):
        extremes.look(f"case {number}", score, *np.zeros((3, *shape)), label)


def test_the_worst_and_the_best_volumes_are_kept():
    extremes = ExtremeVolumes(2)
    look(extremes, [0.5, 0.9, NAN, 0.1, 0.6, 0.8, 0.3])
    assert [volume.score for volume in extremes.volumes] == [0.1, 0.3, 0.8, 0.9]
    assert {name: len(kept) for name, kept in extremes.kept.items()} == {"worst": 2, "best": 2}
    extremes.clear()
    assert extremes.volumes == []


def test_volumes_of_several_processes_are_kept_as_if_one_had_seen_them():
    scores = [0.5, 0.9, 0.1, 0.6, 0.8]
    parts = [ExtremeVolumes(2) for _ in range(3)]
    for number, score in enumerate(scores):
        for part in parts[number % 2 :: 2]:  # the first and the last have seen the same
            part.look(f"case {number}", score, *np.zeros((3, 4, 4, 4)))
    first, *others = parts
    for other in others:
        first.merge(other)
    assert [volume.score for volume in first.volumes] == [0.1, 0.5, 0.8, 0.9]
    assert [volume.case for volume in first.kept["worst"]] == ["case 2", "case 0"]


def test_few_cases_stand_once_each():
    extremes = ExtremeVolumes(2)
    look(extremes, [0.5, 0.9, 0.7])
    assert [volume.score for volume in extremes.volumes] == [0.5, 0.7, 0.9]


def test_images_are_no_volumes():
    extremes = ExtremeVolumes()
    look(extremes, [0.5], shape=(4, 4))
    assert extremes.volumes == []


def test_the_first_channel_of_an_image_is_shown():
    extremes = ExtremeVolumes()
    image = np.stack([np.zeros((4, 4, 4)), np.full((4, 4, 4), NAN)])
    image[0, 0, 0, 0] = 1
    extremes.look("a", 0.5, image, *np.zeros((2, 4, 4, 4)))
    assert extremes.volumes[0].image.sum() == 255


@pytest.mark.parametrize(("file", "spacing"), [("a.nii.gz", (1, 2, 3)), ("a.tif", (1, 1, 1))])
def test_only_files_that_know_where_their_voxels_lie_have_a_place(file, spacing):
    label = MetaTensor(torch.zeros(1, 4, 4, 4), affine=torch.diag(torch.tensor([1.0, 2, 3, 1])))
    label.meta["filename_or_obj"] = file
    extremes = ExtremeVolumes()
    look(extremes, [0.5], label=label)
    (volume,) = extremes.volumes
    assert volume.spacing == spacing
    assert (volume.affine is None) == file.endswith("tif")


def test_what_is_kept_of_a_large_volume_is_small():
    extremes = ExtremeVolumes(1, most_voxels=1000)
    look(extremes, [0.5], shape=(40, 40, 40))
    assert 500 < math.prod(extremes.volumes[0].image.shape) <= 1000
