"""The data list: what it accepts, how it says what is wrong, and who lands in which split."""

import hashlib
import json
from dataclasses import FrozenInstanceError

import jsonschema
import pytest

from pipeline.datalists import list_document
from pipeline.datalists.datalist import Case, assign_folds, load_data_list, parse_data_list, save_data_list
from pipeline.errors import InputError


def document(*cases, **changes):
    return {
        "name": "toy",
        "description": "",
        "licence": "unknown",
        "source": "a test",
        "made_by": "a test",
        "spatial_dims": 2,
        "label_kind": "classes",
        "classes": ["background", "cell"],
        "channels": ["intensity"],
        "cases": list(cases) or [case("a", fold=0), case("b", fold=1)],
    } | changes


def case(name, **keys):
    return {"id": name, "image": f"images/{name}.png", "label": f"labels/{name}.png"} | keys


def problem_of(content):
    with pytest.raises(InputError) as caught:
        parse_data_list(content)
    return str(caught.value)


def ids(records):
    return [record["id"] for record in records]


def test_schema_is_itself_valid():
    jsonschema.Draft202012Validator.check_schema(list_document._validator().schema)


def test_a_list_is_read_as_it_stands(tmp_path):
    content = document(
        case("a", fold=0, group="p1"),
        {"id": "b", "image": ["b_0.png", "b_1.png"], "split": "test"},
        case("c", fold=1),
        channels=["t1", "t2"],
        generator={"name": "cells", "seed": 3},
    )
    content["cases"][0]["image"], content["cases"][2]["image"] = ["a0.png", "a1.png"], ["c0.png", "c1.png"]
    path = tmp_path / "list.json"
    path.write_text(json.dumps(content))
    read = load_data_list(path)
    assert read.cases[0] == Case("a", ("a0.png", "a1.png"), "labels/a.png", "p1", fold=0)
    assert read.cases[1] == Case("b", ("b_0.png", "b_1.png"), split="test")
    assert read.classes == ("background", "cell")
    assert read.channels == ("t1", "t2")
    assert read.generator == {"name": "cells", "seed": 3}
    assert read.folds == [0, 1]
    assert read.document == content
    with pytest.raises(FrozenInstanceError):
        read.name = "other"


def test_saved_list_reads_back_equal_and_has_one_line_for_each_case(tmp_path):
    original = parse_data_list(document(case("ä", fold=0), case("b", fold=1)))
    save_data_list(original, tmp_path / "list.json")
    assert load_data_list(tmp_path / "list.json") == original
    text = (tmp_path / "list.json").read_text(encoding="utf-8")
    assert '    {"id": "ä", "image": "images/ä.png", "label": "labels/ä.png", "fold": 0},\n' in text
    assert len(text.splitlines()) == 1 + 9 + 1 + 2 + 2  # brace, keys, "cases": [, cases, brackets


def test_an_invalid_list_is_not_saved(tmp_path):
    original = parse_data_list(document())
    twice = type(original)(**vars(original) | {"cases": original.cases[:1] * 2})
    with pytest.raises(InputError, match="id 'a' occurs 2 times"):
        save_data_list(twice, tmp_path / "list.json")
    assert not list(tmp_path.iterdir())


def test_digest_is_that_of_the_canonical_json():
    small = parse_data_list(document(case("a", fold=0)))
    canonical = (
        '{"cases":[{"fold":0,"id":"a","image":"images/a.png","label":"labels/a.png"}],'
        '"channels":["intensity"],"classes":["background","cell"],"description":"","label_kind":"classes",'
        '"licence":"unknown","made_by":"a test","name":"toy","source":"a test","spatial_dims":2}'
    )
    assert small.digest == hashlib.sha256(canonical.encode()).hexdigest()
    reordered = dict(reversed(document(case("a", fold=0)).items()))
    assert parse_data_list(reordered).digest == small.digest
    assert parse_data_list(document(case("a", fold=1))).digest != small.digest


@pytest.mark.parametrize(
    ("split", "fold", "expected"),
    [
        ("training", 0, ["b", "c", "d"]),
        ("validation", 0, ["a"]),
        ("training", 1, ["a", "d"]),
        ("validation", 1, ["b", "c"]),
        ("test", 0, ["e"]),
        ("test", 1, ["e"]),
    ],
)
def test_folds_rotate_and_splits_stay(split, fold, expected):
    listed = parse_data_list(
        document(
            case("a", fold=0),
            case("b", fold=1),
            case("c", fold=1),
            case("d", split="training"),
            case("e", split="test"),
        )
    )
    assert ids(listed.records("data", split, fold)) == expected


def test_records_have_full_paths_and_only_the_keys_that_have_a_value(tmp_path):
    listed = parse_data_list(
        document(
            {"id": "a", "image": ["a0.png", "x/a1.png"], "label": "la.png", "group": "g", "fold": 0},
            {"id": "b", "image": ["b0.png", "b1.png"], "label": "lb.png", "fold": 1},
            {"id": "c", "image": ["c0.png", "c1.png"], "split": "test"},
            channels=["t1", "t2"],
        )
    )
    assert listed.records(tmp_path, "validation") == [
        {
            "id": "a",
            "image": [str(tmp_path / "a0.png"), str(tmp_path / "x" / "a1.png")],
            "label": str(tmp_path / "la.png"),
            "group": "g",
        }
    ]
    assert listed.records(tmp_path, "test") == [
        {"id": "c", "image": [str(tmp_path / "c0.png"), str(tmp_path / "c1.png")]}
    ]
    plain = parse_data_list(document()).records(tmp_path, "training")
    assert plain == [{"id": "b", "image": str(tmp_path / "images/b.png"), "label": str(tmp_path / "labels/b.png")}]


def test_an_empty_split_names_the_folds():
    folds = parse_data_list(document(case("a", fold=0), case("b", fold=2)))
    with pytest.raises(InputError, match=r"no fold 1.*\[0, 2\]"):
        folds.records("data", "validation", 1)
    with pytest.raises(InputError, match=r"no fold 1.*\[0, 2\]"):
        folds.records("data", "training", 1)
    assert folds.records("data", "test", 1) == []
    one_fold = parse_data_list(document(case("a", fold=0)))
    with pytest.raises(InputError, match=r"no training case when fold 0 validates; there are the folds \[0\]"):
        one_fold.records("data", "training")
    no_folds = parse_data_list(document(case("a", split="training")))
    with pytest.raises(InputError, match=r"no validation case .* there are no folds"):
        no_folds.records("data", "validation")
    with pytest.raises(InputError, match=r"'train' is not a split.*training, validation, test"):
        no_folds.records("data", "train")


def test_only_test_cases_may_lack_a_label():
    bare = {"id": "a", "image": "a.png", "fold": 0}
    other = {"id": "c", "image": "c.png", "fold": 0}
    listed = parse_data_list(document(bare, case("b", fold=1), other))
    assert ids(listed.records("data", "training")) == ["b"]
    with pytest.raises(InputError, match=r"2 problems\n.*case 'a': a validation case has no label.*\n.*case 'c'"):
        listed.records("data", "validation")


@pytest.mark.parametrize(
    ("change", "place", "remedy"),
    [
        ({"spatial_dims": 4}, "$.spatial_dims: 4 is not one of [2, 3]", "2 for images"),
        ({"label_kind": "mask"}, "$.label_kind: 'mask' is not one of", "'classes' where"),
        ({"classes": ["background"]}, "$.classes: ['background'] is too short", "background first"),
        (
            {"classes": ["a", "b", "c"], "label_kind": "instances"},
            "$.classes: ['a', 'b', 'c'] is too long",
            "two classes",
        ),
        ({"channels": []}, "$.channels: [] should be non-empty", "channels' names"),
        ({"cases": []}, "$.cases: [] should be non-empty", "at least one case"),
        ({"licence": ""}, "$.licence: '' should be non-empty", "'unknown'"),
        ({"generator": {"name": "noise", "seed": 1}}, "$.generator.name: 'noise' is not one of", "generators"),
        (
            {"licens": "CC0"},
            "$: Additional properties are not allowed ('licens' was unexpected)",
            "keys of the data list",
        ),
    ],
)
def test_schema_violations_name_place_and_remedy(change, place, remedy):
    text = problem_of(document(**change))
    assert place in text
    assert remedy in text.split("Remedy: ")[1]


@pytest.mark.parametrize(
    ("entry", "place", "remedy"),
    [
        ({"id": "a", "image": "a.png"}, "$.cases[0]: a case has exactly one of 'fold' and 'split'", "fold or split"),
        (case("a", fold=0, split="test"), "$.cases[0]: a case has exactly one of", "fold or split"),
        (case("a", fold=-1), "$.cases[0].fold: -1 is less than the minimum", "0 or more"),
        (case("a", fold=True), "$.cases[0].fold: true is not of type integer", "0 or more"),
        (case("a", split="train"), "$.cases[0].split: 'train' is not one of", "three splits"),
        (case("a", fold=0, label=None), "$.cases[0].label: null is not of type string", "leave the key out"),
        (case("a", fold=0, image=None), "$.cases[0].image: null is not of type", "image's path"),
        (case("a", fold=0, image=[]), "$.cases[0].image: [] should be non-empty", "one file for each channel"),
        (case("a", fold=0, image="/data/a.png"), "'/data/a.png' is not a relative path", "relative"),
        (case("a", fold=0, image="C:/a.png"), "'C:/a.png' is not a relative path", "relative"),
        (case("a", fold=0, image="../a.png"), "'../a.png' is not a relative path", "no '..'"),
        (case("a", fold=0, image="x/../a.png"), "'x/../a.png' is not a relative path", "no '..'"),
        (case("a", fold=0, image="x\\a.png"), "is not a relative path", "'/' between"),
        (case("a", fold=0, image=["ok.png", "/a.png"]), "$.cases[0].image[1]: '/a.png'", "relative"),
        (case("a", fold=0, label=""), "$.cases[0].label: '' is not a relative path", "relative"),
        (case("a/b", fold=0), "$.cases[0].id: 'a/b' is not a case id", "file name"),
        (case("..", fold=0), "$.cases[0].id: '..' is not a case id", "file name"),
        ("a.png", '$.cases[0]: "a.png" is not of type object', "an object"),
    ],
)
def test_case_violations_name_place_and_remedy(entry, place, remedy):
    text = problem_of(document(entry))
    assert place in text
    assert remedy in text.split("Remedy: ")[1]


def test_dots_inside_a_name_are_fine():
    listed = parse_data_list(document(case("scan..1", fold=0, image="a..b/..c.png")))
    assert listed.cases[0].image == "a..b/..c.png"


@pytest.mark.parametrize(
    ("cases", "expected"),
    [
        ([case("a", fold=0), case("b", fold=1), case("a", fold=1, image="c.png", label="c.png")],
         "id 'a' occurs 2 times: $.cases[0], $.cases[2]"),
        ([case("a", fold=0), case("b", fold=1, image="images/a.png")], "image 'images/a.png' occurs 2 times"),
        ([case("a", fold=0), case("b", fold=1, label="labels/a.png")], "label 'labels/a.png' occurs 2 times"),
        ([case("a", fold=0, group="p"), case("b", fold=1, group="p")],
         "group 'p' is divided: $.cases[0] (fold 0), $.cases[1] (fold 1)"),
        ([case("a", fold=0, group="p"), case("b", split="test", group="p")],
         "group 'p' is divided: $.cases[0] (fold 0), $.cases[1] (test)"),
        ([case("a", fold=0, image=["a.png", "b.png"])], "$.cases[0].image: 2 files for 1 channels"),
    ],
)  # fmt: skip
def test_contradictions_are_named(cases, expected):
    assert expected in problem_of(document(*cases))


def test_a_group_may_have_many_cases_in_one_place():
    listed = parse_data_list(document(case("a", fold=0, group="p"), case("b", fold=0, group="p"), case("c", fold=1)))
    assert [entry.group for entry in listed.cases] == ["p", "p", None]


def test_all_problems_come_in_one_go():
    text = problem_of(
        document(
            case("a", fold=0),
            case("a", fold=1, image="x.png", label="x.png"),
            case("c", fold=0, label=None),
            {"id": "d", "image": "d.png"},
            spatial_dims=5,
        )
    )
    assert "4 problems" in text
    for part in ("$.cases[2].label", "$.cases[3]: a case has", "$.spatial_dims", "id 'a' occurs 2 times"):
        assert part in text


def test_a_list_may_keep_its_faults_for_later(tmp_path):
    path = tmp_path / "list.json"
    sound = document(case("a", fold=0, group="p"), case("b", fold=1, group="p"), case("c", fold=1))
    path.write_text(json.dumps(sound))
    listed = load_data_list(path, strict=False)
    assert [entry.id for entry in listed.cases] == ["a", "b", "c"]
    (fault,) = listed.faults
    assert (fault.case, fault.file) == ("b", str(path))
    assert "group 'p' is divided" in fault.reason
    with pytest.raises(InputError, match="is divided"):  # who does not look at the faults gets no data
        listed.records(tmp_path, "training")
    assert "faults" not in listed.document
    path.write_text(json.dumps(document()))
    assert load_data_list(path, strict=False) == load_data_list(path)
    path.write_text(json.dumps(document(spatial_dims=5)))
    with pytest.raises(InputError, match="spatial_dims"):  # no file could be read
        load_data_list(path, strict=False)


def test_what_is_no_data_list_is_named_with_its_file(tmp_path):
    path = tmp_path / "list.json"
    path.write_text('{"name": "x",\n  "cases": [}')
    with pytest.raises(InputError, match="line 2, column 13") as caught:
        load_data_list(path)
    assert caught.value.file == str(path)
    path.write_text("[1]")
    with pytest.raises(InputError, match=r"\$: \[1\] is not of type object"):
        load_data_list(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="cannot be read"):
        load_data_list(path)
    with pytest.raises(InputError, match="cannot be read"):
        load_data_list(tmp_path / "missing.json")
    with pytest.raises(InputError, match="cannot be read"):
        load_data_list(tmp_path)


def test_folds_are_balanced_undivided_and_repeatable():
    names = [f"c{number:02d}" for number in range(23)]
    groups = [f"g{number // 3}" if number < 15 else None for number in range(23)]  # 5 groups of 3, 8 single cases
    folds = assign_folds(names, groups, 4, seed=1)
    assert list(folds) == names
    sizes = [list(folds.values()).count(fold) for fold in range(4)]
    assert sum(sizes) == 23
    assert max(sizes) - min(sizes) <= 1
    for group in {group for group in groups if group}:
        assert len({folds[name] for name, own in zip(names, groups, strict=True) if own == group}) == 1
    assert assign_folds(names, groups, 4, seed=1) == folds
    assert assign_folds(names, groups, 4, seed=2) != folds
    backwards = assign_folds(names[::-1], groups[::-1], 4, seed=1)
    assert backwards == folds


def test_a_large_group_has_a_fold_of_its_own():
    folds = assign_folds(list("abcdefg"), ["p", "p", "p", "p", None, None, None], 2, seed=0)
    assert len({folds[name] for name in "abcd"}) == 1
    assert {folds[name] for name in "efg"} == {1 - folds["a"]}


def test_a_group_named_like_a_case_is_another_group():
    folds = assign_folds(["a", "b"], ["b", None], 2, seed=0)
    assert sorted(folds.values()) == [0, 1]


@pytest.mark.parametrize("n_folds", [0, 1, 4])
def test_more_folds_than_groups_or_less_than_two_are_refused(n_folds):
    with pytest.raises(InputError, match=f"3 groups .* cannot fill {n_folds} folds.*from 2 to 3"):
        assign_folds(list("abcd"), ["p", "p", None, None], n_folds, seed=0)


def test_equal_ids_and_unequal_lengths_are_refused():
    with pytest.raises(InputError, match="occur twice"):
        assign_folds(["a", "a"], [None, None], 2, seed=0)
    with pytest.raises(ValueError, match="zip"):
        assign_folds(["a", "b"], [None], 2, seed=0)
