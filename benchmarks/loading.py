"""``python -m benchmarks.loading``: can two cores decode images as fast as a small model learns from them?

A folder of 224-pixel JPEGs is made; the loader is run alone, and a loop from the stream in turn with the same loop on
images in memory. Seconds are of the CPU, workers included: other work on the machine does not stretch them.
"""

import json
import os
import resource
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import torch
from PIL import Image
from torch import nn

from overproof.attacks.pgd import PGD
from overproof.data.augment import Augment
from overproof.data.encoded import EncodedSet
from overproof.data.images import ImageSet
from overproof.data.loader import Loader
from overproof.data.sources import Folder
from overproof.data.streaming import Stream
from overproof.environment import hardware, versions
from overproof.methods.method import Method
from overproof.methods.natural import Natural
from overproof.methods.pgd_at import PGDAT
from overproof.models.architectures.convnet import ConvNet
from overproof.models.architectures.resnet import ResNet
from overproof.models.classifier import Classifier
from overproof.models.weights import build, freeze
from overproof.signature import Signature
from overproof.training.loop import Loop
from overproof.training.optimisation import SGD, Constant, Training

RESULT = Path(__file__).parent / "results" / "loading.json"
SIDE, IMAGES, BATCH, CLASSES, WORKERS, ROUNDS = 224, 192, 32, 4, 2, 3
MODEL = ConvNet(channels=(16, 32, 64, 128), kernel=3, stride=(2, 2, 2, 2), padding=1, hidden=(64,))  # 49 MMAC


def make(folder: Path, images: int = IMAGES) -> None:
    """Write JPEGs of the length that photographs have at this size: smooth colours, edges and some noise."""
    draws = np.random.default_rng(0)
    for number in range(images):
        coarse = Image.fromarray(draws.integers(0, 256, (14, 14, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize((SIDE, SIDE), Image.Resampling.BICUBIC)).astype(np.int16)
        noisy = (smooth + draws.normal(0, 6, smooth.shape)).clip(0, 255).astype(np.uint8)
        file = folder / "train" / f"class-{number % CLASSES}" / f"{number:04d}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noisy).save(file, quality=85)


def loop(
    images: ImageSet | Stream, method: Method, student: Classifier | None = None, batch: int = BATCH
) -> Callable[[], object]:
    """Return a function that trains for one epoch; the small convnet without a student."""
    torch.manual_seed(0)
    asked = images.signature
    teachers = {role: freeze(build(MODEL, asked)) for role in method.roles}
    training = Training(epochs=10**6, batch=batch, optimiser=SGD(lr=1e-4), schedule=Constant())
    loader = Loader(images, batch, Augment(crop=28, flip=True), 0)
    run = Loop(method, student or build(MODEL, asked), teachers, loader, training, 0).run()

    def epoch() -> None:
        while not next(run).whole:
            pass

    return epoch


def resnet50(asked: Signature) -> Classifier:
    """Return ResNet-50 as it is for photographs: a 7x7 convolution of stride 2 first, and pooling."""
    model = build(ResNet(depth=50), asked)
    model.backbone.conv1 = nn.Conv2d(asked.channels, 64, 7, stride=2, padding=3, bias=False)
    model.backbone.relu = nn.Sequential(nn.ReLU(), nn.MaxPool2d(3, stride=2, padding=1))
    return model


def drained(images: ImageSet | Stream) -> Callable[[], object]:
    """Return a function that takes all batches of one epoch and does nothing with them."""
    loader = Loader(images, BATCH, Augment(crop=28, flip=True), 0)
    return lambda: [batch.y for batch in loader.batches(0)]


def seconds(work: Callable[[], object]) -> float:
    """Return CPU seconds, those of ended child processes included."""

    def used() -> float:
        both = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        return sum(one.ru_utime + one.ru_stime for one in both)

    before = used()
    work()
    return used() - before


def compared(encoded: EncodedSet, resident: ImageSet, method: Method) -> dict[str, float]:
    """Return images per second of the loop without a loader and of the loader, and what the stream adds to a step."""
    stream = Stream(encoded, torch.device("cpu"), WORKERS)
    works = (loop(resident, method), drained(stream), loop(stream, method))
    for work in works:
        work()
    alone, loader, streamed = zip(*[[seconds(work) for work in works] for _ in range(ROUNDS)], strict=True)
    return {
        "loop_images_per_processor_second": IMAGES / median(alone),
        "loader_images_per_processor_second": IMAGES / median(loader),
        "loader_over_loop": median(a / b for a, b in zip(alone, loader, strict=True)),
        "streamed_over_resident": median(a / b for a, b in zip(streamed, alone, strict=True)),
    }


def main() -> None:
    """Measure, print, and write the file."""
    torch.set_num_threads(1)  # threads that wait for one another would spend CPU time on it
    found: dict[str, object] = {"hardware": hardware(torch.device("cpu")), "versions": versions()}
    with tempfile.TemporaryDirectory() as place:
        make(Path(place))
        source = Folder(path=place)
        encoded = source.open("train")
        checking = min(seconds(source.open("train").check) for _ in range(3))
        found["bytes_per_image"] = sum(file.stat().st_size for file in Path(place).rglob("*.jpg")) // IMAGES
        found["opening_microseconds_per_image"] = round(1e6 * checking / IMAGES, 1)
        found["cores"] = len(os.sched_getaffinity(0))
        resident = encoded.decoded()
        for method in (Natural(), PGDAT(inner=PGD(steps=2))):
            found[method.kind] = compared(encoded, resident, method)
            print(method.kind, found[method.kind], flush=True)
    RESULT.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
