"""What an expression could make is bounded before it is evaluated: by no less than it makes, and by far for a bomb."""

import ast
import re

import pytest

from pipeline.expression_size import MOST_WORK, Sizes, TooLargeError

CONFIG = {
    "crop": [64, 96, 128],
    "names": ["background", "cell", "border"],
    "step": 3,
    "large": 20_000_000,
    "word": "ab",
    "twice": "$@crop + @crop",
    "nested": {"parts": [{"a": [1, 2]}, {"a": [3]}]},
    "alias": "@crop",
    "wide": "%99999d",
    "spacing": [1.0, 0.5],
    "doubled0": [0] * 1000,
    **{f"doubled{n + 1}": f"$[*@doubled{n}, *@doubled{n}]" for n in range(40)},
    **{f"squared{n + 1}": f"$@squared{n} * @squared{n}" for n in range(40)},
    "squared0": 7,
    "thousand": [0] * 1000,
    "circle": "$@circle + 1",
}


def parse(text):
    return ast.parse(re.sub(r"@(\w+(?:::\w+)*)", r"references['\1']", text[1:]), mode="eval")


def found(name):
    value = CONFIG
    for part in name.split("::"):
        value = value[int(part)] if isinstance(value, list) else value[part]
    if isinstance(value, str) and value.startswith("$"):
        return evaluated(value)
    return found(value[1:]) if isinstance(value, str) and value.startswith("@") else value


class References(dict):
    """Entries by their ids, evaluated."""

    def __missing__(self, name):
        return found(name)


def evaluated(text):
    return eval(compile(parse(text), "x", "eval"), {"references": References()})


def parts(value):
    """How many numbers, letters and sequences a value holds, counted one by one, and its largest number."""
    if isinstance(value, str):
        return len(value), 1
    if isinstance(value, dict):
        value = [*value.keys(), *value.values()]
    if isinstance(value, int | float):
        return 1, abs(value)
    inner = [parts(part) for part in value]
    return 1 + sum(total for total, _ in inner), max((number for _, number in inner), default=0)


EXPRESSIONS = (
    *(
        "1",
        "-2.5",
        "'text'",
        "[1, 2, [3, 'four']]",
        "{'a': [1, 2], 'b': 3}",
        "(1, *@crop)",
        "@crop",
        "@alias",
        "@twice",
    ),
    *("@crop + [1]", "[0] * 5", "5 * [1, 2]", "'ab' * @step", "@step * 7", "@large * 3 + 1", "@step - 10", "9 // 0.25"),
    *("@large % 7", "7 / @step", "@nested::parts::0::a", "[[1, 2] * 3] * 4", "@crop[0]", "@crop[1:] * @step"),
    *("range(5)", "[*range(2, 9)]", "list(range(@step))", "sum(@crop)", "sum([[1], [2, 3]], [])", "len(@names)"),
    *("[n // 2 for n in @crop]", "[a + b for a in @crop for b in @crop]", "[[a] * 3 for a in @crop if a > 64]"),
    *("{n: len(n) for n in @names}", "[name for name in @names]", "[letter for name in @names for letter in name]"),
    *('f"{@step:>20} cases"', 'f"{@crop} of {@names}"', "str(@crop)", "[*map(str, @crop)]", "[*map(len, @names)]"),
    *("', '.join(@names)", "@word.join(@names)", "@names[0].upper()", "'a b c'.split(' ')", "@nested.get('parts')"),
    *(
        "[*zip(@crop, @names)]",
        "[*enumerate(@names)]",
        "sorted(@crop)",
        "[*reversed(@crop)]",
        "dict(a=1)",
        "max(@crop)",
    ),
    *("round(@step * 2.5)", "int(@step / 2)", "float(3)", "[*filter(None, @crop)]", "[*@nested.items()]", "set(@crop)"),
    *("@crop if @step > 2 else [1]", "@crop or @names", "not @crop", "@step in @crop", "[1 / s for s in @spacing]"),
)


@pytest.mark.parametrize("text", EXPRESSIONS)
def test_the_bound_is_no_less_than_what_is_made(text):
    sizes = Sizes(CONFIG, parse, "references")
    sizes.check(f"${text}")
    bound, (total, number) = sizes._text(f"${text}"), parts(evaluated(f"${text}"))
    assert bound.total >= total
    assert bound.number >= number


BOMBS = (
    *(
        "sum(range(1000000000000))",
        "[0] * 99999999999",
        "[[0] * 9999 for _ in range(9999)]",
        "'a' * @large",
        "@large * 'a'",
    ),
    *("f'{1:>9999999999}'", 'f"{1:>{@large}}"', "'%9999999999d' % 1", "@wide % 1", "[@wide][0] % 1", "@doubled40"),
    *("len(@doubled40)", "@doubled20 + []", "@squared40", "[*map(range, [9999999] * 9999)]", "range(int('9' * 20))"),
    *(
        "range(int(@word))",
        "range(int(1 / 0.000000000001))",
        "[0] * int(float('1e12'))",
        "'ab'.join('a' * 99999 for _ in @doubled0)",
    ),
    *(
        "[a for a in @thousand for b in @thousand for c in @thousand]",
        "[sum(@thousand) for a in @thousand for b in @thousand]",
    ),
    *("[x in @thousand for x in range(99999)]", "sum([[0] for _ in range(99999)], [])", "@circle", "[0] * 9999 * 9999"),
    *("[[0] * n for n in [9999999, 9999999]]", "[n * n for n in [[0] * 9999]] * 9999", "str([0] * 999999)"),
    *("@names * sum([@large])", "@names * len('a' * 99999) * len('a' * 99999)", "sorted(range(99999999))"),
)


@pytest.mark.parametrize("text", BOMBS)
def test_a_bomb_is_found_without_being_lit(text):
    with pytest.raises(TooLargeError):
        Sizes(CONFIG, parse, "references").check(f"${text}")


def test_many_expressions_may_make_no_more_than_one():
    sizes = Sizes(CONFIG, parse, "references")
    text = f"$[0] * {MOST_WORK // 20}"
    for _ in range(9):
        sizes.check(text)
    with pytest.raises(TooLargeError, match="more than 10,000,000 parts"):
        sizes.check(f"$[{text[1:]}, {text[1:]}]")


def test_an_entry_is_counted_once_however_often_it_is_used():
    Sizes({"a": [0] * 1000, "b": "$@a + @a"}, parse, "references").check("$[len(@b) for _ in range(1000)]")


def test_what_is_not_there_is_for_others_to_say():
    Sizes({}, parse, "references").check("$@missing + @nested::parts::9")
