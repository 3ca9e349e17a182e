"""Where the work is done is asked for in one way at most."""

import argparse

from pipeline.verbs.places import add_place, place_of


def test_the_place_of_a_command():
    parser = argparse.ArgumentParser()
    add_place(parser, {"default": 1})
    options = parser.parse_args(["--scheduler", "tcp://a:1"])
    assert (options.scheduler, options.workers, options.jobqueue) == ("tcp://a:1", 1, None)
    assert place_of(None, None, None) is None
    assert place_of("tcp://a:1", None, None).scheduler == "tcp://a:1"
    assert place_of(None, 3, None).workers == 3
