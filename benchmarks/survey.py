"""``python -m benchmarks.survey``: what the look at every image before training costs, by the kind of image.

Folders of generated pictures are made, smooth ones with noise, as photographs compress; every picture is decoded once,
as ``data/survey.py`` does. Seconds are CPU time of all threads for 10,000 images: other work does not stretch them.
"""

import json
import tempfile
from pathlib import Path
from time import process_time

import numpy as np
import torch
from PIL import Image

from overproof.data.encoded import Form
from overproof.data.sources import Folder
from overproof.data.survey import surveyed
from overproof.environment import hardware, versions

RESULT = Path(__file__).parent / "results" / "survey.json"
KINDS = {
    "28x28 grey PNG": ((28, 28), "L", "png", 2000, 0),
    "32x32 colour JPEG": ((32, 32), "RGB", "jpg", 2000, 0),
    "500x375 colour JPEG, as stored": ((500, 375), "RGB", "jpg", 200, 0),
    "500x375 colour JPEG, `form: {size: 224}`": ((500, 375), "RGB", "jpg", 200, 224),
    "500x375 colour JPEG, `form: {size: 64}`": ((500, 375), "RGB", "jpg", 200, 64),
}


def make(folder: Path, size: tuple[int, int], mode: str, suffix: str, count: int) -> None:
    """Write a folder of two classes, nine tenths of it to learn from."""
    draw = np.random.default_rng(0)
    width, height = size
    for number in range(count):
        part = "test" if number % 10 == 0 else "train"
        place = folder / part / f"class-{number % 2}"
        place.mkdir(parents=True, exist_ok=True)
        coarse = draw.integers(0, 256, (height // 7 + 1, width // 7 + 1, 3), dtype=np.uint8)
        smooth = Image.fromarray(coarse).resize(size, Image.Resampling.BILINEAR)
        noise = draw.integers(-8, 9, (height, width, 3))
        pixels = np.clip(np.asarray(smooth, dtype=np.int64) + noise, 0, 255).astype(np.uint8)
        Image.fromarray(pixels).convert(mode).save(place / f"{number}.{suffix}")


def main() -> None:
    """Measure, write the file and print a table."""
    rows = []
    for name, (size, mode, suffix, count, side) in KINDS.items():
        with tempfile.TemporaryDirectory() as place:
            make(Path(place), size, mode, suffix, count)
            source = Folder(path=place, form=Form(size=side))
            surveyed(source)  # imports and the file system's memory
            began = process_time()
            surveyed(source)
            seconds = (process_time() - began) * 10_000 / count
        rows.append({"images": name, "seconds": seconds})
        print(f"{name}: {seconds:.1f} s", flush=True)
    found = {"hardware": hardware(torch.device("cpu")), "versions": versions(), "rows": rows}
    RESULT.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
