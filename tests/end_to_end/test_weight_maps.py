"""The border weight map is costly and the same in every epoch: it is computed once per case."""

from collections import Counter

import numpy as np
import pytest
from discs import draw_discs

from pipeline.transforms import border_weight
from pipeline.transforms.instances_to_mask import separate_instances

pytestmark = pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")


@pytest.fixture
def computed(monkeypatch, tmp_path):
    """Return a function that says how often the map of each image was computed, in this process or a worker."""
    record, compute = tmp_path / "computed.txt", border_weight.border_weight_map
    fields = {separate_instances(draw_discs(number)[1]).astype(bool).tobytes(): number for number in range(8)}

    def counting(instances, *args, **kwargs):
        with record.open("a") as stream:
            print(fields[(instances != 0).tobytes()], file=stream)
        return compute(instances, *args, **kwargs)

    monkeypatch.setattr(border_weight, "border_weight_map", counting)
    return lambda: Counter(map(int, record.read_text().split()))


@pytest.mark.parametrize("workers", [0, 2])
def test_once_per_case_over_all_epochs_and_once_more_after_a_resume(run_bundle, computed, workers):
    files, options = ["train.json", "loss_border.yaml"], {"run_name": "one", "num_workers": workers}
    run_bundle("training", *files, epochs=3, crops_per_case=2, **options)
    training = {1: 1, 3: 1, 5: 1}  # fold 0 validates, where no weight is needed; 6 and 7 are the test split
    assert computed() == training
    run_bundle("training", *files, epochs=5, crops_per_case=2, resume=True, **options)
    assert computed() == {case: 2 for case in training}, "a new process begins with an empty memory"


def test_the_fields_differ():
    assert len({draw_discs(number)[1].tobytes() for number in range(8)}) == 8
    assert np.any(draw_discs(0)[1])
