"""A process that predicts loads a part of MONAI, and nothing that a config may name is missing."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tifffile
from discs import ROOT

from pipeline.synthetic.cells import make_cells

pytestmark = pytest.mark.slow  # processes that import all of MONAI

HEAVY = ("mlflow", "matplotlib", "matplotlib.pyplot", "pandas", "scipy.signal", "SimpleITK", "itk", "sympy")
HEAVY += ("torch.distributed.fsdp", "monai.handlers", "monai.losses")
PREDICT = f"""
import sys
from types import ModuleType
if sys.argv.pop(1) == "full":
    import monai  # before the command can load a part of it
from pipeline.cli import main
main(["predict", "--precision", "float32", *sys.argv[1:]])
print("loaded:", *(name for name in {HEAVY} if type(sys.modules.get(name)) is ModuleType))
"""
QUICK = "from pipeline.quick_import import import_monai; import_monai()\n"


def python(code, *arguments):
    command = [sys.executable, "-c", code, *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout.strip()


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    tifffile.imwrite(folder / "a.tif", make_cells(5)[0][:100, :70])
    return folder


@pytest.fixture(scope="module")
def labels(images, tmp_path_factory):
    """What the 2D bundle predicts with all of MONAI."""
    output = tmp_path_factory.mktemp("full")
    loaded = python(PREDICT, "full", "bundles/unet", images, output)
    assert "monai.losses" in loaded.split("loaded:")[1], "else the list of heavy modules says nothing"
    return tifffile.imread(output / "a.tif")


def test_labels_are_those_of_the_whole_import_and_nothing_heavy_is_loaded(images, labels, tmp_path):
    printed = python(PREDICT, "quick", "bundles/unet", images, tmp_path)
    assert printed.endswith("loaded:")
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "a.tif"), labels)
    assert set(np.unique(labels)) == {0, 1}


def test_components_of_modules_that_are_not_loaded_are_found(images, labels, tmp_path):
    bundle = tmp_path / "bundle"
    shutil.copytree(ROOT / "bundles" / "unet", bundle)
    file = bundle / "configs" / "inference.json"
    config = json.loads(file.read_text())
    odd = [
        {"_target_": "FillHolesd", "keys": "pred"},  # uses scipy.ndimage and skimage
        {"_target_": "KeepLargestConnectedComponentd", "keys": "pred", "num_components": 1000},
        {"_target_": "Lambdad", "keys": "pred", "func": "$monai.networks.utils.icnr_init and (lambda x: x)"},
    ]
    config["postprocessing"]["transforms"] += odd
    config["odd"] = {"_target_": "DiceLoss", "sigmoid": True}
    config["odder"] = "$monai.losses.TverskyLoss()"
    config["initialize"] += ["$print('made', type(@odd).__name__, type(@odder).__name__)"]
    file.write_text(json.dumps(config))
    printed = python(PREDICT.replace('"predict",', '"predict", "--trust",'), "quick", bundle, images, tmp_path / "out")
    assert "made DiceLoss TverskyLoss" in printed
    filled = tifffile.imread(tmp_path / "out" / "a.tif")
    assert (filled >= labels).all()
    assert (filled == labels).mean() > 0.9


def test_a_deferred_module_is_the_real_one_from_its_first_use():
    code = """
import threading
import matplotlib.pyplot, scipy.signal, pandas
from types import ModuleType
assert type(scipy.signal) is not ModuleType
found = []
threads = [threading.Thread(target=lambda: found.append(scipy.signal.hilbert([1.0, 0.0]))) for _ in range(8)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
assert len(found) == 8 and type(scipy.signal) is ModuleType
from scipy.signal import windows
assert windows.hann(3).tolist() == [0, 1, 0]
from monai.data.ultrasound_confidence_map import hilbert
assert abs(hilbert([1.0, 0.0])[0] - 1) < 1e-9
from monai.data.utils import DataFrame
assert isinstance(DataFrame({"a": [1]}), DataFrame) and isinstance(pandas.DataFrame(), DataFrame)
assert not isinstance(3, DataFrame)
assert matplotlib.pyplot.figure().axes == []
import inspect
assert "def hilbert" in inspect.getsource(scipy.signal._signaltools)
try:
    pandas.no_such_thing
except AttributeError as error:
    print(error)
"""
    assert "no_such_thing" in python(QUICK + code)


def test_what_an_import_of_monai_gives_is_there():
    code = """
import monai
assert monai.losses.DiceLoss(sigmoid=True) is not None
assert monai.networks.nets.UNet and monai.apps.pathology.transforms.stain.array and monai.handlers.MeanDice
assert monai.transforms.Compose([monai.transforms.RandFlip()]) is not None
assert not hasattr(monai, "no_such_thing") and not hasattr(monai.losses, "no_such_thing")
from pkgutil import walk_packages
from monai.utils import module
assert module.walk_packages is walk_packages and list(walk_packages(monai.utils.__path__))
print("all there")
"""
    assert python(QUICK + code).endswith("all there")


def test_it_does_nothing_where_monai_is_imported():
    code = "import sys, monai\nbefore = list(sys.meta_path)\n" + QUICK + "print(before == sys.meta_path)"
    assert python(code) == "True"


def test_every_short_name_means_what_it_does_after_a_whole_import():
    code = """
from monai.bundle import ComponentLocator
import json
locator = ComponentLocator()
locator.get_component_module_name("Compose")
print(json.dumps({name: modules[0] for name, modules in locator._components_table.items()}))
"""
    quick, whole = (json.loads(python(start + code).splitlines()[-1]) for start in (QUICK, "import monai\n"))
    public = {name: module for name, module in quick.items() if not name.startswith("_")}
    assert len(public) > 1000
    assert public == {name: whole[name] for name in public}
