"""A process that is killed in the middle of a volume loses the block that it was at, and nothing else."""

import signal
import time

import numpy as np
from forked import TIME_LIMIT, Python

SCRIPT = """
import signal, sys
from pathlib import Path
import numpy as np, torch
from pipeline.blockwise.block_predictor import BlockPredictor
from pipeline.inferers.sliding_window import SlidingWindow
from pipeline.transforms.classes_from_logits import ClassesFromLogitsd
from pipeline.transforms.standardise import Standardised

class Reader:
    shape, channels, dtype, affine, chunk = (24, 8, 8), 1, np.dtype("f4"), np.eye(4), (4, 4, 4)
    array = np.random.default_rng(0).normal(0, 1, (1, *shape)).astype("f4")
    def read(self, box):
        return self.array[:, *box].copy()

class Store:
    def __init__(self, file):
        make = not Path(file).exists()
        self.array = np.memmap(file, np.uint8, "w+" if make else "r+", shape=Reader.shape)
    def write(self, box, labels):
        self.array[box] = labels
        self.array.flush()
        print("block", box[0].start, file=open(folder + "/written", "a"), flush=True)
        if box[0].start == stop_at:
            signal.pause()  # the labels are there, and the record is not: here it is killed
    def read(self, box):
        return np.array(self.array[box])

folder, stop_at = sys.argv[1], int(sys.argv[2])
torch.manual_seed(0)
network = torch.nn.Conv3d(1, 2, 3, padding=1).requires_grad_(False)
window = SlidingWindow(roi_size=6, sw_batch_size=2, overlap=0.5, mode="gaussian")
BlockPredictor(
    Reader(), Store(folder + "/labels"), network, window, [Standardised("image")], [ClassesFromLogitsd("pred")],
    class_names=["a", "b"], records=folder + "/records", identity={"input": "x"}, block=(4, 8, 8),
).run()
"""


def start(folder, stop_at):
    folder.mkdir(exist_ok=True)
    return Python("-c", SCRIPT, folder, stop_at, cwd=folder)


def test_killed_and_run_again(tmp_path):
    written = tmp_path / "killed" / "written"
    killed = start(tmp_path / "killed", stop_at=12)
    give_up = time.monotonic() + TIME_LIMIT
    while not (written.exists() and "block 12" in written.read_text()):
        assert time.monotonic() < give_up
        time.sleep(0.02)
    killed.send_signal(signal.SIGKILL)
    assert killed.wait().returncode == -signal.SIGKILL
    runs = [start(tmp_path / "killed", stop_at=-1).wait(), start(tmp_path / "whole", stop_at=-1).wait()]
    assert [run.returncode for run in runs] == [0, 0], runs[0].stderr
    assert written.read_text().split("\n")[:-1] == [f"block {start}" for start in (0, 4, 8, 12, 12, 16, 20)]
    labels = [np.fromfile(tmp_path / name / "labels", np.uint8) for name in ("killed", "whole")]
    np.testing.assert_array_equal(*labels)
    assert set(np.unique(labels[1])) == {0, 1}
