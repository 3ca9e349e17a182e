"""Is this machine fit to train and predict? What a bug report should hold."""

from __future__ import annotations

import logging
import os
import platform
import shutil
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import torch
from monai.bundle import ConfigWorkflow

import pipeline
from pipeline import provenance
from pipeline.batch.memory import free_bytes
from pipeline.datalists.datalist import save_data_list
from pipeline.datalists.embedded import make_data_list
from pipeline.errors import find_input_error
from pipeline.mlflow_store import answers, is_remote, open_store, store_of
from pipeline.networks.precision import has_bfloat16

NEEDED = [
    *("monai", "torch", "pytorch-ignite", "numpy", "scipy", "scikit-image", "nibabel", "SimpleITK", "itk", "pydicom"),
    *("tifffile", "imagecodecs", "pillow", "mlflow", "optuna"),
]
EXTRAS = ("onnx", "onnxruntime", "openvino", "highdicom", "nvidia-ml-py")
BUNDLE = Path("bundles/unet")  # as seen from the repository's root
LEAST_MEMORY, LEAST_DISK = 2 * 2**30, 2**30  # bytes, to train the bundles as they are and to keep a run


class Finding(NamedTuple):
    """One line of the report; `sound` is None where there is nothing to judge."""

    sound: bool | None
    topic: str
    words: str


def examine(uri: str | None = None, output_dir: str = "runs", bundle: str | Path = BUNDLE) -> bool:
    """Print what this machine has, whether what a training needs works, and return whether all of it does.

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
    broken = 0
    for topic, check in checks:
        for finding in _attempt(topic, check):
            broken += finding.sound is False
            mark = {True: "ok", False: "!!", None: "  "}[finding.sound]
            print(f"{mark} {finding.topic:10} {finding.words}", flush=True)
    print(f"\n{broken} of these need attention" if broken else "\nall is well", "(for a bug report, paste all of this)")
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
    for folder in dict.fromkeys((Path(output_dir), Path.cwd(), Path(tempfile.gettempdir()))):
        yield _writable(folder.absolute())


def _writable(folder: Path) -> Finding:
    """Write a file where the folder is, or would be made."""
    place = next(parent for parent in (folder, *folder.parents) if parent.exists())
    try:
        with tempfile.NamedTemporaryFile(dir=place) as file:
            file.write(b"x" * 4096)
            file.flush()
    except OSError as error:
        return Finding(
            False, "folders", f"{folder}: nothing can be written here ({error.strerror}). Remedy: choose another"
        )
    free = shutil.disk_usage(place).free
    words = f"{folder}: can be written, {free / 2**30:.1f} GiB free"
    return Finding(free >= LEAST_DISK, "folders", words if free >= LEAST_DISK else f"{words}. Remedy: make room")


def _store(uri: str) -> Iterator[Finding]:
    begun = time.monotonic()
    if is_remote(uri) and not answers(uri):
        words = f"no server answers at {uri}: runs wait in their folders for `python -m pipeline sync`"
        yield Finding(False, "MLflow", f"{words}. Remedy: start it, or check MLFLOW_TRACKING_URI")
        return
    file = Path(uri.removeprefix("sqlite:///"))
    if uri.startswith("sqlite:///") and not file.exists():
        yield Finding(None, "MLflow", f"{uri}: not there yet, the first run makes it")
        return
    client, _ = open_store(uri, "Default")
    count = len(client.search_experiments())
    yield Finding(True, "MLflow", f"{uri}: {count} experiments, opened in {time.monotonic() - begun:.1f} s")


def _training(bundle: Path) -> Iterator[Finding]:
    """Train for two steps on pictures that are drawn for it, in a folder that is gone afterwards."""
    config = bundle / "configs" / "train.json"
    if not config.is_file():
        words = f"not tried: there is no {config} here. Remedy: run this in the repository's root"
        yield Finding(None, "training", words)
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
            "data_list": f"{scratch}/cells.json",
            "dataset_dir": f"{scratch}/data",
            "output_dir": f"{scratch}/runs",
            "mlflow#uri": f"sqlite:///{scratch}/mlflow.db",
            "epochs": 1,
            "batch_size": 1,
            "crops_per_case": 1,
        }
        with _quiet():
            workflow = ConfigWorkflow(str(config), workflow_type="training", logging_file=False, **settings)
            workflow.initialize()
            workflow.run()
            workflow.finalize()
        weights = [*folder.glob("runs/*/models/model.pt")]
    words = f"two steps of {config}, validated and saved in {time.monotonic() - begun:.0f} s"
    yield Finding(bool(weights), "training", words if weights else f"{words}, but there are no weights")


@contextmanager
def _quiet() -> Iterator[None]:
    """Hold back what a training tells on its way."""
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
