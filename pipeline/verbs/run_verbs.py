"""What is done with runs and their machine: compare, leaderboard, promote, sync, sweep, doctor."""

from __future__ import annotations

import argparse
import sys

from pipeline.errors import InputError
from pipeline.verbs.places import add_place, place_of


def add(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add these verbs."""
    _add_compare(verbs)
    _add_leaderboard(verbs)
    _add_promote(verbs)
    _add_sync(verbs)
    _add_sweep(verbs)
    _add_doctor(verbs)


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
    add_place(verb, {"help": "trainings at a time, each in its own process (1: in this one)"})
    verb.add_argument("--trials", type=int, help="how many, instead of what the file says")
    verb.set_defaults(call=_sweep)


def _sweep(options: argparse.Namespace) -> None:
    from pipeline.sweeps.sweep import run_sweep

    place = place_of(options.scheduler, None, options.jobqueue)
    if place is not None and options.workers is not None:
        raise InputError("--workers are of this machine", remedy="leave it out: the cluster's workers train")
    run_sweep(options.file, 1 if options.workers is None else options.workers, options.trials, place)


def _add_store(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--metric", help="val/mean_dice, test/dice/cell or a column of cases.csv (val/mean_dice)")
    verb.add_argument("--split", choices=["validation", "test"], help="(what the metric says, else validation)")
    verb.add_argument("--uri", help="MLflow store (MLFLOW_TRACKING_URI, else sqlite:///mlflow.db)")


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
