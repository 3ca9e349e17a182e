"""What is understood of a list that has mistakes."""

import pytest

from pipeline.datalists.list_document import UNKNOWN, understand


def document(*cases, **changes):
    words = dict.fromkeys(("name", "description", "licence", "source", "made_by"), "word")
    rest = {"spatial_dims": 2, "label_kind": "classes", "classes": ["background", "cell"], "channels": ["grey"]}
    return words | rest | {"cases": list(cases) or [case("a")]} | changes


def case(name, **keys):
    return {"id": name, "image": f"{name}.png", "fold": 0} | keys


def test_a_sound_list_is_itself():
    sound = document(case("a"), case("b", label="b.png"), generator={"name": "cells", "seed": 1})
    assert understand(sound) == (sound, [])


def test_a_strange_key_is_a_problem_and_its_case_is_understood():
    found = understand(document(case("a", colour="red"), case("b")))
    assert found.document == document(case("a"), case("b"))
    (problem,) = found.problems
    assert (problem.case, "'colour' was unexpected" in problem.reason) == ("a", True)


@pytest.mark.parametrize(
    "broken", [{"id": "b", "image": "b.png"}, case("b", fold=-1), case("b", split="test"), case("../b"), 7, None]
)
def test_a_case_beyond_understanding_is_left_out(broken):
    found = understand(document(case("a"), broken))
    assert found.document == document(case("a"))
    assert found.problems


def test_of_two_cases_with_one_id_the_first_is_understood():
    found = understand(document(case("b"), case("a"), case("b", image="c.png")))
    assert found.document == document(case("b"), case("a"))
    (problem,) = found.problems
    assert (problem.case, problem.reason) == ("b", "id 'b' occurs 2 times: $.cases[0], $.cases[2]")


def test_mistakes_of_which_no_file_depends():
    found = understand(document(licence="", made_by=3, generator=[], colour="red"))
    assert found.document == document(licence=UNKNOWN, made_by=UNKNOWN)
    assert len(found.problems) == 4


@pytest.mark.parametrize(
    "content",
    [
        [1],
        document(spatial_dims=4),
        document(classes=["background"]),
        document(channels=None),
        document(cases=[]),
        document(cases=[{}]),
        document(cases="all"),
        {"cases": [case("a")]},
    ],
)
def test_without_cases_or_what_they_are_nothing_is_understood(content):
    found = understand(content)
    assert found.document is None
    assert found.problems
