import pytest

from pipeline.errors import InputError
from pipeline.sweeps.failure import reason_of


def raised_by_monai(cause):
    """An error as MONAI raises it over what a config raised."""
    error = RuntimeError("Failed to evaluate ...")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (raised_by_monai(InputError("the loss is nan")), "the loss is nan"),
        (raised_by_monai(raised_by_monai(ZeroDivisionError("by zero\nsecond line"))), "ZeroDivisionError: by zero"),
        (raised_by_monai(MemoryError("3 GB")), "out of memory: 3 GB"),
        (KeyError(), "KeyError: "),
    ],
)
def test_the_reason_is_the_users_mistake_or_what_broke_first(error, reason):
    assert reason_of(error) == reason
