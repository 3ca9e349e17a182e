"""However short a run is, it has been looked at."""

import time

from pipeline.system_metrics import SystemMetrics


def looks(every, seconds, first=0):
    found = []
    watch = SystemMetrics(lambda figures, step: found.append((step, figures)), every, first)
    time.sleep(seconds)
    watch.stop()
    return found


def test_a_run_shorter_than_the_interval_is_looked_at_when_it_starts_and_when_it_ends():
    found = looks(every=600, seconds=0.2)
    assert [step for step, _ in found] == [0, 1]
    for _, figures in found:
        assert {"system/cpu_utilization_percentage", "system/system_memory_usage_megabytes"} <= figures.keys()
        assert figures["system/disk_usage_percentage"] > 0
        assert figures["system/network_receive_megabytes"] >= 0


def test_a_longer_run_is_looked_at_in_between_and_a_resumed_one_counts_on():
    found = looks(every=0.1, seconds=0.55, first=7)
    steps = [step for step, _ in found]
    assert steps == list(range(7, 7 + len(steps)))
    assert len(steps) >= 4


def test_a_look_is_of_its_own_moment():
    _, first, *_ = looks(every=0.05, seconds=0.3)
    assert all(isinstance(value, float) for value in first[1].values()), "one figure, no list of all so far"


def test_nothing_is_logged_after_the_end():
    found = []
    watch = SystemMetrics(lambda figures, step: found.append(step), 0.05)
    watch.stop()
    before = len(found)
    time.sleep(0.2)
    assert len(found) == before
