import json
import shutil

import pytest

from overproof.commands.train import TrainingEvent, iter_train, train
from overproof.errors import InputError
from overproof.recipe import differences
from overproof.runs.extending import extension, is_longer
from overproof.runs.summary import Beginning

CONSTANT = "training.schedule={kind: constant}"
MULTISTEP = "training.schedule={kind: multistep, milestones: [1, 3]}"
COSINE = "training.schedule={kind: cosine, floor: 0.1}"
TRIANGULAR = "training.schedule={kind: triangular, peak: 0.5}"


def longer(toy, *edits, epochs=4):
    return toy(*edits, f"training.epochs={epochs}")


def extended(recipe, folder, **options):
    """Return the lines and the warnings of a run that goes on."""
    events = list(iter_train(recipe, folder, device="cpu", resume=True, **options))
    lines = [line for event in events if isinstance(event, Beginning) for line in event.lines]
    return lines, [one for event in events if isinstance(event, TrainingEvent) for one in event.warnings]


def copied(run, folder):
    shutil.copytree(run.folder, folder)
    return folder


@pytest.mark.parametrize("schedule", [CONSTANT, MULTISTEP])
def test_a_schedule_without_a_length_gives_the_longer_run_to_the_bit(toy, finished, tmp_path, schedule):
    folder = copied(finished(schedule), tmp_path / "run")
    lines, warnings = extended(longer(toy, schedule), folder)
    kind = schedule.partition("kind: ")[2].strip("}").partition(",")[0]
    assert (
        f"the run is extended from 2 to 4 epochs; the {kind} schedule is that of a run of this length from the start"
        in lines
    )
    assert warnings == []
    whole = train(longer(toy, schedule), tmp_path / "whole", device="cpu")
    mine, theirs = (json.loads((one / "last.json").read_text()) for one in (folder, whole.folder))
    assert mine["digest"] == theirs["digest"]
    assert mine["recipe_digest"] == theirs["recipe_digest"]
    assert (mine["extended_from"], "extended_from" in theirs) == ([2], False)
    assert (folder / "recipe.yaml").read_text() == (whole.folder / "recipe.yaml").read_text()
    assert len((folder / "metrics.jsonl").read_text().splitlines()) == 4


@pytest.mark.parametrize(("schedule", "before", "after"), [(COSINE, "0.001", "0.0055"), (TRIANGULAR, "0", "0.01")])
def test_one_that_follows_the_length_warns_with_both_rates(toy, finished, tmp_path, schedule, before, after):
    folder = copied(finished(schedule), tmp_path / "run")
    lines, (warning,) = extended(longer(toy, schedule), folder)
    assert "the run is extended from 2 to 4 epochs" in lines
    assert warning.startswith(f"the learning rate jumps from {before} to {after}: the ")
    assert warning.endswith(
        "the run's length, now 4 epochs; a run of that length from the start would have had other rates before"
    )
    rates = [json.loads(line)["learning_rate"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert rates[2] > 0.4 * 0.0055  # those of the longer schedule


def test_it_can_be_extended_again_and_be_interrupted_meanwhile(toy, finished, tmp_path):
    folder = copied(finished(CONSTANT), tmp_path / "run")
    events = iter_train(longer(toy, CONSTANT, epochs=3), folder, device="cpu", resume=True, keep_checkpoint=True)
    next(event for event in events if isinstance(event, TrainingEvent))
    events.close()  # as if it was killed: the recipe is the longer one now
    with pytest.raises(InputError, match=r"the recipe is not the one .*training\.epochs: 3 -> 2"):
        train(toy(CONSTANT), folder, resume=True, device="cpu")
    lines, _ = extended(longer(toy, CONSTANT, epochs=3), folder, keep_checkpoint=True)
    assert not any("the run is extended" in line for line in lines)
    extended(longer(toy, CONSTANT, epochs=5), folder)
    whole = train(longer(toy, CONSTANT, epochs=5), tmp_path / "whole", device="cpu")
    mine = json.loads((folder / "last.json").read_text())
    assert mine["extended_from"] == [2, 3]
    assert mine["digest"] == json.loads((whole.folder / "last.json").read_text())["digest"]
    assert not (folder / "checkpoint").exists()


def test_a_dry_run_says_it_and_changes_nothing(toy, finished, tmp_path):
    folder = copied(finished(CONSTANT), tmp_path / "run")
    before = {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    lines, _ = extended(longer(toy, CONSTANT), folder, dry_run=True)
    assert any(line.startswith("the run is extended from 2 to 4 epochs") for line in lines)
    assert {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()} == before


def test_without_a_checkpoint_it_is_refused(toy, finished, tmp_path):
    folder = copied(finished(CONSTANT), tmp_path / "run")
    shutil.rmtree(folder / "checkpoint")
    with pytest.raises(InputError) as caught:
        train(longer(toy, CONSTANT), folder, resume=True, device="cpu")
    assert str(caught.value) == (
        f"{folder}: it cannot be extended from 2 to 4 epochs: its checkpoint was removed when the run was finished; "
        "train with --keep-checkpoint to train on later"
    )


@pytest.mark.parametrize("edits", [("training.epochs=1",), ("training.epochs=3", "seed=1")])
def test_nothing_else_may_change(toy, finished, tmp_path, edits):
    folder = copied(finished(), tmp_path / "run")
    with pytest.raises(InputError, match="the recipe is not the one this run was started with"):
        train(toy(*edits), folder, resume=True, device="cpu")


def test_what_is_longer(toy):
    def asked(before, after):
        return is_longer(before, after, differences(before, after))

    assert asked(toy(), longer(toy))
    assert not asked(toy(), toy())
    assert not asked(longer(toy), toy())
    assert not asked(toy(), longer(toy, "training.batch=64"))


class TestExtension:
    def test_an_average_from_a_share_of_the_run_on_begins_anew(self, toy):
        swa = "training.averaging={kind: swa, start: 0.5}"
        found = extension(toy(CONSTANT, swa), longer(toy, CONSTANT, swa, epochs=8), 2)
        assert found.warnings == ("the average begins again after epoch 4, the share 0.5 of the new length",)
        assert extension(toy(CONSTANT, swa), longer(toy, CONSTANT, swa, epochs=4), 2).warnings == ()

    def test_where_the_rates_happen_to_be_equal_the_schedule_is_still_another(self, toy):
        found = extension(toy(COSINE), longer(toy, COSINE), 0)
        assert found.warnings == ()
        assert found.line == "the run is extended from 2 to 4 epochs"

    def test_warm_up_is_counted_in_epochs(self, toy):
        edits = (CONSTANT, "training.warmup=5")
        assert extension(toy(*edits), longer(toy, *edits), 2).warnings == ()
