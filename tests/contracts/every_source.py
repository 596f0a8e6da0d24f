"""What holds for the data sources and the augmentation of this package: the contracts that users run on theirs."""

import numpy as np
import pytest
from PIL import Image

from overproof.data.augment import Augment
from overproof.data.sources import Digits, Folder, Npz
from overproof.testing import AugmentContract, SourceContract

AUGMENTS = {
    "none": Augment(),
    "crop": Augment(crop=2, flip=True, cutout=3),
    "bank": Augment(crop=2, bank=1),
    "photographs": Augment(scale=(0.4, 1.0), flip=True, brightness=0.2, hue=0.1),
    "trivial": Augment(trivial=True),
}


def folder(tmp_path):
    draws = np.random.default_rng(0)
    for split, count in (("train", 20), ("test", 5)):
        for name in ("cat", "dog"):
            (tmp_path / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = draws.integers(0, 256, (6, 5, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / split / name / f"{number}.png")
    return Folder(path=str(tmp_path))


def npz(tmp_path):
    draws = np.random.default_rng(0)
    arrays = {}
    for split, count in (("train", 20), ("test", 6)):
        arrays[f"x_{split}"] = draws.integers(0, 256, (count, 4, 4), dtype=np.uint8)
        arrays[f"y_{split}"] = np.arange(count) % 2
    np.savez(tmp_path / "data.npz", **arrays)
    return Npz(path=str(tmp_path / "data.npz"))


class TestEverySource(SourceContract):
    @pytest.fixture(params=[lambda _: Digits(), folder, npz], ids=["digits", "folder", "npz"])
    def source(self, request, tmp_path):
        return request.param(tmp_path)


class TestEveryAugmentation(AugmentContract):
    @pytest.fixture(params=AUGMENTS.values(), ids=AUGMENTS)
    def augment(self, request):
        return request.param
