"""Argument parsing only: every verb is a function elsewhere, imported when it is called."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from pipeline import __version__
from pipeline.errors import InputError
from pipeline.verbs import bundle_verbs, data_verbs, plan_verbs, run_verbs


def main(arguments: Sequence[str] | None = None) -> None:
    """Run `python -m pipeline <verb>`."""
    options = _parser().parse_args(arguments)
    try:
        options.call(options)
    except InputError as error:
        sys.exit(f"error: {error}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pipeline",
        description="U-Net segmentation with MONAI bundles. `python -m monai.bundle run` trains and evaluates them.",
        epilog="example: python -m pipeline predict runs/my-run images/ predictions/",
    )
    parser.add_argument("--version", action="version", version=__version__)
    verbs = parser.add_subparsers(title="verbs", metavar="<verb>", required=True)
    for module in (bundle_verbs, data_verbs, plan_verbs, run_verbs):
        module.add(verbs)
    return parser
