"""What the documents say is there, is there; what they measured has a command, a machine and a date."""

import json
import re
from datetime import date

import pytest
from discs import ROOT

README = (ROOT / "README.md").read_text()
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").glob("*.md")]


def linked_from(document):
    targets = re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", document.read_text())
    return [target for target in targets if "://" not in target]


def test_the_readme_links_to_something():
    assert "docs/first_screen.png" in linked_from(ROOT / "README.md")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda file: file.name)
def test_links_lead_somewhere(document):
    assert [target for target in linked_from(document) if not (document.parent / target).exists()] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda file: file.name)
def test_no_document_has_a_placeholder(document):
    assert re.findall(r"TODO|TBD|FIXME|XXX|\?\?\?|<figure>|lorem", document.read_text(), re.IGNORECASE) == []


def test_every_folder_of_the_tree_is_there_and_none_is_missing():
    tree = README.split("## The tree")[1].split("```")[1]
    named = set(re.findall(r"^  (\w+)/", tree, re.MULTILINE))
    packages = {file.parent.name for file in (ROOT / "pipeline").glob("*/__init__.py")}
    assert named == packages
    modules = {file.name for file in (ROOT / "pipeline").glob("*.py")} - {"__init__.py", "__main__.py"}
    assert {name for name in modules if name not in tree} == set()
    assert {name for name in re.findall(r"\w+\.py", tree) if not list((ROOT / "pipeline").rglob(name))} == set()


def test_the_files_that_the_readme_measures_with_are_there():
    named = re.findall(r"`(benchmarks/\w+\.py|docs/\w+\.py)`", README)
    assert named
    assert [file for file in named if not (ROOT / file).is_file()] == []


def test_every_benchmark_has_left_its_figures():
    figures = json.loads((ROOT / "benchmarks" / "results.json").read_text())
    for figure in figures:
        kept = {"name", "ratio", "at_least", "unit", "command", "machine", "date"}
        assert kept <= set(figure) <= kept | {"at_most", "curve"}
        assert (ROOT / figure["command"].split()[1]).is_file()
        date.fromisoformat(figure["date"])
    assert len({figure["name"] for figure in figures}) == len(figures)
    measured = {figure["command"].split("/")[1].split()[0] for figure in figures}
    files = {file.name for file in (ROOT / "benchmarks").glob("*.py")} - {
        "measure.py",
        "ablation.py",
        "fleet.py",
        "results_page.py",
        *(file.name for file in (ROOT / "benchmarks").glob("versus*.py")),  # hours, and data of its own
    }
    assert files == measured, "make bench runs them all"


def test_every_module_has_its_test():
    modules = {file.stem for file in (ROOT / "pipeline").rglob("*.py")} - {"__init__", "__main__"}
    tests = {file.stem.removeprefix("test_") for file in (ROOT / "tests").rglob("test_*.py")}
    assert modules - tests == set()
