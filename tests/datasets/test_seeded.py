"""The same seed, epoch and position give the same sample, whoever draws it."""

import numpy as np
import pytest
import torch
from monai.data import DataLoader
from monai.transforms import Compose, RandShiftIntensityd

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
    assert sorted(validated) == list(range(cases))  # nothing twice, nothing left out


def test_an_index_alone_still_works():
    dataset = SeededCacheDataset(DATA, Compose([]))
    np.testing.assert_array_equal(dataset[2]["image"], DATA[2]["image"])
