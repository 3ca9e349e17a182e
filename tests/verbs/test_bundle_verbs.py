"""What is asked for on the command line reaches a bundle."""

import pytest

from pipeline.cli import main


@pytest.mark.parametrize(
    ("options", "overrides"),
    [
        ([], {}),
        (["--probabilities"], {"save_probabilities": True}),
        (["--instances", "--uncertainty"], {"save_instances": True, "save_uncertainty": True}),
        (["--dicom-seg", "--pictures"], {"save_dicom_seg": True, "save_pictures": True}),
        (["--dicom_seg"], {"save_dicom_seg": True}),
        (["--device", "cuda:1"], {"device": "cuda:1"}),
        (["--resume"], {"resume": True}),
        (["--track"], {"track": True}),
        (["--precision", "float32", "--backend", "onnx"], {"precision": "float32", "backend": "onnx"}),
        (["--memory", "2.5", "--zarr-level", "0"], {"memory": 2.5, "zarr_level": 0}),
        (["--zarr_orientation", "LPS"], {"zarr_orientation": "LPS"}),
        (["--num_shards", "4", "--shard_id", "3"], {"num_shards": 4, "shard_id": 3}),
        (["--num-shards", "4", "--shard-id", "3"], {"num_shards": 4, "shard_id": 3}),
    ],
)
def test_the_options_of_a_prediction_reach_it(monkeypatch, options, overrides):
    called = []
    monkeypatch.setattr("pipeline.inference.predict_with_bundle", lambda *args, **more: called.append((args, more)))
    main(["predict", "run", "in", "out", *options])
    defaults = {"resume": False, "num_shards": 1, "shard_id": 0, "track": False}
    assert called == [(("run", "in", "out", [], False), defaults | overrides)]


def test_overlays_and_trust_of_a_prediction_reach_it(monkeypatch):
    called = []
    monkeypatch.setattr("pipeline.inference.predict_with_bundle", lambda *args, **more: called.append(args))
    main(["predict", "run", "in", "out", "--overlay", "a.yaml", "b.yaml", "--uncertainty", "--trust"])
    assert called == [("run", "in", "out", ["a.yaml", "b.yaml"], True)]


def test_the_options_of_an_export_reach_it(monkeypatch, capsys):
    monkeypatch.setattr("pipeline.serving.export.export", lambda *args: args)
    main(["export", "run", "--to", "triton", "-o", "repository", "--name", "x", "--device", "cuda", "--trust"])
    assert capsys.readouterr().out == f"{('run', 'triton', 'repository', 'x', 'cuda', True)}\n"
