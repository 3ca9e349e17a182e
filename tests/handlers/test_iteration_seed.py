"""What the network draws depends on the seed and the iteration alone."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from engines import trainer
from ignite.engine import Events

from pipeline.handlers.iteration_seed import IterationSeed


def draws(seed, epochs=2, losses=(1, 1, 1), start=0, noise=0):
    """What each iteration draws, while something else draws `noise` numbers before it."""
    drawn = []
    engine = trainer(epochs=epochs, losses=losses)

    def begin_later(engine):
        engine.state.epoch, engine.state.iteration = start, start * len(losses)

    engine.add_event_handler(Events.STARTED, begin_later)
    engine.add_event_handler(Events.ITERATION_STARTED, lambda: torch.rand(noise))
    IterationSeed(seed).attach(engine)
    engine.add_event_handler(Events.ITERATION_STARTED, lambda: drawn.append(torch.rand(1).item()))
    engine.run()
    return drawn


def test_every_iteration_draws_something_else():
    first = draws(0)
    assert len(set(first)) == 6
    assert draws(0) == first


def test_what_others_draw_changes_nothing():
    assert draws(3, noise=5) == draws(3, noise=1000)


def test_a_resumed_run_draws_what_an_uninterrupted_one_does():
    assert draws(1, start=1) == draws(1)[3:]


@pytest.mark.parametrize("seed", [1, 2, 2**31 - 1])
def test_another_seed_draws_other_numbers(seed):
    assert not set(draws(seed)) & set(draws(0))


def test_dropout_is_seeded():
    network = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Dropout(0.5))

    def masks():
        found = []
        engine = trainer([IterationSeed(0)], losses=(1,) * 8, network=network)

        @engine.on(Events.ITERATION_COMPLETED)
        def keep():
            found.append(engine.state.output["pred"] == 0)

        engine.run()
        return torch.stack(found)

    first = masks()
    torch.rand(100)
    assert torch.equal(masks(), first)
    assert 0 < first.float().mean() < 1


def test_each_rank_has_numbers_of_its_own_and_the_first_one_those_of_a_single_process(monkeypatch):
    drawn = []
    for rank in (0, 1, 2):
        monkeypatch.setattr("pipeline.ranks.rank", lambda rank=rank: rank)
        IterationSeed(3)._seed(SimpleNamespace(state=SimpleNamespace(iteration=5)))
        drawn.append(float(torch.rand(1)))
    mixed = np.random.SeedSequence([3, 5]).generate_state(1, np.uint64)
    torch.manual_seed(int(mixed[0]))
    assert drawn[0] == float(torch.rand(1))
    assert len(set(drawn)) == 3
