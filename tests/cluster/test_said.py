import logging
import threading

import pytest

from pipeline.cluster.said import Line, kept, say


@pytest.fixture(autouse=True)
def logger_as_before():
    package = logging.getLogger("pipeline")
    before = package.handlers[:], package.level, package.propagate
    yield
    package.handlers[:], package.propagate = before[0], before[2]
    package.setLevel(before[1])


def test_what_a_thread_says_is_kept_with_its_traceback_and_not_what_others_say(capsys):
    def other():
        logging.getLogger("pipeline.other").warning("of another thread")

    with kept() as lines:
        logging.getLogger("pipeline.here").info("one of %d", 2)
        try:
            raise ZeroDivisionError("zero")
        except ZeroDivisionError:
            logging.getLogger("pipeline.here").exception("broken")
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert lines[0] == Line("pipeline.here", logging.INFO, "one of 2")
    assert lines[1].level == logging.ERROR
    assert lines[1].text.startswith("broken\nTraceback")
    assert len(lines) == 2
    assert "of another thread" in capsys.readouterr().err


def test_lines_are_said_again_word_for_word(caplog):
    with caplog.at_level(logging.INFO):
        say([Line("pipeline.here", logging.INFO, "100 % done"), Line("pipeline.here", logging.DEBUG, "too low")])
    assert caplog.record_tuples == [("pipeline.here", logging.INFO, "100 % done")]
