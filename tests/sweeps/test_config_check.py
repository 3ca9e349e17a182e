import pytest
from discs import ROOT, UNET
from sweep_files import make_sweep, small

from pipeline.errors import InputError
from pipeline.handlers.case_scores import CaseScores
from pipeline.metrics.vrand import vrand_details
from pipeline.sweeps.config_check import check_config, score_names
from pipeline.sweeps.sweep_file import read_sweep


def check(folder, discs, **content):
    overrides = small(discs, **content.pop("overrides", {}))
    overrides = {key: value for key, value in overrides.items() if key not in content["space"]}
    return check_config(make_sweep(folder, overrides=overrides, **content), "sweep.yaml")


def test_a_sweep_that_the_bundle_knows_passes_and_gives_the_first_training(tmp_path, discs, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///somewhere.db")
    overrides = small(discs)
    del overrides["batch_size"]
    space = {"overlay": [["net_compact", "loss_ce"], None], "optimizer#lr": [0.1, 0.2], "batch_size": {"int": [1, 2]}}
    first = check_config(make_sweep(tmp_path, space=space, overrides=overrides, folds=[0, 1]), "sweep.yaml")
    assert first.parsed("mlflow").uri == "sqlite:///somewhere.db"
    assert first.parsed("mlflow").experiment == "discs"
    assert first.parsed("optimizer#lr") == 0.1
    assert not list(tmp_path.glob("runs"))  # nothing has begun


def test_all_that_the_bundle_would_refuse_is_said_at_once(tmp_path, discs):
    space = {
        "overlay": [None, "aug_none"],
        "optimiser#lr": [0.1],
        "optimizer#learnrate": [0.1],
        "accumulation_steps": [1, 0],
        "train#handlers#99#seed": [1],
        "network_def#channels#0#x": [1],
        "epocs": {"int": [1, 2]},
    }
    with pytest.raises(InputError, match="problems") as caught:
        check(tmp_path, discs, space=space)
    for words in (
        "unknown setting 'optimiser#lr': there is no 'optimiser'. Remedy: did you mean optimizer?",
        "unknown setting 'train#handlers#99#seed': there is no '99'",
        "unknown setting 'network_def#channels#0#x': nothing stands below 'network_def#channels#0'",
        "unknown setting 'epocs'. Remedy: did you mean epochs?",
    ):
        assert words in str(caught.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (
            {"space": {"overlay": ["net_papre"]}},
            "there is no overlay 'net_papre' in .*configs. Remedy: did you mean net_paper?",
        ),
        ({"space": {"optimizer#lrr": [0.1]}}, "takes no argument 'optimizer#lrr'. Remedy: did you mean lr?"),
        ({"space": {"val_interval": [1, 0]}}, "'val_interval' is 0. Remedy: give a whole number, 1 or more"),
        ({"space": {"loss": [{"lambda_ce": 2}]}}, "would replace the component"),
        (
            {"space": {"seed": [1]}, "folds": [0, 7]},
            r"data list 'discs' has no fold 7. Remedy: choose one of the folds \[0, 1\]",
        ),
        ({"space": {"fold": [0, 77]}}, r"data list 'discs' has no fold 77. Remedy: choose one of the folds \[0, 1\]"),
        (
            {"space": {"network_def#channels": [[4, 8], [4, "a"]]}},
            r'network_def#channels=\[4, "a"\] cannot be: TypeError: .*Remedy: give other values',
        ),
        (
            {"space": {"class_names": [["background", "cell"], ["a", "b", "c"]]}},
            "class_names is a, b, c, but the data list 'discs' has background, cell",
        ),
        ({"space": {"overlay": ["train"]}}, "train.json' is a config and no overlay"),
        ({"space": {"overlay": [None, "evaluate"]}}, "evaluate.json' is a config and no overlay"),
        (
            {"space": {"seed": [1]}, "metric": "val/mean_dise"},
            "there is no score 'val/mean_dise'. Remedy: did you mean val/mean_dice?",
        ),
    ],
)
def test_what_the_bundle_would_refuse_is_refused_before_the_first_trial(tmp_path, discs, content, words):
    with pytest.raises(InputError, match=words) as caught:
        check(tmp_path, discs, **content)
    assert "sweep.yaml" in str(caught.value)


CONFIGS = UNET / "configs"


@pytest.mark.parametrize(
    ("file", "words"),
    [
        (CONFIGS / "net_compact.yaml", "'config_file' describes no training: there is no 'train'.*train.json"),
        (CONFIGS / "evaluate.json", "'config_file' describes no training: there is no '"),
        ("env.sh", "env.sh' is no config: .*Remedy: name a JSON or YAML file"),
        ("torn.json", "torn.json' is no config: "),
        ("torn.yaml", "torn.yaml' is no config: "),
        ("words.yaml", "words.yaml' is no config: "),
    ],
)
def test_a_file_that_is_no_training_is_named(tmp_path, file, words):
    for name in ("env.sh", "torn.json", "torn.yaml"):
        (tmp_path / name).write_text("a: {")
    (tmp_path / "words.yaml").write_text("- of\n- a list\n")
    with pytest.raises(InputError, match=words):
        check_config(make_sweep(tmp_path, config_file=str(tmp_path / file)), "sweep.yaml")


def test_what_nothing_reads_any_more_is_said_once(tmp_path, discs, caplog):
    space = {"learning_rate": [0.1, 0.2], "optimizer#lr": [0.1, 0.2], "batch_size": [1, 2]}
    check(tmp_path, discs, space=space)
    (said,) = [record.getMessage() for record in caplog.records if "nothing reads" in record.getMessage()]
    assert said.startswith("'learning_rate' changes nothing beside optimizer#lr=0.1, ")


def test_a_data_list_that_is_not_there_is_named(tmp_path, discs):
    with pytest.raises(InputError, match=r"no\.json"):
        check(tmp_path, discs, space={"seed": [1]}, overrides={"data_list": "no.json"})
    with pytest.raises(InputError, match=r"no\.json"):
        check(tmp_path, discs, space={"data_list": [str(discs / "discs.json"), "no.json"]})


def test_the_example_passes(monkeypatch):
    monkeypatch.chdir(ROOT)
    check_config(read_sweep("sweeps/example.yaml"), "sweeps/example.yaml")


@pytest.mark.parametrize("dims", [2, 3])
def test_scores_are_known_before_there_are_any(dims):
    plain = ["mean_dice", "dice/cell", "mean_iou", "iou/cell", "accuracy"]
    assert score_names(CaseScores(["background", "cell"]), dims) == plain
    distances = {"far": lambda truth, prediction, classes, spacing: [0.0] * classes}
    scores = CaseScores(
        ["background", "cell"], distances, {"sure": lambda truth, p: 1.0}, {"count": lambda truth, p: 2.0}
    )
    assert score_names(scores, dims) == [*plain, "mean_far", "far/cell", "sure", "count"]
    assert scores.rows == []


def test_the_score_of_a_stack_is_known_too():
    scores = CaseScores(["background", "cell"], probability_measures={"vrand": vrand_details})
    assert {"vrand", "vrand_own_threshold"} <= set(score_names(scores, 2))
