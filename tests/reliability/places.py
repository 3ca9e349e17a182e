"""Places where nothing can be written: small disks that are really full, and permissions that bind even root."""

import ctypes
import errno
import os
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch


@contextmanager
def disk(folder, options):
    """Mount a disk in memory on a folder for a process of its own; yield the folder as this process sees it, or skip.

    Args:
        folder: an empty one.
        options: of the mount, such as "size=512k" or "nr_inodes=50".
    """
    script = f'mount -t tmpfs -o {options} tmpfs "$0" && echo ready && exec cat'
    command = ["unshare", "-rm", "sh", "-c", script, str(folder)]
    try:
        holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    except FileNotFoundError:
        pytest.skip("there is no unshare")
    with holder:
        if holder.stdout.readline() != "ready\n":
            pytest.skip("this system lets nobody mount a disk of his own")
        yield Path(f"/proc/{holder.pid}/root{folder}")
        holder.stdin.close()


def fill(folder, leave=0):
    """Fill the disk of a folder but for some bytes."""
    (folder / "filler").write_bytes(bytes(max(shutil.disk_usage(folder).free - leave, 0)))


def use_up_inodes(folder, leave=0):
    """Let a disk have no room for another name, however much for content."""
    for number in range(os.statvfs(folder).f_favail - leave):
        (folder / f"filler-{number}").touch()


class FullStream:
    """A stream that takes so many bytes, and then says what a full disk says."""

    def __init__(self, stream, room):
        self.stream, self.room = stream, room

    def write(self, content):
        part = bytes(content)[: self.room]
        self.stream.write(part)
        self.room -= len(part)
        if len(part) < len(bytes(content)):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return len(part)

    def __getattr__(self, name):
        return getattr(self.stream, name)


def saving_fills_the_disk(monkeypatch, file_name, number, room=5000):
    """Let the n-th file of this name that torch saves find room for its first bytes only: on any system."""
    save, seen = torch.save, []

    def counting(content, file, *arguments):
        seen.append(Path(file.name).name.endswith(f"-{file_name}"))
        is_it = seen[-1] and sum(seen) == number
        save(content, FullStream(file, room) if is_it else file, *arguments)

    monkeypatch.setattr(torch, "save", counting)


def bound_by_permissions(function, *arguments):
    """Call a function in a thread that permissions bind, as they do any user: of root, it lays all powers down."""
    with ThreadPoolExecutor(1, initializer=_lay_powers_down) as pool:
        return pool.submit(function, *arguments).result()


def _lay_powers_down():
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # the version of the structure; this thread
    if libc.capset(header, (ctypes.c_uint32 * 6)()) != 0:
        raise OSError(ctypes.get_errno(), "capset")


@contextmanager
def barred(folder, mode=0o555):
    """Let nobody write to a folder (0o555) or open a file or folder at all (0o000)."""
    before = folder.stat().st_mode
    folder.chmod(mode)
    try:
        yield
    finally:
        folder.chmod(before)
