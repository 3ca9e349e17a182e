"""Examples for property tests: the same on every run. HYPOTHESIS_EXAMPLES=2000 in the environment asks for more."""

import os

from hypothesis import settings

EXAMPLES = int(os.environ.get("HYPOTHESIS_EXAMPLES", "0"))


def examples(number):
    """Seeded, without a time limit for one of them (the machine may be busy), and without a folder of old failures."""
    return settings(max_examples=EXAMPLES or number, derandomize=True, deadline=None, database=None)
