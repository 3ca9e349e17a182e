"""What workers do in tests; they import this module themselves."""

import logging
import os
import signal
import time
from pathlib import Path

from distributed import get_worker

from pipeline.cluster.tasks import is_still_wanted
from pipeline.errors import InputError


def begin(item):
    """Note that an item has begun, in a file that outlives the process; return how often it has."""
    folder, name = item[:2]
    with open(Path(folder) / name, "ab", buffering=0) as file:
        file.write(f"{os.getpid()}\n".encode())
    return len(starts(folder, name))


def starts(folder, name):
    """The processes in which an item has begun."""
    return [int(line) for line in (Path(folder) / name).read_text().split()]


def double(number):
    return 2 * number


def refuse(number):
    if number == 1:
        raise ZeroDivisionError("one")
    return number


def maybe_die(item):
    """An item (folder, name, deaths, seconds) kills its process in its first `deaths` tries."""
    _, name, deaths, seconds = item
    if begin(item) <= deaths:
        time.sleep(0.1)  # so that others begin beside it
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(seconds)
    return name


def until_unwanted(item):
    """Note when nobody waits for it any more."""
    wanted = is_still_wanted()
    begin(item)
    if item[1] == "quick":
        return
    for _ in range(600):
        if not wanted():
            Path(item[0], "unwanted").touch()
            return
        time.sleep(0.05)


def tell(number):
    get_worker().log_event("numbers", {"number": number})
    return number


def address():
    return get_worker().address


def see_nothing():
    raise InputError("they do not see it", file="/scans", remedy="mount it")


def is_second(folder):
    """The first worker that asks sees nothing."""
    try:
        Path(folder, "asked").touch(exist_ok=False)
    except FileExistsError:
        return "second"
    raise InputError("they do not see it", file="/scans", remedy="mount it")


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def log_a_line(_):
    logging.getLogger("pipeline.somewhere").warning("a line of %s", "its own")
