"""One line names case, file, reason and remedy, wherever the error was raised."""

import pickle
from pathlib import Path

import pytest

from pipeline.errors import InputError, find_input_error, plain_cell, raise_all, visible


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({}, "it is wrong"),
        ({"case": "a"}, "case 'a': it is wrong"),
        ({"file": "x.png"}, "file 'x.png': it is wrong"),
        ({"remedy": "mend it"}, "it is wrong. Remedy: mend it"),
        (
            {"case": "a", "file": Path("b") / "x.png", "remedy": "mend it"},
            "case 'a', file 'b/x.png': it is wrong. Remedy: mend it",
        ),
        ({"case": ""}, "case '': it is wrong"),
    ],
)
def test_the_message(options, text):
    assert str(InputError("it is wrong", **options)) == text


def test_its_parts_can_be_asked_for():
    error = InputError("it is wrong", case="a", file=Path("x.png"), remedy="mend it")
    assert (error.reason, error.case, error.file, error.remedy) == ("it is wrong", "a", "x.png", "mend it")
    assert InputError("it is wrong").file is None
    assert isinstance(error, ValueError)


@pytest.mark.parametrize("options", [{}, {"case": "a", "file": "x.png", "remedy": "mend it"}])
def test_it_comes_whole_out_of_another_process(options):
    error = InputError("it is wrong", **options)
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is InputError
    assert str(copy) == str(error)
    assert vars(copy) == vars(error)


def test_no_problem_raises_nothing():
    raise_all([], "title")


def test_one_problem_is_raised_itself():
    problem = InputError("it is wrong", case="a")
    with pytest.raises(InputError) as caught:
        raise_all([problem], "title")
    assert caught.value is problem


def test_several_problems_are_numbered():
    problems = [InputError("first", case="a"), InputError("second", remedy="mend it")]
    with pytest.raises(InputError) as caught:
        raise_all(problems, "Bad cases")
    assert str(caught.value) == "Bad cases: 2 problems\n  1. case 'a': first\n  2. second. Remedy: mend it"


def wrapped(error, depth, explicit):
    """The error as it looks after `depth` levels that each raised another one because of it, or while handling it."""
    for level in range(depth):
        try:
            try:
                raise error
            except Exception as inner:
                if explicit:
                    raise RuntimeError(f"level {level}") from inner
                raise RuntimeError(f"level {level}")  # noqa: B904
        except RuntimeError as outer:
            error = outer
    return error


@pytest.mark.parametrize("explicit", [True, False], ids=["raised from", "raised while handling"])
@pytest.mark.parametrize("depth", [0, 1, 5])
def test_the_users_problem_is_found_behind_what_wraps_it(depth, explicit):
    problem = InputError("it is wrong")
    assert find_input_error(wrapped(problem, depth, explicit)) is problem


def test_there_is_none_behind_a_bug():
    assert find_input_error(wrapped(KeyError("x"), 2, explicit=True)) is None
    assert find_input_error(None) is None


def test_the_outermost_of_two_is_found():
    outer = InputError("outer")
    outer.__cause__ = InputError("inner")
    assert find_input_error(outer) is outer


ODD = "esc\x1b[2J\x1b]0;owned\x07\x9b\u202e.png"
IN_WORDS = r"esc\x1b[2J\x1b]0;owned\x07\x9b\u202e.png"


def test_control_characters_of_names_are_words_in_the_message_alone():
    error = InputError(f"beside {ODD}", case=f"two\nlines {ODD}", file=ODD, remedy=f"rename {ODD}")
    case = rf"two\nlines {IN_WORDS}"
    assert str(error) == f"case '{case}', file '{IN_WORDS}': beside {IN_WORDS}. Remedy: rename {IN_WORDS}"
    assert (error.case, error.file) == (f"two\nlines {ODD}", ODD), "by which it is found"
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_all_other_letters_are_left_as_they_are():
    text = "".join(chr(code) for code in (*range(0x20, 0x7F), *range(0xA0, 0x600))) + "細胞 😀 \\x1b \udc9b"
    assert visible(text).replace(r"\u061c", "\u061c") == text
    assert visible("a\n\tb\r", lines=True) == "a\n\tb\\r"
    assert visible("a\n\tb") == r"a\n\tb"


@pytest.mark.parametrize("text", ["=HYPERLINK(1)", "+cmd", "-cmd|' /C calc'!A0", "@SUM(1)", "\t=1", "-", "=1"])
def test_no_cell_is_computed(text):
    assert plain_cell(text) == f"'{text}"


@pytest.mark.parametrize("text", ["-1.5", "+1e-3", "-inf", ".5", "a=1", "case-1", "", "'=1"])
def test_numbers_and_other_texts_are_cells_as_they_are(text):
    assert plain_cell(text) == text
