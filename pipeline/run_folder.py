"""The folder of one training run: named once, never overwritten, found again to resume."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from pipeline import ranks
from pipeline.errors import InputError
from pipeline.journal import NAME
from pipeline.volumes.atomic import LONGEST_NAME, atomic_write_text

CHECKPOINT = Path("checkpoints", "last.pt")
MODEL = Path("models", "model.pt")


class RunFolder:
    """`<output_dir>/<name>`, chosen when it is first needed and held by one process at a time.

    Args:
        output_dir: the folder of all runs.
        name: the run's name; without one, the prefix, date and time. A name whose run has come to a checkpoint or a
            model is refused unless resumed.
        resume: continue the named run, or the newest one of this data list in `output_dir`, from its last checkpoint;
            a named run that was stopped before its first one begins anew.
        prefix: the data list's name, which names given by the clock begin with.
    """

    def __init__(self, output_dir: str, name: str | None = None, resume: bool = False, prefix: str = "run") -> None:
        self.output_dir = Path(output_dir)
        self.name, self.resume, self.prefix = name, resume, prefix

    @cached_property
    def path(self) -> Path:
        """The folder, which exists and is locked from the first look on. All ranks must look, or none.

        Where torchrun has started the ranks again, it is the folder that they had, and `resume` becomes true.
        """
        if ranks.size() == 1:
            self._go_on_after_restart()
            return self._choose()
        # The first rank chooses. When it cannot, the others hear why, so that all of them stop.
        chosen: tuple[Path | InputError | None, bool] = (None, False)
        if ranks.rank() == 0:
            try:
                self._go_on_after_restart()
                chosen = self._choose(), self.resume
            except InputError as error:
                chosen = error, False
        folder, self.resume = ranks.gather(chosen)[0]
        if isinstance(folder, InputError):
            raise folder
        return folder

    @property
    def last_checkpoint(self) -> Path:
        """Everything needed to continue; outside `models`, whose every file other programs offer as a model."""
        return self.path / CHECKPOINT

    @property
    def best_model(self) -> Path:
        """The weights of the best epoch so far, and nothing else."""
        return self.path / MODEL

    def remember(self, **facts: Any) -> None:
        """Add facts about the run, such as its MLflow id, to `run.json`."""
        _remember(self.path, facts)

    def release(self) -> None:
        """Let another process resume this run."""
        if "_lock" in self.__dict__:
            self._lock.release()

    def _go_on_after_restart(self) -> None:
        """Resume the newest run that this torchrun has begun, if it has begun one."""
        if not ranks.restarts():
            return
        begun = [folder for folder in self._runs() if read_facts(folder).get("torchrun") == ranks.job()]
        if begun:
            newest = max(begun, key=lambda folder: (folder / "run.json").stat().st_mtime_ns)
            self.name, self.resume = newest.name, True

    def _choose(self) -> Path:
        if self.name is not None and not _names_a_folder(self.name):
            remedy = f"give a --run_name of at most {LONGEST_NAME} bytes without '/' and line breaks"
            raise InputError(f"the run name {self.name!r} is not one folder's name", remedy=remedy)
        folder = self._to_resume() if self.resume else self._new()
        self._lock = FileLock(folder / ".lock")
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise InputError(
                f"the run '{folder}' is being trained by another process", remedy="wait for it, or stop it"
            ) from None
        except OSError as error:
            remedy = "correct the folder's permissions, make room, or give another --output_dir"
            raise InputError(f"nothing can be written here ({error.strerror})", file=folder, remedy=remedy) from error
        try:
            self._begin(folder)
        except BaseException:
            self._lock.release()  # whoever keeps the error keeps no lock
            raise
        return folder

    def _begin(self, folder: Path) -> None:
        """Note what begins in a folder that is locked."""
        _remove_half_written(folder)
        if not self.resume:
            _refuse_taken(folder)  # once more, now that no other process can change it
            shutil.rmtree(folder / "configs", ignore_errors=True)
            (folder / "run.json").unlink(missing_ok=True)
            _remember(folder, {"data_list": self.prefix})
        if ranks.job() is not None:
            _remember(folder, {"torchrun": ranks.job()})

    def _new(self) -> Path:
        for name in [self.name] if self.name else _names(self.prefix):
            folder = self.output_dir / name
            try:
                folder.mkdir(parents=True)
            except FileExistsError:
                if self.name is None:
                    continue
                _refuse_taken(folder)
            except OSError as error:
                reason = f"the run's folder cannot be made: {error.strerror}"
                raise InputError(reason, file=folder, remedy="give another --output_dir") from error
            return folder
        raise InputError(f"'{self.output_dir}' has a thousand runs of this second", remedy="give a --run_name")

    def _to_resume(self) -> Path:
        if self.name is None:
            return self._newest()
        folder = self.output_dir / self.name
        if not (folder / CHECKPOINT).exists() and not _is_run(folder):
            raise InputError(
                f"nothing to resume: '{folder}' is no run",
                remedy=f"check --output_dir and --run_name ({self._there()}), or train without --resume",
            )
        if not (folder / CHECKPOINT).exists() and (folder / MODEL).exists():
            raise InputError(
                f"nothing to resume: '{folder}' holds a model, but no {CHECKPOINT}",
                remedy=f"delete '{folder / MODEL}' to train it from the beginning, or give another --run_name",
            )
        learnt = read_facts(folder).get("data_list", self.prefix)
        if learnt != self.prefix:
            raise InputError(
                f"the run '{folder}' is of the data list '{learnt}', not of '{self.prefix}'",
                remedy="resume it with its own --data_list, or give another --run_name",
            )
        return folder

    def _newest(self) -> Path:
        """Return the run of this data list whose checkpoint is the newest."""
        found = [folder for folder in self._runs() if (folder / CHECKPOINT).exists() and self._is_of_this_list(folder)]
        if not found:
            raise InputError(
                f"nothing to resume: '{self.output_dir}' holds no checkpoint of the data list '{self.prefix}'",
                remedy=f"check --output_dir and --data_list, give --run_name ({self._there()}), or train anew",
            )
        return max(found, key=lambda folder: (folder / CHECKPOINT).stat().st_mtime_ns)

    def _is_of_this_list(self, folder: Path) -> bool:
        data_list = read_facts(folder).get("data_list")
        return folder.name.startswith(f"{self.prefix}-") if data_list is None else data_list == self.prefix

    def _runs(self) -> list[Path]:
        folders = sorted(self.output_dir.iterdir()) if self.output_dir.is_dir() else []
        return [folder for folder in folders if (folder / CHECKPOINT).exists() or _is_run(folder)]

    def _there(self) -> str:
        """Say which runs there are, the first ten of them."""
        runs = [f"{folder.name} of '{read_facts(folder).get('data_list', 'unknown')}'" for folder in self._runs()]
        more = f" and {len(runs) - 10} more" if len(runs) > 10 else ""
        return f"there are: {', '.join(runs[:10])}{more}" if runs else "there are no runs"


def read_facts(folder: Path) -> dict[str, Any]:
    """Return what a run remembers about itself, nothing for a folder that is no run."""
    file = folder / "run.json"
    return json.loads(file.read_text()) if file.is_file() else {}


def _refuse_taken(folder: Path) -> None:
    """Refuse a folder that holds more than a run which was stopped before it came to a checkpoint or a model."""
    taken = f"the run '{folder}' exists, and a run is never overwritten"
    if (folder / CHECKPOINT).exists():
        raise InputError(taken, remedy="give another --run_name, or continue it with --resume true")
    names = {file.name for file in folder.iterdir()} if folder.is_dir() else {""}
    is_empty = all(name in (".lock", NAME) or name.startswith(".tmp-") for name in names)  # killed before run.json
    if (folder / MODEL).exists() or not (is_empty or _is_run(folder)):
        raise InputError(taken, remedy=f"give another --run_name, or delete '{folder}'")


def _names_a_folder(name: str) -> bool:
    """Tell whether a name is one folder's, and one that a log, a table and a tracking store can show."""
    is_one = Path(name).name == name and name not in ("", ".", "..")
    return is_one and name.isprintable() and len(os.fsencode(name)) <= LONGEST_NAME


def _is_run(folder: Path) -> bool:
    return (folder / "run.json").is_file()


def _remember(folder: Path, facts: dict[str, Any]) -> None:
    atomic_write_text(folder / "run.json", json.dumps({**read_facts(folder), **facts}, indent=2) + "\n")


def _remove_half_written(folder: Path) -> None:
    """Remove what `atomic_path` was writing when the run was killed; evaluations, which take no lock, write deeper."""
    for place in (folder, *(child for child in folder.iterdir() if child.is_dir())):
        for file in place.glob(".tmp-[0-9]*-????????-*"):
            file.unlink(missing_ok=True)


def _names(prefix: str) -> Iterator[str]:
    """Yield the prefix with the time now, then numbered, for runs that start in the same second."""
    now = f"{prefix}-{datetime.now().strftime('%Y%m%d-%H%M%S')}"
    yield now
    yield from (f"{now}-{number}" for number in range(2, 1000))
