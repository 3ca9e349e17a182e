"""What ends a run is said once, in one line; a bug keeps its traceback."""

import os
import signal
import sys

import pytest
import torch

from pipeline import console
from pipeline.errors import InputError


def raised(error):
    """Return the three things that Python hands to its hook for an error."""
    try:
        raise error
    except BaseException:
        return sys.exc_info()


def test_a_mistake_is_one_line(capsys):
    console.print_mistake(*raised(InputError("x is 3", remedy="give 2")))
    assert capsys.readouterr().err == "error: x is 3. Remedy: give 2\n"


def test_a_bug_keeps_its_traceback(capsys):
    console.print_mistake(*raised(KeyError("key")))
    printed = capsys.readouterr().err
    assert "Traceback" in printed
    assert "KeyError: 'key'" in printed


@pytest.mark.filterwarnings("ignore")  # of torch about its own loader
def test_a_loaders_worker_that_was_killed_is_one_line_with_a_remedy(capsys):
    class Deadly(list):
        def __getitem__(self, index):
            os.kill(os.getpid(), signal.SIGKILL)

    try:
        list(torch.utils.data.DataLoader(Deadly([0]), num_workers=1))
    except RuntimeError as error:
        console.print_mistake(*raised(error))
    printed = capsys.readouterr().err
    assert printed.startswith("error: a worker that loads cases was killed by signal: Killed. Remedy: ")
    assert "--num_workers" in printed


def test_an_interruption_needs_no_traceback(capsys):
    console.print_mistake(*raised(KeyboardInterrupt()))
    assert capsys.readouterr().err == ""


def test_the_hook_is_set_for_the_runner_alone():
    console.explain_mistakes()
    assert sys.excepthook is not console.print_mistake
