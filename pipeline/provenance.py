"""Where a result comes from: code, data, machine."""

from __future__ import annotations

import getpass
import hashlib
import os
import platform
import subprocess
import sys
from pathlib import Path

import pipeline


def tags() -> dict[str, str]:
    """Return what names the code, the machine and the command of this process, in the tracking store's words."""
    found = {
        "mlflow.user": _user(),
        "mlflow.source.name": " ".join(sys.argv)[:5000],
        "mlflow.source.type": "LOCAL",
        "pipeline.version": pipeline.__version__,
        "python": platform.python_version(),
    }
    # An environment often lies inside a repository of other code, whose commit would say nothing about this one.
    commit = _git("rev-parse", "HEAD") if _git("ls-files", Path(pipeline.__file__).name) else ""
    if commit:
        found |= {"mlflow.source.git.commit": commit, "git.dirty": str(bool(_git("status", "--porcelain"))).lower()}
    return found


def digest(file: str | Path) -> str:
    """Return the SHA-256 of a file's bytes."""
    with open(file, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _git(*arguments: str) -> str:
    """Ask git about the code that runs; an installed package has no answer."""
    command = ["git", "-C", str(Path(pipeline.__file__).parent), *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container's user need not have a name
        return str(os.getuid())
