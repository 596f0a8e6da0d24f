from base64 import b64decode
from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from overproof.errors import InputError
from overproof.report import pictures as module
from overproof.report.pictures import album, read_pictures


def pixels(sprite):
    head, _, body = sprite.partition(",")
    assert head == "data:image/webp;base64"
    return np.asarray(Image.open(BytesIO(b64decode(body))))


def tile(sheet, place, height, width):
    top, left = place // module.ACROSS * height, place % module.ACROSS * width
    return sheet[top : top + height, left : left + width]


@pytest.mark.parametrize("shape", [(1, 6, 4), (3, 5, 7)], ids=["grey", "colour"])
def test_a_page_gets_both_images_back_to_the_bit(full, shape):
    run = full("a", images=27, shape=shape)
    found = album([run])
    ((footing, part),) = found["sets"].items()
    mine = found["runs"]["0"]
    assert (mine["set"], mine["of"], part["tile"]) == (footing, 27, list(shape[1:]))
    clean, change = pixels(part["sprite"]), pixels(mine["sprite"])
    for row in range(27):
        before = tile(clean, mine["place"][row], *shape[1:])
        after = before + tile(change, row, *shape[1:])  # uint8 wraps, as the page does
        for expected, shown in ((run.pictures.clean[row], before), (run.pictures.attacked[row], after)):
            assert np.array_equal(np.moveaxis(shown, -1, 0)[: shape[0]], expected)
    assert mine["labels"] == run.pictures.labels
    assert mine["answers"]["teacher_attacked"][1] == run.pictures.answers["teacher_attacked"][1]


def test_runs_on_the_same_images_share_the_clean_ones(full):
    one, other, third = full("a", images=4), full("b", images=6, seed=1), full("c", data__digest="e" * 16)
    found = album([one, other, third])
    assert [len(part["index"]) for part in found["sets"].values()] == [6, 5]
    assert found["runs"]["1"]["place"] == [0, 1, 2, 3, 4, 5]
    assert found["runs"]["2"]["set"] != found["runs"]["0"]["set"]


def test_images_that_most_runs_lost_come_first(full, monkeypatch):
    monkeypatch.setattr(module, "SHOWN", 4)
    found = album([full("a", images=9), full("b", images=4, seed=1)])
    assert next(iter(found["sets"].values()))["index"] == [0, 1, 2, 3]
    assert (len(found["runs"]["0"]["place"]), found["runs"]["0"]["of"]) == (4, 9)


def test_fewer_are_taken_where_they_would_not_fit(full, monkeypatch):
    run = full("a", images=64, shape=(3, 16, 16))
    most = module._size(album([run])) // 3
    monkeypatch.setattr(module, "MOST_BYTES", most)
    found = album([run])
    assert 0 < len(found["runs"]["0"]["place"]) < 64
    assert module._size(found) <= most


def test_no_pictures_are_an_empty_album(finding):
    found = album([finding()])
    assert (found["sets"], found["runs"]) == ({}, {})


def test_reading(tmp_path):
    file = tmp_path / "adversarial.safetensors"
    clean = torch.tensor([[[[0, 128, 255]]]], dtype=torch.uint8)
    body = {
        "images": clean.float() / 255 + torch.tensor([0.2, -0.2, 0.0]),
        "clean": clean,
        "labels": torch.tensor([1]),
        "index": torch.tensor([7]),
        "clean_logits": torch.tensor([[0.0, 1000.0]]),
        "attacked_logits": torch.log(torch.tensor([[3.0, 1.0]])),
    }
    save_file(body, file)
    found = read_pictures(file)
    assert found.attacked.tolist() == [[[[51, 77, 255]]]]
    assert (found.index, found.labels) == ([7], [1])
    assert found.answers == {"clean": [(1, 1.0)], "attacked": [(0, 0.75)]}
    save_file({name: value for name, value in body.items() if name != "clean"}, file)
    assert read_pictures(file) is None
    save_file({name: value[:0].contiguous() for name, value in body.items()}, file)
    assert read_pictures(file) is None
    file.write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"adversarial\.safetensors: not readable as images that overproof keeps"):
        read_pictures(file)
