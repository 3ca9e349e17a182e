"""What is done with a trained bundle: predict, precision, export."""

from __future__ import annotations

import argparse

from pipeline.verbs.places import add_place, place_of

PREDICTION_WISHES = {
    "probabilities": "also write <case>_prob, one channel per class",
    "instances": "also write <case>_instances, objects by number",
    "uncertainty": "also write <case>_uncertainty, of several versions (--overlay .../infer_mirrors.yaml)",
    "dicom_seg": "also write a DICOM segmentation of each DICOM series",
    "pictures": "also write <case>_picture.png, the planes with most foreground",
}
GIVEN = ("device", "precision", "backend", "memory", "zarr_level", "zarr_orientation")  # else the config decides


def add(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add these verbs."""
    _add_predict(verbs)
    _add_precision(verbs)
    _add_export(verbs)


def _add_predict(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    verb = verbs.add_parser(
        "predict",
        help="predict every image of a folder",
        epilog="example: python -m pipeline predict runs/cells-20260101-120000 images/ predictions/ --probabilities",
    )
    verb.add_argument("bundle", help="a run's folder, a bundle with trained weights, or models:/NAME@ALIAS")
    verb.add_argument(
        "input_dir",
        metavar="input",
        help="a folder, searched recursively; a pattern in quotes; a .txt file of one path per line; or one image "
        "(NIfTI, MetaImage, NRRD, DICOM series, OME-Zarr, also by URL; in 2D PNG, TIFF, JPEG too)",
    )
    verb.add_argument("output_dir", help="where label maps go, under the inputs' relative paths, and summary.csv")
    verb.add_argument("--resume", action="store_true", help="leave out what an earlier batch has completed")
    for wish, shows in PREDICTION_WISHES.items():
        verb.add_argument(*_spellings(wish), action="store_true", help=shows)
    verb.add_argument(*_spellings("num_shards"), type=int, default=1, help="parts of the batch, for array jobs (1)")
    verb.add_argument(*_spellings("shard_id"), type=int, default=0, help="the part to predict, from 0 on (0)")
    verb.add_argument("--overlay", nargs="+", default=[], help="config files on top of the bundle's own")
    verb.add_argument(
        "--memory", type=float, metavar="GIB", help="that a case may take; larger ones go block by block (what is free)"
    )
    verb.add_argument(
        *_spellings("zarr_level"), type=int, metavar="N", help="resolution of OME-Zarr images (0, the largest)"
    )
    verb.add_argument(
        *_spellings("zarr_orientation"), metavar="CODES", help="where their x, y and z point in the patient, as LPS"
    )
    verb.add_argument("--device", help="cpu, cuda, cuda:1; a GPU if there is one")
    verb.add_argument(
        "--precision",
        choices=["auto", "float32", "bfloat16"],
        help="number format of the network (auto: bfloat16 where it is proven harmless)",
    )
    verb.add_argument(
        "--backend", choices=["auto", "torch", "onnx", "openvino"], help="program that computes it (auto)"
    )
    verb.add_argument(
        "--track",
        action="store_true",
        help="keep the summary, and where the time went, in MLflow (MLFLOW_TRACKING_URI)",
    )
    verb.add_argument(
        "--trust", action="store_true", help="run whatever code the bundle's config names; read it before you say so"
    )
    add_place(verb, {"help": "processes of this machine that predict, one for each GPU"})
    verb.set_defaults(call=_predict)


def _predict(options: argparse.Namespace) -> None:
    from pipeline.heap import use_large_pages
    from pipeline.quick_import import import_monai

    use_large_pages()  # before torch makes its first tensor
    import_monai()  # before anything else imports it as a whole
    from pipeline.inference import predict_with_bundle

    overrides = {key: getattr(options, key) for key in ("resume", "num_shards", "shard_id", "track")}
    overrides |= {key: getattr(options, key) for key in GIVEN if getattr(options, key) is not None}
    overrides |= {f"save_{wish}": True for wish in PREDICTION_WISHES if getattr(options, wish)}
    folders = (options.bundle, options.input_dir, options.output_dir)
    if (place := place_of(options.scheduler, options.workers, options.jobqueue)) is not None:
        overrides["place"] = place
    predict_with_bundle(*folders, options.overlay, options.trust, **overrides)


def _spellings(name: str) -> list[str]:
    """Spell an option as MONAI's commands do and as most others do: --num_shards, --num-shards."""
    return list(dict.fromkeys([f"--{name}", f"--{name.replace('_', '-')}"]))


def _add_precision(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    verb = verbs.add_parser(
        "precision",
        help="measure whether a bundle may predict in bfloat16, and keep the result beside its weights",
        epilog="example: python -m pipeline precision runs/my-run images/",
    )
    verb.add_argument("bundle", help="a run's folder, or a bundle with trained weights")
    verb.add_argument("input_dir", metavar="input", help="images such as it will see; 8 of them are predicted twice")
    verb.add_argument("--device", help="cpu, cuda, cuda:1; a GPU if there is one")
    verb.add_argument("--trust", action="store_true", help="run whatever code the bundle's config names")
    verb.set_defaults(call=_precision)


def _precision(options: argparse.Namespace) -> None:
    from pipeline.precision_record import prove

    print(prove(options.bundle, options.input_dir, options.device, options.trust))


def _add_export(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    verb = verbs.add_parser(
        "export",
        help="write a bundle's trained network for another program: MONAI Deploy, Triton, ONNX Runtime, OpenVINO",
        epilog="example: python -m pipeline export runs/my-run --to triton --output model_repository",
    )
    verb.add_argument("bundle", help="a run's folder, or a bundle with trained weights")
    formats = ["torchscript", "onnx", "openvino", "triton", "safetensors"]
    verb.add_argument("--to", required=True, choices=formats, help="the format")
    verb.add_argument("-o", "--output", help="the file, or Triton's model repository (in the bundle itself)")
    verb.add_argument("--name", help="of Triton's model (the bundle's)")
    verb.add_argument("--device", choices=["cpu", "cuda"], help="where Triton computes (what it has)")
    verb.add_argument("--trust", action="store_true", help="run whatever code the bundle's config names")
    verb.set_defaults(call=_export)


def _export(options: argparse.Namespace) -> None:
    from pipeline.serving.export import export

    print(export(options.bundle, options.to, options.output, options.name, options.device, options.trust))
