"""All steps of one case, one after the other, come to what a batch comes to."""

import numpy as np
import pytest
import tifffile
import torch
from monai.inferers import SimpleInferer
from monai.transforms import Compose

from pipeline.batch.case_work import new_row, record
from pipeline.batch.inputs import find_inputs
from pipeline.predict import FolderPredictor
from pipeline.transforms.classes_from_logits import ClassesFromLogitsd
from pipeline.transforms.load_image import StrictLoadImaged
from pipeline.transforms.save_image import AtomicSaveImaged


@pytest.fixture
def work(tmp_path):
    """Predicts class 1 where a pixel is above 100.5."""
    network = torch.nn.Conv2d(1, 2, 1)
    with torch.no_grad():
        network.weight[:] = torch.tensor([0.0, 1.0])[:, None, None, None]
        network.bias[:] = torch.tensor([0.0, -100.5])
    torch.save(network.state_dict(), tmp_path / "model.pt")
    return FolderPredictor(
        input_dir=str(tmp_path / "in"),
        output_dir=str(tmp_path / "out"),
        network=torch.nn.Conv2d(1, 2, 1),
        weights=str(tmp_path / "model.pt"),
        preprocessing=StrictLoadImaged(keys="image", spatial_dims=2),
        inferer=SimpleInferer(),
        postprocessing=Compose(
            [ClassesFromLogitsd(keys="pred"), AtomicSaveImaged(keys="pred", output_dir=tmp_path / "out")]
        ),
        class_names=["dark", "light"],
    ).work()


@pytest.fixture
def entry(tmp_path):
    (tmp_path / "in").mkdir()
    tifffile.imwrite(tmp_path / "in" / "a.tif", np.array([[100, 101, 7], [200, 0, 0]], np.uint8))
    return find_inputs(tmp_path / "in", spatial_dims=2)[0]


def test_a_case_is_predicted_written_and_recorded(work, entry, tmp_path):
    row, seconds = work.whole(entry)
    assert (row["case"], row["status"], row["reason"], row["outputs"]) == ("a", "done", "", ["a.tif"])
    assert (row["voxels/dark"], row["voxels/light"], row["precision"]) == (4, 2, "float32")
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "out" / "a.tif"), [[0, 1, 0], [1, 0, 0]])
    assert set(seconds) >= {"read", "forward", "write"}
    assert row["seconds"] == pytest.approx(sum(seconds.values()), abs=1e-3)
    assert work.completion.is_complete(entry)


def test_a_case_that_fails_has_a_row_and_no_record(work, entry, caplog):
    entry.files[0].write_bytes(b"no TIFF")
    row, _ = work.whole(entry)
    assert row["status"] == "failed"
    assert "case 'a'" in row["reason"]
    assert row["reason"] in caplog.text
    assert not work.completion.is_complete(entry)


def test_rows_and_records_begin_with_the_case(entry):
    assert new_row(entry, "waiting") == {"case": "a", "status": "waiting", "reason": ""}
    assert record(entry) == {"id": "a", "image": [str(entry.files[0])]}
