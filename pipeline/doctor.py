"""Is this machine fit to train and predict? What a bug report should hold."""

from __future__ import annotations

import os
import platform
import shutil
import sqlite3
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import chdir, closing, contextmanager, nullcontext
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import torch
from mlflow.exceptions import MlflowException
from monai.bundle import ConfigWorkflow

import pipeline
from pipeline import provenance
from pipeline.batch.memory import free_bytes
from pipeline.console import quiet
from pipeline.datalists.datalist import save_data_list
from pipeline.datalists.embedded import make_data_list
from pipeline.errors import find_input_error
from pipeline.mlflow_store import absolute, answers, first_line, is_remote, open_store, store_of, store_refuses
from pipeline.networks.precision import has_bfloat16

NEEDED = [
    *("monai", "torch", "pytorch-ignite", "numpy", "scipy", "scikit-image", "nibabel", "SimpleITK", "itk", "pydicom"),
    *("tifffile", "imagecodecs", "pillow", "mlflow", "optuna"),
]
EXTRAS = ("onnx", "onnxruntime", "openvino", "highdicom", "nvidia-ml-py")
BUNDLE = Path("bundles/unet")  # as seen from the project's folder
BUSY_FOR = 20  # seconds to wait for another process that writes to the store
LEAST_MEMORY, LEAST_DISK = 2 * 2**30, 2**30  # bytes, to train the bundles as they are and to keep a run


class Finding(NamedTuple):
    """One line of the report; `sound` is None where there is nothing to judge, or where nothing was tried."""

    sound: bool | None
    topic: str
    words: str
    is_tried: bool = True


def examine(uri: str | None = None, output_dir: str = "runs", bundle: str | Path = BUNDLE) -> bool:
    """Print what this machine has, whether what a training needs works, and return whether all that was tried does.

    Args:
        uri: of the MLflow store.
        output_dir: where runs would go.
        bundle: which one to train for two steps.
    """
    checks: list[tuple[str, Callable[[], Iterator[Finding]]]] = [
        ("versions", _versions),
        ("devices", _devices),
        ("memory", _memory),
        ("folders", lambda: _folders(output_dir)),
        ("MLflow", lambda: _store(store_of(uri))),
        ("training", lambda: _training(Path(bundle))),
    ]
    broken, untried = 0, []
    for topic, check in checks:
        for finding in _attempt(topic, check):
            broken += finding.sound is False
            untried += [] if finding.is_tried else [finding.topic]
            mark = {True: "ok", False: "!!", None: "  "}[finding.sound]
            print(f"{mark} {finding.topic:10} {finding.words}", flush=True)
    verdict = f"{broken} of these need attention" if broken else "all that was tried is well"
    verdict += f"; not tried: {', '.join(untried)}" if untried else ""
    print(f"\n{verdict} (for a bug report, paste all of this)")
    return not broken


def _attempt(topic: str, check: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """Yield what a check finds; what it raises is a finding too."""
    try:
        yield from check()
    except Exception as error:
        problem = find_input_error(error)
        words = str(problem) if problem else "".join(traceback.format_exception(error)).rstrip()
        yield Finding(False, topic, words)


def _versions() -> Iterator[Finding]:
    commit = provenance.tags().get("mlflow.source.git.commit", "")
    own = f"pipeline {pipeline.__version__}{f' ({commit[:12]})' if commit else ''}"
    yield Finding(None, "versions", f"{own}, Python {platform.python_version()}, {platform.platform()}")
    found = {name: _version(name) for name in (*NEEDED, *EXTRAS)}
    missing = [name for name in NEEDED if found[name] is None]
    yield Finding(not missing, "versions", ", ".join(f"{name} {found[name]}" for name in NEEDED if found[name]))
    if missing:
        yield Finding(False, "versions", f"missing: {', '.join(missing)}. Remedy: pip install --editable .")
    yield Finding(None, "extras", ", ".join(f"{name} {found[name] or 'not installed'}" for name in EXTRAS))


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _devices() -> Iterator[Finding]:
    cores, threads = len(os.sched_getaffinity(0)), torch.get_num_threads()
    unit = "with" if has_bfloat16("cpu") else "without"
    yield Finding(None, "devices", f"processor: {cores} cores, {threads} threads of torch, {unit} a unit for bfloat16")
    if not torch.cuda.is_available():
        yield Finding(None, "devices", "no GPU that torch can use")
    for number in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(number)
        total = f"cuda:{number}: {properties.name}, {properties.total_memory / 2**30:.0f} GiB"
        result = float(torch.ones(8, device=f"cuda:{number}").sum())
        yield Finding(result == 8, "devices", total if result == 8 else f"{total}: the sum of 8 ones is {result}")


def _memory() -> Iterator[Finding]:
    free = free_bytes()
    words = f"{free / 2**30:.1f} GiB free"
    enough = free >= LEAST_MEMORY
    yield Finding(enough, "memory", words if enough else f"{words}. Remedy: close other programs, or use smaller crops")


def _folders(output_dir: str) -> Iterator[Finding]:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "unet-pipeline"
    try:
        cache = cache.expanduser()
    except RuntimeError as error:  # there is no home
        yield Finding(False, "folders", f"{cache}: {error}. Remedy: give XDG_CACHE_HOME")
        cache = Path.cwd()
    for folder in dict.fromkeys((Path(output_dir), Path.cwd(), Path(tempfile.gettempdir()), cache)):
        yield _writable(folder.absolute())


def _writable(folder: Path) -> Finding:
    """Say whether a file can be written to a folder, and how much room there is."""
    if refusal := _refusal(folder):
        return Finding(False, "folders", f"{folder}: nothing can be written here ({refusal}). Remedy: choose another")
    free = shutil.disk_usage(_nearest(folder)).free
    words = f"{folder}: can be written, {free / 2**30:.1f} GiB free"
    return Finding(free >= LEAST_DISK, "folders", words if free >= LEAST_DISK else f"{words}. Remedy: make room")


def _nearest(folder: Path) -> Path:
    """Return a folder, or the one in which it would be made."""
    return next(parent for parent in (folder, *folder.parents) if os.path.exists(parent))


def _refusal(folder: Path) -> str | None:
    """Write a file where a folder is, or a folder with a file where it would be made; return why that fails."""
    place = _nearest(folder)
    try:
        inner = tempfile.TemporaryDirectory(dir=place) if place != folder else nullcontext(place)
        with inner as made, tempfile.NamedTemporaryFile(dir=made) as file:
            file.write(b"x" * 4096)
            file.flush()
    except OSError as error:
        return error.strerror or str(error)
    return None


def _store(uri: str) -> Iterator[Finding]:
    begun = time.monotonic()
    if is_remote(uri) and not answers(uri):
        words = f"no server answers at {uri}: runs wait in their folders for `python -m pipeline sync`"
        yield Finding(False, "MLflow", f"{words}. Remedy: start it, or check MLFLOW_TRACKING_URI")
        return
    is_file = uri.startswith("sqlite:///")
    file = Path(absolute(uri).removeprefix("sqlite:///").partition("?")[0])
    if is_file and not file.exists():
        refusal = _refusal(file.parent)
        if refusal:
            raise store_refuses(uri, f"it is not there, and cannot be made in {file.parent} ({refusal})")
        yield Finding(True, "MLflow", f"{uri}: not there yet, the first run can make it")
        return
    try:
        if is_file:
            _write_to_database(file)
        client, experiment_id = open_store(uri, "Default")
        count = len(client.search_experiments())
        if not is_file:  # what is deleted, the store hides from all who do not ask for it
            run = client.create_run(experiment_id, tags={"doctor": "a trial of this store"}, run_name="doctor")
            client.set_terminated(run.info.run_id)
            client.delete_run(run.info.run_id)
    except (sqlite3.Error, MlflowException) as error:
        raise store_refuses(uri, first_line(error)) from error
    seconds = time.monotonic() - begun
    yield Finding(True, "MLflow", f"{uri}: {count} experiments, opened and written to in {seconds:.1f} s")


def _write_to_database(file: Path) -> None:
    """Write to a SQLite file, and take it back."""
    uri = f"{file.absolute().as_uri()}?mode=rw"
    with closing(sqlite3.connect(uri, timeout=BUSY_FOR, isolation_level=None, uri=True)) as database:
        database.execute("BEGIN IMMEDIATE")
        database.execute("CREATE TABLE doctor (x)")
        database.execute("ROLLBACK")


def _config_of(bundle: Path) -> Path | None:
    """Find a bundle's training as it is named, or in the project's folder where the package is run from there."""
    for place in (Path(), Path(pipeline.__file__).parents[1]):
        if (place / bundle / "configs" / "train.json").is_file():
            return (place / bundle / "configs" / "train.json").absolute()
    return None


def _training(bundle: Path) -> Iterator[Finding]:
    """Train for two steps on pictures that are drawn for it, in a folder that is gone afterwards."""
    config = _config_of(bundle)
    if config is None:
        words = f"not tried: there is no {bundle} here. Remedy: run this in the project's folder, or give --bundle"
        yield Finding(None, "training", words, is_tried=False)
        return
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        full = make_data_list("cells")
        cases = [case for case in full.cases if case.fold == 1][:2] + [case for case in full.cases if case.fold == 0][
            :1
        ]
        save_data_list(replace(full, cases=tuple(cases)), folder / "cells.json")
        settings: dict[str, Any] = {
            "bundle_root": str(config.parents[1]),
            "data_list": f"{scratch}/cells.json",
            "dataset_dir": f"{scratch}/data",
            "output_dir": f"{scratch}/runs",
            "mlflow#uri": f"sqlite:///{scratch}/mlflow.db",
            "epochs": 1,
            "batch_size": 1,
            "crops_per_case": 1,
        }
        with quiet(), _within(folder):
            workflow = ConfigWorkflow(str(config), workflow_type="training", logging_file=False, **settings)
            workflow.initialize()
            workflow.run()
            workflow.finalize()
        weights = [*folder.glob("runs/*/models/model.pt")]
    words = f"two steps of {config}, validated and saved in {time.monotonic() - begun:.0f} s"
    yield Finding(bool(weights), "training", words if weights else f"{words}, but there are no weights")


@contextmanager
def _within(folder: Path) -> Iterator[None]:
    """Let all that is written land in a folder, also MLflow's artifacts and what is remembered of a data set."""
    earlier = os.environ.get("XDG_CACHE_HOME")
    os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
    try:
        with chdir(folder):
            yield
    finally:
        del os.environ["XDG_CACHE_HOME"]
        if earlier is not None:
            os.environ["XDG_CACHE_HOME"] = earlier
