"""What is done with data lists: check, datalist, make-data."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

PUBLIC_LAYOUTS = {  # what they show, and which of READER_OPTIONS they take
    "isbi2012": ("ISBI 2012 challenge: membranes in electron microscopy, stacks or numbered slices", []),
    "cell_tracking": ("Cell Tracking Challenge: one data set with the sequences 01, 02", ["seed", "truth", "partial"]),
    "dsb2018": ("Data Science Bowl 2018: nuclei, one mask each or numbered", ["seed", "channels"]),
    "bbbc039": ("BBBC039: fluorescent nuclei with their published splits", ["seed"]),
    "isic": ("ISIC 2017 or 2018: skin lesions with their published splits", ["seed"]),
    "siim_acr": ("SIIM-ACR pneumothorax: DICOM radiographs and a table of runs", ["seed"]),
    "decathlon": ("Medical Segmentation Decathlon: one task with its dataset.json", ["seed"]),
}
DATASET_DIR = "where the list's paths begin: for converted files, and links to what stays as it is"
READER_OPTIONS: dict[str, dict[str, Any]] = {
    "seed": {"type": int, "help": "seed of the folds (0)"},
    "truth": {"choices": ["gold", "silver"], "help": "masks by experts, or by the majority of programs (gold)"},
    "partial": {"choices": ["drop", "keep"], "help": "frames where tracked cells have no mask (drop)"},
    "channels": {"choices": ["grey", "rgb"], "help": "of every image (rgb if one is coloured, otherwise grey)"},
}


def add(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add these verbs."""
    _add_check(verbs)
    _add_datalist(verbs)
    _add_embedded(verbs)


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
