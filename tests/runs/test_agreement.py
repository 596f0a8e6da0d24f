from functools import partial

import pytest
import torch

from overproof.data.images import ImageSet
from overproof.errors import AgreedError, InputError
from overproof.processes import ALONE, Processes
from overproof.runs.agreement import check_same_images, check_same_recipe, check_same_teachers, check_shareable


def said(check):
    try:
        check()
    except AgreedError as problem:
        return str(problem)


def test_one_recipe_for_all(group, toy):
    def work(processes):
        odd = ["training.epochs=7", "seed=3"] if processes.rank else []
        return [
            said(lambda: check_same_recipe(toy(*odd), processes)),
            said(lambda: check_same_recipe(toy("seed=3"), processes)),
        ]

    sentence = (
        "process 1 of 2: its recipe is not the first process's (seed: 0 -> 3; training.epochs: 2 -> 7); start all with "
        "the same"
    )
    assert group(work) == [[sentence, None]] * 2
    check_same_recipe(toy(), ALONE)


def test_one_set_of_images_for_all(group):
    def images(count=6, shift=0):
        pixels = torch.arange(count * 4, dtype=torch.uint8).view(count, 1, 2, 2) + shift
        return ImageSet("made", pixels, torch.arange(count) % 2, ("a", "b"))

    def work(processes):
        last = processes.rank == processes.count - 1
        return [
            said(lambda: check_same_images(images(5 if last else 6), processes)),
            said(lambda: check_same_images(images(shift=int(last)), processes)),
            said(lambda: check_same_images(images(), processes)),
        ]

    assert (
        group(work, count=3)
        == [
            [
                "process 2 of 3: it reads 5 training images and the first process 6; all must read the same set",
                "process 2 of 3: its training images are not the first process's; all must read the same set",
                None,
            ]
        ]
        * 3
    )
    check_same_images(images(), ALONE)


def test_one_teacher_in_each_role_for_all(group):
    def work(processes):
        mine = {"robust": "aa", "clean": "bb" if processes.leads else "cc"}
        return [said(partial(check_same_teachers, one, processes)) for one in (mine, {"robust": "aa"}, {})]

    sentence = "process 1 of 2: its teacher 'clean' is not the first process's; all must read the same network"
    assert group(work) == [[sentence, None, None]] * 2
    check_same_teachers({"robust": "aa"}, ALONE)


@pytest.mark.parametrize(("images", "batch", "count"), [(100, 10, 1), (101, 10, 1), (22, 10, 2), (8, 8, 8)])
def test_batches_that_can_be_shared(images, batch, count):
    check_shareable(images, batch, Processes(0, count))


@pytest.mark.parametrize(
    ("images", "batch", "count", "sentence"),
    [
        (100, 8, 3, "3 processes cannot share a batch of 8 evenly; use training.batch=6, or a number"),
        (100, 2, 3, "3 processes cannot share a batch of 2 evenly; use training.batch=3, or a number"),
        (81, 8, 2, "the last batch of an epoch has 1 of the 81 training images, fewer than the 2 processes"),
    ],
)
def test_batches_that_cannot(images, batch, count, sentence):
    with pytest.raises(InputError, match=sentence):
        check_shareable(images, batch, Processes(0, count))
