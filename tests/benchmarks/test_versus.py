import json
import os
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import psutil
import pytest
import torch
import versus
import versus_monai
import versus_nnunet
import versus_watch
from ignite.engine import Engine, Events
from PIL import Image
from versus_job import Job
from versus_scores import scores

from pipeline.datalists.datalist import load_data_list

CLASSES = {"hippocampus": ["background", "anterior", "posterior"], "membranes": ["membrane", "cell"]}


def write_array(file, array):
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.name.endswith(".nii.gz"):
        nib.save(nib.Nifti1Image(array, np.diag([2.0, 1, 1, 1])), file)
    else:
        Image.fromarray(array).save(file)


def make_job(folder, name, truths, budget=60.0):
    """A data list with one training case, one validation case and the test cases that the truths are of."""
    dims = truths[0].ndim
    suffix = ".nii.gz" if dims == 3 else ".png"
    cases = [{"id": "learn", "fold": 1}, {"id": "check", "fold": 0}]
    cases += [{"id": f"t{number}", "split": "test"} for number in range(len(truths))]
    for case, truth in zip(cases, [truths[0], truths[0], *truths], strict=True):
        case |= {"image": f"images/{case['id']}{suffix}", "label": f"labels/{case['id']}{suffix}"}
        write_array(folder / name / case["image"], truth.astype(np.uint8))
        write_array(folder / name / case["label"], truth)
    facts = {"description": "d", "licence": "l", "source": "s", "made_by": "m", "channels": ["MRI"]}
    facts |= {"name": name, "spatial_dims": dims, "classes": CLASSES.get(name, ["background", "nucleus"])}
    facts |= {"label_kind": "instances" if name == "nuclei" else "classes", "cases": cases}
    file = folder / "lists" / f"{name}.json"
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(facts))
    (folder / "work").mkdir(exist_ok=True)
    return Job(file, folder / name, budget, folder / "work")


def test_hippocampus_is_the_mean_of_both_classes_over_the_cases(tmp_path):
    first, second = np.zeros((2, 4, 4, 4), np.uint8)
    first[0], first[1], second[0], second[3] = 1, 2, 1, 2
    job = make_job(tmp_path, "hippocampus", [first, second])
    write_array(job.predictions / "t0.nii.gz", first)
    missed = second.copy()
    missed[0, :2] = 0  # 8 of 16 voxels of the anterior part: Dice 16 / 24; of the posterior part nothing: 0
    missed[3] = 0
    write_array(job.predictions / "t1.nii.gz", missed)
    assert scores(job) == {"dice": pytest.approx((1 + 1 + 2 / 3 + 0) / 4)}


def test_membranes_are_one_stack_with_one_threshold(tmp_path):
    truth = np.full((8, 8), 255, np.uint8)
    truth[4] = 0  # two cells of 32 and 24 pixels, 8 of membrane
    job = make_job(tmp_path, "membranes", [truth, truth])
    job.predictions.mkdir()
    for name, cell, membrane in (("t0", 0.95, 0.55), ("t1", 0.38, 0.35)):
        np.save(job.predictions / f"{name}.npy", np.where(truth > 0, cell, membrane).astype(np.float16))
    # No threshold parts the cells of both slices. Up to 0.3 each slice is one object: the F-score of pairs is
    # 2 * 3200 / (3200 + 2 * 56^2) = 0.676. From 0.6 on the first is right, and in the second every pixel is alone.
    alone = 32**2 + 24**2 + 56
    found = scores(job)
    assert found["rand_error"] == pytest.approx(1 - 2 * alone / (2 * (32**2 + 24**2) + alone))
    assert found["pixel_error"] == pytest.approx(1 - 2 * 112 / (112 + 128))  # up to 0.3, where all is cell
    for name in ("t0", "t1"):
        np.save(job.predictions / f"{name}.npy", (truth > 0).astype(np.float16))
    assert scores(job) == {"rand_error": 0, "pixel_error": 0, "vrand": 1}


def test_nuclei_are_components_of_ten_pixels_and_the_mask_has_a_line_between_those_that_touch(tmp_path):
    truth = np.zeros((16, 16), np.uint16)
    truth[2:6, 2:6], truth[2:6, 6:12] = 1, 2  # they touch: the larger one gives way by a column of 4 pixels
    job = make_job(tmp_path, "nuclei", [truth])
    found = np.zeros((16, 16), np.uint8)
    found[2:6, 2:6], found[2:6, 7:12] = 1, 1
    found[10:13, 10:13] = 1  # 9 pixels: no object, but in the mask
    write_array(job.predictions / "t0.png", found)
    assert scores(job) == {"dice": pytest.approx(2 * 36 / (36 + 45)), "ap50": 1.0}
    found[2:6, 6] = 1  # merged: 40 pixels, of which the larger object has 24: an IoU of 0.6, and the other is missed
    write_array(job.predictions / "t0.png", found)
    assert scores(job)["ap50"] == pytest.approx(1 / 2)


HOLDS = "held = bytearray(b'1' * (80 << 20)); import time; time.sleep({})"
STARTS = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {HOLDS.format(0.4)!r}])"


def watch_code(code, folder, limit=20.0, **more):
    return versus_watch.watch([sys.executable, "-c", code], folder, limit, **more)


def test_a_first_model_is_timed_and_the_memory_of_descendants_counts(tmp_path, monkeypatch):
    monkeypatch.setattr(versus_watch, "EVERY", 0.05)
    seen = watch_code(f"open('model.pt', 'w'); {STARTS}", tmp_path, models="*.pt")
    assert seen.failure is None
    assert 0 < seen.first_model < seen.seconds - 0.3
    assert 80 / 1024 < seen.peak < 0.5
    assert watch_code("", tmp_path, models="*.none").first_model is None
    assert watch_code("open('late.pth', 'w')", tmp_path, models="*.pth").first_model is not None


def lives(pid):
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.parametrize("ends", [False, True])
def test_nothing_that_was_started_lives_on(tmp_path, monkeypatch, ends):
    file = tmp_path / "pid"

    def clock():  # a hundred seconds pass as soon as the worker is there
        return time.monotonic() + 100 * (file.exists() and file.stat().st_size > 0 and not ends)

    monkeypatch.setattr(versus_watch, "EVERY", 0.02)
    monkeypatch.setattr(versus_watch, "monotonic", clock)
    worker = (
        f"import os, time; file = open({str(file)!r}, 'w'); file.write(str(os.getpid())); file.close(); time.sleep(60)"
    )
    code = f"import os, subprocess, sys, time; subprocess.Popen([sys.executable, '-c', {worker!r}])\n"
    code += f"while not (os.path.exists({str(file)!r}) and os.path.getsize({str(file)!r}) and {ends}): time.sleep(0.01)"
    seen = watch_code(code, tmp_path, limit=60.0)
    assert (seen.failure is None) == ends
    assert ends or seen.failure.startswith("killed after 10")
    pid = int(file.read_text())
    for _ in range(250):
        if not lives(pid):
            return
        time.sleep(0.02)
    pytest.fail("the worker lives on")


def test_a_failure_is_told_by_the_last_words(tmp_path):
    seen = watch_code("print('first', flush=True); raise ValueError('no such patch')\n", tmp_path)
    assert seen.failure == "ended with status 1: ValueError: no such patch"


class StandIn:
    """A system of two lines, which predicts what is right if `code` lets it."""

    models = "model.pt"

    def __init__(self, code=""):
        self.code = code

    def train(self, job):
        return ["-c", f"open('model.pt', 'w'); {self.code}"]

    def predict(self, job):
        copies = [(case["label"], str(job.predictions / Path(case["label"]).name)) for case in job.records("test")]
        made = f"import os, shutil; os.mkdir('predictions'); [shutil.copy(*pair) for pair in {copies!r}]"
        return ["-c", f"{made}; open('{job.work.parent}/calls', 'a').write('x')"]

    def report(self, job):
        return {"steps": 7, "parameters": 8, "versions": {"standin": "1"}}


@pytest.fixture
def systems(monkeypatch):
    monkeypatch.setattr(versus, "SYSTEMS", {"ours": StandIn(), "monai": StandIn("raise SystemExit('no memory')")})
    monkeypatch.setattr(versus_watch, "EVERY", 0.02)


def test_every_run_is_kept_and_none_is_repeated(tmp_path, systems, capsys):
    make_job(tmp_path, "hippocampus", [np.indices((3, 3, 3))[0].astype(np.uint8)])
    file = tmp_path / "runs.jsonl"
    places = ["--data", str(tmp_path), "--lists", str(tmp_path / "lists"), "--work", str(tmp_path / "kept")]
    arguments = [*places, "--sets", "hippocampus", "--systems", "ours", "monai", "--runs", str(file), "--table"]
    versus.main([*arguments, "--budgets", "2min"])
    good, bad = versus.read_rows(file)
    assert (good["system"], good["set"], good["budget_s"]) == ("ours", "hippocampus", 120)
    assert good["scores"] == {"dice": 1}
    assert (good["steps"], good["parameters"]) == (7, 8)
    assert set(good["versions"]) == {"torch", "standin"}
    assert 0 < good["first_model_s"] <= good["final_model_s"]
    assert good["predict_s"] > 0
    assert bad["failure"] == "training ended with status 1: no memory"
    assert "scores" not in bad
    assert "monai, 2 min: training ended with status 1: no memory" in capsys.readouterr().out

    versus.main([*arguments, "--budgets", "2min"])
    assert versus.read_rows(file) == [good, bad]
    versus.main([*arguments, "--budgets", "4min", "--systems", "ours"])
    assert [row["budget_s"] for row in versus.read_rows(file)] == [120, 120, 240]
    assert (tmp_path / "kept" / "calls").read_text() == "xx"


def test_predictions_that_cannot_be_read_are_a_failure(tmp_path, systems, monkeypatch):
    job = make_job(tmp_path, "hippocampus", [np.ones((2, 2, 2), np.uint8)])
    monkeypatch.setattr(StandIn, "predict", lambda self, job: ["-c", ""])
    row = versus.run("ours", job)
    assert row["failure"].startswith("scoring: ")
    assert row["set"] == "hippocampus"


def test_what_cannot_be_is_said_at_once(tmp_path, capsys, monkeypatch):
    (tmp_path / "nuclei").mkdir()
    for more, message in ((["membranes"], "membranes"), (["nuclei", "--systems", "nnunet"], "nnunetv2 cannot")):
        monkeypatch.setattr(versus, "find_spec", lambda name: None)
        with pytest.raises(SystemExit):
            versus.main(["--data", str(tmp_path), "--runs", str(tmp_path / "runs"), "--sets", *more])
        assert message in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_the_table_holds_what_the_lines_hold():
    costs = {"first_model_s": 61.4, "final_model_s": 598.6, "predict_s": 9.5, "peak_gib": 1.25, "steps": 1234}
    rows = [
        {"system": "nnunet", "set": "nuclei", "budget_s": 600, "failure": "training killed", "peak_gib": 2.0},
        {"system": "ours", "set": "nuclei", "budget_s": 600, "scores": {"dice": 0.9236, "ap50": 0.8804}, **costs},
        {"system": "ours", "set": "hippocampus", "budget_s": 90, "scores": {"dice": 0.5}, "note": "few"},
    ]
    lines = versus.table(rows).splitlines()
    assert lines.index("**hippocampus**") < lines.index("**nuclei**")
    costs_of_none = " | ".join(["–"] * 6)
    assert f"| ours | 1.5 min | 0.500 | {costs_of_none} |" in lines
    ours = lines.index("| ours | 10 min | 0.924 | 0.880 | 61 | 599 | 10 | 1.2 | 1,234 | – |")
    assert lines[ours + 1] == "| nnunet | 10 min | – | – | – | – | – | 2.0 | – | – |"
    assert "nnunet, 10 min: training killed" in lines
    assert "ours, 1.5 min: few" in lines
    assert not any("membranes" in line for line in lines)


def test_the_table_says_who_took_too_long_and_the_memory_of_a_gpu():
    row = {"system": "ours", "set": "nuclei", "budget_s": 600, "final_model_s": 650.4, "gpu_peak_gib": 3.25}
    text = versus.table([row])
    assert "ours, 10 min: took 50 s more than its budget" in text
    assert "| of the GPU |" in text
    assert "| 3.2 |" in text
    assert "took" not in versus.table([row | {"final_model_s": 599.0}])


def test_all_systems_work_without_spinning_and_find_this_project(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "already")
    env = versus.environment([tmp_path])
    assert env["OMP_WAIT_POLICY"] == "PASSIVE"
    assert env["PYTHONPATH"].split(os.pathsep) == [str(versus.ROOT), str(tmp_path), "already"]
    assert all(name in os.environ for name in env.keys() - {"OMP_WAIT_POLICY", "PYTHONPATH", "PYTHONUNBUFFERED"})


def test_our_results_go_where_all_leave_theirs(tmp_path):
    truth = np.full((8, 8), 255, np.uint8)
    job = make_job(tmp_path, "membranes", [truth])
    (case,) = job.records("test")
    folder = job.work / "written" / "images"
    write_array(folder / "t0.png", np.ones((8, 8), np.uint8))
    write_array(folder / "t0_prob.tif", np.full((8, 8), 0.25, np.float32))
    versus.Ours()._collect(job, case)
    assert (job.predictions / "t0.png").is_file()
    kept = np.load(job.predictions / "t0.npy")
    assert kept.dtype == np.float16
    assert (kept == 0.25).all()


def test_nnunet_gets_our_split_and_the_mask_that_ours_learns(tmp_path):
    truth = np.zeros((6, 6), np.uint16)
    truth[:, :2], truth[:, 2:5] = 1, 2
    job = make_job(tmp_path, "nuclei", [truth])
    versus_nnunet.convert(job)
    raw = job.work / "raw" / versus_nnunet.NAME
    assert sorted(file.name for file in (raw / "imagesTr").iterdir()) == ["check_0000.png", "learn_0000.png"]
    mask = np.asarray(Image.open(raw / "labelsTr" / "learn.png"))
    assert mask.tolist() == [[1, 1, 0, 1, 1, 0]] * 6
    document = json.loads((raw / "dataset.json").read_text())
    assert document["labels"] == {"background": 0, "nucleus": 1}
    assert document["numTraining"] == 2
    (fold,) = json.loads((job.work / "preprocessed" / versus_nnunet.NAME / "splits_final.json").read_text())
    assert fold == {"train": ["learn"], "val": ["check"]}


class FakeTrainer:
    """Epochs as nnU-Net runs them, on a clock of its own: 5 s an iteration, 7 s around those of an epoch."""

    num_epochs, num_iterations_per_epoch, num_val_iterations_per_epoch, current_epoch = 1000, 250, 50, 0

    def __init__(self, now, step):
        self.now, self.step, self.rates = now, step, []

    def configure_optimizers(self):
        return "optimizer", SimpleNamespace(max_steps=self.num_epochs)

    def on_epoch_start(self):
        self.rates.append(1 - self.current_epoch / self.lr_scheduler.max_steps)

    def on_train_epoch_end(self, outputs):
        pass

    def run_training(self):
        for _ in range(self.num_epochs):
            self.on_epoch_start()
            self.now[0] += self.step * self.num_iterations_per_epoch
            self.on_train_epoch_end([{}] * self.num_iterations_per_epoch)
            self.now[0] += 7
            self.current_epoch += 1


@pytest.mark.parametrize(("budget", "step", "epochs"), [(600, 5, 10), (60, 5, 5), (12, 5, 2), (3_600_000, 0.1, 1000)])
def test_nnunets_schedule_ends_with_the_budget(monkeypatch, budget, step, epochs):
    now = [1000.0]
    monkeypatch.setattr(versus_nnunet, "time", lambda: now[0])
    trainer = FakeTrainer(now, step)
    clock = versus_nnunet.Clock(trainer, [9.0, step], 1000.0 + budget)
    trainer.run_training()
    assert trainer.num_epochs == epochs
    assert clock.steps <= 250 * epochs
    assert trainer.rates[-1] == pytest.approx(1 / epochs), "the rate has come down"
    assert clock.steps >= min(0.6 * (budget - 7 * epochs) / step, 250 * epochs)
    if budget == 600:
        assert 1000 + budget - 5 * epochs <= now[0] <= 1000 + budget + 7 + 5


def test_the_stock_loop_stops_so_early_that_a_validation_still_fits(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(versus_monai, "time", lambda: now[0])
    trainer = Engine(lambda engine, batch: now.append(now.pop() + 1))
    evaluator = Engine(lambda engine, batch: now.append(now.pop() + 10))
    trainer.add_event_handler(Events.ITERATION_COMPLETED(every=20), lambda: evaluator.run([0]))
    versus_monai.stop_in_time(trainer, evaluator, end=100.0)
    trainer.run(range(1000))
    assert now == [91.0]  # validated to 30, 60 and 90 s; one more second, and ten would be too many
    assert trainer.state.iteration == 61


@pytest.mark.filterwarnings("ignore:NvImgCodecPydicomReader")  # LoadImaged registers all of MONAI's readers
def test_the_stock_loop_learns_the_same_labels_and_keeps_the_axes_of_pictures(tmp_path):
    truth = np.zeros((6, 10), np.uint16)
    truth[:4, :2], truth[:4, 2:5] = 1, 2
    for name, label, learned in (
        ("nuclei", truth, np.where(np.arange(10) == 2, 0, truth > 0)),
        ("membranes", (255 * (truth > 0)).astype(np.uint8), truth > 0),
    ):
        job = make_job(tmp_path, name, [label])
        (record,) = job.records("training")
        for step in versus_monai.preprocessing(job, ["image", "label"]):
            record = step(record)
        assert np.array_equal(record["label"][0], learned), name
    job.predictions.mkdir()
    versus_monai.save(job, {"id": "t0"}, np.stack([truth == 0, truth > 0]).astype(np.float32))
    assert scores(job) == {"rand_error": 0, "pixel_error": 0, "vrand": 1}


class Threshold(torch.nn.Module):
    """What is bright is the first class."""

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(9.0))

    def forward(self, image):
        return torch.cat([-self.scale * image, self.scale * image, torch.full_like(image, -99)], dim=1)


@pytest.mark.filterwarnings("ignore:NvImgCodecPydicomReader")  # LoadImaged registers all of MONAI's readers
def test_the_stock_prediction_comes_back_to_the_grid_of_the_file(tmp_path, monkeypatch):
    truth = np.zeros((12, 20, 16), np.uint8)
    truth[2:6, 3:11, 1:7] = 1
    job = make_job(tmp_path, "hippocampus", [truth])
    (case,) = job.records("test")
    turned = np.array([[0, -1, 0, 5], [-2, 0, 0, 7], [0, 0, 1.5, 0], [0, 0, 0, 1.0]])  # axes swapped, voxels not 1 mm
    nib.save(nib.Nifti1Image(truth * np.float32(100), turned), case["image"])
    (job.work / "models").mkdir()
    job.predictions.mkdir()
    torch.save(Threshold().state_dict(), job.work / "models" / "model.pt")
    monkeypatch.setattr(versus_monai, "network", lambda job: Threshold().to(versus_monai.device()))
    versus_monai.predict(job)
    written = nib.load(job.predictions / "t0.nii.gz")
    assert np.array_equal(written.affine, turned)
    found = np.asarray(written.dataobj)
    assert found.shape == truth.shape
    assert 2 * (found * truth).sum() / (found.sum() + truth.sum()) > 0.85


def test_the_lists_are_those_of_the_scores():
    for name in versus.SCORES:
        assert load_data_list(versus.ROOT / "data_lists" / f"{name}.json").name == name
