"""Workers as jobs of a cluster's queue: a YAML file names the queue's kind and what a job is given."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from pipeline.errors import InputError, did_you_mean

if TYPE_CHECKING:
    from dask_jobqueue import JobQueueCluster

CLUSTERS = {
    "SLURMCluster": "slurm",
    "PBSCluster": "pbs",
    "SGECluster": "sge",
    "LSFCluster": "lsf",
    "OARCluster": "oar",
    "MoabCluster": "moab",
    "HTCondorCluster": "htcondor",
    "LocalCluster": "local",
}
OURS = {"cluster", "jobs"}
NOT_FOR_FILES = {"self", "scheduler", "job_cls", "loop", "asynchronous", "scheduler_cls", "kwargs", "base_class_kwargs"}


def job_cluster(file: str | Path) -> JobQueueCluster:
    """Start a scheduler here and submit the jobs that a file describes, each with a worker.

        cluster: SLURMCluster      # or PBSCluster, SGECluster, LSFCluster, OARCluster, MoabCluster, HTCondorCluster
        jobs: 8                    # or {minimum: 0, maximum: 32}: as many as there is work for
        cores: 8                   # of a job; all else as dask-jobqueue has it
        memory: 32GB
        queue: gpu
        walltime: "08:00:00"
        job_extra_directives: ["--gres=gpu:1"]

    Args:
        file: YAML.
    """
    kind, jobs, options = read_job_file(file)
    command = (getattr(_job(kind), "submit_command", None) or "").split()[:1]
    if jobs and command and shutil.which(command[0]) is None:
        reason = f"there is no '{command[0]}' on this machine, by which jobs are submitted"
        raise InputError(reason, file=file, remedy="give this command where the queue can be reached")
    try:
        cluster = kind(**options)
    except (ValueError, TypeError, OSError, RuntimeError) as error:
        reason = f"the jobs cannot be described by this: {str(error).splitlines()[0]}"
        raise InputError(reason, file=file, remedy="see dask-jobqueue's documentation of this cluster") from error
    try:
        if isinstance(jobs, dict):
            cluster.adapt(minimum_jobs=jobs["minimum"], maximum_jobs=jobs["maximum"])
        else:
            cluster.scale(jobs=jobs)
    except BaseException:
        cluster.close()
        raise
    return cluster


def read_job_file(file: str | Path) -> tuple[type[JobQueueCluster], int | dict[str, int], dict[str, Any]]:
    """Return dask-jobqueue's class, how many jobs, and the arguments of the class; refuse what it does not know."""
    if importlib.util.find_spec("dask_jobqueue") is None:
        raise InputError("dask-jobqueue is not installed", remedy='pip install "unet-pipeline[scale]"')
    content = _content(file)
    name = content.get("cluster")
    if name not in CLUSTERS:
        reason = f"there is no cluster '{name}'" if name else "does not say which 'cluster'"
        raise InputError(reason, file=file, remedy=did_you_mean(str(name), CLUSTERS))
    kind = getattr(importlib.import_module(f"dask_jobqueue.{CLUSTERS[name]}"), name)
    options = {key: value for key, value in content.items() if key not in OURS}
    known = _known(kind)
    for key in options:
        if key not in known:
            raise InputError(f"{name} has no setting '{key}'", file=file, remedy=did_you_mean(key, known | OURS))
    missing = [key for key in ("cores", "memory") if key not in options]
    if missing:
        raise InputError(f"does not say {' and '.join(missing)} of a job", file=file, remedy="add it")
    for key in ("cores", "processes"):
        if not (isinstance(options.get(key, 1), int) and options.get(key, 1) > 0):
            raise InputError(f"'{key}' is {options[key]!r}", file=file, remedy="write a whole number above 0")
    if name != "LocalCluster":  # whose jobs are no scripts, but processes with this one's environment
        options["job_script_prologue"] = _prologue(options)
    # A port that is free: the usual one may be another batch's. The log has the link.
    options["scheduler_options"] = {"dashboard_address": ":0"} | (options.get("scheduler_options") or {})
    return kind, _jobs(content.get("jobs", 1), file), options


def _content(file: str | Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(Path(file).read_text())
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})", file=file, remedy="correct the path") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError("is no YAML", file=file, remedy="write lines such as 'cores: 8'") from error
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise InputError("is no list of settings", file=file, remedy="write lines such as 'cores: 8'")
    return content


def _known(kind: type[JobQueueCluster]) -> set[str]:
    """Return the names of all arguments, which the classes pass on to one another unchecked."""
    classes = (*kind.__mro__[:-1], *_job(kind).__mro__[:-1])
    functions = [vars(one)["__init__"] for one in classes if "__init__" in vars(one)]
    names = {
        name
        for function in functions
        if function.__module__.startswith("dask_jobqueue")
        for name in inspect.signature(function).parameters
    }
    return {name for name in names - NOT_FOR_FILES if not name.startswith("_")}


def _job(kind: type[JobQueueCluster]) -> type:
    return vars(kind)["job_cls"]


def _jobs(given: Any, file: str | Path) -> int | dict[str, int]:
    is_range = isinstance(given, dict) and given.keys() == {"minimum", "maximum"}
    numbers = list(given.values()) if is_range else [given]
    whole = all(isinstance(number, int) and not isinstance(number, bool) for number in numbers)
    if not whole or not (0 <= given["minimum"] <= given["maximum"] > 0 if is_range else given > 0):
        remedy = "write 'jobs: 8', or 'jobs: {minimum: 0, maximum: 8}'"
        raise InputError(f"'jobs' is {given!r}", file=file, remedy=remedy)
    return given if isinstance(given, dict) else int(given)


def _prologue(options: dict[str, Any]) -> list[str]:
    """Return lines that come first in a job: its threads, of which Dask by itself would leave one to the network."""
    given = list(options.get("job_script_prologue") or [])
    share = max(1, int(options["cores"]) // int(options.get("processes") or 1))
    wanted = {"OMP_NUM_THREADS": share, "MKL_NUM_THREADS": share, "OMP_WAIT_POLICY": "PASSIVE"}
    ours = [f"export {key}={value}" for key, value in wanted.items() if not any(key in str(line) for line in given)]
    return [*ours, *given]
