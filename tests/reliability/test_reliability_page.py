"""docs/reliability.md names the tests of this folder: all of them, and no others."""

import ast
import re
from pathlib import Path

from discs import ROOT

PAGE = (ROOT / "docs" / "reliability.md").read_text()


def test_the_page_names_every_test_of_this_folder():
    files = [file for file in Path(__file__).parent.glob("test_*.py") if file != Path(__file__)]
    nodes = [node for file in files for node in ast.parse(file.read_text()).body]
    tests = [node.name for node in nodes if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")]
    assert len(tests) == len(set(tests)) > 40
    assert set(re.findall(r"`(test_\w+)`", PAGE)) == set(tests)


def test_every_line_of_the_tables_names_a_test():
    rows = [line for line in PAGE.splitlines() if line.startswith("|")]
    body = [row for row in rows if not row.startswith(("|---", "| Input |", "| Fault |", "| What holds |"))]
    assert len(body) > 30
    assert [row for row in body if not re.search(r"`test_\w+`", row.split("|")[-2])] == []
