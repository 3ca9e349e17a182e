"""Make a bundle of the repository out of a run that was evaluated on its test cases.

python docs/trained_bundle.py runs/RUN bundles/unet_nuclei --data_list data_lists/nuclei.json

What it writes into the bundle's docs/README.md stands between <!-- scores --> and <!-- end of scores -->; the rest of
the card is written by hand. Configs are those of the run, but for places: the list of the repository, data/<its name>.
"""

from __future__ import annotations

import argparse
import csv
import json
import re
import shutil
from pathlib import Path
from typing import Any

from PIL import Image

from pipeline.comparison.statistics import mean_interval
from pipeline.datalists.datalist import load_data_list
from pipeline.volumes.atomic import atomic_write_text, write_json

KEPT = (
    "LICENSE",
    "configs/evaluate.json",
    "configs/logging.conf",
    "configs/multi_gpu.json",
    "models/model.pt",
)
PROOF = "models/precision.json"  # that bfloat16 gives the labels of float32, where the machine has it
MARKS = ("<!-- scores -->", "<!-- end of scores -->")
WIDEST = 1100  # pixels of a picture in the docs


def main() -> None:
    """Copy a run's files into a bundle's folder, and its test scores into the card."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--data_list", required=True)
    parser.add_argument("--hide", nargs="*", default=["accuracy", "iou", "mean_iou"], help="scores that the card omits")
    options = parser.parse_args()
    for name in (*KEPT, *([PROOF] if (options.run / PROOF).is_file() else [])):
        (options.bundle / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(options.run / name, options.bundle / name)
    write_configs(options.run, options.bundle, options.data_list)
    rows = read_rows(options.run / "evaluation" / "test" / "cases.csv")
    tables = [stack(tested(options.run)), scores(rows, options.hide)]
    write_card(options.bundle / "docs" / "README.md", "\n\n".join(filter(None, tables)))
    for name in ("best", "worst"):
        picture = Image.open(options.run / "evaluation" / "test" / f"{name}.png").convert("RGB")
        picture.thumbnail((WIDEST, 10 * WIDEST))
        picture.quantize(256).save(options.bundle / "docs" / f"{name}.png", optimize=True)


def write_configs(run: Path, bundle: Path, data_list: str) -> None:
    """Write the run's configs with the repository's places in place of the run's own."""
    cases = load_data_list(data_list)
    data, images = f"data/{cases.name}", Path(cases.select("test")[0].images[0]).parent
    trained_on = load_data_list(run / "configs" / "data_list.json").name
    if trained_on != cases.name:
        raise SystemExit(f"{run} was trained on the list '{trained_on}', not on '{cases.name}'")
    own = {"data_list": data_list, "dataset_dir": data, "output_dir": "runs", "run_name": None}
    training = json.loads((run / "configs" / "train.json").read_text())
    write_json(bundle / "configs" / "train.json", training | {key: own[key] for key in own if key in training})
    inference = json.loads((run / "configs" / "inference.json").read_text())
    write_json(bundle / "configs" / "inference.json", inference | {"input_dir": f"{data}/{images}"})
    metadata = json.loads((run / "configs" / "metadata.json").read_text())
    found = tested(run)
    metrics = {f"test/{name}": round(score["mean"], 4) for name, score in found["scores"].items()}
    metrics |= {f"test/stack/{name}": round(score, 4) for name, score in found.get("stack", {}).items()}
    write_json(bundle / "configs" / "metadata.json", metadata | {"name": bundle.name, "eval_metrics": metrics})


def tested(run: Path) -> dict[str, Any]:
    """Read what the test's report says in numbers."""
    return json.loads((run / "evaluation" / "test" / "scores.json").read_text())


def read_rows(file: Path) -> list[dict[str, Any]]:
    """Read the scores of the cases, "" where there is none."""
    with file.open(newline="", encoding="utf-8") as lines:
        return list(csv.DictReader(lines))


def scores(rows: list[dict[str, Any]], hidden: list[str]) -> str:
    """Return two tables: the means with their 95 % intervals, and every case."""
    names = [name for name in rows[0] if name not in ("case", "data") and name.split("/")[0] not in hidden]
    lines = [f"| score over {len(rows)} test cases | mean | 95 % interval | lowest | highest |", f"|{'---|' * 5}"]
    for name in names:
        values = [float(row[name]) for row in rows if row[name]]
        estimate = mean_interval(values)
        interval = f"{estimate.low:.4f} to {estimate.high:.4f}"
        lines.append(f"| {name} | {estimate.mean:.4f} | {interval} | {min(values):.4f} | {max(values):.4f} |")
    lines += ["", "<details><summary>every test case</summary>", "", f"| case | {' | '.join(names)} |"]
    lines += ["|---" * (len(names) + 1) + "|"]
    for row in rows:
        found = [f"{float(row[name]):.4f}" if row[name] else "n/a" for name in names]
        lines.append(f"| {' | '.join([row['case'], *found])} |")
    return "\n".join([*lines, "", "</details>"])


def stack(found: dict[str, Any]) -> str:
    """Return a table of the measures of all cases as one stack with one threshold, where there are any."""
    if not (measures := found.get("stack")):
        return ""
    rows = [f"| {name} | {score:.4f} |" for name, score in measures.items()]
    return "\n".join([f"| of {found['cases']} test cases as one stack | |", "|---|---|", *rows])


def write_card(file: Path, tables: str) -> None:
    """Put the tables between the card's marks; a card that is not there yet has nothing else."""
    file.parent.mkdir(parents=True, exist_ok=True)
    text = file.read_text(encoding="utf-8") if file.exists() else "\n".join(MARKS) + "\n"
    pattern = f"{re.escape(MARKS[0])}.*?{re.escape(MARKS[1])}"
    atomic_write_text(file, re.sub(pattern, lambda _: f"{MARKS[0]}\n{tables}\n{MARKS[1]}", text, flags=re.DOTALL))


if __name__ == "__main__":
    main()
