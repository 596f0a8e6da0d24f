"""A run's networks, as several processes share them: DDP averages what is learnt, FSDP holds teachers in shards."""

import warnings
from collections.abc import Iterator, Mapping

import torch
from torch import nn

from overproof.methods.method import Terms
from overproof.models.classifier import Classifier
from overproof.processes import Processes


class TrainableNetworks(nn.Module):
    """Student and auxiliary models; its forward pass asks a method for its next losses.

    This is what DDP wraps. A method then searches on the bare networks, as often and through whatever it likes, and the
    wrapper sees one forward pass per backward pass.
    """

    def __init__(self, student: Classifier, auxiliary_models: Mapping[str, Classifier]) -> None:
        super().__init__()
        self.student = student
        self.auxiliary_models = nn.ModuleDict(auxiliary_models)

    def forward(self, losses: Iterator[Terms]) -> Terms | None:
        """Return the next losses, None where there are no more."""
        return next(losses, None)


def distributed(learners: TrainableNetworks, processes: Processes, device: torch.device) -> nn.Module:
    """Return the learners under DDP, with the leading process's weights; on GPUs BatchNorm sees the whole batch.

    torch has no ``SyncBatchNorm`` for CPUs: there BatchNorm normalises by the part of the batch that a process
    holds, and the leading process's running statistics are everyone's (``splits_batchnorm``).
    """
    if processes.count == 1:
        return learners
    if device.type == "cuda":
        nn.SyncBatchNorm.convert_sync_batchnorm(learners)  # type: ignore[no-untyped-call]
    # Bounds take gradients of |W|, whose layout may not be the weight's: one small copy, which no user can spare.
    warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides", UserWarning)
    return nn.parallel.DistributedDataParallel(learners)


def sharded(teacher: Classifier, processes: Processes, device: torch.device) -> None:
    """Leave each process its share of a frozen network's weights, on the device, in place (FSDP2).

    The weights of a layer are gathered when it is asked, forward and backward, and let go of afterwards; what is no
    matrix (norms, buffers) stays whole. Every process must ask the network equally often, for logits or for features.
    """
    from torch.distributed import fsdp
    from torch.distributed.device_mesh import init_device_mesh

    mesh = init_device_mesh(device.type, (processes.count,))
    whole = set(teacher.parameters())
    for layer in list(teacher.modules()):
        own = set(layer.parameters(recurse=False))
        if any(value.dim() > 1 for value in own):
            fsdp.fully_shard(layer, mesh=mesh, reshard_after_forward=True)
            whole -= own
    # The network is the root, which fetches the next layer's weights while one computes.
    fsdp.fully_shard(teacher, mesh=mesh, ignored_params=whole)
    fsdp.register_fsdp_forward_method(teacher, "features")
    teacher.to(device)
    # Nobody writes into a representation, which may be a view.
    warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view tensor", UserWarning)


def splits_batchnorm(network: nn.Module, processes: Processes) -> bool:
    """Whether the network's BatchNorm sees less than the whole batch, so that the run depends on ``processes``."""
    layers = [module for module in network.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    return processes.count > 1 and any(not isinstance(layer, nn.SyncBatchNorm) for layer in layers)
