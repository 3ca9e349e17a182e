"""Code, user and data are named; where the code's commit is not known, none is."""

import getpass
import hashlib
import os
import platform
import subprocess
import sys

import pytest

import pipeline
from pipeline import provenance


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A repository with a package in it, which stands for this one."""
    package = tmp_path / "repository" / "pipeline"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (tmp_path / "repository" / ".gitignore").write_text(".venv\n")
    for key in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):  # set where a git hook runs the tests
        monkeypatch.delenv(key, raising=False)
    git(package.parent, "init", "--quiet")
    git(package.parent, "add", "--all")
    git(package.parent, "-c", "user.name=a", "-c", "user.email=a@b", "commit", "--quiet", "--message", "first")
    monkeypatch.setattr(pipeline, "__file__", str(package / "__init__.py"))
    return package


def git(folder, *arguments):
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_who_what_and_where(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["monai.bundle", "run", "training"])
    found = provenance.tags()
    assert found["mlflow.source.name"] == "monai.bundle run training"
    assert found["mlflow.user"] == getpass.getuser()
    assert found["pipeline.version"] == pipeline.__version__
    assert found["python"] == platform.python_version()
    assert all(isinstance(value, str) for value in found.values())


def test_a_very_long_command_is_cut_to_what_a_tag_holds(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["x" * 9000])
    assert provenance.tags()["mlflow.source.name"] == "x" * 5000


def test_the_commit_of_the_code_and_whether_it_was_changed(repository):
    commit = git(repository, "rev-parse", "HEAD")
    found = provenance.tags()
    assert (found["mlflow.source.git.commit"], found["git.dirty"]) == (commit, "false")
    (repository / "__init__.py").write_text("changed = True\n")
    found = provenance.tags()
    assert (found["mlflow.source.git.commit"], found["git.dirty"]) == (commit, "true")


def test_an_environment_inside_a_repository_of_other_code_has_no_commit(repository, monkeypatch):
    installed = repository.parent / ".venv" / "site-packages" / "pipeline"
    installed.mkdir(parents=True)
    (installed / "__init__.py").write_text("")
    monkeypatch.setattr(pipeline, "__file__", str(installed / "__init__.py"))
    assert not {"mlflow.source.git.commit", "git.dirty"} & provenance.tags().keys()


def test_outside_of_a_repository_there_is_no_commit(tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.setattr(pipeline, "__file__", str(tmp_path / "__init__.py"))
    assert not {"mlflow.source.git.commit", "git.dirty"} & provenance.tags().keys()


def test_without_git_there_is_no_commit(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "mlflow.source.git.commit" not in provenance.tags()


@pytest.mark.parametrize("error", [KeyError, OSError])
def test_a_user_without_a_name_has_a_number(monkeypatch, error):
    def nameless():
        raise error

    monkeypatch.setattr(getpass, "getuser", nameless)
    assert provenance.tags()["mlflow.user"] == str(os.getuid())


def test_the_digest_is_that_of_the_files_bytes(tmp_path):
    file = tmp_path / "data.bin"
    file.write_bytes(b"abc")
    # FIPS 180-2, appendix B.1.
    assert provenance.digest(file) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    file.write_bytes(b"\r\n" * 500_000)
    assert provenance.digest(str(file)) == hashlib.sha256(b"\r\n" * 500_000).hexdigest()
