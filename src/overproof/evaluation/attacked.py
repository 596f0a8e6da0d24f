"""A network under a suite of attacks: what the engine needs is put together here."""

from typing import Literal

import torch
from torch import nn

from overproof.attacks.suites import AttackSpec, Suite
from overproof.data.images import ImageSet
from overproof.evaluation.engine import Subject, run_attacks
from overproof.evaluation.results import Verdicts
from overproof.evaluation.shards import Shard
from overproof.models.architectures.architecture import Backbone
from overproof.models.classifier import Classifier
from overproof.models.external.onnx_network import OnnxNetwork, in_torch
from overproof.models.inference.fast import Fast
from overproof.models.mode import in_mode

# How near to 0 a searched margin must be, as a share of the largest logit, for the judge to be asked: the rounding of
# folded weights in float32, and two units of the 8 bits that bf16 keeps.
_SLACK = {"fp32": 1e-5, "bf16": 2**-6}
_CHUNK = {"cpu": 128}  # a CPU gains nothing from larger passes, and they cost memory
_LARGEST = 1024


def prepare_subject(
    model: nn.Module, *, precision: Literal["fp32", "bf16"] = "fp32", surrogate: nn.Module | None = None
) -> Subject:
    """Return the subject of an evaluation: the model decides, a faster copy of it is searched on.

    The copy is made of our own networks, and of an ONNX file's in torch, only; any other is searched as it is, in full
    precision.
    """
    device = next((weight.device for weight in model.parameters()), torch.device("cpu"))
    chunk = _CHUNK.get(device.type, _LARGEST)
    if isinstance(model, Classifier) and isinstance(model.backbone, Backbone):
        return Subject(
            judge=model, search=Fast(model, precision), slack=_SLACK[precision], surrogate=surrogate, chunk=chunk
        )
    if isinstance(model, Classifier) and isinstance(model.backbone, OnnxNetwork):  # its layers are known to the copy
        return Subject(
            judge=model, search=Fast(in_torch(model), "fp32"), slack=_SLACK["fp32"], surrogate=surrogate, chunk=chunk
        )
    return Subject(judge=model, search=model, surrogate=surrogate, chunk=chunk)


def judge(
    model: nn.Module,
    images: ImageSet,
    trials: tuple[AttackSpec, ...],
    *,
    batch: int = 500,
    seed: int = 0,
    surrogate: nn.Module | None = None,
    shard: Shard | None = None,
) -> Verdicts:
    """Attack every correctly classified example with every trial and return the verdicts.

    ``surrogate`` is what transfer attacks search on.

    The set is on the model's device. The model is in eval mode meanwhile. Each pass runs on the examples that the
    passes before it left robust. With a ``shard``, processes share the blocks and have the same verdicts.
    """
    shard = shard or Shard()
    suite = Suite(name="trials", attacks=trials)
    with in_mode(model, training=False):
        subject = prepare_subject(model, surrogate=surrogate)
        blocks = {}
        for number, block in enumerate(images.batches(batch)):
            if shard.mine(number):
                *_, blocks[number] = run_attacks(subject, block, suite, seed=seed, number=number)
    return Verdicts.of(shard.collected(blocks).values(), suite=suite)
