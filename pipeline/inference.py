"""The inference config of a bundle or run folder, as `python -m monai.bundle run inference` runs it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import partial
from importlib.resources import files as files_of
from pathlib import Path
from typing import TYPE_CHECKING, Any

from monai.bundle import ConfigWorkflow

from pipeline.errors import InputError, find_input_error
from pipeline.settings import read_config
from pipeline.trust import check_config
from pipeline.volumes.zarr_place import url_of

if TYPE_CHECKING:
    from pipeline.cluster.opening import Place
    from pipeline.predict import FolderPredictor


def predict_with_bundle(
    bundle: str | Path,
    input_dir: str,
    output_dir: str,
    overlays: Sequence[str] = (),
    trust: bool = False,
    place: Place | None = None,
    **overrides: Any,
) -> None:
    """Run the inference config of a bundle or run folder, as `python -m monai.bundle run inference` does.

    On a cluster the item `predictor` of the config is run, by workers that read the config again.

    Args:
        bundle: the folder that holds `configs` and `models`, or ``models:/NAME@ALIAS`` of MLflow's registry.
        input_dir: what to predict.
        output_dir: where results go.
        overlays: config files on top of the bundle's own.
        trust: run whatever the config says; else only what `pipeline.trust` knows to be harmless.
        place: a cluster that does it; None: this process.
        overrides: settings of the config.
    """
    folder, file = _bundle(bundle)
    for overlay in overlays:
        if not Path(overlay).is_file():
            raise InputError("there is no such overlay", file=overlay, remedy="give the path of a config file")
    # As text, a path with one of #, @, $ and % would be read as MONAI's own words.
    overrides |= {"bundle_root": str(folder), "input_dir": Path(input_dir), "output_dir": Path(output_dir)}
    files = [str(file), *map(str, overlays)]
    try:
        if place is not None:
            _run_elsewhere(place, files, trust, overrides)
            return
        workflow = _workflow(files, trust, overrides)
        workflow.initialize()
        workflow.run()
    except KeyError as error:
        if not overlays:
            raise
        reason = f"an overlay changes what an inference config does not have ({error.args[0]})"
        remedy = "train with this overlay: the run's own inference.json follows it"
        raise InputError(reason, file=", ".join(map(str, overlays)), remedy=remedy) from error
    except RuntimeError as error:  # MONAI wraps what a `$` expression raises
        problem = find_input_error(error)
        if problem is None:
            raise
        raise problem from None


def _bundle(bundle: str | Path) -> tuple[Path, Path]:
    """Return a bundle's folder, which is fetched from a registry if need be, and its inference config."""
    folder = Path(bundle)
    if str(bundle).startswith("models:/"):
        from pipeline.registry import fetch  # MLflow takes seconds to import

        folder = fetch(str(bundle))
    file = folder / "configs" / "inference.json"
    try:
        file.open().close()
    except (FileNotFoundError, NotADirectoryError) as error:
        remedy = "name a run's folder, or a bundle such as bundles/unet"
        raise InputError("this folder is no bundle", file=file, remedy=remedy) from error
    except OSError as error:
        reason = f"the config cannot be opened ({error.strerror})"
        raise InputError(reason, file=file, remedy="correct the path or its permissions") from error
    return folder, file


def predictor_of(files: Sequence[str], trust: bool, overrides: Mapping[str, Any]) -> FolderPredictor:
    """Return the predictor of an inference config, after its checks.

    Args:
        files: the config and its overlays.
        trust: run whatever the config says.
        overrides: settings of the config.
    """
    workflow = _workflow(files, trust, dict(overrides))
    workflow.initialize()
    if "predictor" not in workflow.parser.get():
        remedy = "predict in one process, or add a pipeline.predict.FolderPredictor"
        raise InputError("this config has no 'predictor', which workers could share", file=files[0], remedy=remedy)
    return workflow.parser.get_parsed_content("predictor")


def _run_elsewhere(place: Place, files: Sequence[str], trust: bool, overrides: dict[str, Any]) -> None:
    """Let the workers of a cluster predict; to them, a path has to be whole."""
    from pipeline.cluster.prediction import cluster_work

    files = [os.path.abspath(file) for file in files]
    overrides |= {"bundle_root": os.path.abspath(overrides["bundle_root"])}
    overrides |= {
        key: overrides[key].absolute() for key in ("input_dir", "output_dir") if url_of(overrides[key]) is None
    }
    predictor = predictor_of(files, trust, overrides)
    predictor.run(partial(cluster_work, place, predictor, files, trust, overrides))


def _workflow(files: Sequence[str], trust: bool, overrides: dict[str, Any]) -> ConfigWorkflow:
    """Return a workflow of which nothing has run; without trust, nothing in it can do harm."""
    for file in files:
        read_config(file)
    if not trust:  # a logging.conf can write files too
        overrides.setdefault("logging_file", str(files_of("pipeline") / "logging.conf"))
    workflow = ConfigWorkflow(config_file=files, workflow_type="inference", run_id="inference", **overrides)
    if not trust:
        check_config(workflow.parser, files[0])
    return workflow
