import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline import heap

ENABLED = Path("/sys/kernel/mm/transparent_hugepage/enabled")
CODE = """
import resource
from pipeline.heap import use_large_pages
{call}
import torch
torch.ones(1)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
torch.ones(1 << 24)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def pages_made(call, monkeypatch):
    monkeypatch.delenv(heap.THP, raising=False)
    command = [sys.executable, "-c", CODE.format(call=call)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


@pytest.mark.skipif(not ENABLED.exists() or "[madvise]" not in ENABLED.read_text(), reason="Linux is set otherwise")
def test_a_large_tensor_is_made_of_fewer_pages(monkeypatch):
    small = pages_made("", monkeypatch)
    assert small >= 16384  # 64 MiB of 4 KiB each
    assert pages_made("use_large_pages()", monkeypatch) < small  # how many depends on the memory that is in one piece


@pytest.mark.parametrize(("before", "after"), [(None, "1"), ("0", "0")])
def test_what_the_environment_says_stays(before, after, monkeypatch):
    monkeypatch.delenv(heap.THP, raising=False)
    if before is not None:
        monkeypatch.setenv(heap.THP, before)
    heap.use_large_pages()
    assert os.environ.pop(heap.THP) == after
