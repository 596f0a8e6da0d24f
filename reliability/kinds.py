"""What is made strange, and who reads it: for every kind of file its good examples, its changes and its reader."""

import io
import json
import os
import struct
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from PIL import Image
from pyarrow import parquet
from safetensors.torch import save

from overproof.attacks.ball import Threat
from overproof.commands.compare import compare
from overproof.commands.evaluate import evaluate
from overproof.commands.export import export
from overproof.commands.train import train
from overproof.data.encoded import EncodedSet
from overproof.data.sources import Folder, Npz, Parquet
from overproof.errors import InputError
from overproof.formats.queries import Point, Query
from overproof.formats.vnnlib import check_version_2, disagreement, robustness
from overproof.models.architectures.mlp import MLP
from overproof.models.external.checkpoints import find_weights
from overproof.models.external.onnx_file import OnnxFile
from overproof.models.external.untrusted import read_untrusted
from overproof.models.weights import load_model
from overproof.recipe import dump, parse, read, read_suite
from overproof.runs.folder import Run
from overproof.signature import Signature
from overproof.training.checkpoint import load_checkpoint
from reliability.mutations import as_json, of_archive, of_bytes, of_lines, of_message, of_tree

RECIPE = """
name: toy
data: {kind: digits}
threat: {eps: 1/255}
normalise: {mean: [0.3], std: [0.4]}
student: {kind: mlp, hidden: [8]}
method: {kind: rslad, inner: {steps: 2}}
teachers: {robust: runs/teacher}
training: {epochs: 1, batch: 64, optimiser: {kind: adamw, lr: 0.01}, averaging: {kind: ema, decay: 0.9}}
selection: {examples: 10, trial: {name: pgd-1, attack: {steps: 1}}}
evaluation: {attacks: [{name: fgsm, attack: {steps: 1, start: none}}, {name: pgd-2, attack: {steps: 2}}]}
"""
NATURAL = ("method={kind: natural}", "teachers={}", "training.averaging=null")
SUITE = """
name: own
attacks:
  - {name: fgsm, attack: {kind: pgd, steps: 1, start: none}}
  - {name: apgd-t, targets: 3, loss: dlr, attack: {kind: apgd, steps: 5, restarts: 1}}
  - {name: square, attack: {kind: square, queries: 50}}
survivors: true
"""
ARCHITECTURE, SIZE = MLP(hidden=(8,)), Signature(channels=1, height=8, width=8, classes=0)


@dataclass(frozen=True)
class Kind:
    """A kind of file: good bodies, ``change`` that knows their structure, ``read`` as a command would."""

    name: str
    good: tuple[bytes, ...]
    change: Callable[[bytes, Random], bytes]
    read: Callable[[bytes], object]

    def make(self, seed: int, number: int) -> bytes:
        """Return input ``number``: a good body, half of the time changed by structure, else by bytes."""
        draw = Random(f"{seed}/{self.name}/{number}")
        body = draw.choice(self.good)
        return self.change(body, draw) if draw.random() < 0.5 else of_bytes(body, draw, self.good)


def kinds(folder: Path) -> Mapping[str, Kind]:
    """Return every kind by its name. Readers write into the folder, in which ``make_good`` made the good files."""
    groups = (_texts(folder), _of_run(folder), _checkpoints(folder), _images(folder), _graphs(folder))
    return {kind.name: kind for group in groups for kind in group}


def make_good(folder: Path) -> None:
    """Write the good files of every kind into a new folder.

    What works in threads is done here, in a process of its own: the one that forks the readers must have none.
    """
    run = folder / "run"
    train(parse(RECIPE, NATURAL), run, device="cpu", keep_checkpoint=True)
    evaluate(run, examples=40, device="cpu", save_adversarial=True)
    export(run, to="onnx", out=folder / "good.onnx")
    x = torch.rand(1, 2, 2, generator=torch.Generator().manual_seed(0))
    weights = Run(run).model()[0].backbone.state_dict()
    encoded, archives, table = _good_images()
    _keep(folder, "recipes", RECIPE.encode(), (run / "recipe.yaml").read_bytes(), dump(parse(RECIPE)).encode())
    _keep(folder, "suites", SUITE.encode())
    _keep(folder, "VNN-LIB", robustness(x, 0, 3, 0.1).encode(), disagreement(x, 2, 0.1).encode())
    for name in ("model.json", "evaluation.json", "examples.jsonl", "metrics.jsonl"):
        _keep(folder, name, (run / name).read_bytes())
    _keep(folder, "PyTorch checkpoints", *(_checkpoint(weights, zipped=zipped) for zipped in (True, False)))
    _keep(folder, "safetensors", save(weights))
    _keep(folder, "own checkpoints", next((run / "checkpoint").glob("*.pt")).read_bytes())
    _keep(folder, "images", *encoded)
    _keep(folder, "npz", *archives)
    _keep(folder, "parquet", table)
    _keep(folder, "ONNX", (folder / "good.onnx").read_bytes())


def _kind(folder: Path, name: str, change: Callable[[bytes, Random], bytes], read: Callable[[bytes], object]) -> Kind:
    return Kind(name, _good(folder, name), change, read)


def _keep(folder: Path, name: str, *bodies: bytes) -> None:
    (folder / "good" / name).mkdir(parents=True)
    for number, body in enumerate(bodies):
        (folder / "good" / name / f"{number}").write_bytes(body)


def _good(folder: Path, name: str) -> tuple[bytes, ...]:
    return tuple(file.read_bytes() for file in sorted((folder / "good" / name).iterdir()))


def _checkpoint(weights: Mapping[str, torch.Tensor], *, zipped: bool) -> bytes:
    file = io.BytesIO()
    body = {"net": dict(weights), "epoch": 3, "deep": {"er": {"x": torch.ones(2)}}}
    torch.save(body, file, _use_new_zipfile_serialization=zipped)
    return file.getvalue()


def _placed(file: Path, read_it: Callable[[Path], object]) -> Callable[[bytes], object]:
    """Return a reader of bodies: each lies in the file while it is read."""
    file.parent.mkdir(parents=True, exist_ok=True)

    def read_body(body: bytes) -> object:
        file.write_bytes(body)
        return read_it(file)

    return read_body


def _texts(folder: Path) -> tuple[Kind, ...]:
    import yaml

    def change(body: bytes, draw: Random) -> bytes:
        return as_json(of_tree(yaml.safe_load(body), draw)).encode(errors="surrogatepass")

    point = Point(
        {name: np.zeros((1, 1, 2, 2)) for name in ("X", "X_teacher", "X_student")},
        {name: np.zeros((1, 3)) for name in ("Y", "Y_teacher", "Y_student")},
    )

    def answer(body: bytes) -> object:
        text = body.decode(errors="surrogateescape")
        try:
            return Query.read(text).satisfied_by(point)
        finally:
            check_version_2(text, where="query.vnnlib")

    words = (
        "(assert ",
        "(and ",
        "(or ",
        "(<= ",
        "X_0",
        "Y_teacher[0,0]",
        "(- ",
        "0.5",
        ")",
        "1e400",
        "(declare-const ",
    )

    def other_words(body: bytes, draw: Random) -> bytes:
        parts = body.decode().split(" ")
        for _ in range(draw.choice((1, 3))):
            parts[draw.randrange(len(parts))] = draw.choice(words)
        return " ".join(parts).encode()

    return (
        _kind(folder, "recipes", change, _placed(folder / "recipe.yaml", read)),
        _kind(
            folder,
            "suites",
            change,
            _placed(folder / "suite.yaml", lambda file: read_suite(file, Threat())),
        ),
        _kind(folder, "VNN-LIB", other_words, answer),
    )


def _of_run(folder: Path) -> tuple[Kind, ...]:
    """The files of a run, each strange in a copy whose other files are good."""

    run = folder / "run"

    def copy(name: str) -> Path:
        place = folder / f"copy-{name}"
        place.mkdir(exist_ok=True)
        for file in run.iterdir():
            if file.is_file():
                (place / file.name).write_bytes(file.read_bytes())
        return place / name

    def change(body: bytes, draw: Random) -> bytes:
        return as_json(of_tree(json.loads(body), draw)).encode()

    def built(file: Path) -> object:
        return load_model(file.parent)

    def shown(file: Path) -> object:
        # The page takes a hundred times as long as the tables, so one input in fifty is shown in it.
        page = folder / "report.html" if sha256(file.read_bytes()).digest()[0] < 256 / 50 else None
        return compare([file.parent], out=page, csv=folder / "t.csv", latex=folder / "t.tex", markdown=folder / "t.md")

    return (
        _kind(
            folder,
            "model.json",
            change,
            _placed(copy("model.json"), built),
        ),
        _kind(folder, "evaluation.json", change, _placed(copy("evaluation.json"), shown)),
        _kind(folder, "examples.jsonl", of_lines, _placed(copy("examples.jsonl"), shown)),
        _kind(folder, "metrics.jsonl", of_lines, _placed(copy("metrics.jsonl"), shown)),
    )


def _checkpoints(folder: Path) -> tuple[Kind, ...]:
    def imported(file: Path) -> object:
        # As ``teacher import`` does, short of writing the run.
        tree = read_untrusted(file)
        try:
            return find_weights(tree, ARCHITECTURE, SIZE, name="mlp")
        except InputError as problem:
            raise InputError(f"{file}: {problem}") from problem

    def resumed(body: bytes) -> object:
        place = folder / "checkpoint"
        place.mkdir(exist_ok=True)
        for file in place.iterdir():
            file.unlink()
        (place / f"000000001-{sha256(body).hexdigest()[:16]}.pt").write_bytes(body)
        return load_checkpoint(place)

    def part(name: str, body: bytes, draw: Random) -> bytes:
        return of_bytes(body, draw)

    def of_zip(body: bytes, draw: Random) -> bytes:
        if not zipfile.is_zipfile(io.BytesIO(body)):
            return of_bytes(body, draw)
        return of_archive(body, draw, lambda name, each: part(name, each, draw))

    def header(body: bytes, draw: Random) -> bytes:
        size = int.from_bytes(body[:8], "little")
        said = as_json(of_tree(json.loads(body[8 : 8 + size]), draw)).encode()
        return struct.pack("<Q", len(said)) + said + body[8 + size :]

    return (
        _kind(folder, "PyTorch checkpoints", of_zip, _placed(folder / "given.pt", imported)),
        _kind(folder, "safetensors", header, _placed(folder / "given.safetensors", imported)),
        _kind(folder, "own checkpoints", of_zip, resumed),
    )


_LABELS = [0, 1, 2, 0, 1, 2]
_PATHS = [f"{number}.png" for number in range(6)]
_INFO: dict[str, Any] = {
    "info": {
        "features": {"image": {"_type": "Image"}, "label": {"names": ["a", "b", "c"], "_type": "ClassLabel"}},
    }
}


def _good_images() -> tuple[list[bytes], list[bytes], bytes]:
    """Return a picture in every format, archives of arrays, and a table."""
    x, y = np.random.default_rng(0).integers(0, 256, (6, 8, 8), dtype=np.uint8), np.array(_LABELS)
    archives = []
    for write in (np.savez, np.savez_compressed):
        file = io.BytesIO()
        write(file, x_train=x, y_train=y, x_test=x, y_test=y)
        archives.append(file.getvalue())
    encoded = []
    for name in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM"):
        file = io.BytesIO()
        Image.fromarray(x[0]).convert("RGB").save(file, name)
        encoded.append(file.getvalue())
    cells = [{"bytes": encoded[0], "path": path} for path in _PATHS]
    return encoded, archives, _table(cells, _LABELS, json.dumps(_INFO))


def _table(cells: Any, labels: Any, said: str | bytes) -> bytes:
    made = pa.table({"image": pa.array(cells), "label": pa.array(labels)})
    file = io.BytesIO()
    parquet.write_table(made.replace_schema_metadata({"huggingface": said}), file)
    return file.getvalue()


def _images(folder: Path) -> tuple[Kind, ...]:
    encoded = _good(folder, "images")

    def other_table(_: bytes, draw: Random) -> bytes:
        """Return a table of another shape: other metadata, other labels, other cells."""
        while True:
            tree = of_tree({"metadata": _INFO, "labels": _LABELS, "paths": _PATHS}, draw)
            if not isinstance(tree, dict):
                continue
            labels, paths = (
                tree.get("labels", [2**62] * 6),
                tree.get("paths", ["/dev/zero", None, "../x", "", "a", "b"]),
            )
            bare = draw.random() < 0.3
            try:
                made = [{"bytes": None if bare else encoded[draw.randrange(7)], "path": path} for path in paths]
                return _table(made, labels, as_json(tree.get("metadata")))
            except (pa.ArrowException, TypeError, ValueError, OverflowError, UnicodeEncodeError):
                continue  # what cannot even be written

    def arrays(body: bytes, draw: Random) -> bytes:
        def change(name: str, part: bytes) -> bytes:
            if draw.random() < 0.5:
                return of_bytes(part, draw)
            shape = tuple(draw.choice((0, 1, 6, 8, 2**31, 2**62)) for _ in range(draw.randrange(5)))
            kind = draw.choice(("|u1", "<i8", ">i4", "<f4", "<f8", "|O", "<U4", "|b1", "<c8", "<u8", "<M8[s]", "|V4"))
            said = f"{{'descr': '{kind}', 'fortran_order': {draw.random() < 0.5}, 'shape': {shape}, }}\n".encode()
            return (
                b"\x93NUMPY\x01\x00" + struct.pack("<H", len(said)) + said + draw.randbytes(draw.choice((0, 48, 400)))
            )

        return of_archive(body, draw, change)

    def of_table(file: Path) -> object:
        source = Parquet(path=str(file.parent))
        return source.load("train"), source.load("test")

    def of_arrays(file: Path) -> object:
        source = Npz(path=str(file))
        return source.load("train"), source.load("test")

    def look(file: Path) -> object:
        found = Folder(path=str(file.parents[2])).open("train")
        assert isinstance(found, EncodedSet)
        found.check()
        return found.decoded()

    (folder / "table").mkdir(exist_ok=True)
    (folder / "table" / "test-0.parquet").write_bytes(_good(folder, "parquet")[0])
    return (
        _kind(
            folder,
            "parquet",
            other_table,
            _placed(folder / "table" / "train-0.parquet", of_table),
        ),
        _kind(folder, "npz", arrays, _placed(folder / "given.npz", of_arrays)),
        _kind(folder, "images", of_bytes, _placed(folder / "pictures" / "train" / "a" / "x.png", look)),
    )


def _graphs(folder: Path) -> tuple[Kind, ...]:
    def change(body: bytes, draw: Random) -> bytes:
        import onnx

        model = onnx.load_model_from_string(body)
        of_message(model, draw)
        made: bytes = model.SerializeToString()
        return made

    def asked(file: Path) -> object:
        network = OnnxFile.read(file, threads=1)
        try:
            return network.metadata, network(torch.full((2, 1, 8, 8), 0.5))
        except MemoryError as problem:  # a command divides its batch, and says it in the end
            raise InputError("memory ran out") from problem

    return (_kind(folder, "ONNX", change, _placed(folder / "given.onnx", asked)),)


def warmed(each: Mapping[str, Kind]) -> None:
    """Read every good file, and weights of no network, so that what a reader imports and makes once is there."""
    for kind in each.values():
        for body in (*kind.good, save({"x": torch.zeros(1)})):
            try:
                kind.read(body)
            except InputError:
                continue


ENVIRONMENT = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
os.environ.update(ENVIRONMENT)
