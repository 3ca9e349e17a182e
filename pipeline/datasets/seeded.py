"""Sampling and augmentation that give the same sample for the same seed, epoch and position, whoever draws it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch.distributed as dist
from monai.data import CacheDataset
from monai.transforms.traits import RandomizableTrait
from torch.utils.data import DistributedSampler


class SeededCacheDataset(CacheDataset):
    """MONAI's CacheDataset whose random transforms are seeded by the sampler, sample by sample.

    A worker's own random stream would make a result depend on the number of workers, and a resumed run differ from an
    uninterrupted one. Here an index may be a pair `(case, seed)`, as `SeededSampler` yields it.

    A cached case is copied before the random transforms get it, unless the first of them has `copies_input`: it leaves
    its input as it is and gives new tensors.

    Args:
        data: the records.
        transform: deterministic transforms first (cached in memory), random ones after.
        cache_num: how many cases to keep in memory.
    """

    def __init__(self, data: Sequence[Any], transform: Callable[..., Any], cache_num: int = 1000) -> None:
        first = next((t for t in getattr(transform, "transforms", ()) if isinstance(t, RandomizableTrait)), None)
        super().__init__(
            data=data,
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

    Args:
        dataset: what is indexed.
        seed: any non-negative integer.
        repeats: how often each case is drawn in an epoch, each time with its own augmentation.
    """

    def __init__(self, dataset: Any, seed: int = 0, repeats: int = 1) -> None:
        ranks = (dist.get_world_size(), dist.get_rank()) if dist.is_available() and dist.is_initialized() else (1, 0)
        super().__init__(dataset, num_replicas=ranks[0], rank=ranks[1], shuffle=True, seed=seed)
        self.repeats = repeats

    def __iter__(self) -> Iterator[Any]:
        random = np.random.default_rng([self.seed, self.epoch])
        order = np.concatenate([random.permutation(len(self.dataset)) for _ in range(self.repeats)])  # type: ignore[arg-type]
        seeds = random.integers(2**32, size=len(order))
        padded = np.resize(np.arange(len(order)), len(self) * self.num_replicas)  # ranks must draw equally many
        for position in padded[self.rank :: self.num_replicas]:
            yield int(order[position]), int(seeds[position])

    def __len__(self) -> int:
        return -(-len(self.dataset) * self.repeats // self.num_replicas)  # type: ignore[arg-type]


class ShareOfRank(DistributedSampler):
    """Yield each case once over all ranks, without the repeats that DistributedSampler pads with.

    Args:
        dataset: what is indexed.
    """

    def __init__(self, dataset: Any) -> None:
        ranks = (dist.get_world_size(), dist.get_rank()) if dist.is_available() and dist.is_initialized() else (1, 0)
        super().__init__(dataset, num_replicas=ranks[0], rank=ranks[1], shuffle=False)

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.rank, len(self.dataset), self.num_replicas))  # type: ignore[arg-type]

    def __len__(self) -> int:
        return len(range(self.rank, len(self.dataset), self.num_replicas))  # type: ignore[arg-type]
