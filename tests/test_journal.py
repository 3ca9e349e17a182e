"""A journal keeps what it is given, in order, through kills and full disks, and knows what the store has."""

import json
import os
import signal
import subprocess
import sys

import pytest

from pipeline import journal as journals
from pipeline.journal import Journal


def loss(step):
    return {"kind": "metrics", "time": 1000 + step, "step": step, "values": {"loss": 0.5}}


def steps(entries):
    return [entry.content["step"] for entry in entries]


@pytest.fixture
def file(tmp_path):
    return tmp_path / "mlflow.journal"


def filled(file, count):
    journal = Journal(file)
    for step in range(count):
        journal.append(loss(step))
    return journal


def test_entries_come_back_in_order_and_the_offset_is_where_a_line_ends(file):
    journal = filled(file, 3)
    first, second, third = journal.waiting(10)
    assert [first.content, second.content, third.content] == [loss(0), loss(1), loss(2)]
    lines = file.read_bytes().splitlines(keepends=True)
    assert [first.end, second.end, third.end] == [len(b"".join(lines[:count])) for count in (1, 2, 3)]
    assert steps(journal.waiting(2)) == [0, 1]


def test_what_is_confirmed_waits_no_more_also_after_a_new_start(file):
    journal = filled(file, 5)
    journal.confirm(journal.waiting(2), {"run_id": "abc"})
    assert (steps(journal.waiting(10)), journal.count) == ([2, 3, 4], 3)
    journal.append(loss(5))
    journal.close()
    again = Journal(file)
    assert (steps(again.waiting(10)), again.count) == ([2, 3, 4, 5], 4)
    assert again.facts == {"run_id": "abc"}
    assert steps(again.entries()) == [0, 1, 2, 3, 4, 5]
    again.confirm(again.waiting(10), {})
    again.close()
    assert Journal(file).waiting(10) == []


@pytest.mark.parametrize("cut", range(1, 40, 6))
def test_a_torn_last_line_is_cut_off_and_the_next_stands_on_its_own(file, cut):
    filled(file, 2).close()
    os.truncate(file, file.stat().st_size - cut)
    journal = Journal(file)
    assert steps(journal.waiting(10)) == [0]
    journal.append(loss(7))
    journal.close()
    assert steps(Journal(file).waiting(10)) == [0, 7]


def test_a_line_that_a_crash_has_damaged_costs_itself_only(file):
    filled(file, 3).close()
    lines = file.read_bytes().splitlines(keepends=True)
    lines[1] = b"\0" * (len(lines[1]) - 1) + b"\n"
    file.write_bytes(b"".join(lines))
    assert steps(Journal(file).waiting(10)) == [0, 2]


def test_lines_longer_than_what_is_read_at_once_come_back_whole(file, monkeypatch):
    monkeypatch.setattr(journals, "CHUNK", 7)
    assert steps(filled(file, 3).waiting(10)) == [0, 1, 2]


def test_numbers_survive_to_the_last_bit(file):
    values = {"a": 0.1 + 0.2, "b": float("inf"), "c": 1e-320}
    journal = Journal(file)
    journal.append({"kind": "metrics", "values": {**values, "d": float("nan")}})
    found = journal.waiting(1)[0].content["values"]
    assert {key: found[key] for key in values} == values
    assert found["d"] != found["d"]


def test_a_journal_without_news_starts_over_and_still_knows_its_run(file, monkeypatch):
    monkeypatch.setattr(journals, "STARTS_OVER_AT", 2000)
    journal = Journal(file)
    opening = {"kind": "open", "name": "a"}
    journal.append(opening)
    journal.confirm(journal.waiting(1), {"run_id": "abc"})
    for step in range(1000):
        journal.append(loss(step))
        journal.confirm(journal.waiting(10), {})
    assert file.stat().st_size < 2200
    journal.append(loss(1000))
    journal.close()
    again = Journal(file)
    assert again.facts == {"run_id": "abc"}
    assert steps(again.waiting(10)) == [1000]
    assert next(again.entries()).content == opening


def test_what_waits_is_never_cut(file, monkeypatch):
    monkeypatch.setattr(journals, "STARTS_OVER_AT", 100)
    journal = filled(file, 50)
    journal.confirm(journal.waiting(49), {})
    assert steps(journal.waiting(10)) == [49]


def test_a_full_disk_says_so_and_leaves_no_half_of_a_line(file, monkeypatch):
    journal, write = filled(file, 2), os.write
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda descriptor, line: write(descriptor, line[:10]))
        with pytest.raises(OSError, match="disk is full"):
            journal.append(loss(2))
    journal.append(loss(3))
    assert steps(journal.waiting(10)) == [0, 1, 3]
    assert all(json.loads(line) for line in file.read_text().splitlines())


def test_one_process_writes_at_a_time(file):
    script = "import sys, pathlib; from pipeline.journal import Journal; Journal(pathlib.Path(sys.argv[1]))"
    held = filled(file, 1)
    command = [sys.executable, "-c", script, str(file)]
    refused = subprocess.run(command, capture_output=True, text=True, check=False)
    assert f"BusyError: file '{file}': another process writes this journal" in refused.stderr
    held.close()
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0


WRITE_AND_DIE = """
import os, pathlib, signal, sys
from pipeline.journal import Journal
journal = Journal(pathlib.Path(sys.argv[1]))
for step in range(100):
    journal.append({"kind": "metrics", "step": step})
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_process_loses_nothing(file):
    command = [sys.executable, "-c", WRITE_AND_DIE, str(file)]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert steps(Journal(file).waiting(1000)) == list(range(100))


def test_a_deleted_journal_takes_the_example_with_it(file):
    journal = filled(file, 1)
    file.with_name("mlflow.example.npy").write_bytes(b"")
    journal.delete()
    assert list(file.parent.iterdir()) == []


def test_a_nameless_journal_works_and_leaves_no_file(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    journal = filled(None, 3)
    assert steps(journal.waiting(10)) == [0, 1, 2]
    assert list(tmp_path.iterdir()) == []
    journal.delete()
