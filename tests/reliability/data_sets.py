"""A small sound data set, of which a test spoils one case, and the look at it that every training begins with."""

import json

import numpy as np
import tifffile
from bad_files import mask, stored, voxels, write_volume
from discs import ROOT
from monai.bundle import ConfigParser
from PIL import Image

from pipeline.errors import find_input_error

CASES = "abcd"  # a and b validate, c and d train
BAD = "c"


class DataSet:
    """Four cases, each of another noise; the truth is where the noise is above 0.

    Args:
        folder: gets images/, labels/ and list.json.
        suffix: the format; .png and .tif are 2D.
        label_kind: "classes" or "instances".
    """

    def __init__(self, folder, suffix=".nii.gz", label_kind="classes"):
        self.folder, self.suffix, self.dims = folder, suffix, 2 if suffix in (".png", ".tif") else 3
        for number, case in enumerate(CASES):
            self.image(case).parent.mkdir(parents=True, exist_ok=True)
            self.label(case).parent.mkdir(exist_ok=True)
            self._write(self.image(case), voxels(number))
            self._write(self.label(case), mask(number))
        self.write_list(label_kind)

    def image(self, case=BAD):
        return self.folder / "images" / f"{case}{self.suffix}"

    def label(self, case=BAD):
        return self.folder / "labels" / f"{case}{self.suffix}"

    def _write(self, file, array):
        if self.dims == 3:
            write_volume(file, array)
            return
        pixels = array[..., 0].clip(0, 255).astype(np.uint8)
        if self.suffix == ".png":
            Image.fromarray(pixels).save(file)
        else:
            tifffile.imwrite(file, pixels, photometric="minisblack")

    def write_list(self, label_kind):
        texts = dict.fromkeys(("name", "description", "licence", "source", "made_by"), "tests")
        content = texts | {"spatial_dims": self.dims, "label_kind": label_kind, "channels": ["intensity"]}
        content |= {"classes": ["background", "body"], "cases": []}
        for number, case in enumerate(CASES):
            files = {"image": self.image(case), "label": self.label(case)}
            paths = {key: str(file.relative_to(self.folder)) for key, file in files.items()}
            content["cases"].append({"id": case, "fold": number // 2, **paths})
        (self.folder / "list.json").write_text(json.dumps(content))

    def is_right(self, case, result):
        """Tell whether a label map shows where the case's noise is above 0."""
        array = mask(CASES.index(case))
        return np.array_equal(stored(result), array if self.dims == 3 else array[..., 0])

    def check(self):
        """Run the lines of train.json that look at the data, as every training does before its first step."""
        file = ROOT / "bundles" / {2: "unet", 3: "unet3d"}[self.dims] / "configs" / "train.json"
        config = ConfigParser.load_config_file(str(file))
        config |= {"data_list": str(self.folder / "list.json"), "dataset_dir": str(self.folder)}
        config |= {"class_names": ["background", "body"], "output_dir": str(self.folder.parent / "runs")}
        lines = [line for line in config["initialize"] if "check.check_" in line]
        assert len(lines) == 2
        try:
            ConfigParser({**config, "look": lines}).get_parsed_content("look")
        except RuntimeError as error:  # MONAI wraps what a `$` expression raises
            raise (find_input_error(error) or error) from None
