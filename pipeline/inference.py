"""The inference config of a bundle or run folder, as `python -m monai.bundle run inference` runs it."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files as files_of
from pathlib import Path
from typing import Any

from monai.bundle import ConfigWorkflow

from pipeline.errors import InputError, find_input_error
from pipeline.settings import read_config
from pipeline.trust import check_config


def predict_with_bundle(
    bundle: str | Path,
    input_dir: str,
    output_dir: str,
    overlays: Sequence[str] = (),
    trust: bool = False,
    **overrides: Any,
) -> None:
    """Run the inference config of a bundle or run folder, as `python -m monai.bundle run inference` does.

    Args:
        bundle: the folder that holds `configs` and `models`, or ``models:/NAME@ALIAS`` of MLflow's registry.
        input_dir: what to predict.
        output_dir: where results go.
        overlays: config files on top of the bundle's own.
        trust: run whatever the config says; else only what `pipeline.trust` knows to be harmless.
        overrides: settings of the config.
    """
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
    for overlay in overlays:
        if not Path(overlay).is_file():
            raise InputError("there is no such overlay", file=overlay, remedy="give the path of a config file")
    # As text, a path with one of #, @, $ and % would be read as MONAI's own words.
    overrides |= {"bundle_root": str(folder), "input_dir": Path(input_dir), "output_dir": Path(output_dir)}
    files = [str(file), *map(str, overlays)]
    try:
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
