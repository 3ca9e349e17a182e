import pickle
from itertools import product

import numpy as np
import pytest

from pipeline.blockwise import block_plan
from pipeline.blockwise.block_plan import BlockPlan, Needs, Run, plan_blocks
from pipeline.blockwise.file_grid import FileGrid
from pipeline.errors import InputError

PLAN = BlockPlan(((0, 4, 8, 10), (0, 5, 7), (0, 3, 6, 9)))
MIB = 2**20


def grid_of(*size, network=None, flipped=False):
    return FileGrid(tuple(range(len(size))), (flipped,) * len(size), size, network or size)


def test_blocks_make_up_the_volume():
    covered = np.zeros(PLAN.size, int)
    for run in PLAN.runs(1):
        covered[PLAN.box(*run)] += 1
    assert (covered == 1).all()
    assert (PLAN.pillars, PLAN.blocks_in_pillar, PLAN.blocks, len(PLAN.runs(1))) == (6, 3, 18, 18)
    assert PLAN.box(4, 1) == (slice(4, 8), slice(5, 7), slice(3, 6))
    assert PLAN.box(4, 0, 3) == (slice(0, 10), slice(5, 7), slice(3, 6))
    assert pickle.loads(pickle.dumps(PLAN)) == PLAN


def test_runs_are_consecutive_blocks_of_a_pillar():
    assert PLAN.runs() == [Run(pillar, 0, 3) for pillar in range(6)]
    assert PLAN.runs(2)[:3] == [Run(0, 0, 2), Run(0, 2, 3), Run(1, 0, 2)]


def test_windows_at_borders_count_for_each_pillar():
    starts, window = [[0, 3, 6], [0, 3], [0, 3, 5]], (4, 4, 4)
    seen = 0
    for pillar in range(6):
        box = PLAN.box(pillar, 0, 3)
        for place in product(*starts):
            seen += all(at < p.stop and at + n > p.start for at, n, p in zip(place, window, box, strict=True))
    assert PLAN.windows(starts, window) == seen == 3 * 3 * 6


@pytest.mark.parametrize("budget", [180 * MIB, 200 * MIB, 400 * MIB, 10**12])
@pytest.mark.parametrize("flipped", [False, True])
def test_the_best_plan_within_a_budget(budget, flipped):
    grid, chunk = grid_of(256, 300, 512, flipped=flipped), (32, 32, 64)
    needs = Needs((64, 64, 64), classes=2)
    plan = plan_blocks(grid, chunk, needs, budget)
    assert plan.bytes <= budget
    assert plan.size == (256, 300, 512)
    for borders, edge, size in zip(plan.borders, chunk, plan.size, strict=True):
        assert all((size - border if flipped else border) % edge == 0 for border in borders[1:-1])

    def twice(across):  # how many voxels are predicted for one of the result
        return np.prod([1 + (-(-n // edge) - 1) * 64 / n for n, edge in zip((300, 512), across, strict=True)])

    def fits(across):
        height = min(max(block_plan.BLOCK // (across[0] * across[1]) // 32, 1) * 32, 256)
        return needs.bytes(grid, (height, *across)) <= budget

    every = product((*range(32, 300, 32), 300), range(64, 513, 64))
    best = min(twice(across) for across in every if fits(across))
    chosen = [np.diff(borders).max() for borders in plan.borders[1:]]
    assert twice(chosen) == pytest.approx(best)


def test_a_volume_that_fits_is_one_pillar():
    assert plan_blocks(grid_of(64, 64, 64), (32, 32, 32), Needs((48, 48, 24)), 10**9).blocks == 1


def test_memory_does_not_depend_on_the_size(monkeypatch):
    monkeypatch.setattr(block_plan, "free_bytes", lambda: 64 * 2**30)
    needs = Needs((96, 96, 96), channels=1, classes=2, batch=4)
    for size in (256, 1024, 4096, 20_000):
        plan = plan_blocks(grid_of(size, size, size), (128, 128, 128), needs)
        assert plan.bytes <= block_plan.MOST
    assert plan.pillars > 100


def test_the_budget_is_half_of_what_is_free(monkeypatch):
    monkeypatch.setattr(block_plan, "free_bytes", lambda: 600 * MIB)
    plan = plan_blocks(grid_of(1024, 1024, 1024), (64, 64, 64), Needs((32, 32, 32)))
    assert plan.bytes <= 300 * MIB
    assert plan.pillars > 1


def test_estimates_grow_with_what_is_held():
    grid, block = grid_of(512, 512, 512), (64, 128, 128)
    least = Needs((64, 64, 64)).bytes(grid, block)
    # Sums of two classes and weights in 64 planes, and an image of 128 planes, of (128 + 128) ** 2 voxels of 4 bytes;
    # 5 numbers for each of a window's voxels; a block's labels, three times.
    expected = ((3 * 64 + 128) * 256**2 + 5 * 64**3) * 4 + 3 * 64 * 128**2 + block_plan.PIECES
    assert least == expected
    for more in ({"channels": 2}, {"classes": 3}, {"versions": 8}, {"batch": 4}, {"brick": 128}):
        assert Needs(**{"window": (64, 64, 64)} | more).bytes(grid, block) > least
    finer = grid_of(512, 512, 512, network=(1024, 1024, 1024))
    assert Needs((64, 64, 64)).bytes(finer, block) > least


def test_what_cannot_fit_is_refused():
    with pytest.raises(InputError, match=r"windows \(64, 64, 64\) over one column of chunks \(32, 32, 32\)") as caught:
        plan_blocks(grid_of(512, 512, 512), (32, 32, 32), Needs((64, 64, 64), classes=100), 100 * MIB)
    assert "smaller windows" in caught.value.remedy


def test_edges_of_blocks_may_be_given():
    plan = plan_blocks(grid_of(100, 50, 20), (8, 8, 8), Needs((8, 8, 8)), block=(9, 1, 100))
    assert [np.diff(borders)[0] for borders in plan.borders] == [16, 8, 20]
    for wrong in ((4, 4), (4, 4, 0)):
        with pytest.raises(InputError, match="give 3 numbers from 1 on"):
            plan_blocks(grid_of(100, 50, 20), (8, 8, 8), Needs((8, 8, 8)), block=wrong)
