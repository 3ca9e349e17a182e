"""Every verb helps with an example that works, and ends a user's mistake with one line."""

import argparse
import re
import shlex
import subprocess
import sys

import pytest

import pipeline
from pipeline.cli import _parser, main


def commands(parser, before=()):
    """All verbs of a parser and theirs, as lists of words; the first is the program without a verb."""
    found = [list(before)]
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, verb in action.choices.items():
                found += commands(verb, [*before, name])
    return found


COMMANDS = commands(_parser())


def test_the_verbs_are_found():
    assert ["predict"] in COMMANDS
    assert ["datalist", "folders"] in COMMANDS


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_verb_has_help_with_an_example_that_can_be_parsed(command, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    with pytest.raises(SystemExit) as caught:
        main([*command, "--help"])
    assert caught.value.code == 0
    (example,) = re.findall(r"^example: python -m pipeline (.+)$", capsys.readouterr().out, re.MULTILINE)
    words = shlex.split(example)
    assert words[: len(command)] == command
    assert callable(_parser().parse_args(words).call)


WITHOUT_ARGUMENTS = (["compare"], ["leaderboard"], ["sync"], ["doctor"])  # these look at all there is


@pytest.mark.parametrize("command", [words for words in COMMANDS if words not in WITHOUT_ARGUMENTS], ids=" ".join)
def test_a_verb_without_its_arguments_shows_its_usage(command, capsys):
    with pytest.raises(SystemExit) as caught:
        main(command)
    assert caught.value.code == 2
    assert "usage: " in capsys.readouterr().err


def test_the_version(capsys):
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out.strip() == pipeline.__version__


LOADED = """
import runpy, sys
sys.argv = ["pipeline", *sys.argv[1:]]
try:
    runpy.run_module("pipeline", run_name="__main__")
except SystemExit as end:
    assert not end.code, end.code
print("\\nloaded:", *(name for name in ("numpy", "torch", "monai", "mlflow", "scipy") if name in sys.modules))
"""


@pytest.mark.parametrize(
    ("arguments", "heavy"),
    [(["--help"], set()), (["predict", "--help"], set()), (["datalist", "embedded", "cells"], {"torch", "monai"})],
    ids=["help", "predict --help", "datalist"],
)
def test_nothing_heavy_is_loaded_that_is_not_needed(arguments, heavy, tmp_path):
    output = ["-o", str(tmp_path / "list.json")] if "datalist" in arguments else []
    command = [sys.executable, "-c", LOADED, *arguments, *output]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    loaded = set(result.stdout.splitlines()[-1].removeprefix("loaded:").split())
    assert not loaded & heavy if heavy else loaded == set()


def test_a_users_mistake_is_one_line_and_status_1(tmp_path):
    command = [sys.executable, "-m", "pipeline", "datalist", "folders", str(tmp_path), "-o", str(tmp_path / "x.json")]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert result.stderr == f"error: file '{tmp_path}/images': is not a folder. Remedy: give the folder's path\n"
    assert result.stdout == ""
    assert not (tmp_path / "x.json").exists()


def test_a_bug_is_no_users_mistake(monkeypatch):
    monkeypatch.setattr("pipeline.datalists.embedded.make_data_list", lambda name: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main(["datalist", "embedded", "cells", "-o", "x.json"])
