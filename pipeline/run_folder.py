"""The folder of one training run: named once, never overwritten, found again to resume."""

from __future__ import annotations

import json
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import torch.distributed as dist
from filelock import FileLock, Timeout

from pipeline.errors import InputError
from pipeline.volumes.atomic import atomic_write_text


class RunFolder:
    """`<output_dir>/<name>`, chosen when it is first needed and held by one process at a time.

    Args:
        output_dir: the folder of all runs.
        name: the run's name; without one, the prefix, date and time. A name that is taken is refused unless resumed.
        resume: continue the named run, or the newest one in `output_dir`, from its last checkpoint.
        prefix: what names given by the clock begin with.
    """

    def __init__(self, output_dir: str, name: str | None = None, resume: bool = False, prefix: str = "run") -> None:
        self.output_dir = Path(output_dir)
        self.name, self.resume, self.prefix = name, resume, prefix

    @cached_property
    def path(self) -> Path:
        """The folder, which exists and is locked from the first look on. All ranks must look, or none."""
        if not (dist.is_available() and dist.is_initialized()):
            return self._choose()
        # The first rank chooses. When it cannot, the others hear why, so that all of them stop.
        chosen: list[Path | InputError | None] = [None]
        if dist.get_rank() == 0:
            try:
                chosen = [self._choose()]
            except InputError as error:
                chosen = [error]
        dist.broadcast_object_list(chosen)
        if isinstance(chosen[0], InputError):
            raise chosen[0]
        assert chosen[0] is not None
        return chosen[0]

    def _choose(self) -> Path:
        if self.name is not None and (Path(self.name).name != self.name or self.name in (".", "..")):
            raise InputError(f"the run name '{self.name}' is not one folder's name", remedy="give a name without '/'")
        folder = self._to_resume() if self.resume else self._new()
        self._lock = FileLock(folder / ".lock")
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise InputError(
                f"the run '{folder}' is being trained by another process", remedy="wait for it, or stop it"
            ) from None
        return folder

    @property
    def last_checkpoint(self) -> Path:
        """Everything needed to continue; outside `models`, whose every file other programs offer as a model."""
        return self.path / "checkpoints" / "last.pt"

    @property
    def best_model(self) -> Path:
        """The weights of the best epoch so far, and nothing else."""
        return self.path / "models" / "model.pt"

    def remember(self, **facts: Any) -> None:
        """Add facts about the run, such as its MLflow id, to `run.json`."""
        atomic_write_text(self.path / "run.json", json.dumps({**read_facts(self.path), **facts}, indent=2) + "\n")

    def release(self) -> None:
        """Let another process resume this run."""
        if "_lock" in self.__dict__:
            self._lock.release()

    def _new(self) -> Path:
        names = [self.name] if self.name else (f"{self.prefix}-{stamp}" for stamp in _stamps())
        for name in names:
            try:
                (self.output_dir / name).mkdir(parents=True, exist_ok=False)
            except FileExistsError:
                continue
            return self.output_dir / name
        raise InputError(
            f"the run '{self.output_dir / str(self.name)}' exists, and a run is never overwritten",
            remedy="give another --run_name, or continue it with --resume true",
        )

    def _to_resume(self) -> Path:
        pattern = self.name or "*"
        found = [file for file in self.output_dir.glob(f"{pattern}/checkpoints/last.pt") if file.stat().st_size]
        if not found:
            where = self.output_dir / self.name if self.name else self.output_dir
            raise InputError(
                f"nothing to resume: '{where}' holds no checkpoint",
                remedy="check --output_dir and --run_name, or train without --resume",
            )
        return max(found, key=lambda file: file.stat().st_mtime_ns).parent.parent


def read_facts(folder: Path) -> dict[str, Any]:
    """Return what a run remembers about itself, nothing for a folder that is no run."""
    file = folder / "run.json"
    return json.loads(file.read_text()) if file.is_file() else {}


def _stamps() -> Any:
    """Yield the time now, then numbered, for runs that start in the same second."""
    now = datetime.now().strftime("%Y%m%d-%H%M%S")
    yield now
    yield from (f"{now}-{number}" for number in range(2, 1000))
