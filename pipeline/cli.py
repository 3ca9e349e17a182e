"""Argument parsing only: every verb is a function elsewhere, imported when it is called."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from pipeline import __version__
from pipeline.errors import InputError

PUBLIC_LAYOUTS = {  # what they show, and which of READER_OPTIONS they take
    "isbi2012": ("ISBI 2012 challenge: membranes in electron microscopy, stacks or numbered slices", []),
    "cell_tracking": ("Cell Tracking Challenge: one data set with the sequences 01, 02", ["seed", "truth", "partial"]),
    "dsb2018": ("Data Science Bowl 2018: nuclei, one mask each or numbered", ["seed", "channels"]),
    "bbbc039": ("BBBC039: fluorescent nuclei with their published splits", ["seed"]),
    "isic": ("ISIC 2017 or 2018: skin lesions with their published splits", ["seed"]),
    "siim_acr": ("SIIM-ACR pneumothorax: DICOM radiographs and a table of runs", ["seed"]),
    "decathlon": ("Medical Segmentation Decathlon: one task with its dataset.json", ["seed"]),
}
PREDICTION_WISHES = {
    "probabilities": "also write <case>_prob, one channel per class",
    "instances": "also write <case>_instances, objects by number",
    "uncertainty": "also write <case>_uncertainty, of several versions (--overlay .../infer_mirrors.yaml)",
    "dicom_seg": "also write a DICOM segmentation of each DICOM series",
    "pictures": "also write <case>_picture.png, the planes with most foreground",
}
GIVEN = ("device", "precision", "backend", "memory", "zarr_level", "zarr_orientation")  # else the config decides
DATASET_DIR = "where the list's paths begin: for converted files, and links to what stays as it is"
READER_OPTIONS: dict[str, dict[str, Any]] = {
    "seed": {"type": int, "help": "seed of the folds (0)"},
    "truth": {"choices": ["gold", "silver"], "help": "masks by experts, or by the majority of programs (gold)"},
    "partial": {"choices": ["drop", "keep"], "help": "frames where tracked cells have no mask (drop)"},
    "channels": {"choices": ["grey", "rgb"], "help": "of every image (rgb if one is coloured, otherwise grey)"},
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run `python -m pipeline <verb>`."""
    options = _parser().parse_args(arguments)
    try:
        options.call(options)
    except InputError as error:
        sys.exit(f"error: {error}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pipeline",
        description="U-Net segmentation with MONAI bundles. `python -m monai.bundle run` trains and evaluates them.",
        epilog="example: python -m pipeline predict runs/my-run images/ predictions/",
    )
    parser.add_argument("--version", action="version", version=__version__)
    verbs = parser.add_subparsers(title="verbs", metavar="<verb>", required=True)
    _add_predict(verbs)
    _add_precision(verbs)
    _add_export(verbs)
    _add_check(verbs)
    _add_compare(verbs)
    _add_leaderboard(verbs)
    _add_promote(verbs)
    _add_sync(verbs)
    _add_sweep(verbs)
    _add_datalist(verbs)
    _add_embedded(verbs)
    _add_doctor(verbs)
    return parser


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
        "(NIfTI, MetaImage, NRRD, DICOM series; in 2D PNG, TIFF, JPEG too)",
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
    _add_place(verb, {"help": "processes of this machine that predict, one for each GPU"})
    verb.set_defaults(call=_predict)


def _add_place(verb: argparse.ArgumentParser, workers: dict[str, Any]) -> None:
    verb.add_argument("--scheduler", metavar="ADDRESS", help="a Dask scheduler whose workers do it: tcp://host:8786")
    verb.add_argument("--workers", type=int, **workers)
    verb.add_argument("--jobqueue", metavar="FILE", help="YAML: workers as jobs of SLURM, PBS, ... (docs/scaling.md)")


def _place(scheduler: str | None, workers: int | None, jobqueue: str | None) -> Any:
    if scheduler is None and workers is None and jobqueue is None:
        return None
    from pipeline.cluster.opening import Place

    return Place(scheduler, workers, jobqueue)


def _spellings(name: str) -> list[str]:
    """Spell an option as MONAI's commands do and as most others do: --num_shards, --num-shards."""
    return list(dict.fromkeys([f"--{name}", f"--{name.replace('_', '-')}"]))


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
    if (place := _place(options.scheduler, options.workers, options.jobqueue)) is not None:
        overrides["place"] = place
    predict_with_bundle(*folders, options.overlay, options.trust, **overrides)


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


def _add_check(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    verb = verbs.add_parser(
        "check",
        help="look at every file of a data list, and report all that is wrong",
        epilog="example: python -m pipeline check data_lists/mine.json --html report.html",
    )
    verb.add_argument("data_list", help="the list, JSON")
    verb.add_argument("--dataset_dir", help="where the list's paths begin (data/<name of the list>)")
    verb.add_argument("--fold", type=int, default=0, help="which fold validates (0)")
    verb.add_argument(
        "--spacing",
        type=float,
        nargs=3,
        metavar="MM",
        help="a network's spacing: left-right, back-front, foot-head; finds a unit that is wrong in a whole list",
    )
    verb.add_argument("--html", metavar="FILE", help="write a page with histograms and a table of the cases")
    verb.add_argument("--mlflow", metavar="URI", help="keep page and numbers as a run in this store")
    verb.add_argument("--no_cache", action="store_true", help="read every file again")
    verb.set_defaults(call=_check)


def _check(options: argparse.Namespace) -> None:
    from pipeline.data_check import check_data_list

    sound = check_data_list(
        options.data_list,
        options.dataset_dir,
        options.fold,
        options.html,
        options.mlflow,
        use_cache=not options.no_cache,
        spacing=options.spacing,
    )
    if not sound:
        sys.exit(1)


def _add_compare(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    verb = verbs.add_parser(
        "compare",
        help="which runs are better, by how much, and is it luck",
        epilog="example: python -m pipeline compare --experiment cells --baseline plain -o comparison",
    )
    verb.add_argument("--experiment", help="whose finished runs (that of the newest run)")
    chosen = verb.add_mutually_exclusive_group()
    chosen.add_argument(
        "--runs", nargs="+", default=[], help="names, ids or beginnings of ids; a sweep stands for its trials"
    )
    chosen.add_argument("--filter", dest="filter_", help="MLflow's search words: \"params.learning_rate = '0.001'\"")
    verb.add_argument("--baseline", help="name or id (the first of --runs, else the oldest)")
    verb.add_argument(
        "-o", "--output", default="comparison", help="folder for comparison.html, comparison.csv, cases.csv"
    )
    verb.add_argument("--most", type=int, default=30, help="at most so many runs of an experiment, the best (30)")
    _add_store(verb)
    verb.set_defaults(call=_compare)


def _compare(options: argparse.Namespace) -> None:
    from pipeline.compare import compare

    compare(**{key: value for key, value in vars(options).items() if key != "call"})


def _add_leaderboard(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    verb = verbs.add_parser(
        "leaderboard",
        help="the best run of every data list, and how to train it again",
        epilog="example: python -m pipeline leaderboard",
    )
    verb.add_argument("--experiment", help="only this one")
    verb.add_argument("-o", "--output", help="folder for leaderboard.csv")
    _add_store(verb)
    verb.set_defaults(call=_leaderboard)


def _leaderboard(options: argparse.Namespace) -> None:
    from pipeline.compare import leaderboard

    leaderboard(**{key: value for key, value in vars(options).items() if key != "call"})


def _add_promote(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    verb = verbs.add_parser(
        "promote",
        help="register a run's bundle in MLflow's model registry, under an alias",
        epilog="example: python -m pipeline promote runs/my-run --alias champion",
    )
    verb.add_argument("run", help="a run's folder, or the name or id of its MLflow run")
    verb.add_argument("--alias", required=True, help="such as champion; the version that had it loses it")
    verb.add_argument("--name", help="of the registered model (that of the bundle: unet)")
    verb.add_argument("--uri", help="MLflow store (the run's, MLFLOW_TRACKING_URI, else sqlite:///mlflow.db)")
    verb.set_defaults(call=_promote)


def _promote(options: argparse.Namespace) -> None:
    from pipeline.registry import promote

    print(promote(options.run, options.alias, options.name, options.uri))


def _add_sync(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    verb = verbs.add_parser(
        "sync",
        help="write to MLflow what runs could not, because its server was down or they were killed",
        epilog="example: python -m pipeline sync runs/cells-20260101-120000",
    )
    verb.add_argument("runs", nargs="*", help="folders of runs (all below --output_dir that have something to write)")
    verb.add_argument("--uri", help="another store, or the same at a new address (the one the runs were meant for)")
    verb.add_argument("--output_dir", default="runs", help="the folder of all runs (runs)")
    verb.set_defaults(call=_sync)


def _sync(options: argparse.Namespace) -> None:
    from pipeline.sync import sync

    sync(options.runs, options.uri, options.output_dir)


def _add_sweep(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    verb = verbs.add_parser(
        "sweep",
        help="train variants of a bundle and find the best",
        epilog="example: python -m pipeline sweep sweeps/example.yaml --workers 2",
    )
    verb.add_argument(
        "file", help="what to vary, YAML (sweeps/example.yaml has all keys); the same command continues a stopped sweep"
    )
    _add_place(verb, {"help": "trainings at a time, each in its own process (1: in this one)"})
    verb.add_argument("--trials", type=int, help="how many, instead of what the file says")
    verb.set_defaults(call=_sweep)


def _sweep(options: argparse.Namespace) -> None:
    from pipeline.sweeps.sweep import run_sweep

    place = _place(options.scheduler, None, options.jobqueue)
    if place is not None and options.workers is not None:
        raise InputError("--workers are of this machine", remedy="leave it out: the cluster's workers train")
    run_sweep(options.file, 1 if options.workers is None else options.workers, options.trials, place)


def _add_store(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--metric", help="val/mean_dice, test/dice/cell or a column of cases.csv (val/mean_dice)")
    verb.add_argument("--split", choices=["validation", "test"], help="(what the metric says, else validation)")
    verb.add_argument("--uri", help="MLflow store (MLFLOW_TRACKING_URI, else sqlite:///mlflow.db)")


def _add_datalist(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    verb = verbs.add_parser(
        "datalist",
        help="make the list of cases of a data set",
        epilog="example: python -m pipeline datalist folders my_data -o data_lists/my_data.json",
    )
    layouts = verb.add_subparsers(title="layouts", metavar="<layout>", required=True)
    folders = layouts.add_parser(
        "folders",
        help="a folder of images and a folder of labels, paired by name",
        epilog="example: python -m pipeline datalist folders my_data -o data_lists/my_data.json --label-kind instances",
    )
    folders.add_argument("folder", help="holds the folders images and labels")
    folders.add_argument("-o", "--output", required=True, help="the list to write, JSON")
    folders.add_argument("--images", default="images", help="name of the folder of images (images)")
    folders.add_argument("--labels", default="labels", help="name of the folder of labels (labels)")
    kinds = ("classes", "instances")
    folders.add_argument(
        "--label-kind", choices=kinds, default="classes", help="does a label's value name a class or count an object"
    )
    folders.add_argument("--classes", nargs="+", help="names of the values 0, 1, ... (read from the labels)")
    folders.add_argument(
        "--folds", type=int, help="number of folds (5, or one for each case or group if there are fewer)"
    )
    folders.add_argument("--seed", type=int, default=0, help="seed of the folds (0)")
    folders.add_argument(
        "--group", help="regular expression on the case id; what its first group matches is the patient or slide"
    )
    folders.add_argument(
        "--dataset_dir", help=f"{DATASET_DIR} (data/<folder's name>, or the folder if nothing is converted)"
    )
    folders.set_defaults(call=_list_folders)
    embedded = layouts.add_parser(
        "embedded",
        help="the data that the package makes itself",
        epilog="example: python -m pipeline datalist embedded cells -o data_lists/cells.json",
    )
    embedded.add_argument("name", choices=["cells", "organs"])
    embedded.add_argument("-o", "--output", required=True, help="the list to write, JSON")
    embedded.set_defaults(call=_list_embedded)
    for name, (shows, options) in PUBLIC_LAYOUTS.items():
        _add_public(layouts, name, shows, options)


def _add_public(
    layouts: argparse._SubParsersAction[argparse.ArgumentParser], name: str, shows: str, options: Sequence[str]
) -> None:
    layout = layouts.add_parser(
        name,
        help=shows,
        argument_default=argparse.SUPPRESS,  # what is not given is left to the reader's own defaults
        epilog=f"example: python -m pipeline datalist {name} downloads/{name} -o data_lists/{name}.json",
    )
    layout.add_argument("folder", help="the data set as it was downloaded; an error shows the files it should hold")
    layout.add_argument("-o", "--output", required=True, help="the list to write, JSON")
    layout.add_argument(
        "--dataset_dir", help=f"{DATASET_DIR} (data/<name of the list>, or the download if nothing is converted)"
    )
    layout.add_argument("--folds", type=int, dest="n_folds", help="number of folds")
    for option in options:
        layout.add_argument(f"--{option}", **READER_OPTIONS[option])
    layout.set_defaults(call=_list_public, layout=name)


def _add_embedded(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    verb = verbs.add_parser(
        "make-data",
        help="make the images of an embedded data list",
        epilog="example: python -m pipeline make-data data_lists/cells.json data/cells",
    )
    verb.add_argument("data_list", help="data_lists/cells.json or data_lists/organs.json")
    verb.add_argument("dataset_dir", help="where the images go")
    verb.set_defaults(call=_make_data)


def _add_doctor(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    verb = verbs.add_parser(
        "doctor",
        help="is this machine fit to train and predict, and what a bug report should hold",
        epilog="example: python -m pipeline doctor",
    )
    verb.add_argument("--uri", help="MLflow store (MLFLOW_TRACKING_URI, else sqlite:///mlflow.db)")
    verb.add_argument("--output_dir", default="runs", help="the folder of all runs (runs)")
    verb.add_argument("--bundle", default="bundles/unet", help="which one to train for two steps (bundles/unet)")
    verb.set_defaults(call=_doctor)


def _doctor(options: argparse.Namespace) -> None:
    from pipeline.doctor import examine

    if not examine(options.uri, options.output_dir, options.bundle):
        sys.exit(1)


def _list_folders(options: argparse.Namespace) -> None:
    from pathlib import Path

    from pipeline.datalists.datalist import save_data_list
    from pipeline.datalists.folders import list_folders

    folder = Path(options.folder)
    listing = list_folders(
        folder / options.images,
        folder / options.labels,
        name=folder.resolve().name,
        dataset_dir=options.dataset_dir,
        label_kind=options.label_kind,
        classes=options.classes,
        n_folds=options.folds,
        seed=options.seed,
        group_pattern=options.group,
    )
    save_data_list(listing.data_list, options.output)
    found = listing.data_list
    print(f"{len(found.cases)} cases in {len(found.folds)} folds, classes: {', '.join(found.classes)}")
    if listing.note:
        print(listing.note)
    for file, reason in listing.left_out:
        print(f"left out: {file}: {reason}")
    print(f"wrote {options.output}; train with --data_list {options.output} --dataset_dir {listing.dataset_dir}")


def _list_public(options: argparse.Namespace) -> None:
    from importlib import import_module
    from pathlib import Path

    from pipeline.datalists.datalist import save_data_list
    from pipeline.datalists.summary import describe

    chosen = {key: value for key, value in vars(options).items() if key not in ("call", "layout", "output")}
    listing = getattr(import_module(f"pipeline.datalists.{options.layout}"), f"list_{options.layout}")(**chosen)
    lines = describe(listing)
    save_data_list(listing.data_list, options.output)
    print(*lines, sep="\n")
    if "dataset_dir" not in chosen and listing.dataset_dir != Path(options.folder).resolve():
        print(f"converted files are in {listing.dataset_dir}; another place: --dataset_dir")
    print(f"wrote {options.output}; train with --data_list {options.output} --dataset_dir {listing.dataset_dir}")


def _list_embedded(options: argparse.Namespace) -> None:
    from pipeline.datalists.datalist import save_data_list
    from pipeline.datalists.embedded import make_data_list

    save_data_list(make_data_list(options.name), options.output)
    print(f"wrote {options.output}")


def _make_data(options: argparse.Namespace) -> None:
    from pipeline.datalists.datalist import load_data_list
    from pipeline.datalists.embedded import ensure_data

    ensure_data(load_data_list(options.data_list), options.dataset_dir)
