import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import pytest

from pipeline.errors import InputError
from pipeline.volumes.atomic import atomic_path, atomic_write_bytes, atomic_write_text, write_json


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_the_final_name_appears_only_after_the_block(tmp_path):
    final = tmp_path / "new" / "folder" / "scan.nii.gz"
    with atomic_path(final) as temporary:
        temporary.write_text("content")
        assert not final.exists()
        assert temporary.parent == final.parent
        assert temporary.name.startswith(".tmp-")
        assert temporary.suffixes[-2:] == [".nii", ".gz"]
    assert final.read_text() == "content"
    assert names(final.parent) == ["scan.nii.gz"]


@pytest.mark.parametrize("error", [RuntimeError, OSError, KeyboardInterrupt, SystemExit])
def test_a_failure_keeps_the_old_file_and_leaves_no_temporary(tmp_path, error):
    final = tmp_path / "model.pt"
    final.write_text("old")

    def interrupted_write():
        with atomic_path(final) as temporary:
            temporary.write_text("half of the n")
            raise error("stop")

    with pytest.raises(error, match="stop"):
        interrupted_write()
    assert final.read_text() == "old"
    assert names(tmp_path) == ["model.pt"]


def test_a_block_that_writes_nothing_keeps_the_old_file(tmp_path):
    final = tmp_path / "a.txt"
    final.write_text("old")
    with pytest.raises(FileNotFoundError), atomic_path(final):
        pass
    assert final.read_text() == "old"


@pytest.mark.parametrize("name", ["n" * 248 + ".nii.gz", "ä" * 124 + ".nii.gz", "x." + "y" * 253])
def test_names_of_255_bytes(tmp_path, name):
    assert len(name.encode()) == 255
    with atomic_path(tmp_path / name) as temporary:
        assert temporary.name.endswith(name[-7:])
        temporary.write_text("content")
    assert (tmp_path / name).read_text() == "content"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")
def test_a_full_disk_is_named_and_keeps_the_old_file(tmp_path):
    final = tmp_path / "best.pt"
    final.write_text("old")
    with pytest.raises(InputError, match=r"best\.pt': disk full\. Remedy: free space") as caught, atomic_path(final):
        Path("/dev/full").write_text("new")
    assert caught.value.__cause__.errno == errno.ENOSPC
    assert final.read_text() == "old"


def test_a_full_disk_behind_an_error_without_a_number(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage(10**9, 10**9 - 4096, 4096))
    with pytest.raises(InputError, match="disk full"), atomic_path(tmp_path / "a.mha"):
        raise RuntimeError("File cannot be written")
    assert names(tmp_path) == []


def test_an_error_of_the_user_is_not_taken_for_a_full_disk(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage(10**9, 10**9 - 4096, 4096))
    with pytest.raises(InputError, match="labels are wrong"), atomic_path(tmp_path / "a.mha"):
        raise InputError("labels are wrong")


def test_kill_in_the_middle_of_a_write(tmp_path):
    final = tmp_path / "out.nii.gz"
    final.write_text("old")
    script = (
        "import sys, time\n"
        "from pipeline.volumes.atomic import atomic_path\n"
        "with atomic_path(sys.argv[1]) as temporary, open(temporary, 'w') as stream:\n"
        "    stream.write('half'); stream.flush(); print('writing', flush=True); time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script, str(final)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "writing\n"
        assert len(names(tmp_path)) == 2
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert final.read_text() == "old"
    assert [name for name in names(tmp_path) if not name.startswith(".")] == ["out.nii.gz"]


def test_bytes_text_and_json(tmp_path):
    atomic_write_bytes(tmp_path / "a", b"\x00\xff")
    atomic_write_text(tmp_path / "b", "σ\n")
    write_json(tmp_path / "c", {"dice": [0.5, None]})
    assert (tmp_path / "a").read_bytes() == b"\x00\xff"
    assert (tmp_path / "b").read_bytes() == b"\xcf\x83\n"
    assert json.loads((tmp_path / "c").read_text()) == {"dice": [0.5, None]}


def test_json_refuses_nan_and_keeps_the_old_file(tmp_path):
    write_json(tmp_path / "c", {"dice": 0.5})
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "c", {"dice": float("nan")})
    assert json.loads((tmp_path / "c").read_text()) == {"dice": 0.5}


def test_what_is_no_disk_is_not_full():
    with pytest.raises(OSError, match="No such file"):
        atomic_write_text("/proc/x.txt", "x")
