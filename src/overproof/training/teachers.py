"""The teachers as a step sees them: in a precision of their own, and with a memory of what they have answered.

No method knows of it. A teacher that is shown the very images of the step (the tensor itself) may answer from memory;
whatever else it is shown, an attacked image for instance, it looks at.
"""

from collections.abc import Mapping
from typing import Literal, cast

import torch
from torch import Tensor, nn

from overproof.data.images import placed
from overproof.data.loader import Loader
from overproof.environment import memory_left
from overproof.errors import InputError
from overproof.models.classifier import Classifier
from overproof.models.layout import memory_format
from overproof.models.precision import Precision, choose_precision
from overproof.training.optimisation import Training

_Question = Literal["logits", "features"]
_Answer = tuple[Tensor, ...]
_AT_ONCE = 256  # images


class Teacher(nn.Module):
    """A frozen network in the precision ``training`` wants for it.

    With ``training.teacher_cache`` it keeps its answers, one page per draw of the augmentation bank: the whole set,
    answered in the set's order when the first step of such an epoch asks. A page therefore does not depend on where a
    run was resumed, and a run with pages equals one without, but for the rounding of batches put together otherwise.
    """

    def __init__(self, network: Classifier, loader: Loader, training: Training) -> None:
        super().__init__()
        self.network = network
        self.loader = loader
        self.keeps = training.teacher_cache
        self._layout = memory_format(network)
        self.precision: Precision | None = None  # as it is around the step
        if training.teacher_precision != "student":
            self.precision = choose_precision(training.teacher_precision, loader.images.device, network)
        self.asked = self.looked_at = 0  # images
        self._pages: dict[tuple[_Question, int], _Answer] = {}
        self._shown: Tensor | None = None
        self._rows = torch.empty(0, dtype=torch.int64)
        self._draw = 0

    def show(self, x: Tensor, rows: Tensor, draw: int) -> None:
        """Say that ``x`` are the images ``rows`` ``[N]`` of the set, as this draw of the bank shows them."""
        self._shown, self._rows, self._draw = x, rows, draw

    def forward(self, x: Tensor) -> Tensor:
        """Map pixels ``[N, C, H, W]`` to logits ``[N, K]``."""
        return self._answer("logits", x)[0]

    def features(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits ``[N, K]`` and representation ``[N, F]``."""
        logits, hidden = self._answer("features", x)
        return logits, hidden

    @property
    def bytes(self) -> int:
        """What the pages take."""
        return sum(part.numel() * part.element_size() for page in self._pages.values() for part in page)

    def _answer(self, question: _Question, x: Tensor) -> _Answer:
        if not self.keeps or x is not self._shown:
            return self._ask(question, x)
        key = (question, self._draw)
        if key not in self._pages:
            self._pages[key] = self._page(question)
        self.asked += len(x)
        return tuple(part[self._rows] for part in self._pages[key])

    def _ask(self, question: _Question, x: Tensor) -> _Answer:
        if self.precision is None:
            return self.network.features(x) if question == "features" else (self.network(x),)
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            return self.network.features(x) if question == "features" else (self.network(x),)

    @torch.no_grad()
    def _page(self, question: _Question) -> _Answer:
        """Return the answers to the whole set under the present draw; raise ``InputError`` for a bank too large."""
        pages: list[Tensor] = []
        start, n = 0, len(self.loader.images.labels)
        for x in self.loader.shown(self._draw, _AT_ONCE):
            answer = self._ask(question, x.contiguous(memory_format=self._layout))
            if not pages:
                self._check_room(n * sum(part[0].numel() * part.element_size() for part in answer))
                pages = [part.new_empty(n, *part.shape[1:]) for part in answer]
            for page, part in zip(pages, answer, strict=True):
                page[start : start + len(x)] = part
            start += len(x)
        self.looked_at += n
        return tuple(pages)

    def _check_room(self, page: int) -> None:
        draws, n = self.loader.augment.draws, len(self.loader.images.labels)
        if draws * page > memory_left(self.loader.images.device):
            raise InputError(
                f"a teacher's answers to {draws} draws of {n} images take {draws * page / 1e9:.1f} GB, more than half "
                "of the memory; lower augment.bank or leave training.teacher_cache off"
            )


class Teachers:
    """All teachers of a run; as they are where neither a precision nor a memory of their own is asked for."""

    def __init__(self, networks: Mapping[str, Classifier], loader: Loader, training: Training) -> None:
        plain = training.teacher_precision == "student" and not training.teacher_cache
        self.loader = loader
        self.wrapped = {} if plain else {role: Teacher(one, loader, training) for role, one in networks.items()}
        self.networks = {role: cast(Classifier, one) for role, one in self.wrapped.items()} or networks
        self._rows: tuple[int, tuple[Tensor, ...]] = (-1, ())  # an epoch, and the images of its batches

    def shown(self, x: Tensor, epoch: int, batch: int) -> Mapping[str, Classifier]:
        """Return the teachers for a step on ``x``, the images of this batch of this epoch."""
        if any(one.keeps for one in self.wrapped.values()):
            if self._rows[0] != epoch:
                self._rows = (epoch, placed(self.loader.rows(epoch), x.device))
            for one in self.wrapped.values():
                one.show(x, self._rows[1][batch], self.loader.draw(epoch))
        return self.networks

    def label(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the labels, with a teacher's prediction for each of the images ``x`` that has none.

        The robust teacher's, or the only one's.
        """
        unknown = y < 0
        teacher = self.networks.get("robust") or next(iter(self.networks.values()))
        if bool(unknown.any()):
            with torch.no_grad():
                y = y.masked_scatter(unknown, teacher(x[unknown]).argmax(dim=1))
        return y

    def report(self) -> dict[str, dict[str, float]]:
        """Return what each memory has done since this process started: its bytes, and the share it answered."""
        return {
            role: {
                "bytes": one.bytes,
                "asked": one.asked,
                "looked_at": one.looked_at,
                "hit_rate": max(0.0, 1 - one.looked_at / one.asked) if one.asked else 0.0,
            }
            for role, one in self.wrapped.items()
            if one.keeps
        }
