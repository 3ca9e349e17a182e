"""Tables of cases: numbers, what is n/a, digests of files, and damage."""

import math

import pytest

from pipeline.comparison.tables import read_table
from pipeline.errors import InputError
from pipeline.handlers.evaluation_report import table


def test_an_empty_field_is_n_a():
    found = read_table(b'case,mean_dice,dice/a b\n"one, two",0.5,\nthree,,1\n').scores
    assert found["one, two"]["mean_dice"] == 0.5
    assert math.isnan(found["one, two"]["dice/a b"])
    assert math.isnan(found["three"]["mean_dice"])
    assert read_table(b"case\n") == ({}, {})


def test_digests_of_files_are_no_scores():
    found = read_table(b"case,mean_dice,data\na,0.5,0123456789abcdef\nb,0.7,\n")
    assert found.scores == {"a": {"mean_dice": 0.5}, "b": {"mean_dice": 0.7}}
    assert found.contents == {"a": "0123456789abcdef"}


def test_any_name_of_a_case_comes_back():
    names = ["two\nlines", 'a "quoted" one', "line\u2028separator", "\x0b", "細胞"]
    written = table([{"case": name, "mean_dice": 0.5} for name in names])
    assert list(read_table(written.encode()).scores) == names


@pytest.mark.parametrize(
    "content",
    [
        b"case,mean_dice\na,0.5,0.7\n",
        b"case,mean_dice,dice/a\na,0.5\n",
        b"case,mean_dice\na,half\n",
        b"name,mean_dice\na,0.5\n",
        b"mean_dice,case\n0.5\n",
        b"\xff\xfe\x00",
        b'case,mean_dice\na,"0.5\n',
        b"",
        b"<html>502 Bad Gateway</html>\n<p></p>\n",
    ],
    ids=[
        *("too long", "cut short", "no number", "no cases", "no case", "no text", "an open quote", "nothing"),
        "another file",
    ],
)
def test_a_damaged_table_is_said(content):
    with pytest.raises(InputError, match="its table of cases is damaged"):
        read_table(content)
