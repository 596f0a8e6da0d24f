"""How a run ends: finished, and without what only an unfinished one needs; or asked to stop, and saved."""

import shutil

import pytest
import torch

from overproof.commands import train as verb
from overproof.commands.clean import DROPPED
from overproof.commands.train import iter_train, train, training
from overproof.errors import InputError
from overproof.runs.folder import Run
from overproof.stopping import Stop, Stopped
from overproof.training.checkpoint import checkpoints, load_checkpoint
from overproof.training.loop import Loop


def without_seconds(records):
    return [{key: value for key, value in record.items() if "seconds" not in key} for record in records]


def assert_same(run, whole):
    for name in ("model", "last"):
        assert run.model(name)[1] == whole.model(name)[1]
    assert without_seconds(run.metrics()) == without_seconds(whole.metrics())


def contents(folder):
    return {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}


class TestFinished:
    def test_the_checkpoint_goes_and_the_results_stay(self, toy, finished, tmp_path):
        run = train(toy(), tmp_path / "run", device="cpu")
        names = {file.name for file in finished().folder.iterdir()}  # it was asked to keep its own
        assert {file.name for file in run.folder.iterdir()} == names - {"checkpoint"}
        assert run.model("last")[1] == finished().model("last")[1]

    def test_then_resuming_changes_nothing_and_another_recipe_is_told_why(self, toy, tmp_path):
        run = train(toy(), tmp_path / "run", device="cpu")
        before = contents(run.folder)
        (said,) = iter_train(toy(), run.folder, resume=True, device="cpu")
        assert said.lines == (f"{run.folder}: this run is finished ({DROPPED})",)
        with pytest.raises(InputError) as caught:
            train(toy("training.epochs=3"), run.folder, resume=True, device="cpu")
        assert str(caught.value) == f"{run.folder}: it cannot be extended from 2 to 3 epochs: {DROPPED}"
        with pytest.raises(InputError) as caught:
            train(toy("seed=3"), run.folder, resume=True, device="cpu")
        assert str(caught.value).endswith(f"(seed: 0 -> 3); use the old recipe or another --out ({DROPPED})")
        assert contents(run.folder) == before

    def test_one_that_was_kept_stays_when_it_is_resumed(self, toy, finished, tmp_path):
        shutil.copytree(finished().folder, tmp_path / "run")
        train(toy(), tmp_path / "run", resume=True, device="cpu")
        assert len(checkpoints(Run(tmp_path / "run").checkpoints)) == 2


def asked_at(monkeypatch, stop, epoch, batch):
    """Let a signal come while a batch is learnt from."""
    learn = Loop._learn

    def learning(loop, one):
        if (loop.epoch, loop.batch) == (epoch, batch):
            stop.ask(15)
        learn(loop, one)

    monkeypatch.setattr(Loop, "_learn", learning)


class TestStopped:
    """Whoever is asked to end saves after the step that is being taken."""

    EDITS = ("training.averaging={kind: ema, decay: 0.9}", "augment.crop=1")

    @pytest.fixture(autouse=True)
    def _no_speed_decides(self, monkeypatch):
        """An epoch of these is learnt again in no time, on any machine: a signal waits for its validation."""
        monkeypatch.setattr(verb, "_LOST_SECONDS", 1e9)

    @pytest.mark.parametrize(
        ("epoch", "batch", "where"),
        [(0, 0, "batch 1 of 11 in epoch 1 of 2"), (1, 4, "batch 5 of 11 in epoch 2 of 2"), (0, 10, "epoch 1 of 2")],
    )
    def test_it_is_saved_and_goes_on_to_the_bit(self, toy, finished, tmp_path, monkeypatch, epoch, batch, where):
        stop, run = Stop(), Run(tmp_path / "run")
        asked_at(monkeypatch, stop, epoch, batch)
        with pytest.raises(Stopped) as caught:
            list(training(toy(*self.EDITS), run.folder, device="cpu", stop=stop))
        assert caught.value.number == 15
        assert (
            str(caught.value) == f"stopped after {where}, which is saved in {run.checkpoints}; continue with --resume"
        )
        position = load_checkpoint(run.checkpoints)[0]["position"]
        assert 11 * position["epoch"] + position["batch"] == 11 * epoch + batch + 1
        monkeypatch.undo()
        torch.manual_seed(7)
        train(toy(*self.EDITS), run.folder, resume=True, device="cpu")
        assert_same(run, finished(*self.EDITS))

    def test_in_the_last_step_the_run_is_finished_as_ever(self, toy, finished, tmp_path, monkeypatch):
        stop, whole = Stop(), finished()  # which is trained before anybody asks, whatever ran before this test
        asked_at(monkeypatch, stop, 1, 10)
        list(training(toy(), tmp_path / "run", device="cpu", stop=stop))
        assert Run(tmp_path / "run").model("last")[1] == whole.model("last")[1]

    @pytest.mark.parametrize("epoch", [1, 2])
    def test_while_an_epoch_is_validated_it_ends_at_once_and_goes_on_to_the_bit(
        self, toy, finished, tmp_path, monkeypatch, epoch
    ):
        stop, run, validate = Stop(), Run(tmp_path / "run"), verb.validate

        def interrupted(network, images, recipe, number, *rest):
            if number == epoch:
                stop.ask(15)
                pytest.fail("it was waited for")
            return validate(network, images, recipe, number, *rest)

        monkeypatch.setattr(verb, "_LOST_SECONDS", 0.0)
        monkeypatch.setattr(verb, "validate", interrupted)
        with pytest.raises(Stopped) as caught:
            list(training(toy(*self.EDITS), run.folder, device="cpu", stop=stop))
        kept = f"it is saved in {run.checkpoints}; continue with --resume"
        assert str(caught.value) == f"stopped while epoch {epoch} was validated; {kept}"
        assert len(run.metrics()) == epoch - 1
        monkeypatch.undo()
        torch.manual_seed(7)
        train(toy(*self.EDITS), run.folder, resume=True, device="cpu")
        assert_same(run, finished(*self.EDITS))
        assert not run.checkpoints.exists()

    def test_what_took_no_time_to_learn_is_not_saved_before_it_is_validated(self, toy, tmp_path, monkeypatch):
        """A validation is then short as well, and a signal is noted until its end."""
        stop, validate = Stop(), verb.validate

        def asked(*arguments):
            stop.ask(15)
            return validate(*arguments)

        monkeypatch.setattr(verb, "validate", asked)
        with pytest.raises(Stopped, match="stopped after epoch 1 of 2, which is saved"):
            list(training(toy(), tmp_path / "run", device="cpu", stop=stop))

    def test_before_the_first_step_there_is_nothing_to_wait_for(self, toy, tmp_path):
        stop = Stop()
        events = iter_train(toy(), tmp_path / "run", device="cpu", stop=stop)
        next(events)
        with pytest.raises(KeyboardInterrupt):
            stop.ask(15)
        events.close()
