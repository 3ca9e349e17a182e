"""The predict command in a process that is forked after the imports: a kill costs a tenth of a second, not ten."""

import os
import resource
import signal
import threading
import warnings
from pathlib import Path

import SimpleITK as sitk
from forked import CONTEXT, status

from pipeline.cli import main

TIME_LIMIT = 100  # seconds


class BatchProcess:
    """`python -m pipeline predict` with some arguments, as a child that may be killed.

    Args:
        arguments: bundle, input, output and options.
        log: file for what it prints.
        sabotage: a function that runs in the child before the command.
    """

    def __init__(self, arguments, log, sabotage=None):
        self.log = log
        self.process = CONTEXT.Process(target=_predict, args=(list(map(str, arguments)), str(log), sabotage))
        self.process.start()

    def status(self):
        """Wait for its end and return the exit status, negative for a signal."""
        return status(self.process, self.log, TIME_LIMIT)


def _predict(arguments, log, sabotage):
    stream = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(stream, 1)
    os.dup2(stream, 2)
    if sabotage is not None:
        sabotage()
    main(["predict", *arguments])


class SignalAtRename:
    """Send the process a signal when its n-th file is about to get its final name, or right after."""

    def __init__(self, number, after=False, which=signal.SIGKILL):
        self.number, self.after, self.which = number, after, which

    def __call__(self):
        replace, count = os.replace, 0

        def counting(source, target):
            nonlocal count
            count += 1
            if count == self.number and not self.after:
                os.kill(os.getpid(), self.which)
            replace(source, target)
            if count == self.number and self.after:
                os.kill(os.getpid(), self.which)

        os.replace = counting


class KillAfter:
    """Kill the process some seconds after it began to predict."""

    def __init__(self, seconds):
        self.seconds = seconds

    def __call__(self):
        from pipeline.predict import FolderPredictor

        run = FolderPredictor.run

        def killed(predictor):
            timer = threading.Timer(self.seconds, os.kill, (os.getpid(), signal.SIGKILL))
            timer.daemon = True
            timer.start()
            return run(predictor)

        FolderPredictor.run = killed


class LittleMemory:
    """Let the process have only so many bytes of address space more than it has now."""

    def __init__(self, more):
        self.more = more

    def __call__(self):
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + self.more
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def quiet():
    """Let this process print nothing, neither do the formats' libraries."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    warnings.simplefilter("ignore")
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
