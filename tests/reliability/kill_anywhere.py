"""Training, inference and sweep as processes: killed anywhere, begun again, held against one that nobody disturbed."""

import csv
import json
import multiprocessing
import os
import random
import shutil
import signal
import sqlite3
import sys
import time
from collections import Counter
from functools import partial
from importlib import import_module
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tifffile
import torch
import yaml
from bad_files import stored
from matplotlib.figure import Figure
from PIL import Image

from pipeline.tracking import Tracking

TIME_LIMIT = 120  # seconds in which any command ends
SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
CHANGES = ("open", "os.rename", "os.remove", "os.mkdir", "os.truncate", "shutil.copyfile", "sqlite3.connect")
GROWING = {".lock", ".claim.lock", "mlflow.journal"}  # files that are no file at one moment, but grow or stay empty
PRELOADED = (
    "alembic.command",
    "matplotlib.backends.backend_agg",
    "matplotlib.backends.backend_svg",
    "mlflow.pytorch",
    "mlflow.store.tracking.sqlalchemy_store",
    "monai.bundle",
    "pipeline.compare",
    "pipeline.datalists.embedded",
    "pipeline.handlers.iteration_seed",
    "pipeline.handlers.run_bundle",
    "pipeline.handlers.stage_times",
    "pipeline.inferers.sliding_window",
    "pipeline.networks.compilation",
    "pipeline.networks.unet",
    "pipeline.predict",
    "pipeline.sweeps.sweep",
    "pipeline.transforms.instances_to_mask",
    "pipeline.transforms.rand_elastic",
    "pipeline.transforms.rand_grey",
    "pipeline.transforms.save_picture",
    "pipeline.transforms.standardise",
    "pipeline.transforms.to_grid",
    "torch._dynamo",
    "torch.export._trace",
    "torch.onnx",
)


class Kill(NamedTuple):
    """A signal, some seconds after the process began, or before its n-th change of a file whose path ends so."""

    which: signal.Signals
    seconds: float | None = None
    change: int = 0
    file: str = ""

    def __str__(self):
        place = f"before change {self.change} {self.file}" if self.seconds is None else f"after {self.seconds:.2f} s"
        return f"{self.which.name} {place}"


class Changes:
    """An audit hook that counts changes of files below a folder, signals before one, and knows what is not renamed.

    Args:
        folder: where changes count.
        kill: sent before its change.
        keep: gets the number of changes, and the files that were opened to be written under their final names.
    """

    def __init__(self, folder, kill, keep):
        self.folder, self.kill, self.keep = f"{folder}/", kill, keep
        self.count, self.seen, self.bare = 0, [], set()

    def __call__(self, event, arguments):
        if event not in CHANGES or not isinstance(arguments[0], str | bytes | os.PathLike):
            return
        if event == "os.remove" and arguments[1] != -1:  # beneath a folder that is removed
            return
        path = os.path.abspath(os.fsdecode(arguments[event in ("os.rename", "shutil.copyfile")]))
        is_look = event == "open" and not arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if is_look or not path.startswith(self.folder) or path == self.keep:
            return
        self.seen.append(path.removeprefix(self.folder))
        if event == "open" and "/.tmp-" not in path and "/mlruns/" not in path:
            self.bare.add(self.seen[-1])
        if self.kill is not None and path.endswith(self.kill.file):
            self.count += 1
            if self.count == self.kill.change:
                os.kill(os.getpid(), self.kill.which)

    def write(self):
        """Write what was seen."""
        Path(self.keep).write_text(json.dumps([self.seen, sorted(self.bare)]))


class Nursery:
    """A process that has imported everything, and forks commands: a kill costs what the command itself does."""

    def __init__(self):
        context = multiprocessing.get_context("spawn")  # a fork of pytest itself might inherit a lock that is held
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs,))
        self.process.start()
        theirs.close()
        self.connection.recv()

    def close(self):
        """End it."""
        self.connection.close()
        self.process.join(TIME_LIMIT)

    def run(self, command, folder, resume=False, kill=None, in_full=True):
        """Run a command in a folder until its end, or until it is killed; return its status and its number."""
        self.connection.send((command, str(folder), resume, kill, in_full))
        pid = self.connection.recv()
        if kill is not None and kill.seconds is not None and not self.connection.poll(kill.seconds):
            os.kill(pid, kill.which)
        if not self.connection.poll(TIME_LIMIT):
            os.kill(pid, signal.SIGKILL)
            self.connection.recv()
            raise AssertionError(f"it hangs:\n{log_of(folder)}")
        return self.connection.recv(), pid


def log_of(folder):
    """The end of what commands printed."""
    return Path(f"{folder}.log").read_text()[-6000:]


def _serve(connection):
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for name in PRELOADED:
        import_module(name)
    connection.send(None)
    while True:
        try:
            job = connection.recv()
        except EOFError:
            return
        process = multiprocessing.get_context("fork").Process(target=_run, args=job)
        process.start()
        connection.send(process.pid)
        process.join()
        connection.send(process.exitcode)


def _run(command, folder, resume, kill, in_full):
    signal.signal(signal.SIGINT, signal.default_int_handler)
    log = os.open(f"{folder}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.chdir(folder)
    os.environ |= {"MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db", "XDG_CACHE_HOME": f"{folder}/cache"}
    os.environ |= {"MLFLOW_DISABLE_TELEMETRY": "true"}
    torch.set_num_threads(1)
    if not in_full:
        draw_nothing()
    changes = Changes(folder, kill, f"{folder}.changes")
    sys.addaudithook(changes)
    command.run(resume)
    changes.write()


# --- what a kill may leave --------------------------------------------------------------------------------------------


def broken_files(folder):
    """What has its final name and is not whole, with the reason."""
    found = {}
    for file in sorted(folder.rglob("*")):
        if file.is_file() and not file.name.startswith(".tmp-") and "mlruns" not in file.parts:
            try:
                next((read for end, read in READERS.items() if file.name.endswith(end)), Path.read_bytes)(file)
            except Exception as error:
                found[str(file.relative_to(folder))] = f"{type(error).__name__}: {error}"
    return found


def _read_json(file):
    json.loads(file.read_bytes().partition(b"\n")[0] if file.parent.name == ".completed" else file.read_text())


def _read_table(file):
    text = file.read_text()
    assert text.endswith("\n"), "the last row has no end"
    assert len({len(row) for row in csv.reader(text.splitlines())}) == 1, "a row is not whole"


def _read_arrays(file):
    arrays = np.load(file)
    assert all(arrays[name].size for name in arrays)


def _read_text(file):
    assert file.read_text().endswith("\n")


READERS = {
    ".pt": partial(torch.load, weights_only=True),
    ".json": _read_json,
    ".yaml": lambda file: yaml.safe_load(file.read_text())["name"],
    ".csv": _read_table,
    ".npz": _read_arrays,
    ".npy": np.load,
    ".png": lambda file: Image.open(file).load(),
    ".tif": tifffile.imread,
    **dict.fromkeys((".nii", ".nii.gz", ".mhd", ".nrrd"), stored),
    ".html": lambda file: file.read_text().rindex("</html>"),
    **dict.fromkeys(("LICENSE", ".conf", ".md"), _read_text),
}


def statuses(folder, pid=None):
    """The statuses of MLflow's runs by name, those of one process if its number is given."""
    words = "SELECT name, status FROM runs"
    if pid is not None:
        words += f" JOIN tags USING (run_uuid) WHERE key = 'pid' AND value = '{pid}'"
    found = {}
    for name, status in _ask(folder, words):
        found.setdefault(name, []).append(status)
    return found


def doubled_metrics(folder):
    """Metrics that an MLflow run has more than once at a step."""
    return _ask(folder, "SELECT key, step, count(*) FROM metrics GROUP BY run_uuid, key, step HAVING count(*) > 1")


def metrics_of(folder, name):
    """The metrics of a finished MLflow run, by key and step, but for times."""
    words = f"SELECT key, step, value FROM metrics JOIN runs USING (run_uuid) WHERE name = '{name}'"
    rows = _ask(folder, f"{words} AND status = 'FINISHED' AND key NOT LIKE 'time/%' AND key NOT LIKE 'system/%'")
    return {(key, step): value for key, step, value in rows}


def _ask(folder, words):
    store = sqlite3.connect(folder / "mlflow.db", timeout=30)
    try:
        return store.execute(words).fetchall()
    finally:
        store.close()


# --- chains of kills --------------------------------------------------------------------------------------------------


class Whole(NamedTuple):
    """A command that nobody disturbed: its folder, seconds, the files that it changed, and those not by a rename."""

    folder: Path
    seconds: float
    changes: list[str]
    bare: list[str]


def draw_nothing():
    """Leave out the pictures and MLflow's model, most of a small training's time: most chains do without."""
    picture = BytesIO()
    Image.new("RGB", (1, 1)).save(picture, "png")

    def save(figure, file, **options):
        file.write(picture.getvalue()) if hasattr(file, "write") else Path(file).write_bytes(picture.getvalue())

    Figure.savefig = save
    Tracking.model = lambda *arguments: None


def undisturbed(nursery, command, folder, in_full=True):
    """Run a command once without a kill."""
    command.prepare(folder)
    begun = time.monotonic()
    status, _ = nursery.run(command, folder, in_full=in_full)
    seconds = time.monotonic() - begun
    assert status == 0, log_of(folder)
    changes, bare = json.loads(Path(f"{folder}.changes").read_text())
    assert broken_files(folder) == {}
    assert doubled_metrics(folder) == []
    return Whole(folder, seconds, changes, bare)


def chain(seed, whole):
    """The kills of a chain, one to three: any signal, by time or by change, anywhere in what is left by then."""
    draw, left, kills = random.Random(seed), 1.0, []
    for _ in range(draw.choice((1, 2, 2, 3))):
        share, which = left * draw.random(), draw.choice(SIGNALS)
        if [kill.which for kill in kills] == [signal.SIGKILL] * 2:
            which = signal.SIGTERM  # a trial of a sweep that is killed three times in a row is given up
        if draw.random() < 0.5:
            kills.append(Kill(which, seconds=share * whole.seconds))
        else:
            kills.append(Kill(which, change=1 + int(share * len(whole.changes))))
        left -= 0.7 * share
    return kills


def survive(nursery, command, whole, folder, kills, in_full=True):
    """Kill a command so often, look after each kill, end it, and compare; return the kills that met it alive."""
    command.prepare(folder)
    met, before = [], command.state(folder, whole)
    for kill in kills:
        status, pid = nursery.run(command, folder, command.can_resume(folder), kill, in_full)
        if status == 0:
            break
        assert status in (-kill.which, 128 + kill.which, 1), log_of(folder)
        met.append(kill)
        assert broken_files(folder) == {}
        if kill.which != signal.SIGKILL:
            assert [name for name, ends in statuses(folder, pid).items() if "RUNNING" in ends] == [], log_of(folder)
        before = command.state(folder, whole, before)
    if not command.is_done(folder):
        status, _ = nursery.run(command, folder, command.can_resume(folder), in_full=in_full)
        assert status == 0, log_of(folder)
    assert broken_files(folder) == {}
    assert {status for found in statuses(folder).values() for status in found} <= {"FINISHED", "KILLED"}
    assert doubled_metrics(folder) == []
    command.state(folder, whole, before)
    command.compare(folder, whole)
    return met


def kill_often(nursery, command, whole, place, count, seed=0):
    """Chains of kills until so many have met the command alive; return how many of each signal, and what went wrong."""
    met, number, wrong = Counter(), 0, []
    while met.total() < count:
        number += 1
        kills = chain(f"{command.name} {seed} {number}", whole)[: count - met.total()]
        folder = place / f"{command.name}-{number}"
        try:
            in_full = number % 8 == command.in_full
            met.update(kill.which.name for kill in survive(nursery, command, whole, folder, kills, in_full))
            shutil.rmtree(folder)
        except AssertionError as error:
            wrong.append(f"{command.name}, chain {number} of seed {seed}: {', '.join(map(str, kills))}\n{error}")
            met.update(kill.which.name for kill in kills)
    return met, wrong
