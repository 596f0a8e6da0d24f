"""``teacher import``: somebody else's checkpoint becomes a run folder."""

from hashlib import sha256
from pathlib import Path

from overproof.building import code_folders
from overproof.data.sources import Source
from overproof.environment import versions
from overproof.errors import InputError
from overproof.files import make_folder
from overproof.models.architectures.architecture import Architecture
from overproof.models.classifier import parameter_count
from overproof.models.external.untrusted import parse_untrusted
from overproof.models.weights import save_model
from overproof.reading import read_bytes
from overproof.recipe import data_source, source_values
from overproof.runs.checkpoints import network_of, read_architecture, weights_in
from overproof.runs.folder import Run
from overproof.signature import Signature


def import_teacher(
    file: Path | str,
    *,
    model: str | Architecture,
    mean: tuple[float, ...] = (),
    std: tuple[float, ...] = (),
    classes: int = 0,
    data: Source | str | None = None,
    size: tuple[int, int, int] = (3, 32, 32),
    key: str = "",
    digest: str = "",
    out: Path | str | None = None,
) -> Run:
    """Read a checkpoint that other code wrote and write the network as a run folder; return the run.

    ``file`` is a PyTorch or safetensors file, or a folder with ``model.safetensors``. ``model`` is an architecture, its
    name (``wrn-34-10``), its YAML (``{kind: wide, depth: 28}``), code of your own (``package.module:factory?depth=8``),
    ``auto`` (a plain chain of convolutions and linear layers, or a named network, is recognised from its tensors) or
    ``chain?stride=2,2&padding=1,1`` (what a chain's file does not say). ``mean`` and ``std`` are the normalisation
    that the network was trained with, per channel in [0, 1] pixel units; one that lies in the file, or in a
    ``config.json`` beside it, is taken from there. ``classes`` is checked against the file's. ``data`` gives names of
    classes and the ``size`` (channels, height, width) of the images, and is what the run is evaluated on. ``key``
    chooses among several networks in the file, ``digest`` is its expected SHA-256. ``out`` defaults to
    ``runs/<the file's name>``. Nothing in the file is run, and nothing is written before the network is whole. Raises
    ``InputError``.
    """
    file = Path(file)
    file = file / "model.safetensors" if file.is_dir() else file
    folder = Path("runs") / file.stem if out is None else Path(out)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder}: exists already; choose another --out")
    name, said = read_architecture(model)
    body = read_bytes(file)
    tree = parse_untrusted(body, file, digest=digest)
    source = data_source(data) if isinstance(data, str) else data
    images = source.load("test") if source else None
    channels, height, width = size
    shape = images.signature if images else Signature(channels=channels, height=height, width=width, classes=0)
    weights, architecture = weights_in(tree, said, shape, where=file, name=name, classes=classes, key=key)
    if images and weights.classes != len(images.classes):
        raise InputError(f"{file}: it is for {weights.classes} classes, {images.name} has {len(images.classes)}")
    network = network_of(weights, architecture, shape, where=file, given=(mean, std))
    make_folder(folder)
    facts = {
        "name": folder.name,
        "parameters": parameter_count(network),
        "versions": versions(),
        "selected_on": "unknown",
        "imported": {
            "file": file.name,
            "sha256": sha256(body).hexdigest(),
            "place": weights.place,
            "prefix": weights.prefix,
            "unused": list(weights.unused),
            "data": source_values(source) if source else None,
        },
        **({"code_folders": places} if (places := code_folders(source, folder)) else {}),
    }
    save_model(folder, network, architecture, images.classes if images else (), facts=facts)
    return Run(folder)
