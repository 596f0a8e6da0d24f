"""Students that other people's code makes: a factory of the user's own, timm's or torchvision's networks."""

import copy
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from os.path import relpath
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from overproof.environment import package
from overproof.errors import InputError
from overproof.models.architectures.architecture import Architecture
from overproof.models.asking import BATCHES, ask_once
from overproof.models.external.imports import arguments, describe_exception, import_named, like, read_options, thing
from overproof.models.mode import default_type_kept, in_mode
from overproof.reading import read_bytes
from overproof.signature import Signature
from overproof.trust import module_word

_FORBIDDEN = ("pretrained", "weights", "checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay", "cache_dir")


@dataclass(frozen=True, kw_only=True)
class External(Architecture):
    """A network of other people's code: ``package.module:factory``, ``timm:NAME`` or ``torchvision:NAME``.

    ``options`` are the factory's keyword arguments. Of ``num_classes``, ``in_channels`` (or ``in_chans``) and
    ``image_size`` (or ``img_size``) it is given those that it has a parameter for. It returns an ``nn.Module`` from
    normalised images ``[N, C, H, W]`` to logits ``[N, K]``. Where it returns several things, in training or in eval
    mode, ``output`` is the key, attribute or index of the logits. ``features`` names the linear layer whose input is
    the representation (default: the last one in the order of definition).
    """

    kind: Literal["external"] = "external"
    factory: str
    options: Mapping[str, Any] = field(default_factory=dict)
    features: str = ""
    output: str = ""

    def __post_init__(self) -> None:
        for name in _FORBIDDEN if module_word(self.factory) is None else ():
            if name in self.options:
                raise ValueError(f"{name}: a student begins untrained; weights to begin with are what `init` names")

    def __hash__(self) -> int:
        return hash((self.factory, self.features, self.output, json.dumps(self.options, sort_keys=True, default=str)))

    @classmethod
    def of(cls, word: str, keys: Mapping[str, Any]) -> "External":
        """Return what a recipe means by a word with a colon, ``?key=value&key=value`` behind it, and further keys.

        Raises ``InputError`` for a key that is given twice.
        """
        factory, _, query = word.partition("?")
        options = read_options(query, where=word)
        if twice := [name for name in keys if name in options]:
            raise InputError(f"{word}: {twice[0]} is given twice")
        options = {**keys, **options}
        features, output = str(options.pop("features", "")), str(options.pop("output", ""))
        return cls(factory=factory, options=options, features=features, output=output)

    @property
    def label(self) -> str:
        """The factory, as tables and files call the architecture."""
        return self.factory

    def build(self, signature: Signature) -> nn.Module:
        """Return a freshly made network; raise ``InputError`` where it cannot be made or does not fit the images."""
        with default_type_kept():
            network = self._made(signature)
        network = _Picked(network, self.output) if self.output else network
        if any(isinstance(value, UninitializedParameter) for value in network.parameters()):
            shape = (2, signature.channels, signature.height, signature.width)
            with in_mode(network, training=False), torch.no_grad():
                network(torch.zeros(shape))  # a lazy layer learns its size, and draws its weights
        with torch.random.fork_rng(devices=[]):  # a look at it must not change what is drawn afterwards
            for training in (False, True):
                self._check(network, signature, training=training)
        if self.features and not isinstance(dict(network.named_modules()).get(self.features), nn.Linear):
            known = [name for name, module in network.named_modules() if isinstance(module, nn.Linear)]
            raise InputError(
                f"{self.factory}: features: no linear layer is called {self.features!r}{like(self.features, known)}"
            )
        return network

    def _made(self, signature: Signature) -> nn.Module:
        kind, _, name = self.factory.partition(":")
        if kind == "timm":
            return self._of_timm(name, signature)
        if kind == "torchvision":
            return self._of_torchvision(name, signature)
        if module_word(self.factory) is None:
            raise InputError(f"{self.factory}: a student is package.module:factory, timm:NAME or torchvision:NAME")
        factory = import_named(self.factory)
        if isinstance(factory, nn.Module) or not callable(factory):
            raise InputError(
                f"{self.factory}: this is {thing(factory)}; a student needs a factory that makes a new one"
            )
        given = arguments(
            factory,
            self.options,
            signature,
            word=self.factory,
            advice="write them as keys of student",
            needed_only=False,
        )
        if isinstance(factory, type) and issubclass(factory, Architecture):
            return self._called(lambda **options: factory(**options).build(signature), given)
        return self._called(factory, given)

    def _of_timm(self, name: str, signature: Signature) -> nn.Module:
        timm = package("timm", extra="zoo", where=self.factory)
        if not timm.is_model(name):
            raise InputError(f"{self.factory}: timm has no such network{like(name, timm.list_models())}")
        given = {"num_classes": signature.classes, "in_chans": signature.channels}
        size = {"img_size": (signature.height, signature.width)}
        return self._called(lambda **words: timm.create_model(name, pretrained=False, **words), given, size)

    def _of_torchvision(self, name: str, signature: Signature) -> nn.Module:
        models = package("torchvision", extra="zoo", where=self.factory).models
        if name not in models.list_models():
            raise InputError(f"{self.factory}: torchvision has no such network{like(name, models.list_models())}")
        if signature.channels != 3:
            raise InputError(f"{self.factory}: torchvision's networks have 3 channels, the data are {signature}")
        size = {"image_size": signature.height} if signature.height == signature.width else {}
        given = {"num_classes": signature.classes}
        return self._called(lambda **words: models.get_model(name, weights=None, **words), given, size)

    def _called(
        self, factory: Callable[..., Any], given: Mapping[str, Any], perhaps: Mapping[str, Any] | None = None
    ) -> nn.Module:
        """Return what a factory makes; a zoo does not say which of its networks have a parameter for ``perhaps``."""
        try:
            try:
                network = factory(**{**given, **(perhaps or {}), **self.options})
            except TypeError:
                if not perhaps:
                    raise
                network = factory(**{**given, **self.options})
        except (Exception, SystemExit) as problem:
            raise InputError(f"{self.factory}: the factory raised {describe_exception(problem)}") from problem
        if not isinstance(network, nn.Module):
            raise InputError(f"{self.factory}: the factory returned {thing(network)}, not an nn.Module")
        return network

    def _check(self, network: nn.Module, signature: Signature, *, training: bool) -> None:
        """Raise ``InputError`` unless images give rows of logits in this mode: any number of them but in training."""
        trial = copy.deepcopy(network).train(training)  # BatchNorm's statistics are the network's own
        for size in BATCHES[:1] if training else BATCHES:
            self._check_batch(trial, size, signature, training=training)

    def _check_batch(self, trial: nn.Module, size: int, signature: Signature, *, training: bool) -> None:
        x = torch.rand(size, signature.channels, signature.height, signature.width)
        try:
            answer = ask_once(trial, x, where=self.factory)
        except InputError as problem:
            if training and "more than 1 value per channel" in str(problem):
                return  # of a batch of two, which is none that it will see
            raise
        mode = "in training" if training else "in eval mode"
        if not isinstance(answer, Tensor):
            raise InputError(
                f"{self.factory}: {mode} it returns {thing(answer)}{_parts(answer)}; leave auxiliary heads out, or say "
                "which part are the logits with output"
            )
        if list(answer.shape) != [size, signature.classes] or not answer.is_floating_point():
            raise InputError(
                f"{self.factory}: {mode} it returns {list(answer.shape)} numbers ({answer.dtype}) of {size} images, "
                f"the data have {signature.classes} classes"
            )


class _Picked(nn.Module):
    """A network of several outputs, of which one is the logits."""

    def __init__(self, network: nn.Module, output: str) -> None:
        super().__init__()
        self.network = network
        self.output = output

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits; what the network returns as one tensor is them."""
        answer = self.network(x)
        if isinstance(answer, Tensor):
            return answer
        try:
            if isinstance(answer, Mapping):
                logits: Tensor = answer[self.output]
            elif self.output.isdecimal():
                logits = answer[int(self.output)]
            else:
                logits = getattr(answer, self.output)
        except (LookupError, TypeError, AttributeError):
            raise InputError(f"output: {thing(answer)} has no {self.output!r}{_parts(answer)}") from None
        return logits


def _parts(answer: Any) -> str:
    if isinstance(answer, Mapping):
        return f" with {', '.join(map(repr, list(answer)[:8]))}"
    if names := getattr(answer, "_fields", ()):
        return f" with {', '.join(map(repr, names[:8]))}"
    return f" of {len(answer)} parts, counted from 0" if isinstance(answer, list | tuple) else ""


def external_of(architecture: Architecture) -> External | None:
    """Return what is other people's code in an architecture, or None."""
    base = getattr(architecture, "base", architecture)
    return base if isinstance(base, External) else None


def source_of_code(architecture: Architecture, folder: Path) -> dict[str, Any] | None:
    """Return where the code of an external student is from, as a description in ``folder`` says it; else None.

    The folder of a module is relative to the description's: the two move together. An installed package's is not said.
    """
    external = external_of(architecture)
    if external is None:
        return None
    named = module_word(external.factory)
    if named is None:
        kind = external.factory.partition(":")[0]
        return {"package": kind, "version": str(package(kind, extra="zoo", where=external.factory).__version__)}
    module = sys.modules[named[0]]
    file = Path(str(getattr(module, "__file__", "")))
    root = file.resolve().parents[named[0].count(".") + (file.name == "__init__.py")]
    record = {"module": named[0], "sha256": sha256(read_bytes(file)).hexdigest()}
    return record if "site-packages" in root.parts else {**record, "folder": relpath(root, folder.resolve())}
