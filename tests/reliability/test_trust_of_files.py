"""Files from elsewhere are data: none of them runs code, leads to another file, or puts an element into a page."""

import ast
import io
import json
import os
import pickle
import re
import resource
import shutil
import zipfile
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import tifffile
import yaml
from bad_files import mask, voxels, write_volume
from discs import ROOT
from made_runs import made_run
from mlflow.tracking import MlflowClient
from monai.bundle.config_parser import CheckKeyDuplicatesYamlLoader
from test_data_figures import fingerprint

from pipeline.compare import compare, leaderboard
from pipeline.comparison.choice import Metric
from pipeline.comparison.comparison import compare_entries
from pipeline.comparison.comparison_page import comparison_page
from pipeline.comparison.entries import Entry
from pipeline.comparison.store import TrackedRun
from pipeline.data_report import write_report as write_data_report
from pipeline.datalists.case_findings import CaseFindings
from pipeline.datalists.check import Report
from pipeline.datalists.check_cache import CheckCache
from pipeline.datalists.datalist import Case, DataList, load_data_list
from pipeline.datalists.fingerprint import ClassVolume
from pipeline.errors import InputError
from pipeline.handlers.load_weights import to_safetensors
from pipeline.inference import predict_with_bundle
from pipeline.pages.viewer import ViewerVolume
from pipeline.report import changed_settings, write_report
from pipeline.slices import Slice, read_slices, write_slices
from pipeline.sweeps.sweep_file import read_sweep
from pipeline.volumes.reading import read_volume

# --- pickles ---------------------------------------------------------------------------------------------------------


class RunsCode:
    """What a pickle may hold: a call, made when it is read."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


@pytest.fixture
def attack(tmp_path):
    """A pickle, and a folder that is there once it was read."""
    mark = tmp_path / "the code ran"
    content = pickle.dumps(RunsCode(mark))
    pickle.loads(content)
    assert mark.is_dir(), "or the test shows nothing"
    mark.rmdir()
    return content, mark


@pytest.fixture
def batch_input(tmp_path):
    """A folder of one volume."""
    (tmp_path / "in").mkdir()
    return write_volume(tmp_path / "in" / "a.nii.gz", voxels()).parent


@pytest.fixture
def bundle(threshold, tmp_path):
    """A bundle of its own, to spoil."""
    return shutil.copytree(threshold[3], tmp_path / "bundle")


@pytest.mark.parametrize("name", ["model.pt", "model.safetensors"])
def test_weights_that_hold_code_run_nothing(predict, bundle, batch_input, attack, name):
    content, mark = attack
    (bundle / "models" / "model.pt").unlink()
    (bundle / "models" / name).write_bytes(content)
    batch = predict(batch_input, bundle=bundle)
    assert f"{name}': the file cannot be read as weights: it is damaged, or holds more than tensors" in str(batch.error)
    assert not mark.exists()


def test_weights_as_safetensors_predict_what_the_pickle_predicts(predict, bundle, batch_input, tmp_path):
    predict(batch_input, out=tmp_path / "by the pickle", bundle=bundle)
    to_safetensors(bundle)
    (bundle / "models" / "model.pt").unlink()
    batch = predict(batch_input, out=tmp_path / "without", bundle=bundle)
    assert batch.done == {"a"}
    ours, theirs = (read_volume(tmp_path / out / "a.nii.gz", 3).array for out in ("without", "by the pickle"))
    np.testing.assert_array_equal(ours, theirs)
    assert ours.any()
    again = predict(batch_input, out=tmp_path / "without", bundle=bundle, resume=True)
    assert again.done == {"a"}


def test_a_checkpoint_that_holds_code_runs_nothing(run_bundle, tmp_path, attack):
    content, mark = attack
    (tmp_path / "runs" / "a" / "checkpoints").mkdir(parents=True)
    (tmp_path / "runs" / "a" / "checkpoints" / "last.pt").write_bytes(content)
    (tmp_path / "runs" / "a" / "run.json").write_text(json.dumps({"data_list": "discs"}))
    with pytest.raises(InputError, match=r"last.pt': the file cannot be read as a checkpoint"):
        run_bundle("training", "train.json", run_name="a", resume=True)
    assert not mark.exists()


def in_slices(content, mark, folder):
    square = np.zeros((2, 2), np.uint8)
    write_slices(folder / "sound.npz", {"a": Slice(0.5, square, square, square)})
    with np.load(folder / "sound.npz") as archive:
        arrays = dict(archive)
    for name in arrays:  # each in turn is a pickle
        buffer = io.BytesIO()
        np.savez(buffer, allow_pickle=True, **{**arrays, name: np.array([RunsCode(mark)], dtype=object)})
        assert read_slices(buffer.getvalue()) == {}
    assert read_slices(content) == {}
    assert set(read_slices((folder / "sound.npz").read_bytes())) == {"a"}


def in_a_cache_of_checks(content, mark, folder):
    case, cache = Case("a", "a.nii.gz"), CheckCache("discs", folder)
    cache.put(case, "key", CaseFindings())
    cache.save()
    assert CheckCache("discs", folder).get(case, "training", "key") is not None
    (file,) = Path(os.environ["XDG_CACHE_HOME"]).rglob("checks/*.json")
    file.write_bytes(content)
    assert CheckCache("discs", folder).get(case, "training", "key") is None


def in_a_data_list(content, mark, folder):
    (folder / "list.json").write_bytes(content)
    with pytest.raises(InputError, match=r"list\.json"):
        load_data_list(folder / "list.json")


@pytest.mark.parametrize("place", [in_slices, in_a_cache_of_checks, in_a_data_list])
def test_a_pickle_in_place_of_what_is_read_runs_nothing(place, attack, tmp_path):
    content, mark = attack
    place(content, mark, tmp_path)
    assert not mark.exists()


def test_a_pickle_in_place_of_a_batchs_records_runs_nothing(predict, bundle, batch_input, attack):
    content, mark = attack
    (bundle / "models" / "precision.json").write_bytes(content)
    out = predict(batch_input, bundle=bundle).out
    records = [file for file in out.rglob("*.json") if file.name != "summary.json"]
    assert records
    for file in (*records, out / "summary.json"):
        file.write_bytes(content)
    assert predict(batch_input, bundle=bundle, resume=True).done == {"a"}
    assert all(json.loads(file.read_bytes().splitlines()[0])["case"] == "a" for file in records), "predicted again"
    assert not mark.exists()


# --- what the package calls ------------------------------------------------------------------------------------------

FORBIDDEN = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal", "tarfile"}
FORBIDDEN |= {"xml", "lxml", "defusedxml", "xmlrpc"}
SAFELY = {  # what may be called in one way only, as the last part of the words before the bracket
    "torch.load": "weights_only=True",
    "np.load": "allow_pickle=False",
    "numpy.load": "allow_pickle=False",
}
NEVER = {"eval", "exec", "compile", "__import__", "shutil.unpack_archive", "os.system", "os.popen", "pd.read_pickle"}
NEVER |= {"zipfile.ZipFile", "zipfile.PyZipFile", "yaml.unsafe_load", "yaml.full_load", "yaml.load_all", "np.fromregex"}


def harms(source):
    """The calls and imports of a program by which a file could run code or be written outside of a folder."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            yield from (name for name in names if name.split(".")[0] in FORBIDDEN)
            if isinstance(node, ast.ImportFrom) and node.module in ("zipfile", "yaml", "torch", "numpy"):
                yield from (f"{node.module}.{alias.name}" for alias in node.names if alias.name in ("load", "ZipFile"))
        elif isinstance(node, ast.Call):
            called, given = ast.unparse(node.func), [ast.unparse(keyword) for keyword in node.keywords]
            if called in NEVER or called.endswith((".extractall", ".extract", ".unpack_archive")):
                yield called
            if called in SAFELY and SAFELY[called] not in given:
                yield f"{called} without {SAFELY[called]}"
            if called == "yaml.load" and ast.unparse(node.args[-1]) != "_Loader":
                yield "yaml.load"
            if "shell=True" in given:
                yield f"{called} with a shell"


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "from joblib import load",
        "import xml.etree.ElementTree as ET",
        "from zipfile import ZipFile",
        "zipfile.ZipFile(file)",
        "archive.extractall(folder)",
        "shutil.unpack_archive(file)",
        "torch.load(file)",
        "torch.load(file, weights_only=False)",
        "np.load(file)",
        "np.load(file, allow_pickle=True)",
        "yaml.load(text, yaml.Loader)",
        "yaml.unsafe_load(text)",
        "eval(text)",
        "subprocess.run(text, shell=True)",
    ],
)
def test_what_a_program_could_do_with_a_file_is_found(line):
    assert list(harms(f"def f():\n    {line}"))


def test_the_package_unpickles_unpacks_and_evaluates_nothing():
    files = sorted((ROOT / "pipeline").rglob("*.py"))
    assert len(files) > 100
    assert {str(file): found for file in files if (found := list(harms(file.read_text())))} == {}


def test_an_archive_is_no_bundle_and_is_not_unpacked(batch_input, tmp_path):
    with zipfile.ZipFile(tmp_path / "bundle.zip", "w") as archive:
        archive.writestr("configs/inference.json", "{}")
        archive.writestr("../escaped", "x")
        archive.writestr(f"{tmp_path}/escaped", "x")
    before = set(tmp_path.rglob("*"))
    with pytest.raises(InputError, match="this folder is no bundle"):
        predict_with_bundle(tmp_path / "bundle.zip", str(batch_input), str(tmp_path / "out"))
    assert set(tmp_path.rglob("*")) == before
    assert not (tmp_path.parent / "escaped").exists()


# --- YAML and XML ----------------------------------------------------------------------------------------------------

YAML_CALLS = ("!!python/object/apply:os.mkdir ['{mark}']", "!!python/object/new:os.mkdir ['{mark}']")


@pytest.mark.parametrize("call", YAML_CALLS)
def test_yaml_that_calls_a_function_calls_nothing(call, threshold, batch_input, tmp_path):
    mark, text = tmp_path / "mark", f"learning_rate: {call}\n".replace("{mark}", str(tmp_path / "mark"))
    yaml.load(text, yaml.UnsafeLoader)
    assert mark.is_dir(), "or the test shows nothing"
    mark.rmdir()
    (tmp_path / "file.yaml").write_text(text)
    with pytest.raises(InputError, match="could not determine a constructor"):
        read_sweep(tmp_path / "file.yaml")
    with pytest.raises((InputError, yaml.YAMLError), match="could not determine a constructor"):
        predict_with_bundle(threshold[3], str(batch_input), str(tmp_path / "out"), [str(tmp_path / "file.yaml")])
    assert not mark.exists()
    assert issubclass(CheckKeyDuplicatesYamlLoader, yaml.SafeLoader), "MONAI's, which reads configs and overlays"


OME = """<?xml version="1.0"?>{entities}<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" {own}><Image
ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="uint8" SizeX="8" SizeY="8" SizeC="1" SizeZ="{pages}"
SizeT="1"><Channel ID="Channel:0:0" SamplesPerPixel="1"/>{data}</Pixels></Image>{rest}</OME>"""
PAGE = '<TiffData FirstZ="{number}" IFD="0" PlaneCount="1"><UUID FileName="{file}">urn:uuid:{uuid}</UUID></TiffData>'


def write_ome(file, value, pages, **parts):
    described = OME.format(
        **{"entities": "", "own": "", "pages": len(pages), "data": "".join(pages), "rest": "", **parts}
    )
    tifffile.imwrite(file, np.full((8, 8), value, np.uint8), description=described, metadata=None)


@pytest.mark.parametrize("is_a_stack", [False, True])
def test_a_tiff_gets_no_page_of_another_file(tmp_path, is_a_stack):
    """Whose pixels would come out as this case's, from any folder that the user can read."""
    (tmp_path / "secret").mkdir()
    (tmp_path / "in").mkdir()
    write_ome(tmp_path / "secret" / "s.ome.tif", 77, [PAGE.format(number=0, file="s.ome.tif", uuid="2")])
    own = [PAGE.format(number=0, file="a.ome.tif", uuid="1")] if is_a_stack else []
    pages = [*own, PAGE.format(number=len(own), file="../secret/s.ome.tif", uuid="2")]
    write_ome(tmp_path / "in" / "a.ome.tif", 5, pages, own='UUID="urn:uuid:1"')
    if is_a_stack:
        with tifffile.TiffFile(tmp_path / "in" / "a.ome.tif") as stock:
            assert set(np.unique(stock.series[0].asarray())) == {5, 77}, "or the test shows nothing"
    with pytest.raises(InputError, match=r"a\.ome\.tif': its OME metadata name other files"):
        read_volume(tmp_path / "in" / "a.ome.tif", 3 if is_a_stack else 2)


def test_a_tiff_whose_pages_are_its_own_is_read(tmp_path):
    write_ome(tmp_path / "a.ome.tif", 5, [PAGE.format(number=0, file="b.ome.tif", uuid="1")], own='UUID="urn:uuid:1"')
    assert set(np.unique(read_volume(tmp_path / "a.ome.tif", 2).array)) == {5}


def test_entities_in_the_words_of_a_tiff_grow_into_nothing(tmp_path):
    """Ten levels of ten: 10^10 times "lol"."""
    levels = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 11))
    entities = f'<!DOCTYPE lol [<!ENTITY l0 "lol">{levels}]>'
    write_ome(tmp_path / "a.ome.tif", 5, [], entities=entities, rest="<Image>&l10;</Image>")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert set(np.unique(read_volume(tmp_path / "a.ome.tif", 2).array)) == {5}
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000, "KiB"


@pytest.mark.parametrize("place", ["../secret/s.raw", "sub/../../secret/s.raw", "{absolute}"])
def test_a_metaimage_gets_no_voxels_from_outside_of_its_folder(tmp_path, place):
    (tmp_path / "secret").mkdir()
    (tmp_path / "in" / "sub").mkdir(parents=True)
    file = write_volume(tmp_path / "in" / "a.mhd", voxels())
    secret = (tmp_path / "in" / "a.raw").replace(tmp_path / "secret" / "s.raw")
    named = place.format(absolute=secret)
    file.write_text(file.read_text().replace("a.raw", named))
    assert np.array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(file))).T, voxels()), "or the test shows nothing"
    with pytest.raises(InputError, match="outside of its folder"):
        read_volume(file, 3)
    shutil.copy(secret, tmp_path / "in" / "sub" / "a.raw")
    file.write_text(file.read_text().replace(named, "sub/a.raw"))
    np.testing.assert_array_equal(read_volume(file, 3).array[0], voxels())


@pytest.mark.parametrize("name", ["../../elsewhere", "/tmp/elsewhere", "..", "a\\b"])
def test_a_data_list_leads_no_run_out_of_its_folder(discs, tmp_path, name):
    content = json.loads((discs / "discs.json").read_text())
    (tmp_path / "list.json").write_text(json.dumps({**content, "name": name}))
    with pytest.raises(InputError, match=r"\$\.name: .* is not a name of a data set.*Remedy: give a name"):
        load_data_list(tmp_path / "list.json")


# --- pages -----------------------------------------------------------------------------------------------------------

EVIL = (
    "<script>alert(1)</script>",
    '"><img src=x onerror="alert(1)">',
    "</script><svg onload=alert(1)>",
    "' onmouseover='alert(1)",
    "{{7*7}}<!--",
)
PLAIN = tuple(f"name {number}" for number in range(len(EVIL)))


class Structure(HTMLParser):
    """The elements of a page with the names of their attributes, its texts, and its blocks of data."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.texts = [], []
        self.feed(text)
        self.close()
        blocks = re.findall(r'<script type="application/json"[^>]*>(.*?)</script>', text, re.DOTALL)
        self.data = [json.loads(block) for block in blocks]

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, [name for name, _ in attributes]))

    def handle_data(self, text):
        self.texts.append(text)

    def handle_comment(self, text):
        self.elements.append(("comment", text))


def rows(names):
    return [{"case": name, "mean_dice": 0.5, f"dice/{names[0]}": 0.5} for name in names]


def report_page(names, folder, **shown):
    settings = {
        "config": {name: name for name in names},
        "facts": {name: name for name in names},
        "changes": changed_settings({"a": names[0], names[1]: 1}, {"a": names[2]}),
        "history": [
            {"epoch": 1, "train/loss": 1.0, "train/learning_rate": 0.1, "val/mean_dice": 0.5, "time/epoch": 1.0}
        ],
    }
    classes = ["background", *names]
    scores = {"stack": {names[3]: 0.5}}
    made = write_report(
        folder, title=names[0], split="test", cases=rows(names), scores=scores, classes=classes, **settings, **shown
    )
    return made.read_text()


def report_of_pictures(names, folder):
    kept = {"image": voxels()[..., 0], "truth": mask()[..., 0], "prediction": mask(1)[..., 0]}
    pictures = {names[1]: [{"case": name, "score": 0.5, **kept} for name in names]}
    return report_page(names, folder, pictures=pictures)


def report_of_volumes(names, folder):
    volumes = [ViewerVolume.of(name, voxels(), mask(), mask(1), None, 0.5) for name in names]
    return report_page(names, folder, volumes=volumes)


def page_of_a_check(names, folder):
    found = [InputError(name, case=name, file=name, remedy=name) for name in names]
    classes = ("background", *names)
    volumes = tuple(ClassVolume(name, 9, 1) for name in classes)
    numbers = [fingerprint(name, classes=volumes, dtype=name) for name in names]
    data_list = DataList(
        name=names[0],
        description=names[1],
        licence=names[2],
        source=names[3],
        made_by=names[4],
        spatial_dims=3,
        label_kind="classes",
        classes=classes,
        channels=(names[0],),
        cases=tuple(Case(name, f"{name}.nii", fold=0) for name in names),
    )
    splits = dict.fromkeys(names, "training")
    report = Report(names[0], names[1], splits, 1, 1, tuple(numbers), tuple(found), tuple(found), unchanged=0)
    write_data_report(report, data_list, folder / "check.html")
    return (folder / "check.html").read_text()


def page_of_a_comparison(names, folder):
    entries = []
    for number, name in enumerate(names):
        run = TrackedRun(str(number), name, "1", "FINISHED", 0, "", {name: name, "a": name}, {"data_list.digest": "d"})
        entries.append(Entry(name, run, (run,), {case: {"mean_dice": 0.5 + 0.1 * number} for case in names}))
    square = np.zeros((4, 4), np.uint8)
    kept = {case: Slice(0.5, square, square, square) for case in names}
    histories = {str(number): [(1, 0.1), (2, 0.2)] for number in range(len(names))}
    found = compare_entries(entries, entries[0], Metric("mean_dice", "validation"), lambda entry, path: None)
    return comparison_page(found, names[0], histories, [kept, kept], names[1])


@pytest.mark.parametrize("page", [report_of_pictures, report_of_volumes, page_of_a_check, page_of_a_comparison])
def test_names_add_no_element_and_no_attribute_to_a_page(page, tmp_path):
    evil, plain = (Structure(page(names, tmp_path)) for names in (EVIL, PLAIN))
    assert evil.elements == plain.elements
    assert not [names for _, names in evil.elements if any(name.startswith("on") for name in names)]
    shown = " ".join(evil.texts) + json.dumps(evil.data)
    assert all(name in shown or json.dumps(name)[1:-1] in shown for name in EVIL), "as they are"
    if page is report_of_volumes:
        assert [[volume["case"] for volume in block["volumes"]] for block in evil.data] == [list(EVIL)]


# --- what compares runs, and what is shown in a terminal -------------------------------------------------------------

ODD = "=HYPERLINK(1)esc\x1b[2J\x1b]0;owned\x07"
IN_WORDS = r"=HYPERLINK(1)esc\x1b[2J\x1b]0;owned\x07"


@pytest.fixture
def two_runs(empty_store, tmp_path, monkeypatch):
    """Two runs with pictures of the same cases, the second under a name that moves a terminal."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    shutil.copyfile(empty_store, tmp_path / "mlflow.db")
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    square, files = np.zeros((8, 8), np.uint8), []
    for number, name in enumerate(("plain", ODD)):
        scores = {f"case_{case}": 0.5 + 0.1 * number + 0.01 * case for case in range(6)}
        slices = {case: Slice(0.5, square, square, square) for case in scores}
        run = made_run(client, "discs", name, scores, slices=slices)
        folder = client.get_run(run).info.artifact_uri.removeprefix("file://")
        files.append(Path(folder) / "evaluation" / "validation" / "slices.npz")
    return files


def changed_in(file, name):
    """Change what stands behind the n-th time that a part's name does: its data, or where the list says it begins."""
    content = bytearray(file.read_bytes())
    place = content.rindex(name) if name == b"cases.npy" else content.index(name) + 20
    content[place - 40 : place + 10] = bytes(byte ^ 0x5A for byte in content[place - 40 : place + 10])
    file.write_bytes(content)


def with_another(**parts):
    def change(file):
        with np.load(file) as archive:
            np.savez_compressed(file, **{**archive, **{name.replace("__", "/"): part for name, part in parts.items()}})

    return change


@pytest.mark.parametrize(
    "damage",
    [
        lambda file: changed_in(file, b"1/image.npy"),
        lambda file: changed_in(file, b"cases.npy"),
        with_another(**{"0__score": np.zeros(2)}),
        with_another(**{"0__prediction": np.zeros((9, 9), np.uint8)}),
        with_another(**{f"0__{name}": np.zeros((0, 3), np.uint8) for name in ("image", "truth", "prediction")}),
        with_another(**{"0__image": np.zeros((8000, 8000), np.uint8)}),
        lambda file: file.write_bytes(bytes(3_000_000)),
        lambda file: file.chmod(0) if os.geteuid() else file.write_bytes(b""),
    ],
    ids=["data", "list of parts", "score", "shape", "no pixels", "huge", "zeros", "not readable"],
)
def test_damaged_pictures_of_a_run_end_no_comparison(two_runs, damage, request, monkeypatch, caplog, tmp_path):
    damage(two_runs[1])
    kept = []
    if "[data]" not in request.node.name:  # drawing takes a second
        monkeypatch.setattr(
            "pipeline.compare.comparison_page", lambda *given: kept.extend(map(len, given[3])) or "page"
        )
    found = compare(output=tmp_path / "out")
    assert sorted(row.verdict for row in found.rows) == ["baseline", "better"]
    ours = [message for message in caplog.messages if "pictures" in message]
    assert [message.split(": ")[0] for message in ours] == [f"run '{IN_WORDS}'"]
    assert kept == [6, 0] if kept else (tmp_path / "out" / "comparison.html").stat().st_size > 10_000


def test_names_of_runs_and_cases_move_no_terminal(two_runs, predict, tmp_path, capsys, caplog):
    compare(output=tmp_path / "compared")
    leaderboard(output=tmp_path / "compared")
    (tmp_path / "in").mkdir()
    write_volume(tmp_path / "in" / f"{ODD}.nii.gz", voxels())
    (tmp_path / "in" / f"{ODD}-damaged.nii.gz").write_bytes(b"none")
    batch = predict(tmp_path / "in")
    assert batch.done == {ODD}, "under its own name"
    assert (batch.out / f"{ODD}.nii.gz").is_file()
    shown = capsys.readouterr()
    texts = [shown.out, shown.err, str(batch.error), *caplog.messages]
    tables = [file.read_text() for folder in (batch.out, tmp_path / "compared") for file in folder.glob("*.csv")]
    texts += tables
    assert sum(IN_WORDS in text for text in texts) > 5
    assert [text for text in texts if re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", text)] == []
    assert [cell for text in tables for cell in re.findall(r'(?:^|,)"?=', text, re.MULTILINE)] == []
