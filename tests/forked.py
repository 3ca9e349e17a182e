"""Children that are forked after the imports: a command costs a tenth of a second then, and not ten."""

import atexit
import multiprocessing
import os
import runpy
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

CONTEXT = multiprocessing.get_context("forkserver")  # a fork of pytest itself might inherit a lock that is held
CONTEXT.set_forkserver_preload(
    [
        "alembic.command",
        "mlflow.store.tracking.sqlalchemy_store",
        "monai.bundle",
        "pipeline.bundle",
        "pipeline.handlers.run_bundle",
        "pipeline.inference",
        "pipeline.inferers.sliding_window",
        "pipeline.predict",
        "pipeline.transforms.rand_elastic",
        "pipeline.transforms.to_grid",
        "torch._dynamo",
    ]
)
TIME_LIMIT = 120  # seconds


def status(process, log, limit=TIME_LIMIT):
    """Wait for the end of a child and return its status, negative for a signal; more than the limit is an error."""
    process.join(limit)
    if process.is_alive():
        process.kill()
        raise AssertionError(f"{process.name} hangs:\n{Path(log).read_text()}")
    return process.exitcode


class Python:
    """`python -c CODE ARGUMENTS`, or `python -m MODULE ARGUMENTS`, in a folder: a child that may be killed.

    Args:
        words: "-c" or "-m", the code or module, and what `sys.argv` has behind it.
        cwd: the folder.
    """

    def __init__(self, *words, cwd):
        self.printed = tempfile.mkdtemp(dir=cwd, prefix=".printed-")
        arguments = (list(map(str, words)), str(cwd), self.printed, dict(os.environ))
        self.process = CONTEXT.Process(target=_run, args=arguments, name=" ".join(map(str, words[:2]))[:60])
        self.process.start()

    def wait(self, limit=TIME_LIMIT):
        """Return the status, negative for a signal, and what it printed: stdout and stderr."""
        code = status(self.process, Path(self.printed) / "stderr", limit)
        streams = [(Path(self.printed) / name).read_text() for name in ("stdout", "stderr")]
        shutil.rmtree(self.printed)
        return subprocess.CompletedProcess(self.process.name, code, *streams)

    def send_signal(self, number):
        os.kill(self.process.pid, number)


def _run(words, cwd, printed, environment):
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    for number, name in enumerate(("stdout", "stderr"), 1):
        os.dup2(os.open(f"{printed}/{name}", os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    kind, what, *arguments = words
    sys.argv = [what if kind == "-m" else kind, *arguments]
    sys.path.insert(0, "")
    try:
        if kind == "-m":
            runpy.run_module(what, run_name="__main__", alter_sys=True)
        else:
            exec(compile(what, "<string>", "exec"), {"__name__": "__main__"})
    except SystemExit:
        raise
    except BaseException:
        sys.excepthook(*sys.exc_info())  # as Python ends by itself
        sys.exit(1)
    finally:
        atexit._run_exitfuncs()  # which a child that was forked leaves out
