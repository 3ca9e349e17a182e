"""The mean over the ranks is that over all samples."""

import pytest
import torch
from forked_ranks import in_ranks
from torch import nn

from pipeline import ranks
from pipeline.losses.over_ranks import OverRanks

SAMPLES = [torch.tensor([1.0, 2.0]), torch.tensor([9.0])]  # of two ranks


def of_rank():
    own = SAMPLES[ranks.rank()]
    return float(ranks.mean(OverRanks(nn.L1Loss())(own, torch.zeros(len(own)))))


def test_unequal_shares():
    assert in_ranks(2, of_rank) == [pytest.approx(4.0)] * 2  # (1 + 2 + 9) / 3, not (1.5 + 9) / 2


def test_without_other_ranks_it_is_the_loss_itself():
    assert OverRanks(nn.L1Loss())(SAMPLES[0], torch.zeros(2)) == 1.5
