"""A config from elsewhere computes and builds what is known to be harmless, and nothing else."""

import json
import sys
from importlib import import_module
from inspect import signature
from pathlib import Path

import pytest
from monai.bundle import ConfigParser

from pipeline.bundle import inference_config
from pipeline.errors import InputError
from pipeline.inference import predict_with_bundle
from pipeline.precision_record import prove
from pipeline.trust import CLASSES, HOLDERS, IMPORTS, _named, check_config

ROOT = Path(__file__).parents[1]
BUNDLES = ("unet", "unet3d")


def check(config):
    check_config(ConfigParser(config), "inference.json")


@pytest.mark.parametrize("bundle", BUNDLES)
def test_the_bundles_own_configs_are_allowed(bundle):
    parser = ConfigParser()
    parser.read_config(str(ROOT / "bundles" / bundle / "configs" / "inference.json"))
    check_config(parser, bundle)


OVERLAYS = [*(ROOT / "bundles").glob("*/configs/*.yaml"), *(ROOT / "bundles").glob("*/configs/multi_gpu.json")]


@pytest.mark.parametrize("overlay", sorted(OVERLAYS), ids=lambda path: path.name)
def test_what_a_training_with_an_overlay_leaves_is_allowed(overlay):
    train = ConfigParser.load_config_files([str(overlay.with_name("train.json")), str(overlay)])
    if "foreground" in train:  # a run's own config has the numbers that it found in place of what computes them
        train["foreground"] = {"low": 0.0, "high": 1.0, "mean": 0.5, "std": 0.2}
    check(inference_config(train, overlay.with_name("inference.json")))


ATTACKS = {
    "import": "$import os",
    "a package that starts alike": "$import torchvision",
    "import twice": "$import torch, subprocess",
    "import by hand": "$__import__('os').system('x')",
    "function of a package": "$torch.hub.load('x', 'y')",
    "unpickling": "$torch.load('x')",
    "unpickling by numpy": "$np.load('x', allow_pickle=True)",
    "module inside a module": "$monai.data.image_reader.np.load('x')",
    "module inside torch": "$torch.os.system('x')",
    "inner attributes": "$[c for c in ().__class__.__bases__]",
    "globals of a function": "$torch.nn.Module.forward.__globals__",
    "lambda": "$(lambda: 1)()",
    "walrus": "$(x := 1)",
    "getattr": "$getattr(@x, 'y')",
    "open": "$open('x').read()",
    "format": "$'{0.__class__}'.format(1)",
    "a call of what may be anything": "$@x('y')",
    "a call within a loop": "$[f('x') for f in @x]",
    "map over a method": "$map(@x.y, ['a'])",
    "a key function": "$sorted([1], key=@x.y)",
    "a name that shadows a module": "$[monai for monai in [1]] and monai.bundle.run('x')",
    "a module through a choice": "$(torch if 1 else 2).hub.load('x')",
    "another bundle": "$monai.bundle.run('x')",
    "a huge number": "$9**9**9",
    "a text that a reference ends": '$\'@x {__import__("os").system("x")}\'',
    "a reference without a name": "$[0][@x::('text')]",
    "what stands for references": "$__local_refs['x'].run()",
    "a method that is only named": "$(@x / '/a/path').write_text",
    "a method of a text": "$'text'.format",
    "a part of a class": "$torch.nn.Module.forward",
    "a function under a builtin's name": "$import torch.utils.collect_env as sorted",
    "a function by itself": "$from torch.utils.collect_env import run",
    "two names at once": "$import torch.hub as a, torch.nn as b",
    "nonsense": "$1 +",
    "a target outside": {"_target_": "os.system", "command": "x"},
    "a builtin target": {"_target_": "builtins.eval", "x": "1"},
    "a function as target": {"_target_": "torch.load", "f": "x"},
    "a module of a module as target": {"_target_": "monai.data.image_reader.np.load", "file": "x"},
    "a computed target": {"_target_": "$@x"},
    "a target by reference": {"_target_": "@x"},
    "a parser as target": {"_target_": "monai.bundle.ConfigParser", "config": {}},
    "a debugger": {"_target_": "Compose", "_mode_": "debug"},
    "a reader that may unpickle": {"_target_": "LoadImaged", "keys": "a"},
    "a cache that may unpickle": {"_target_": "PersistentDataset"},
    "a writer elsewhere": {"_target_": "pipeline.transforms.save_image.AtomicSaveImaged", "output_dir": "/etc"},
    "a table under any name": {"_target_": "SaveClassificationd", "keys": "x", "filename": "../x"},
    "a server elsewhere": {"_target_": "MLFlowHandler", "tracking_uri": "http://evil"},
    "a network that downloads": {"_target_": "monai.networks.nets.ResNetFeatures", "pretrained": True},
    "an inner class": {"_target_": "monai.data.thread_buffer._ProcessThread", "target": "x"},
    "a training": {"_target_": "SupervisedTrainer"},
    "a mistyped name": {"_target_": "SimpleInfererr"},
    "a missing class": {"_target_": "monai.transforms.NoSuchThing"},
    "a condition": {"_target_": "Compose", "_disabled_": "$__import__('os')"},
    "a function given to a class": {"_target_": "Lambda", "func": "$torch.hub.load"},
    "a number without end": "$sum(range(1000000000000))",
    "a list without end": "$[0]*99999999999",
    "a width without end": "$f'{1:>9999999999}'",
    "a width without end, as of old": "$'%9999999999d' % 1",
    "brackets within brackets": "$" + "-" * 5000 + "1",
    "a breakpoint": {"_target_": "Compose", "_debug_": True},
    "states in any folder": {"_target_": "monai.optimizers.LearningRateFinder", "cache_dir": "/etc"},
    "an array in any folder": {"_target_": "ZarrAvgMerger", "store": "/etc/x"},
    "an import by a word": {"_target_": "PatchInferer", "merger_cls": "numpy.f2py.__main__.main"},
    "a slide from anywhere": {"_target_": "WSISlidingWindowSplitter", "patch_size": 8},
    "a compiler": {"_target_": "monai.networks.layers.gmm.GaussianMixtureModel", "channel_count": 1},
    "a text encoder that downloads": {"_target_": "monai.networks.blocks.TextEncoder", "out_channels": 2},
    "weights that are downloaded": {"_target_": "monai.networks.blocks.FCN", "pretrained": True},
}


def test_entries_that_double_one_another_are_refused():
    config = {"a0": [0] * 10, **{f"a{n + 1}": f"$@a{n} + @a{n}" for n in range(40)}, "b": "@a40"}
    with pytest.raises(InputError, match=r"entry 'a40' is not run, for it is too large") as caught:
        check(config)
    assert "entry 'a9' is" not in str(caught.value)


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=list(ATTACKS))
def test_each_attack_is_refused_with_its_place(attack):
    with pytest.raises(InputError, match=r"entry 'a#0#b[#\w]*' is not run.*--trust"):
        check({"a": [{"b": attack}], "x": 1})


RUN_WHEN_IMPORTED = (
    *("numpy.f2py.__main__", "numpy._core.tests.test_abc", "numpy.testing.print_coercion_tables"),
    *("torch.testing._internal.common_utils", "torch.utils.benchmark.examples.fuzzer", "pipeline.__main__"),
    *("monai.bundle.__main__", "monai.apps.auto3dseg.__main__", "ignite.contrib", "this", "antigravity"),
)


@pytest.mark.parametrize("module", RUN_WHEN_IMPORTED)
def test_nothing_is_imported_to_find_out_what_it_is(module):
    check({"a": {"_target_": "Compose"}, "b": "$torch.float16"})  # what every check loads
    before = {name: id(loaded) for name, loaded in sys.modules.items()}
    for entry in (f"$import {module} as x", {"_target_": f"{module}.main"}, {"_target_": module}, f"${module}.main"):
        with pytest.raises(InputError, match=r"entry 'a' is not run"):
            check({"a": entry})
    assert {name: id(loaded) for name, loaded in sys.modules.items()} == before


def test_a_module_that_cannot_be_imported_is_named(monkeypatch):
    def fails(name):
        raise OSError("a library is missing")

    monkeypatch.setattr("pipeline.trust.import_module", fails)
    with pytest.raises(InputError, match=r"entry 'a' is not run, for its module cannot be imported \(OSError: a lib"):
        check({"a": {"_target_": "torch.nn.ReLU"}})


def test_every_import_that_may_be_named_is_there():
    for module in IMPORTS:
        check({"imports": [f"$import {module} as x"]})
        import_module(module)


def test_no_class_that_may_be_built_asks_for_a_file_or_an_address():
    """But for readers and writers of images, the loader of weights, and what a batch is made of."""
    words = {"file", "filename", "path", "cache_dir", "store", "url", "uri", "pretrained", "model_name", "program"}
    for module in (*CLASSES, *HOLDERS):
        import_module(module)
    modules = [name for name in list(sys.modules) if any(f"{name}.".startswith(f"{one}.") for one in CLASSES)]
    classes = {found for name in modules for found in vars(sys.modules[name]).values() if isinstance(found, type)}
    allowed = [found for found in classes if found.__module__ in modules and _named(_full(found)) is None]
    allowed = [found for found in allowed if not issubclass(found, Exception)]
    assert len(allowed) > 400
    asking = {_full(found) for found in allowed if words & {*signature(found.__init__).parameters}}
    assert asking == set()


def _full(found):
    return f"{found.__module__}.{found.__qualname__}"


@pytest.mark.parametrize(
    "text", ["$@imports::0.run('x')", "$@imports#0.run('x')", "$@imports[0].run('x')", "@imports#0"]
)
def test_an_import_is_no_value(text):
    """A module that an allowed import has brought would give away all its functions."""
    with pytest.raises(InputError, match=r"entry 'a' is not run, for '@imports.*' is no value"):
        check({"imports": ["$import monai.transforms as b"], "a": text})


def test_a_macro_brings_no_import_as_a_value():
    with pytest.raises(InputError, match="'@b' is no value"):
        check({"imports": ["$import monai.transforms as b"], "b": "%imports#0", "c": "$@b.run('x')"})


def test_all_refused_entries_are_named_at_once():
    with pytest.raises(InputError, match=r"(?s)entry 'a'.*entry 'b'") as caught:
        check({"a": "$open('x')", "b": {"_target_": "os.system"}, "c": "$len([1])"})
    assert "entry 'c'" not in str(caught.value)


@pytest.mark.parametrize(
    "entry",
    [
        "$[torch.float16, torch.channels_last]",
        "$'cuda' if torch.cuda.is_available() else 'cpu'",
        "$[*filter(None, @x), *map(str, [1])]",
        "$[length // 2 for length in @x]",
        '$f"{len(@x)} cases"',
        "$monai.transforms.Compose",
        "$[step for step in @x.transforms]",
        "$[0] * len(@x) + [2 * n + 7 % 3 for n in range(1000)]",
        {"_target_": "torch.nn.ReLU"},
        {"_target_": "CacheDataset", "data": []},
        {"_target_": "pipeline.transforms.save_image.AtomicSaveImaged", "output_dir": "@output_dir"},
        "costs $5",
    ],
    ids=str,
)
def test_what_computes_and_builds_is_allowed(entry):
    check({"x": [1], "a": entry})


def bundle(folder, **entries):
    """A copy of the 2D bundle whose inference config holds other entries."""
    config = ConfigParser.load_config_file(str(ROOT / "bundles" / "unet" / "configs" / "inference.json"))
    (folder / "configs").mkdir(parents=True)
    ConfigParser.export_config_file({**config, **entries}, str(folder / "configs" / "inference.json"))
    return folder


def test_predict_runs_no_code_of_a_bundle_from_elsewhere_but_with_trust(tmp_path):
    mark = tmp_path / "mark"
    evil = bundle(tmp_path / "evil", initialize=[f"$__import__('pathlib').Path('{mark}').touch()"])
    with pytest.raises(InputError, match="'initialize#0' is not run"):
        predict_with_bundle(evil, str(tmp_path), str(tmp_path / "out"))
    assert not mark.exists()
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no image"):
        predict_with_bundle(evil, str(tmp_path / "empty"), str(tmp_path / "out"), trust=True)
    assert mark.exists()


def test_macros_of_files_that_lead_to_files_run_nothing(tmp_path):
    evil, mark = tmp_path / "evil", tmp_path / "mark"
    bundle(evil, initialize=[f"%{evil}/configs/a.json::x"])
    (evil / "configs" / "a.json").write_text(json.dumps({"x": f"%{evil}/configs/b.json::y"}))
    (evil / "configs" / "b.json").write_text(json.dumps({"y": f"$__import__('pathlib').Path('{mark}').touch()"}))
    with pytest.raises(InputError, match="'initialize#0' is not run"):
        predict_with_bundle(evil, str(tmp_path), str(tmp_path / "out"))
    assert not mark.exists()


def test_a_bundles_logging_writes_no_file(tmp_path):
    evil, mark = bundle(tmp_path / "evil", initialize=[]), tmp_path / "mark"
    text = (ROOT / "bundles" / "unet" / "configs" / "logging.conf").read_text()
    written = text.replace("class=StreamHandler", "class=FileHandler").replace("(sys.stderr,)", f"('{mark}', 'a')")
    (evil / "configs" / "logging.conf").write_text(written)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no image"):
        predict_with_bundle(evil, str(tmp_path / "empty"), str(tmp_path / "out"))
    assert not mark.exists()


def test_the_packages_logging_is_that_of_its_bundles():
    own = (ROOT / "pipeline" / "logging.conf").read_text()
    assert {(ROOT / "bundles" / name / "configs" / "logging.conf").read_text() for name in BUNDLES} == {own}


def test_measuring_the_precision_runs_no_code_either(tmp_path):
    evil = bundle(tmp_path / "evil", in_channels=f"$__import__('pathlib').Path('{tmp_path / 'mark'}').touch() or 1")
    with pytest.raises(InputError, match="'in_channels' is not run"):
        prove(evil, str(tmp_path), "cpu")
    assert not (tmp_path / "mark").exists()
