"""A failure is told by its cause, its case and what is left of it; the list of all is short."""

import logging

import pytest

from pipeline.batch.failures import log_failure, raise_failures
from pipeline.errors import InputError


def wrapped(cause):
    """An error as MONAI's Compose raises it around another."""
    try:
        raise RuntimeError("applying transform") from cause
    except RuntimeError as error:
        return error


def test_a_mistake_of_the_user_is_told_in_its_own_words(caplog):
    error = wrapped(InputError("is truncated", case="a", file="a.nii", remedy="fetch it"))
    reason = log_failure("a", error)
    assert reason == "case 'a', file 'a.nii': is truncated. Remedy: fetch it"
    assert [record.exc_info for record in caplog.records] == [None]
    assert log_failure("b", InputError("is empty")).startswith("case 'b': ")


def test_a_bug_is_logged_with_all_there_is_to_know(caplog):
    error = wrapped(ZeroDivisionError("by nothing"))
    assert log_failure("a", error, ["out/a.nii", "out/a_prob.nii"]) == (
        "case 'a': ZeroDivisionError: by nothing. What an earlier batch made of this case is still there: "
        "out/a.nii, out/a_prob.nii"
    )
    assert caplog.records[0].levelno == logging.ERROR
    assert caplog.records[0].exc_info[1] is error


def test_all_that_failed_are_listed_up_to_a_number():
    done, failed = {"status": "done", "reason": ""}, [{"status": "failed", "reason": f"case {n}"} for n in range(22)]
    raise_failures([done, done], "summary.csv")
    with pytest.raises(InputError) as caught:
        raise_failures([done, *failed[:1]], "summary.csv")
    assert caught.value.reason == "1 of 2 images were not predicted:\n  case 0\n1 of 2 images were not predicted"
    with pytest.raises(InputError) as caught:
        raise_failures([done, *failed, {"status": "waiting", "reason": ""}], "summary.csv")
    assert caught.value.reason.splitlines()[20:22] == ["  case 19", "  and 3 more, which the summary lists"]
