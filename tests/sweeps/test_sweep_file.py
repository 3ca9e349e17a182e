import pytest
from discs import ROOT
from sweep_files import TRAIN, make_sweep, write_sweep

from pipeline.datalists.datalist import load_data_list
from pipeline.errors import InputError
from pipeline.sweeps.sweep_file import read_sweep, without_passwords


def test_what_a_file_leaves_out_is_a_grid_of_the_configs_own_fold(tmp_path):
    file = write_sweep(tmp_path).rename(tmp_path / "mine.yaml")
    file.write_text(file.read_text().replace("name: tiny\n", ""))
    sweep = read_sweep(file)
    assert (sweep.name, sweep.sampler, sweep.pruner) == ("mine", ("grid", {}), ("none", {}))
    assert (sweep.trials, sweep.total, sweep.folds, sweep.seed) == (None, 6, (), 0)
    assert (sweep.metric, sweep.direction, sweep.storage) == ("val/mean_dice", "maximize", None)
    assert sweep.folder == tmp_path / "runs" / "mine"


def test_all_that_a_file_can_say(tmp_path):
    file = tmp_path / "full.yaml"
    file.write_text(
        f"""
        name: other
        config_file: [{TRAIN}]
        sampler: {{tpe: {{n_startup_trials: 3}}}}
        pruner: {{median: {{n_warmup_steps: 2}}}}
        trials: 9
        folds: [0, 2]
        metric: val/dice/cell
        direction: minimize
        seed: 5
        storage: sqlite:///x.db
        output_dir: {tmp_path}
        space: {{optimizer#lr: {{log: [1e-5, 1e-2]}}, overlay: [null, net_paper]}}
        overrides: {{epochs: 2, learning_rate: 1e-3, device: 1.5e+2}}
        """
    )
    sweep = read_sweep(file)
    assert (sweep.name, sweep.config_file) == ("other", (TRAIN,))
    assert (sweep.sampler, sweep.pruner) == (("tpe", {"n_startup_trials": 3}), ("median", {"n_warmup_steps": 2}))
    assert (sweep.trials, sweep.folds, sweep.metric, sweep.direction) == (9, (0, 2), "val/dice/cell", "minimize")
    assert (sweep.seed, sweep.storage) == (5, "sqlite:///x.db")
    assert sweep.space[0].ends() == [1e-5, 1e-2]
    assert sweep.overrides == {"epochs": 2, "learning_rate": 0.001, "device": 150.0}
    assert read_sweep(file, 4).total == 4


def test_a_space_with_fewer_points_than_trials_has_as_many_trials_as_points(tmp_path):
    assert make_sweep(tmp_path, sampler="random", trials=100).total == 6
    assert make_sweep(tmp_path, trials=4).total == 4


def test_only_the_number_of_trials_and_the_places_may_change_while_a_sweep_is_the_same(tmp_path):
    first = make_sweep(tmp_path)
    assert make_sweep(tmp_path, trials=3, output_dir="elsewhere").identity == first.identity
    for change in ({"space": {"batch_size": [1, 2]}}, {"seed": 1}, {"folds": [0]}, {"overrides": {"epochs": 3}}):
        assert make_sweep(tmp_path, **change).identity != first.identity


BAD = [
    ({"sampeler": "grid"}, "unknown key 'sampeler'. Remedy: did you mean sampler?"),
    ({"name": "a/b"}, "'name' is 'a/b'.*it names a folder"),
    ({"config_file": None}, "'config_file' is missing"),
    ({"config_file": []}, "'config_file' is missing"),
    ({"name": "a" * 201}, "'name' is longer than 200 letters. Remedy: shorten it"),
    ({"config_file": "no.json"}, "there is no file 'no.json'"),
    ({"config_file": [TRAIN, 3]}, "there is no file '3'"),
    ({"sampler": "tpee"}, "there is no sampler 'tpee'. Remedy: did you mean tpe?"),
    ({"sampler": ["tpe"]}, "there is no sampler"),
    ({"sampler": "random"}, "'trials' is missing, which the sampler random needs"),
    ({"sampler": {"grid": {"seed": 1}}}, "the sampler grid has no option 'seed'. Remedy: leave it out"),
    ({"sampler": {"tpe": {"seed": 1}}, "trials": 1}, "the sampler tpe has no option 'seed'"),
    ({"sampler": {"tpe": {"n_startup_trials": "x"}}, "trials": 1}, "tpe has n_startup_trials: 'x'.*Optuna takes: int"),
    ({"sampler": {"tpe": {"gamma": 3}}, "trials": 1}, "the sampler tpe has gamma: 3"),
    ({"pruner": {"median": {"n_startup_trials": True}}}, "the pruner median has n_startup_trials: True"),
    ({"pruner": "medain"}, "there is no pruner 'medain'. Remedy: did you mean median?"),
    ({"pruner": {"median": {"startup": 1}}}, "the pruner median has no option 'startup'.*n_startup_trials"),
    ({"pruner": {"median": {"n_startup_trials": -1}}}, "the pruner median refuses its options"),
    ({"pruner": "percentile"}, "the pruner percentile refuses its options.*percentile"),
    ({"trials": 0}, "'trials' is 0. Remedy: give a whole number, 1 or more"),
    ({"trials": "ten"}, "'trials' is 'ten'"),
    ({"folds": [0, 0]}, r"'folds' is \[0, 0\]. Remedy: give a list of different folds"),
    ({"folds": [-1]}, r"'folds' is \[-1\]"),
    ({"folds": "all"}, "'folds' is 'all'"),
    ({"metric": "mean_dice"}, "'metric' is 'mean_dice'. Remedy: give a validation score, such as val/mean_dice"),
    ({"direction": "up"}, "'direction' is 'up'. Remedy: say maximize or minimize"),
    ({"seed": True}, "'seed' is True"),
    ({"seed": 2**32}, "'seed' is 4294967296. Remedy: give a whole number from 0 to 2147483648"),
    ({"storage": 5}, "'storage' is 5"),
    ({"output_dir": ""}, "'output_dir' is ''"),
    ({"space": None}, "'space' is missing"),
    ({"space": {}}, "'space' is missing"),
    ({"space": [1]}, r"'space' is \[1\]. Remedy: say what to vary"),
    ({"overrides": [1]}, r"'overrides' is \[1\]"),
    ({"space": {"lr": {"log": [1, 2]}}}, "a grid has no end along 'lr'. Remedy: list its values"),
    ({"overrides": {"batch_size": 2}}, "'batch_size' stands in both space and overrides"),
    ({"overrides": {"run_name": "x"}}, "'run_name' is what the sweep gives each of its trials"),
    ({"space": {"output_dir": ["x"]}}, "'output_dir' is what the sweep gives"),
    ({"space": {"fold": [0, 1]}, "folds": [0]}, "'fold' is set beside 'folds'"),
]


@pytest.mark.parametrize(("content", "words"), BAD, ids=[str(content) for content, _ in BAD])
def test_what_is_wrong_with_a_file_is_named_with_its_remedy(tmp_path, content, words):
    file = write_sweep(tmp_path, **content)
    with pytest.raises(InputError, match=words) as caught:
        read_sweep(file)
    assert str(file) in str(caught.value)


def test_options_of_every_kind_that_a_method_takes_are_taken(tmp_path):
    sampler = {"tpe": {"group": False, "n_startup_trials": 3}}
    for pruner in ({"hyperband": {"max_resource": "auto"}}, {"percentile": {"percentile": 50}}):
        found = make_sweep(tmp_path, sampler=sampler, trials=1, pruner=pruner)
        assert [found.sampler, found.pruner] == [*sampler.items(), *pruner.items()]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("storage: postgresql://me:s3cret@host/db # mine", "storage: postgresql://me:***@host/db # mine"),
        ("'mlflow#uri': 'http://me:s3/cr&et@host:5000'", "'mlflow#uri': 'http://me:***@host:5000'"),
        ('storage: "mysql://h/db?user=me&password=s3cret&ssl=1"', 'storage: "mysql://h/db?user=me&password=***&ssl=1"'),
        ("storage: postgresql://me@host:5432/db", "storage: postgresql://me@host:5432/db"),
        ("uri: http://host:5000/a\nb: x@y", "uri: http://host:5000/a\nb: x@y"),
    ],
)
def test_passwords_are_not_shown(text, shown):
    assert without_passwords(text) == shown


def test_all_that_is_wrong_is_said_at_once(tmp_path):
    space = {"lr": 3, "batch_size": [], "epochs": {"int": [1, 2]}}
    content = {"smapler": "grid", "pruner": "x", "seed": -1, "space": space, "overrides": {"epochs": 3}}
    with pytest.raises(InputError, match="Sweep file: 6 problems") as caught:
        make_sweep(tmp_path, **content)
    for word in ("smapler", "there is no pruner", "'seed'", "'lr'", "'batch_size'", "'epochs' stands in both"):
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: [1", "is no YAML in line"),
        ("seed: 1\nseed: 2", "is no YAML in line 1: 'seed' stands twice"),
        ("just words", "is no mapping"),
        ("", "is no mapping"),
    ],
)
def test_a_file_that_is_no_sweep_file_is_refused(tmp_path, text, words):
    file = tmp_path / "bad.yaml"
    file.write_text(text)
    with pytest.raises(InputError, match=words):
        read_sweep(file)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(InputError, match=r"no\.yaml': cannot be read"):
        read_sweep(tmp_path / "no.yaml")


def test_the_example_is_a_sweep(monkeypatch):
    monkeypatch.chdir(ROOT)
    sweep = read_sweep("sweeps/example.yaml")
    assert sweep.name == "example"
    assert [axis.key for axis in sweep.space] == ["overlay", "optimizer#lr", "batch_size"]


def test_the_example_has_the_cases_that_its_comparisons_need(monkeypatch):
    monkeypatch.chdir(ROOT)
    sweep = read_sweep("sweeps/example.yaml")
    cases = sum(len(load_data_list("data_lists/cells.json").select("validation", fold)) for fold in sweep.folds)
    # Every case better with one than with another is the least likely of 2^n signs, on either side; Holm's first step.
    assert 2 / 2**cases * (sweep.total - 1) < 0.05
