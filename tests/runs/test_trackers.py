import pytest

from overproof.commands.train import train, training
from overproof.errors import InputError
from overproof.runs import trackers as tracking
from overproof.runs.trackers import figures, track

RECORD = {
    "epoch": 3,
    "terms": {"adv": 1.5, "clean": 0.5},
    "learning_rate": 0.1,
    "validation": {"epoch": 3, "clean": 0.9, "robust": 0.4},
    "seconds": 2.0,
    "passes": {},
}


def scalars(folder):
    """Return what TensorBoard itself reads: name -> [(step, value)]."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder / "tensorboard"))
    found.Reload()
    return {name: [(event.step, event.value) for event in found.Scalars(name)] for name in found.Tags()["scalars"]}


@pytest.fixture
def tensorboard():
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")


def test_figures_are_flat_numbers():
    assert figures(RECORD) == {
        "terms/adv": 1.5,
        "terms/clean": 0.5,
        "validation/clean": 0.9,
        "validation/robust": 0.4,
        "learning_rate": 0.1,
        "seconds": 2.0,
    }
    assert "validation/clean" not in figures({**RECORD, "validation": None})


@pytest.mark.filterwarnings("ignore")  # what tensorboard's own imports deprecate
def test_tensorboard_holds_what_the_metrics_hold(tensorboard, toy, tmp_path):
    run = train(toy("trackers=[tensorboard]", "selection.every=2"), tmp_path / "run", device="cpu")
    found, metrics = scalars(run.folder), run.metrics()
    assert found["terms/label"] == [(epoch["epoch"], pytest.approx(epoch["terms"]["label"])) for epoch in metrics]
    assert found["learning_rate"] == [(one["epoch"], pytest.approx(one["learning_rate"])) for one in metrics]
    assert found["validation/robust"] == [(2, pytest.approx(metrics[1]["validation"]["robust"]))]
    assert run.recipe().trackers == ("tensorboard",)


@pytest.mark.filterwarnings("ignore")
def test_a_resumed_run_has_each_step_once(tensorboard, toy, tmp_path):
    recipe = toy("trackers=[tensorboard]", "training.epochs=3")
    for news in training(recipe, tmp_path / "run", device="cpu"):
        if news.progress.whole and news.progress.epoch == 2:
            break
    train(recipe, tmp_path / "run", resume=True, device="cpu")
    assert [step for step, _ in scalars(tmp_path / "run")["learning_rate"]] == [1, 2, 3]


def test_trackers_are_finished_whatever_happens(toy, tmp_path, monkeypatch):
    said = []

    class Spy:
        def store_init_configuration(self, values):
            said.append(values["training.epochs"])

        def log(self, values, step):
            said.append((step, values["terms/adv"]))

        def finish(self):
            said.append("finished")

    monkeypatch.setattr(tracking, "_start", lambda *_: Spy())
    monkeypatch.setattr(tracking, "find_spec", lambda name: name)
    with pytest.raises(RuntimeError), track(toy("trackers=[wandb]"), tmp_path, since=0) as tell:
        tell(RECORD)
        raise RuntimeError
    assert said == ["2", (3, 1.5), "finished"]


def test_nothing_is_written_without_trackers(toy, tmp_path):
    with track(toy(), tmp_path, since=0) as tell:
        tell(RECORD)
    assert list(tmp_path.iterdir()) == []


def test_a_tracker_that_is_not_installed_is_one_sentence_before_anything_is_written(toy, tmp_path, monkeypatch):
    monkeypatch.setattr(tracking, "find_spec", lambda _: None)
    with pytest.raises(InputError) as caught:
        train(toy("trackers=[wandb]"), tmp_path / "run", device="cpu")
    assert str(caught.value) == "trackers: 'wandb' is not installed; pip install wandb, or leave it out of trackers"
    assert not (tmp_path / "run").exists()


def test_a_tracker_that_cannot_start_is_one_sentence(toy, tmp_path, monkeypatch):
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS

    class Broken:
        def __init__(self, project, **_):
            raise OSError(f"no account for {project}")

    monkeypatch.setattr(tracking, "find_spec", lambda _: True)
    monkeypatch.setitem(LOGGER_TYPE_TO_CLASS, "mlflow", Broken)
    with pytest.raises(InputError, match=r"'mlflow' cannot be started \(no account for overproof"):
        train(toy("trackers=[mlflow]"), tmp_path / "run", device="cpu")
    assert not (tmp_path / "run").exists()


def test_an_unknown_tracker_is_refused_by_the_recipe(toy):
    with pytest.raises(InputError, match=r"cannot use 'tensorbord' \(did you mean 'tensorboard'"):
        toy("trackers=[tensorbord]")
