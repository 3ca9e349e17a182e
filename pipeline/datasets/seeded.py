"""Sampling and augmentation that give the same sample for the same seed, epoch and position, whoever draws it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from monai.data import CacheDataset
from monai.transforms.traits import RandomizableTrait
from torch.utils.data import DistributedSampler

from pipeline import ranks


class SeededCacheDataset(CacheDataset):
    """MONAI's CacheDataset whose random transforms are seeded by the sampler, sample by sample.

    A worker's own random stream would make a result depend on the number of workers, and a resumed run differ from an
    uninterrupted one. Here an index may be a pair `(case, seed)`, as `SeededSampler` yields it.

    A cached case is copied before the random transforms get it, unless the first of them has `copies_input`: it leaves
    its input as it is and gives new tensors.

    Args:
        data: the records; those without an "id", as other programs give them, get one.
        transform: deterministic transforms first (cached in memory), random ones after.
        cache_num: how many cases to keep in memory.
    """

    def __init__(self, data: Sequence[Any], transform: Callable[..., Any], cache_num: int = 1000) -> None:
        first = next((t for t in getattr(transform, "transforms", ()) if isinstance(t, RandomizableTrait)), None)
        super().__init__(
            data=_named(data),
            transform=transform,
            cache_num=cache_num,
            num_workers=1,
            progress=len(data) > 50,
            copy_cache=not getattr(first, "copies_input", False),
        )

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, tuple):
            index, seed = index
            self.transform.set_random_state(seed=seed)
        return super().__getitem__(index)


class SeededSampler(DistributedSampler):
    """Yield `(case, seed)` pairs, shuffled anew each epoch, as a function of the seed, the epoch and the position only.

    It is a DistributedSampler so that MONAI's engines tell it the epoch, and each rank draws its own share. Resuming at
    epoch 8 therefore sees what an uninterrupted run sees at epoch 8.

    Ranks take the positions in turn, so that their batches together are those of a single process. Where the last batch
    of an epoch has fewer samples than there are ranks, they are taken more than once, for each rank must step: all
    equally often, if a rank has room for two.

    Args:
        dataset: what is indexed.
        seed: any non-negative integer.
        repeats: how often each case is drawn in an epoch, each time with its own augmentation; 0.1 draws another tenth
            of them in each.
        batch_size: samples of a batch that are this rank's.
    """

    def __init__(self, dataset: Any, seed: int = 0, repeats: float = 1, batch_size: int = 1) -> None:
        super().__init__(dataset, num_replicas=ranks.size(), rank=ranks.rank(), shuffle=True, seed=seed)
        self.repeats, self.batch_size = repeats, batch_size

    def __iter__(self) -> Iterator[Any]:
        random = np.random.default_rng([self.seed, self.epoch])
        rounds = range(math.ceil(self.repeats))
        order = np.concatenate([random.permutation(len(self.dataset)) for _ in rounds])  # type: ignore[arg-type]
        seeds = random.integers(2**32, size=len(order))
        for position in self._positions():
            yield int(order[position]), int(seeds[position])

    def __len__(self) -> int:
        return len(self._positions())

    def _positions(self) -> list[int]:
        """Where in the epoch's order this rank's samples stand: rank 1 of 3 takes 1, 4 and 7 of 9.

        Of 8 samples in batches of 6, two are left for three ranks: 6 and 7, which they take as 6, 7, 6 and 7, so that
        both count alike: rank 0 takes 0, 3, 6 and 7, rank 1 takes 1, 4 and 7, rank 2 takes 2, 5 and 6.
        """
        whole, count = max(round(len(self.dataset) * self.repeats), 1), self.num_replicas  # type: ignore[arg-type]
        left = whole % (count * self.batch_size)
        if not 0 < left < count:
            return list(range(self.rank, whole, count))
        begin, taken = whole - left, range(self.rank, -(-count // left) * left, count)
        return [*range(self.rank, begin, count), *(begin + slot % left for slot in taken[: self.batch_size])]


class ShareOfRank(DistributedSampler):
    """Yield each case once over all ranks, without the repeats that DistributedSampler pads with.

    Where there are fewer cases than ranks, one that would have none takes another's, for an engine runs over no empty
    data: whoever gathers leaves it out by its id.

    Args:
        dataset: what is indexed.
    """

    def __init__(self, dataset: Any) -> None:
        super().__init__(dataset, num_replicas=ranks.size(), rank=ranks.rank(), shuffle=False)

    def __iter__(self) -> Iterator[int]:
        return iter(self._cases())

    def __len__(self) -> int:
        return len(self._cases())

    def _cases(self) -> range:
        cases = len(self.dataset)  # type: ignore[arg-type]
        return range(self.rank % min(cases, self.num_replicas), cases, self.num_replicas) if cases else range(0)


def _named(data: Sequence[Any]) -> list[Any]:
    """Return the records, each with an "id": where it has none, its file's name, or the whole path of a second one."""
    records, taken = [], set()
    for record in data:
        if isinstance(record, Mapping) and "id" not in record and isinstance(record.get("image"), str):
            name = Path(record["image"]).name.split(".")[0]
            record = {"id": record["image"] if name in taken else name, **record}
            taken.add(name)
        records.append(record)
    return records
