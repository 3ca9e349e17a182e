"""Data lists, overlays and tables of run lengths, changed by one who knows the format, from a seed."""

import json
from copy import deepcopy

ODD = [
    None,
    True,
    0,
    -1,
    1.0,
    2.0,
    0.5,
    10**30,
    -(10**30),
    "",
    " ",
    ".",
    "..",
    "a/../b",
    "/etc/passwd",
    "C:\\a",
    "\0",
    "\ud800",
]
ODD += [
    "training",
    "fold 0",
    [],
    {},
    [[]],
    {"": ""},
    ["a", "a"],
    {"name": "cells", "seed": 1e300},
    "é" * 300,
    "<b>",
    "$x",
    "@y",
]


def sound_list():
    texts = dict.fromkeys(("name", "description", "licence", "source", "made_by"), "tests")
    cases = [
        {"id": f"c{n}", "image": f"i{n}.png", "label": f"l{n}.png", "fold": n % 2, "group": f"g{n}"} for n in range(4)
    ]
    cases.append({"id": "t", "image": "t.png", "split": "test"})
    rest = {"spatial_dims": 2, "label_kind": "classes", "classes": ["background", "cell"], "channels": ["grey"]}
    return texts | rest | {"cases": cases, "generator": {"name": "cells", "seed": 0}}


def fuzzed_list(chance):
    """A data list's file: values of other types, keys that are gone, new or there twice, and what no JSON holds."""
    document = sound_list()
    for _ in range(chance.choice([0, 1, 1, 2])):
        _change_entry(chance, document)
    text = json.dumps(document)
    for _ in range(chance.choice([0, 0, 1])):
        text = _change_text(chance, text)
    return _encoded(chance, text)


def _change_entry(chance, document):
    """Go down to any entry, and replace it, take it away, or put another beside it."""
    node = document
    while True:
        keys = list(node) if isinstance(node, dict) else range(len(node))
        key = chance.choice(list(keys))
        if not isinstance(node[key], dict | list) or not node[key] or chance.random() < 0.2:
            break
        node = node[key]
    how = chance.choice(["replace", "replace", "replace", "drop", "add", "copy"])
    if how == "replace":
        node[key] = deepcopy(chance.choice(ODD))
    elif how == "drop":
        del node[key]
    elif isinstance(node, dict):
        node[chance.choice(["fold", "split", "label", "group", "id", "labels", "x", ""])] = deepcopy(chance.choice(ODD))
    else:
        node.append(deepcopy(node[key]) if how == "copy" else deepcopy(chance.choice(ODD)))


def _change_text(chance, text):
    place = text.rfind(":", 0, chance.randrange(1, len(text))) + 1
    return chance.choice(
        [
            text[: chance.randrange(len(text))],
            text.replace('"fold":', '"fold": 1, "fold":', 1),
            text.replace('"image":', '"image": "other.png", "image":', 1),
            text[:place]
            + chance.choice(["NaN,", "-Infinity,", "1e400,", "9" * 5000 + ",", "[" * 990, "[" * 100_000])
            + text[place:],
            text.replace(
                '"fold": 0', f'"fold": {chance.choice(["NaN", "1e400", "1e3", "0.0", "9" * 5000, "00", "0x1"])}', 1
            ),
            text.replace('{"name"', '{"deep": ' + "[" * 900 + "]" * 900 + ', "name"', 1),
            text.replace('"tests"', '"te\\ud800sts"', 1),
            text + text,
            "",
            "null",
        ]
    )


def _encoded(chance, text):
    content = text.encode("utf-8", "surrogatepass")
    if chance.random() < 0.2:
        content = chance.choice(
            [b"\xef\xbb\xbf" + content, text.encode("utf-16", "surrogatepass"), content + b"\xff", content[:9] + b"\0"]
        )
    return content


OVERLAYS = [
    "{key}: {value}\n",
    "network_def:\n  {key}: {value}\n",
    "? {value}\n: 1\n",
    "{key}: &a [*a]\n",
    "&a {key}: *a\n",
    "{key}: 1\n{key}: 2\n",
    "- {value}\n",
    "{key}: {value}\n---\n{key}: 1\n",
    "<<: *{key}\n",
    "<<: {value}\n",
    "1: {value}\n",
    "{key}: [\n",
    "\t{key}: {value}\n",
]
TAGGED = [
    "!!python/object/apply:os.system ['touch /tmp/hacked']",
    "!!python/name:os.system ''",
    "!!binary x",
    "!unknown 1",
]
TAGGED += [
    "!!set {a, b}",
    "!!timestamp 2024-99-99",
    "!!int 1_0",
    "!!float x",
    "9" * 5000,
    "1:60:60",
    "[" * 1200,
    "{" * 500,
]
TAGGED += [
    "*b",
    "&a",
    "{[1]: 2}",
    "{1: 2, 1: 3}",
    "null",
    "~",
    "1e5",
    "'$1 + 1'",
    "'@epochs'",
    "\u2028",
    "\x07",
    "[1, [2, {a: 3}]]",
]


def fuzzed_overlay(chance):
    """An overlay's suffix and content: aliases without end, tags that would run something, keys that are no words."""
    if chance.random() < 0.15:
        return ".yaml", bomb(chance.randrange(5, 60)).encode()
    key, value = chance.choice(["epochs", "network_def", "x", "batch_size", "a#b", "+imports"]), chance.choice(TAGGED)
    text = "".join(chance.choice(OVERLAYS).format(key=key, value=value) for _ in range(chance.choice([1, 1, 2])))
    if chance.random() < 0.3:
        document = chance.choice([sound_list(), [1], 3, None, {"a": {"b": [1, {"c": 2}]}}])
        return ".json", _encoded(chance, _change_text(chance, json.dumps(document) + " " * 30))
    return chance.choice([".yaml", ".yml"]), _encoded(chance, text)


def bomb(levels):
    """Some lines of YAML that unfold to 9^levels entries."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join(9 * [f'*a{n - 1}'])}]" for n in range(1, levels)]
    return "\n".join(lines)


def walk(text, rows, columns):
    """Decode pairs of (pixels to skip, pixels to mark) by walking, or raise ValueError: the oracle of run lengths."""
    words = text.split()
    if len(words) % 2 or not all(word.isascii() and word.isdigit() for word in words):
        raise ValueError("no pairs of numbers")
    marked, place = set(), 0
    for skip, length in zip(words[::2], words[1::2], strict=True):
        place += int(skip)
        if place + int(length) > rows * columns:
            raise ValueError("beyond the image")
        marked |= set(range(place, place + int(length)))
        place += int(length)
    return [[column * rows + row in marked for column in range(columns)] for row in range(rows)]


HUGE = [2**31, 2**32 + 1, 2**62, 2**63 - 1, 2**63, 2**64, 10**30]


def fuzzed_runs(chance, pixels):
    """EncodedPixels of an image of so many pixels."""
    words = [str(chance.randrange(max(pixels // 4, 1))) for _ in range(2 * chance.randrange(5))]
    for _ in range(chance.choice([0, 0, 0, 0, 1, 2])):
        odd = [
            "-1",
            "+3",
            "1_0",
            "0x3",
            "1.5",
            "nan",
            "",
            "٣",
            "1e2",
            "x",
            "-0",
            "007",
            *map(str, HUGE),
            str(pixels),
            str(pixels + 1),
        ]
        words.insert(chance.randrange(len(words) + 1), chance.choice(odd))
        if chance.random() < 0.3:
            words += [str(2**63 - 1), str(chance.choice([1, 2**63 - 1]))]  # whose sum is negative in 64 bits
    return " ".join(words)


def fuzzed_table(chance, names, pixels):
    """A table of run lengths: odd runs, rows and bytes."""
    rows = [f"{name},{fuzzed_runs(chance, pixels) or -1}" for name in names for _ in range(chance.choice([1, 1, 2]))]
    for _ in range(chance.choice([0, 0, 1])):
        odd = [
            "",
            ",",
            "a",
            "a,1 2,3",
            '"a',
            "a,-1",
            "\0",
            "b," + "1 " * 200_000,
            '"a,b",1 2',
            "nobody,1 2",
            " a , 1 2 ",
        ]
        rows.insert(chance.randrange(len(rows) + 1), chance.choice(odd))
    head = (
        "ImageId, EncodedPixels"
        if chance.random() < 0.9
        else chance.choice(["", "ImageId", "EncodedPixels,ImageId", "\0"])
    )
    return _encoded(chance, "\n".join([head, *rows]) + "\n")
