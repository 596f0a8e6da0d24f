import json
import shutil

import pytest

from overproof.commands.clean import clean, is_finished
from overproof.commands.evaluate import evaluate, iter_evaluate
from overproof.commands.train import train, training
from overproof.errors import InputError
from overproof.locking import exclusive
from overproof.runs.folder import Run
from overproof.training.checkpoint import checkpoints

OPTIONS = {"examples": 20, "reliability": False, "device": "cpu"}


def contents(folder):
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.fixture
def run(finished, tmp_path):
    """A finished run that kept its checkpoint."""
    return Run(shutil.copytree(finished().folder, tmp_path / "run"))


@pytest.fixture
def torn(toy, tmp_path):
    """A run of two epochs that was left after the first."""
    news = training(toy(), tmp_path / "torn", device="cpu")
    next(news)
    news.close()
    return Run(tmp_path / "torn")


def state_of(run):
    """Return the only state of an evaluation."""
    (file,) = run.folder.glob("evaluations/*/evaluation-state/setting.json")
    return file.parent


def left(run, **options):
    """Leave an evaluation after its clean pass."""
    events = iter_evaluate(run, **(OPTIONS | options))
    for _ in range(2):
        next(events)
    events.close()
    return state_of(run)


def test_the_checkpoint_of_a_finished_run_goes_and_nothing_else(run):
    before = contents(run.folder)
    size = sum(len(body) for name, body in before.items() if name.startswith("checkpoint/"))
    (found,) = clean(run)
    assert (found.folder, found.bytes, len(found.files), found.kept) == (run.folder, size, 2, ())
    assert contents(run.folder) == {name: body for name, body in before.items() if not name.startswith("checkpoint/")}
    assert not run.checkpoints.exists()
    assert clean(run)[0].bytes == 0


def test_a_dry_run_says_the_same_and_removes_nothing(run):
    before = contents(run.folder)
    (said,) = clean(run, dry_run=True)
    assert contents(run.folder) == before
    assert clean(run) == [said]


def test_an_unfinished_run_keeps_its_own_unless_it_is_asked_for(torn, toy):
    size = sum(file.stat().st_size for file in checkpoints(torn.checkpoints))
    before = contents(torn.folder)
    (found,) = clean(torn)
    assert (found.files, found.kept) == ((), (f"the training is not finished: {size:,} bytes are kept",))
    assert contents(torn.folder) == before
    assert clean(torn, unfinished=True)[0].bytes == size
    assert not torn.checkpoints.exists()
    with pytest.raises(InputError, match="there is no checkpoint to resume from"):
        train(toy(), torn.folder, resume=True, device="cpu")


def test_an_evaluation_that_is_not_finished_goes_on_afterwards(run):
    state = left(run)
    (found,) = clean(run)
    assert found.kept[0].startswith(f"what {state.relative_to(run.folder)} belongs to is not finished: ")
    assert state.is_dir()
    evaluate(run, resume=True, **OPTIONS)
    assert not state.exists()


def test_the_state_of_one_that_is_finished_goes(run):
    evaluate(run, **OPTIONS)
    wanted = contents(run.folder)
    left(run, overwrite=True)  # as a kill between the results and the end leaves it
    clean(run)
    assert contents(run.folder) == {name: body for name, body in wanted.items() if not name.startswith("checkpoint/")}


def test_that_of_another_one_does_not(run):
    evaluate(run, **OPTIONS)
    wanted = contents(run.folder)
    left(run, seed=7)
    assert len(clean(run)[0].kept) == 1
    assert len(clean(run, unfinished=True)[0].kept) == 0
    # The folder of the question that was never answered is gone, too.
    assert contents(run.folder) == {name: body for name, body in wanted.items() if not name.startswith("checkpoint/")}
    assert len(list((run.folder / "evaluations").iterdir())) == 1
    assert (run.folder / "evaluation.json").is_file()


def test_half_written_files_of_ours_go_and_others_stay(run):
    for name in (".model.json.123.tmp", ".mine.tmp", "notes.tmp"):
        (run.folder / name).write_text("x")
    (found,) = clean(run)
    assert run.folder / ".model.json.123.tmp" in found.files
    assert {".mine.tmp", "notes.tmp"} <= {file.name for file in run.folder.iterdir()}


def test_what_else_lies_in_the_folder_of_checkpoints_stays(run):
    (run.checkpoints / "mine.txt").write_text("precious")
    clean(run)
    assert [file.name for file in run.checkpoints.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize("kind", ["missing", "empty", "file"])
def test_what_is_no_run_is_refused_before_anything_is_removed(run, tmp_path, kind):
    other = tmp_path / "other"
    if kind == "empty":
        other.mkdir()
    if kind == "file":
        other.write_text("precious")
    before = contents(run.folder)
    with pytest.raises(InputError, match=rf"^{other}: not a run folder"):
        clean(run, other)
    assert contents(run.folder) == before


@pytest.mark.parametrize("work", ["train", "evaluate", "certify"])
def test_a_run_at_which_somebody_is_at_work_is_refused(run, finished, tmp_path, work):
    other = Run(shutil.copytree(run.folder, tmp_path / "other"))
    with exclusive(other.folder, work):
        with pytest.raises(InputError) as caught:
            clean(run, other)
        assert str(caught.value).endswith("; wait for its end")
        assert f"is at work in it ({work}, since " in str(caught.value)
    assert len(checkpoints(run.checkpoints)) == len(checkpoints(other.checkpoints)) == 2


def test_a_run_that_is_named_twice_is_cleaned_once(run):
    assert len(clean(run, run.folder)) == 1


def test_a_run_is_finished_with_its_last_epoch(run, torn):
    assert is_finished(run, 2)
    assert not is_finished(run, 3)
    assert not is_finished(torn, 2)


def test_a_strange_setting_is_not_taken_for_a_finished_one(run):
    evaluate(run, **OPTIONS)
    state = left(run, overwrite=True)
    for body in ("[]", "{", json.dumps({"network": "x"})):
        (state / "setting.json").write_text(body)
        assert len(clean(run)[0].kept) == 1
