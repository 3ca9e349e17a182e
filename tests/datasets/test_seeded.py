"""The same seed, epoch and position give the same sample, whoever draws it."""

from copy import deepcopy
from itertools import product

import numpy as np
import pytest
import torch
from monai.data import DataLoader
from monai.transforms import Compose, RandomizableTransform, RandShiftIntensityd

from pipeline.datasets.seeded import SeededCacheDataset, SeededSampler, ShareOfRank

DATA = [{"id": str(n), "image": torch.full((1, 4), float(n))} for n in range(7)]


def samples(workers: int, epoch: int, seed: int = 3) -> list[tuple[str, float]]:
    dataset = SeededCacheDataset(DATA, Compose([RandShiftIntensityd("image", offsets=5, prob=1)]))
    sampler = SeededSampler(dataset, seed=seed, repeats=2)
    sampler.set_epoch(epoch)
    loader = DataLoader(dataset, batch_size=3, sampler=sampler, num_workers=workers)
    return [
        (case, float(value))
        for batch in loader
        for case, value in zip(batch["id"], batch["image"][:, 0, 0], strict=True)
    ]


def test_the_number_of_workers_changes_nothing():
    assert samples(0, 5) == samples(2, 5)


def test_each_epoch_and_each_seed_is_another():
    assert len({tuple(samples(0, epoch, seed)) for epoch in (1, 2) for seed in (3, 4)}) == 4


def test_every_case_comes_as_often_as_it_is_repeated_and_differently():
    drawn = samples(0, 1)
    assert sorted(case for case, _ in drawn) == sorted(str(n) for n in range(7) for _ in range(2))
    assert len({value - int(case) for case, value in drawn}) == 14


@pytest.mark.parametrize(("cases", "repeats", "count"), [(100, 0.1, 10), (7, 0.5, 4), (3, 0.1, 1), (10, 1.5, 15)])
def test_parts_of_the_cases_make_an_epoch(cases, repeats, count):
    sampler = SeededSampler(range(cases), repeats=repeats)
    epochs = []
    for epoch in range(3):
        sampler.set_epoch(epoch)
        epochs.append([case for case, _ in sampler])
        assert len(epochs[-1]) == len(sampler) == count
        assert len(set(epochs[-1])) == min(count, cases)
    if cases > 3:
        assert len(set(map(tuple, epochs))) == 3  # another part each time


class AddsDraw(RandomizableTransform):
    """Add a random number to the image: to a copy of it, or to the image itself."""

    def __init__(self, copies_input):
        super().__init__()
        self.copies_input = copies_input

    def __call__(self, data):
        image = data["image"].clone() if self.copies_input else data["image"]
        return data | {"image": image.add_(self.R.random_sample())}


@pytest.mark.parametrize("copies_input", [True, False])
def test_the_cached_case_stays_as_it_is_and_is_copied_once(copies_input, monkeypatch):
    copies = []
    monkeypatch.setattr("monai.data.dataset.deepcopy", lambda item: copies.append(item) or deepcopy(item))
    dataset = SeededCacheDataset(deepcopy(DATA), Compose([AddsDraw(copies_input)]))
    copies.clear()
    first, again = (float(dataset[3, 5]["image"][0, 0]) for _ in range(2))
    assert first == again > 3
    assert len(copies) == (0 if copies_input else 2)


@pytest.fixture
def ranks(monkeypatch):
    def be(size, rank):
        monkeypatch.setattr("torch.distributed.is_initialized", lambda: True)
        monkeypatch.setattr("torch.distributed.get_world_size", lambda: size)
        monkeypatch.setattr("torch.distributed.get_rank", lambda: rank)

    return be


@pytest.mark.parametrize(("cases", "size"), [(7, 2), (7, 3), (2, 3), (6, 2)])
def test_ranks_share_the_work(ranks, cases, size):
    trained, validated = [], []
    for rank in range(size):
        ranks(size, rank)
        sampler = SeededSampler(range(cases))
        trained.append(list(sampler))
        assert len(trained[-1]) == len(sampler)
        share = ShareOfRank(range(cases))
        validated += list(share)
        assert len(share) == len(list(share))
    assert len({len(part) for part in trained}) == 1  # each rank steps as often
    assert {case for part in trained for case, _ in part} == set(range(cases))
    assert sorted(set(validated)) == list(range(cases))  # nothing left out
    assert len(validated) == max(cases, size)  # nothing twice, but where a rank would have nothing to do


@pytest.mark.parametrize(("cases", "repeats", "size", "share"), list(product((1, 4, 7), (1, 3), (2, 3, 4), (1, 2, 3))))
def test_the_batches_of_the_ranks_are_together_those_of_one_process(ranks, cases, repeats, size, share):
    ranks(1, 0)
    alone = list(SeededSampler(range(cases), seed=5, repeats=repeats))
    batches = [alone[begin : begin + size * share] for begin in range(0, len(alone), size * share)]
    parts = []
    for rank in range(size):
        ranks(size, rank)
        sampler = SeededSampler(range(cases), seed=5, repeats=repeats, batch_size=share)
        drawn = list(sampler)
        assert len(drawn) == len(sampler)
        parts.append([drawn[begin : begin + share] for begin in range(0, len(drawn), share)])
    assert {len(part) for part in parts} == {len(batches)}, "each rank steps as often"
    for expected, *of_ranks in zip(batches, *parts, strict=True):
        together = [sample for own in of_ranks for sample in own]
        assert all(of_ranks), "each rank steps"
        assert set(together) == set(expected)
        counts = {together.count(sample) for sample in expected}
        assert counts == {1} if len(expected) >= size else share == 1 or len(counts) == 1


def test_an_index_alone_still_works():
    dataset = SeededCacheDataset(DATA, Compose([]))
    np.testing.assert_array_equal(dataset[2]["image"], DATA[2]["image"])


def test_records_without_an_id_get_the_name_of_their_file():
    records = [{"image": "/a/x.nii.gz"}, {"image": "/b/x.nii.gz"}, {"image": "/a/y.tif", "id": "mine"}, {"image": "z"}]
    dataset = SeededCacheDataset(records, Compose([]), cache_num=0)
    assert [record["id"] for record in dataset.data] == ["x", "/b/x.nii.gz", "mine", "z"]
    assert "id" not in records[0]
