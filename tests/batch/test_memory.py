"""What a case takes of the memory, and how much of it there is."""

import nibabel as nib
import numpy as np
import psutil
import pytest

from pipeline.batch import memory
from pipeline.batch.memory import check_room, free_bytes, least_bytes, wants_room
from pipeline.errors import InputError


@pytest.fixture
def volume(tmp_path):
    file = tmp_path / "a.nii.gz"
    nib.save(nib.Nifti1Image(np.zeros((10, 20, 30), np.int16), np.eye(4)), file)
    return file


def test_a_case_takes_its_stored_and_its_float32_voxels(volume, tmp_path):
    assert least_bytes((volume,), 3) == 10 * 20 * 30 * (2 + 4)
    assert least_bytes((volume, volume), 3) == 2 * 10 * 20 * 30 * (2 + 4)
    (tmp_path / "b.nii").write_bytes(b"no header")
    assert least_bytes((volume, tmp_path / "b.nii"), 3) == 0


def limit(folder, most, current, inactive):
    (folder / "memory.max").write_text(most)
    (folder / "memory.current").write_text(f"{current}\n")
    (folder / "memory.stat").write_text(f"anon 5\ninactive_file {inactive}\nactive_file 7\n")
    return folder


def test_a_containers_limit_counts_where_it_is_the_lower_one(tmp_path):
    machine = psutil.virtual_memory().total
    assert free_bytes(limit(tmp_path, "1000000", 400000, 100000)) == 700000
    for file in (limit(tmp_path, "max\n", 400000, 100000), limit(tmp_path, str(10 * machine), 0, 0), tmp_path / "none"):
        assert 1000000 < free_bytes(file) <= machine


def test_what_cannot_fit_is_refused_with_its_need(volume, monkeypatch):
    monkeypatch.setattr(memory, "free_bytes", lambda: 36000)
    check_room((volume,), 3, "a")
    monkeypatch.setattr(memory, "free_bytes", lambda: 35999)
    with pytest.raises(InputError, match=r"case 'a', file '.*a\.nii\.gz': its voxels take 0\.0 GiB of memory"):
        check_room((volume,), 3, "a")


def test_a_case_wants_to_be_alone_if_three_would_not_fit(volume, monkeypatch):
    # 36,000 bytes at least, four times as much at most, and three cases are in memory: 432,000 bytes.
    monkeypatch.setattr(memory, "free_bytes", lambda: 432000)
    assert not wants_room((volume,), 3)
    monkeypatch.setattr(memory, "free_bytes", lambda: 431990)
    assert wants_room((volume,), 3)
