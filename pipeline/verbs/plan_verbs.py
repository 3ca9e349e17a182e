"""What sets a bundle up by itself: plan, auto."""

from __future__ import annotations

import argparse


def add(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add these verbs."""
    _add_plan(verbs)
    _add_auto(verbs)


def _add_plan(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    verb = verbs.add_parser(
        "plan",
        help="write a bundle's settings for a data list and a time, each with its reason",
        epilog="example: python -m pipeline plan data_lists/mine.json -o plan.yaml --budget 30min",
    )
    _add_what(verb)
    verb.add_argument("-o", "--output", required=True, help="the overlay to write, YAML")
    verb.set_defaults(call=_plan)


def _add_auto(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    verb = verbs.add_parser(
        "auto",
        help="check, plan, train, evaluate and report, within a time",
        epilog="example: python -m pipeline auto data_lists/mine.json --budget 30min",
    )
    _add_what(verb)
    verb.add_argument("--output_dir", default="runs", help="the folder of all runs (runs)")
    verb.add_argument("--run_name", help="of this run (the list's name and the time)")
    verb.set_defaults(call=_auto)


def _add_what(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("data_list", help="the list, JSON")
    verb.add_argument("--dataset_dir", help="where the list's paths begin (data/<name of the list>)")
    verb.add_argument("--budget", default="1h", help="until the network is trained and evaluated: 30min, 1h30min (1h)")
    verb.add_argument("--fold", type=int, default=0, help="which fold validates (0)")
    verb.add_argument("--device", help="cpu, cuda, cuda:1; a GPU if there is one")
    verb.add_argument("--bundles", default="bundles", help="the folder that holds unet and unet3d (bundles)")


def _plan(options: argparse.Namespace) -> None:
    from pipeline.planning.auto import summary
    from pipeline.planning.plan import plan

    made = plan(options.data_list, options.output, *_what(options))
    print(summary(made))


def _auto(options: argparse.Namespace) -> None:
    from pipeline.planning.auto import auto

    auto(options.data_list, *_what(options), options.output_dir, options.run_name)


def _what(options: argparse.Namespace) -> tuple[str | None, float, int, str | None, str]:
    from pipeline.planning.schedule import read_budget

    return options.dataset_dir, read_budget(options.budget), options.fold, options.device, options.bundles
