"""The simulated fleet does what a hand calculation says, and what queueing theory says of deaths."""

import math

import numpy as np
import pytest
from fleet import Fleet, run


def test_tasks_are_shared():
    course = run([4.0, 3.0, 2.0, 1.0], Fleet(2))  # 4 + 1 and 3 + 2
    assert (course.seconds, course.computed, course.lost, course.deaths) == (5.0, 10.0, 0.0, 0)
    assert course.efficiency(10.0, 2) == 1.0
    assert run([4.0], Fleet(3)).efficiency(4.0, 3) == pytest.approx(1 / 3)


def test_slow_workers_take_longer():
    assert run([1.0, 1.0], Fleet(1, slow_share=1.0, slow_factor=3.0)).seconds == 6.0


def test_the_scheduler_hands_out_one_task_after_the_other():
    assert run([1.0] * 4, Fleet(4, hand_over=0.5)).seconds == 4 * 0.5 + 1.0


def test_the_storage_bounds_the_time():
    assert run([1.0] * 4, Fleet(4, bytes_per_second=10.0), traffic=200.0).seconds == 20.0
    assert run([30.0], Fleet(4, bytes_per_second=10.0), traffic=200.0).seconds == 30.0


def test_what_is_cut_short_is_done_again():
    """A task of t seconds, begun anew at each death at rate r, takes (exp(r t) - 1) / r on average, restarts apart."""
    task, hours = 1800.0, 1.0
    rate = 1 / 3600
    expected = (math.exp(rate * task) - 1) / rate
    courses = [run([task], Fleet(1, hours, restart=0.0), seed) for seed in range(4000)]
    assert np.mean([course.seconds for course in courses]) == pytest.approx(expected, rel=0.05)
    assert all(course.computed == pytest.approx(task) for course in courses)
    assert np.mean([course.deaths for course in courses]) == pytest.approx(math.exp(rate * task) - 1, rel=0.1)


def test_a_task_that_comes_back_wakes_an_idle_worker():
    """The other worker has long been done: it takes the task, which need not wait for the restart."""
    courses = [run([100.0, 1.0], Fleet(2, hours_between_deaths=0.05, restart=1e6), seed) for seed in range(50)]
    once = [course for course in courses if course.deaths == 1]
    assert len(once) > 5
    assert all(course.seconds < 300 for course in once)
