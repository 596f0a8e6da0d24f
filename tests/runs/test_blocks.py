"""The one runner of blocks: what is kept, resumed and said, with work that only counts."""

import pytest
import torch

from overproof.data.images import ImageSet
from overproof.evaluation.shards import Shard
from overproof.evaluation.store import Store
from overproof.runs.blocks import BlockProgress, Question, Runner
from overproof.runs.results import EVALUATION
from overproof.statistics import Proportion

STEPS = 3


@pytest.fixture
def images():
    labels = torch.arange(10) % 2
    return ImageSet("ten", torch.zeros(10, 1, 2, 2, dtype=torch.uint8), labels, ("a", "b"))


def counted(block, begun):
    """Yield the steps of a block that are left; each example's mark is how many were taken."""
    before = 0 if block.before is None else int(block.before["steps"][0])
    for step in range(before + 1, STEPS + 1):
        begun.append((block.number, step))
        state = {"steps": torch.full((len(block.batch.y),), step)}
        yield BlockProgress(f"step {step}", state, step, whole=step == STEPS, where=f"block {block.number}")


@pytest.fixture
def run_blocks(images, tmp_path):
    """Return a function: a run of all blocks of four images, and the list of the steps that it takes."""

    def make(shard=Shard(0, 1), begun=None):  # noqa: B008 - it has no state
        store = Store(tmp_path / "state", {})
        store.open(resume=True)
        runner = Runner(
            images=images,
            batch=4,
            store=store,
            shard=shard,
            units=lambda _: STEPS,
            evidence=lambda state: Proportion(
                claim="done", passed=int((state["steps"] == STEPS).sum()), of=len(state["steps"])
            ),
        )
        taken = [] if begun is None else begun
        return runner.run(lambda block: counted(block, taken), lambda position: position)

    return make


def through(run_blocks):
    said = []
    while True:
        try:
            said.append(next(run_blocks))
        except StopIteration as end:
            return said, end.value


def test_every_step_is_told_and_the_marks_of_all_blocks_come_back(run_blocks):
    said, blocks = through(run_blocks())
    assert [(one.stage, one.where, one.done, one.total) for one in said] == [
        (f"step {step}", f"block {number}", 3 * number + step, 9) for number in range(3) for step in (1, 2, 3)
    ]
    assert [one.first for one in said] == [True] + 8 * [False]
    assert (said[3].evidence.passed, said[3].evidence.of) == (4, 8)  # of the blocks begun
    assert [block["steps"].tolist() for block in blocks] == [[3, 3, 3, 3], [3, 3, 3, 3], [3, 3]]


def test_finished_blocks_are_not_worked_out_again(run_blocks):
    begun = []
    interrupted = run_blocks(begun=begun)
    for _ in range(5):  # in the second block, whose first two steps are not on disk yet
        next(interrupted)
    interrupted.close()
    again = []
    said, blocks = through(run_blocks(begun=again))
    assert again == [(number, step) for number in (1, 2) for step in (1, 2, 3)]
    assert (said[0].done, said[0].first, said[0].evidence.passed) == (4, True, 4)
    assert [len(block["steps"]) for block in blocks] == [4, 4, 2]
    said, blocks = through(run_blocks(begun=(nothing := [])))
    assert (said, nothing, len(blocks)) == ([], [], 3)


def test_blocks_are_dealt_to_processes(run_blocks, monkeypatch):
    monkeypatch.setattr(Shard, "gather", lambda self, mine: [mine])
    begun = []
    said, _ = through(run_blocks(Shard(1, 2), begun))
    assert begun == [(1, 1), (1, 2), (1, 3)]
    assert said == []  # the leading process speaks


def question(folder, **changes):
    asked = {"network": "d", "eps": "0.1"}
    whole = {"command": "evaluate", "kind": EVALUATION, "folder": folder, "asked": asked, "title": "a title"}
    return Question(**{**whole, "digest": "d", "shard": Shard(0, 1), **changes})


def test_an_answer_has_its_folder_and_is_found_again(tmp_path):
    one = question(tmp_path)
    assert one.kept.parent == tmp_path / "evaluations" and one.kept.name.startswith("a-title-")
    assert one.kept != question(tmp_path, asked={"network": "d", "eps": "0.2"}).kept
    assert one.earlier(overwrite=False) is None
    one.kept.mkdir(parents=True)
    (one.kept / "evaluation.json").write_text('{"model_digest": "d"}')
    assert one.earlier(overwrite=False) == {"model_digest": "d"}
    assert one.earlier(overwrite=True) is None


def test_what_fails_is_not_promoted_and_the_next_may_enter(tmp_path, monkeypatch):
    promoted = []
    monkeypatch.setattr(type(EVALUATION), "promote", lambda self, root, digest: promoted.append(digest))
    with pytest.raises(KeyError), question(tmp_path).held():
        raise KeyError
    assert promoted == []
    with question(tmp_path).held():
        assert promoted == []
    assert promoted == ["d"]
