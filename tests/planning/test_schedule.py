"""The length of a training fills the time, and the width leaves room for enough steps."""

import pytest

from pipeline.errors import InputError
from pipeline.planning.schedule import (
    LEAST_STEPS,
    TRAINING_SHARE,
    Around,
    Seconds,
    check_time,
    choose_width,
    fitting_voxels,
    plan_length,
    read_budget,
    steps_needed,
    training_seconds,
)


@pytest.mark.parametrize(
    ("words", "seconds"),
    [("30min", 1800), ("1h30min", 5400), ("150 s", 150), ("0.5h", 1800), ("2H", 7200), ("1d", 86400)],
)
def test_budgets(words, seconds):
    assert read_budget(words) == seconds


@pytest.mark.parametrize("words", ["", "30", "min", "30 parsec", "-30min", "30min!", "1h,2min"])
def test_what_is_no_time(words):
    with pytest.raises(InputError, match=r"is no time.*30min"):
        read_budget(words)


def test_too_short_a_time():
    with pytest.raises(InputError, match=r"spent on starting and evaluating.*give 2min or more"):
        read_budget("90s")


def test_the_width_is_the_widest_with_enough_steps():
    cost = {16: 0.25, 32: 0.9}
    tried = []

    def measure(width):
        tried.append(width)
        return cost[width]

    assert steps_needed(16) == 1000
    assert steps_needed(32) == 4000
    assert choose_width(measure, 10) == (16, 0.25)  # there is no narrower one
    assert choose_width(measure, 1900) == (16, 0.25)
    assert tried == [16, 16]  # 4,000 steps, even if they took but twice as long, take 2,000 s
    assert choose_width(measure, 3500) == (16, 0.25)
    assert tried == [16, 16, 16, 32]
    assert choose_width(measure, 3700) == (32, 0.9)  # 4,000 steps take 3,600 s
    assert choose_width(measure, 2700, speed_up=1.4) == (32, 0.9)


def test_a_width_that_fits_into_no_memory_is_not_taken():
    assert choose_width(lambda width: 0.1 if width < 32 else float("inf"), 10**6) == (16, 0.1)


def test_crops_are_smaller_where_the_time_is_too_short_for_enough_steps():
    assert fitting_voxels(0.25, 250, 100_000, 30_000) is None  # 1,000 steps
    assert fitting_voxels(0.5, 250, 100_000, 30_000) == 50_000
    assert fitting_voxels(5.0, 250, 100_000, 30_000) == 30_000


def test_what_is_left_for_training():
    around = Around(load=0.5, kept=160, validation=20, test=40).seconds(1.0)
    assert around == 35 + 80 + 40 + 15 + 40 * 1.5  # start and end, reading, the report twice, the test's cases
    assert Around(load=0.5, kept=160, validation=20, test=0).seconds(1.0) == 155
    assert training_seconds(600, around) == TRAINING_SHARE * (600 - around)
    assert training_seconds(30, around) == 0


def test_a_time_without_enough_steps_is_refused():
    check_time(600, 200, 0.93 * 400 / LEAST_STEPS)
    # 200 + 4 x 100 / 0.93 s are 10.5 minutes, to which one is added for what takes longer than it was measured.
    with pytest.raises(InputError, match=r"of 600 s that are left.*take 200.*no time for 100 steps.*--budget 12min"):
        check_time(600, 200, 4.0)
    with pytest.raises(InputError, match=r"narrowest network fits.*--device cpu"):
        check_time(600, 200, float("inf"))


def lasts(length, measured, validation):
    return length.steps * length.step + length.epochs // length.val_interval * measured.case * validation


@pytest.mark.parametrize("training", [1, 7, 140, 3000])
@pytest.mark.parametrize("seconds", [300, 1800, 7200])
@pytest.mark.parametrize("step", [0.05, 0.3, 2.0])
def test_the_time_is_filled_and_not_exceeded(training, seconds, step):
    measured = Seconds(step, 0.2, 16)
    length = plan_length(measured, seconds, training, 10, 2)
    assert 0.75 * seconds <= lasts(length, measured, 10) <= 1.02 * seconds
    assert length.epochs >= 8
    per_epoch = length.steps / length.epochs
    assert per_epoch == max(-(-round(training * length.crops_per_case) // 2), 1)


def test_validations_take_a_small_share():
    slow = plan_length(Seconds(0.3, 5.0, 16), 1000, 100, 20, 2)
    assert slow.epochs // slow.val_interval <= 1  # one alone takes 100 s
    quick = plan_length(Seconds(0.3, 0.01, 16), 1000, 100, 20, 2)
    assert 10 <= quick.epochs // quick.val_interval <= 12


def test_compiling_only_where_it_saves_time():
    def compiled(seconds, step, compiling):
        return plan_length(Seconds(0.5, 0.1, 16, step, compiling), seconds, 100, 10, 2).compiled

    assert compiled(600, 0.3, 30.0)
    assert not compiled(600, 0.49, 30.0)
    assert not compiled(60, 0.3, 30.0)
