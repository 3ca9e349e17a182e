"""MLflow's model registry: a run's bundle becomes a version with an alias, and a version a bundle's folder again."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import requires, version
from pathlib import Path
from typing import Any

import mlflow.artifacts
import mlflow.pyfunc
from mlflow.entities import LoggedModelStatus
from mlflow.entities.model_registry import ModelVersion, RegisteredModel
from mlflow.environment_variables import MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature
from mlflow.types import ParamSchema, ParamSpec
from mlflow.utils.file_utils import local_file_uri_to_path
from mlflow.utils.uri import is_local_uri
from packaging.requirements import Requirement

import pipeline
from pipeline.comparison.artifacts import local_folder
from pipeline.comparison.store import Store, TrackedRun
from pipeline.errors import InputError, did_you_mean
from pipeline.provenance import digest
from pipeline.run_folder import MODEL, read_facts

logger = logging.getLogger(__name__)

INFERENCE = Path("configs", "inference.json")
INSIDE = "artifacts/bundle"  # where MLflow keeps the bundle in the model
ENTRY = "served"  # among the run's models; one called "bundle" would hide the run's own artifacts of that name
DIGEST = "bundle.digest"
ALIAS = re.compile(r"(?!latest$|v\d+$)[\w-]{1,255}", re.IGNORECASE | re.ASCII)  # MLflow's rule
TASK = ("spatial_dims", "in_channels", "class_names")  # what one who uses a model by its name relies on


def promote(run: str | Path, alias: str, name: str | None = None, uri: str | None = None) -> str:
    """Register a run's bundle as a version of a model, let the alias mean it, and return its URI `models:/name/1`.

    A bundle that is registered already keeps its version. The versions of one name have the same classes, channels and
    axes: another network needs another name.

    Args:
        run: a run's folder, or the name or id of its MLflow run, which must be finished.
        alias: such as "champion"; a version that had it loses it.
        name: of the registered model; without one, that of the bundle: "unet".
        uri: the store; without one that of the run's folder, else `MLFLOW_TRACKING_URI`, else `mlflow.db`.
    """
    if not ALIAS.fullmatch(alias):
        remedy = "use letters, digits, - and _, and neither 'latest' nor 'v1', which mean versions"
        raise InputError(f"'{alias}' can be no alias", file="--alias", remedy=remedy)
    store, found = _find_run(run, uri)
    with _speaking(store), tempfile.TemporaryDirectory() as temporary:
        bundle = _bundle_of(store, found, Path(temporary))
        model = _registered_model(store, name or _name_of(bundle), _task_of(bundle))
        content = bundle_digest(bundle)
        registered = _known_version(store, model.name, found, content)
        if registered is None:
            registered = _new_version(store, model.name, found, bundle, {DIGEST: content, **_origin(found)})
        store.client.set_registered_model_alias(model.name, alias, registered.version)
    before = model.aliases.get(alias)
    moved = f", no longer version {before}" if before not in (None, registered.version) else ""
    logger.info("%s@%s is version %s, of the run '%s'%s", model.name, alias, registered.version, found.name, moved)
    return f"models:/{model.name}/{registered.version}"


def fetch(model_uri: str, uri: str | None = None) -> Path:
    """Return the folder of a registered bundle, which is checked to be whole, and not to be changed.

    A store on this machine is read in place. What a server keeps is fetched once, into `~/.cache/unet-pipeline/models`.

    Args:
        model_uri: `models:/unet@champion` or `models:/unet/3`.
        uri: the store; without one `MLFLOW_TRACKING_URI`, else `mlflow.db` in the working directory.
    """
    store = Store(uri)
    with _speaking(store):
        registered = _version_of(store, model_uri)
        source = store.client.get_model_version_download_uri(registered.name, registered.version)
    content = registered.tags.get(DIGEST)
    if content is None:
        raise InputError(f"'{model_uri}' is no bundle", remedy="register one: python -m pipeline promote RUN")
    if is_local_uri(source):
        return _checked(Path(local_file_uri_to_path(source), INSIDE), content, model_uri)
    cached = _cache() / registered.name / f"{registered.version}-{content[:16]}"
    if not cached.is_dir() or bundle_digest(cached) != content:
        with _speaking(store):
            _download(store, f"{source}/{INSIDE}", cached)
    return _checked(cached, content, model_uri)


def bundle_digest(folder: Path) -> str:
    """Return the SHA-256 of the names and digests of all files below a folder."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    lines = "".join(f"{digest(file)} {file.relative_to(folder).as_posix()}\n" for file in files)
    return hashlib.sha256(lines.encode()).hexdigest()


def _find_run(run: str | Path, uri: str | None) -> tuple[Store, TrackedRun]:
    facts, word = read_facts(Path(run)), str(run)
    if (Path(run) / "run.json").is_file():
        if "mlflow_run_id" not in facts:
            reason = "this run is in no MLflow store, so that nothing can say where its model comes from"
            raise InputError(
                reason, file=run, remedy=f"python -m pipeline sync {run}, or choose a run that was tracked"
            )
        uri, word = uri or facts["mlflow_uri"], facts["mlflow_run_id"]
    store = Store(uri)
    try:
        store.client.search_registered_models(max_results=1)
    except MlflowException as error:
        reason = f"the MLflow store {store.uri} has no model registry"
        raise InputError(reason, remedy="give --uri of a tracking server with one, or of a SQLite file") from error
    (found,), notes = store.named([word], list(store.experiments()))
    for note in notes:
        logger.warning(note)
    if found.evaluation is not None:
        raise InputError(f"'{found.name}' is an evaluation", remedy="name the run that trained the network")
    if found.status != "FINISHED":
        reason = f"the run '{found.name}' is not finished: {found.status}"
        remedy = "wait for its end, write what MLflow lacks (python -m pipeline sync), or continue it (--resume true)"
        raise InputError(reason, remedy=remedy)
    return store, found


def _bundle_of(store: Store, run: TrackedRun, temporary: Path) -> Path:
    """Return the folder of a run's bundle, fetched if need be."""
    listed = [store.client.list_artifacts(run.id, f"bundle/{folder}") for folder in ("configs", "models")]
    kept = {file.path for files in listed for file in files}
    for needed in (MODEL, INFERENCE):
        if f"bundle/{needed.as_posix()}" not in kept:
            reason = f"the run '{run.name}' has no weights" if needed == MODEL else f"'{run.name}' has no {needed}"
            raise InputError(f"{reason} in {store.uri}", file=needed, remedy="choose a run that trained a network")
    folder = local_folder(run)
    return folder / "bundle" if folder else Path(store.client.download_artifacts(run.id, "bundle", str(temporary)))


def _name_of(bundle: Path) -> str:
    file = bundle / "configs" / "metadata.json"
    name = json.loads(file.read_text()).get("name") if file.is_file() else None
    if not name:
        raise InputError("the bundle has no name", file=file, remedy="give the model one with --name")
    return name


def _task_of(bundle: Path) -> dict[str, str]:
    """Return what the versions of one model have in common."""
    config = json.loads((bundle / INFERENCE).read_text())
    return {key: json.dumps(config.get(key)) for key in TASK}


def _registered_model(store: Store, name: str, task: Mapping[str, str]) -> RegisteredModel:
    """Return the model of this name, made if need be; refuse one whose versions do something else."""
    known = _find_model(store, name)
    if known is None:
        return store.client.create_registered_model(name, tags=dict(task))
    for key, wanted in task.items():
        if (found := known.tags.get(key, "unknown")) != wanted:
            reason = f"the registered model '{name}' has the {key} {found}, this run has {wanted}"
            raise InputError(reason, remedy="register it under another name: --name")
    return known


def _find_model(store: Store, name: str) -> RegisteredModel | None:
    try:
        return store.client.get_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None


def _known_version(store: Store, name: str, run: TrackedRun, content: str) -> ModelVersion | None:
    mark = '"' if "'" in name else "'"
    versions = store.client.search_model_versions(f"name = {mark}{name}{mark} AND run_id = '{run.id}'")
    return next((known for known in versions if known.tags.get(DIGEST) == content), None)


def _new_version(store: Store, name: str, run: TrackedRun, bundle: Path, tags: Mapping[str, str]) -> ModelVersion:
    client = store.client
    model = client.create_logged_model(run.experiment_id, ENTRY, source_run_id=run.id)
    status = LoggedModelStatus.FAILED
    try:
        with tempfile.TemporaryDirectory() as temporary:
            save_model(Path(temporary, "model"), bundle, Model(run_id=run.id, model_id=model.model_id))
            client.log_model_artifacts(model.model_id, str(Path(temporary, "model")))
        status = LoggedModelStatus.READY
    finally:
        client.finalize_logged_model(model.model_id, status)
    return client.create_model_version(name, model.artifact_location, run.id, dict(tags), model_id=model.model_id)


def save_model(folder: Path, bundle: Path, model: Model) -> None:
    """Write a bundle as an MLflow model that brings its own code along, and is no pickle.

    Args:
        folder: where to.
        bundle: the bundle's folder.
        model: what MLflow knows of the model beforehand, such as its run.
    """
    package = Path(pipeline.__file__).parent
    MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR.set(False)
    with tempfile.TemporaryDirectory() as temporary, warnings.catch_warnings():
        # MLflow derives a signature from an example, but this model takes paths as well as arrays of any size.
        warnings.filterwarnings("ignore", ".*An input example was not provided")
        copied = shutil.copytree(bundle, Path(temporary, "bundle"))
        mlflow.pyfunc.save_model(
            str(folder),
            python_model=str(package / "served_model.py"),
            artifacts={"bundle": str(copied)},
            code_paths=[str(package)],
            mlflow_model=model,
            signature=ModelSignature(params=ParamSchema([ParamSpec("output_dir", "string", None)])),
            pip_requirements=_requirements(),
        )


def _requirements() -> list[str]:
    """Return what the package needs, in the versions that are installed here."""
    needed = [Requirement(line) for line in requires("unet-pipeline") or []]
    names = [one.name for one in needed if one.marker is None or "extra" not in str(one.marker)]
    return [f"{name}=={version(name).split('+')[0]}" for name in names]


def _origin(run: TrackedRun) -> dict[str, str]:
    """Return the tags that say where a version comes from, and how good it is."""
    names = {
        "data_list": "data_list",
        "data_list.digest": "data_list.digest",
        "mlflow.source.git.commit": "git.commit",
        "git.dirty": "git.dirty",
    }
    tags = {name: run.tags[tag] for tag, name in names.items() if tag in run.tags}
    scores = {key: f"{value:.6g}" for key, value in run.metrics.items() if key.startswith("best/")}
    return {"run_id": run.id, "run_name": run.name, **tags, **scores}


def _version_of(store: Store, model_uri: str) -> ModelVersion:
    match = re.fullmatch(r"models:/([^/:]+?)(?:@([^/@:]+)|/(\d+))", model_uri)
    if match is None:
        remedy = "write models:/NAME@ALIAS or models:/NAME/VERSION"
        raise InputError(f"'{model_uri}' names no version of a registered model", remedy=remedy)
    name, alias, number = match.groups()
    model = _find_model(store, name)
    if model is None:
        names = [known.name for known in store.client.search_registered_models()]
        remedy = did_you_mean(name, names) if names else "register one: python -m pipeline promote RUN"
        raise InputError(f"no registered model '{name}' in {store.uri}", remedy=remedy)
    if alias is not None and alias not in model.aliases:
        remedy = did_you_mean(alias, model.aliases) if model.aliases else f"give it: promote RUN --alias {alias}"
        raise InputError(f"the registered model '{name}' has no alias '{alias}'", remedy=remedy)
    return store.client.get_model_version(name, model.aliases[alias] if alias else str(number))


def _download(store: Store, source: str, folder: Path) -> None:
    """Fetch a bundle whole, or not at all."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".tmp-") as temporary:
        fetched = mlflow.artifacts.download_artifacts(source, dst_path=temporary, tracking_uri=store.uri)
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(fetched, folder)


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "unet-pipeline" / "models"


def _checked(folder: Path, content: str, model_uri: str) -> Path:
    if not folder.is_dir():
        remedy = "go to the machine that has it, or let the MLflow server pass artifacts on (--serve-artifacts)"
        raise InputError(f"'{model_uri}' is kept in a folder that is not here", file=folder, remedy=remedy)
    if bundle_digest(folder) != content:
        reason = f"the files of '{model_uri}' are not those that were registered"
        raise InputError(reason, file=folder, remedy="promote the run again, under a new --name")
    return folder


@contextmanager
def _speaking(store: Store) -> Iterator[Any]:
    """Say in one line what a registry refuses."""
    try:
        yield
    except MlflowException as error:
        reason = f"the model registry of {store.uri} refuses: {next(iter(str(error).splitlines()), '')[:300]}"
        raise InputError(reason, remedy="check --uri, --name and --alias") from error
