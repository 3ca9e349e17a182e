"""Who may import whom, read from the syntax trees."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "pipeline"
SIBLINGS = {"networks", "losses", "transforms", "inferers", "metrics", "datalists"}
WITHOUT_TORCH = {"metrics", "datalists", "volumes", "synthetic"}
EVERYONE_MAY = {"errors", "volumes", "synthetic"}
MODULES = sorted(PACKAGE.rglob("*.py"))


def imported_modules(file: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: import from the module by its full name"
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def parts_of_pipeline(file: Path) -> set[str]:
    """The first name below `pipeline` of everything that a file imports: {"metrics", "errors"}."""
    names = {name.split(".")[1] for name in imported_modules(file) if name.startswith("pipeline.")}
    return {name for name in names if (PACKAGE / name).is_dir() or (PACKAGE / f"{name}.py").is_file()}


def test_there_is_something_to_check():
    assert len(MODULES) > 20
    assert {file.parent.name for file in MODULES} >= SIBLINGS - {"inferers"}
    assert parts_of_pipeline(PACKAGE / "handlers" / "case_scores.py") == {"errors", "metrics", "ranks"}


@pytest.mark.parametrize("file", MODULES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_imports_point_in_the_allowed_direction(file):
    package = file.relative_to(PACKAGE).parts[0]
    used = parts_of_pipeline(file) - {package} - ({"figures"} if file.name == "save_picture.py" else set())
    if package in SIBLINGS | WITHOUT_TORCH:
        assert used <= EVERYONE_MAY, f"{package} is used by configs alone and may import only {sorted(EVERYONE_MAY)}"
    assert "cli" not in used or file.name == "__main__.py", "nothing imports the command line"
    if package == "handlers":
        assert not used & {"networks", "losses", "transforms", "inferers", "datalists"}


@pytest.mark.parametrize(
    "file",
    [file for file in MODULES if file.relative_to(PACKAGE).parts[0] in WITHOUT_TORCH],
    ids=lambda file: file.stem,
)
def test_measures_data_lists_and_volumes_know_no_torch(file):
    assert not {name for name in imported_modules(file) if name.split(".")[0] in {"torch", "monai", "ignite", "mlflow"}}


@pytest.mark.parametrize("file", [PACKAGE / "cli.py", *(PACKAGE / "verbs").glob("*.py")], ids=lambda file: file.stem)
def test_the_command_line_starts_without_the_heavy_packages(file):
    heavy = {"torch", "monai", "mlflow", "numpy", "scipy"}
    at_start = [node for node in ast.parse(file.read_text()).body if isinstance(node, ast.Import | ast.ImportFrom)]
    names = {alias.name for node in at_start if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in at_start if isinstance(node, ast.ImportFrom)}
    assert not {name.split(".")[0] for name in names} & heavy
    light = {"pipeline", "pipeline.errors", "pipeline.verbs", "pipeline.verbs.places"}
    assert {name for name in names if name.startswith("pipeline")} <= light
