"""Many workers with one list of tasks, simulated: some are slow, each dies now and then, and its task begins again."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Fleet:
    """Workers, and what happens to them.

    Args:
        workers: how many.
        hours_between_deaths: of one worker, mean of an exponential distribution; infinite: none dies.
        restart: seconds from a death to the first task of the worker that takes its place.
        slow_share: part of the workers, from 0 to 1, that take `slow_factor` times as long for everything.
        slow_factor: see there.
        hand_over: seconds that the scheduler needs for a task, one after the other.
        bytes_per_second: that the shared storage gives to all workers together.
    """

    workers: int
    hours_between_deaths: float = np.inf
    restart: float = 60.0
    slow_share: float = 0.0
    slow_factor: float = 3.0
    hand_over: float = 0.0
    bytes_per_second: float = np.inf


@dataclass(frozen=True)
class Course:
    """What became of a list of tasks.

    Args:
        seconds: from the first task's begin to the last one's end.
        computed: worker-seconds of tasks that came to their end.
        lost: worker-seconds of tasks that were cut short.
        deaths: of workers, while they had a task.
    """

    seconds: float
    computed: float
    lost: float
    deaths: int

    def efficiency(self, useful: float, workers: int) -> float:
        """Return the part of all paid worker-seconds that a fleet without slow workers would have needed."""
        return useful / (self.seconds * workers)


def run(tasks: Sequence[float], fleet: Fleet, seed: int = 0, traffic: float = 0.0) -> Course:
    """Let a fleet do tasks, the next one for whoever is free; one that was cut short stands in line again.

    The storage is told as a bound: all bytes take at least as long as it needs for them.

    Args:
        tasks: seconds of each on a worker that is not slow, in the order of the line.
        fleet: who does them.
        seed: of deaths and of who is slow.
        traffic: bytes that all tasks read and write together.
    """
    rng = np.random.default_rng(seed)
    pace = np.where(rng.random(fleet.workers) < fleet.slow_share, fleet.slow_factor, 1.0)
    life = fleet.hours_between_deaths * 3600
    dies = rng.exponential(life, fleet.workers) if np.isfinite(life) else np.full(fleet.workers, np.inf)
    waiting, idle = deque(tasks), deque[int]()
    free = [(0.0, worker) for worker in range(fleet.workers)]
    ends: list[tuple[float, int, float, float]] = []  # when, who, since when, the task's seconds
    computed = lost = now = handed = 0.0
    deaths = 0
    while free or ends:
        if free and (not ends or free[0][0] <= ends[0][0]):
            at, worker = heapq.heappop(free)
            if not waiting:
                idle.append(worker)
                continue
            begin = handed = max(at, handed) + fleet.hand_over
            task = waiting.popleft()
            heapq.heappush(ends, (min(begin + task * pace[worker], max(dies[worker], begin)), worker, begin, task))
            continue
        at, worker, begin, task = heapq.heappop(ends)
        if at < begin + task * pace[worker]:  # its death came first
            deaths, lost = deaths + 1, lost + at - begin
            waiting.append(task)
            dies[worker] = at + fleet.restart + rng.exponential(life)
            heapq.heappush(free, (at + fleet.restart, worker))
            if idle:
                heapq.heappush(free, (at, idle.popleft()))
        else:
            computed, now = computed + at - begin, at
            heapq.heappush(free, (at, worker))
    return Course(max(now, traffic / fleet.bytes_per_second), computed, lost, deaths)
