import pytest
from dask_processes import scheduler, worker

pytest.importorskip("distributed")


@pytest.fixture(scope="session")
def running(tmp_path_factory):
    """A scheduler with two workers, each of which is started again when it is killed."""
    folder = tmp_path_factory.mktemp("dask")
    with scheduler(folder) as one, worker(one.address, folder), worker(one.address, folder):
        yield one.address


@pytest.fixture
def client(running):
    from distributed import Client

    with Client(running, set_as_default=False) as found:
        found.wait_for_workers(2, timeout=60)
        yield found
