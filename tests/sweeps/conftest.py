import shutil

import optuna
import pytest
import sqlalchemy


@pytest.fixture(scope="session", autouse=True)
def databases_that_do_not_wait_for_the_disk():
    """A kill loses nothing all the same, only a power cut would."""

    def hurry(connection, record):
        if hasattr(connection, "isolation_level") and "sqlite" in type(connection).__module__:
            connection.execute("PRAGMA synchronous=OFF")

    sqlalchemy.event.listen(sqlalchemy.engine.Engine, "connect", hurry)
    yield
    sqlalchemy.event.remove(sqlalchemy.engine.Engine, "connect", hurry)


@pytest.fixture(scope="session")
def empty_study(tmp_path_factory):
    """Optuna's database with its tables, which take a second to make."""
    file = tmp_path_factory.mktemp("study") / "study.db"
    optuna.storages.RDBStorage(f"sqlite:///{file}")
    return file


@pytest.fixture
def place(tmp_path, empty_study, empty_store, monkeypatch):
    """A working directory with an MLflow store, and with the database of the sweep `tiny`, whose tables are made."""
    monkeypatch.chdir(tmp_path)
    shutil.copyfile(empty_store, tmp_path / "mlflow.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    (tmp_path / "runs" / "tiny").mkdir(parents=True)
    shutil.copyfile(empty_study, tmp_path / "runs" / "tiny" / "study.db")
    return tmp_path
