"""Training, evaluation, inference and sweep are killed at any moment, resumed, and killed again: nothing is lost."""

import itertools
import os
import signal

import pytest
from kill_anywhere import GROWING, Kill, Nursery, kill_often, log_of, survive, undisturbed
from killed_commands import Evaluation, Inference, Prediction, SweepCommand, Training
from run_files import last

COMMANDS = {kind.name: kind for kind in (Training, Evaluation, Prediction, Inference, SweepCommand)}
SHARES = {"training": 0.3, "evaluating": 0.2, "predict": 0.2, "inference": 0.1, "sweep": 0.2}


@pytest.fixture(scope="module")
def nursery():
    made = Nursery()
    yield made
    made.close()


@pytest.fixture
def kills(request):
    return int(os.environ.get("KILLS", "8"))


@pytest.fixture(scope="module")
def commands(empty_store, tmp_path_factory):
    place = tmp_path_factory.mktemp("templates")
    return {name: kind(place / name, empty_store) for name, kind in COMMANDS.items()}


@pytest.fixture(scope="module")
def whole(nursery, commands, tmp_path_factory):
    """Return `whole(name)`, what a command leaves that nobody disturbs."""
    known = {}

    def find(name):
        if name not in known:
            known[name] = undisturbed(nursery, commands[name], tmp_path_factory.mktemp("whole") / name, False)
        return known[name]

    return find


@pytest.mark.parametrize("name", COMMANDS)
def test_no_file_is_written_under_its_final_name(name, whole):
    assert [file for file in whole(name).bare if file.rpartition("/")[2] not in GROWING] == []


@pytest.mark.parametrize("name", COMMANDS)
def test_killed_anywhere_and_resumed(name, nursery, commands, whole, kills, tmp_path, capsys):
    met, wrong = kill_often(nursery, commands[name], whole(name), tmp_path, round(kills * SHARES[name]))
    with capsys.disabled():
        print(f"{name}: {met.total()} kills, {dict(met)}, {len(wrong)} chains went wrong")
    assert not wrong, "\n\n".join(wrong)


# In each of these moments a file is about to get its final name, or is to be removed; the next process gets further.
MOMENTS = {
    "training": [
        ("runs/run/run.json", 2),  # the first one is that it goes
        ("configs/data_list.json", 1),
        ("checkpoints/last.pt", 1),  # in the first epoch
        ("models/model.pt", 1),  # the checkpoint is saved, and the best model is not
        ("models/model.pt", 1),  # while that is made good
        ("models/model.pt", 2),
        ("validation/cases.csv", 1),
        ("validation/report.html", 1),
        ("docs/README.md", 1),
        ("runs/run/run.json", 3),  # which is to say that the run is complete
    ],
    "evaluating": [("test/cases.csv", 1), ("test/report.html", 1), ("mlflow.journal", 1), ("mlflow.journal", 2)],
    "predict": [("summary.json", 1), ("out/a_prob.nii.gz", 1), ("out/b/c.mhd", 1), ("artifacts/summary.csv", 1)],
    "sweep": [
        ("tiny-000/run.json", 2),
        ("tiny-000/checkpoints/last.pt", 1),
        ("tiny-000/models/model.pt", 1),
        ("runs/tiny/results.csv", 1),
        ("tiny-001/evaluation/validation/cases.csv", 1),
        ("comparison/comparison.html", 1),
    ],
}


@pytest.mark.parametrize("name", MOMENTS)
def test_killed_at_every_moment_that_matters(name, nursery, commands, whole, tmp_path):
    moments = zip(MOMENTS[name], itertools.cycle((signal.SIGKILL, signal.SIGTERM, signal.SIGINT)))
    kills = [Kill(which, change=number, file=file) for (file, number), which in moments]
    met = survive(nursery, commands[name], whole(name), tmp_path / name, kills, in_full=False)
    assert [str(kill) for kill in met] == [str(kill) for kill in kills]


def test_killed_before_the_best_model_is_saved_and_copied(nursery, commands, whole, tmp_path):
    """The last best model is not saved, no later one takes its place, and in the copy every file has another time."""
    command, folder = commands["training"], tmp_path / "training"
    history = [
        row["val/mean_dice"] for row in last(whole("training").folder / command.run_folder)["trainer"]["history"]
    ]
    bests = sum(score > max(history[:number], default=-1) for number, score in enumerate(history))
    command.prepare(folder)
    kill = Kill(signal.SIGKILL, change=bests, file="models/model.pt")
    assert nursery.run(command, folder, kill=kill, in_full=False)[0] == -signal.SIGKILL
    run = folder / command.run_folder
    for moment, file in enumerate((run / "checkpoints" / "last.pt", run / "models" / "model.pt")):
        if file.exists():  # there is no earlier model where the first epoch is the best one
            os.utime(file, (moment, moment))
    assert nursery.run(command, folder, resume=True, in_full=False)[0] == 0, log_of(folder)
    command.compare(folder, whole("training"))
