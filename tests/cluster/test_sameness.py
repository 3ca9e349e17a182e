import pytest

from pipeline.cluster.sameness import World, marked, seen, versions
from pipeline.errors import InputError


def test_the_same_machine_sees_the_same(tmp_path):
    file = tmp_path / "model.pt"
    file.write_bytes(b"weights")
    World(contents=seen([file]), present=(str(tmp_path),)).check()


def test_other_weights_by_the_same_name_are_told(tmp_path):
    file = tmp_path / "model.pt"
    file.write_bytes(b"weights")
    world = World(contents=seen([file]))
    file.write_bytes(b"weightz")
    with pytest.raises(InputError, match=r"model\.pt': they see another file by this name.*file system"):
        world.check()
    file.unlink()
    with pytest.raises(InputError, match=r"model\.pt': they cannot read it \(No such file"):
        world.check()


def test_an_input_that_is_not_there_is_told(tmp_path):
    with pytest.raises(InputError, match=r"scan\.nii': they do not see it"):
        World(present=(str(tmp_path / "scan.nii"),)).check()


@pytest.mark.parametrize("name", ["python", "dask", "distributed", "torch", "monai", "unet-pipeline"])
def test_another_version_of_what_decides_on_results_is_told(name):
    with pytest.raises(InputError, match=rf"there is {name} \S+, and here 0\.0.*same environment"):
        World(versions=versions() | {name: "0.0"}).check()


def test_the_build_of_a_package_does_not_count():
    assert "+" not in versions()["torch"]


def test_a_mark_is_seen_in_the_same_folder_only_and_gone_afterwards(tmp_path):
    with marked(tmp_path / "out") as mark:
        world = World(contents=seen([mark]))
        world.check()
    assert list((tmp_path / "out").iterdir()) == []
    with pytest.raises(InputError, match="they cannot read it"):
        world.check()


def test_a_folder_that_nothing_can_be_written_to(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="nothing can be written here"), marked(tmp_path / "file" / "out"):
        pass
