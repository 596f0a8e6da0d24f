"""Trains in float64 with Lightning on 96 digits, and writes the weights: python FILE PROCESSES OUT METHOD..."""

import sys
from pathlib import Path

import lightning
import torch
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from overproof.attacks.ball import Radius
from overproof.attacks.pgd import PGD
from overproof.data.images import balanced_subset
from overproof.data.sources import Digits
from overproof.integrations.lightning import DistillationModule
from overproof.methods.ard import ARD
from overproof.methods.awp import AWP
from overproof.methods.b_mtard import BMTARD
from overproof.methods.mtard import MTARD
from overproof.methods.saad import SAAD
from overproof.models.architectures.convnet import ConvNet
from overproof.models.weights import build, freeze
from overproof.training.optimisation import SGD, Constant, Training

INNER = PGD(eps=Radius("0.1"), steps=2)
METHODS = {
    "mtard": MTARD(inner=INNER),
    "b_mtard": BMTARD(inner=INNER),
    "saad": SAAD(inner=INNER),
    "awp": AWP(base=ARD(inner=INNER)),
}
BATCH = 32


def main(processes, out, names):
    images = Digits().load("train")
    images = images.at(balanced_subset(images, 96, seed=0))
    pixels = TensorDataset(images.images.double() / 255, images.labels)

    def network(seed):
        torch.manual_seed(seed)
        return build(ConvNet(channels=(4,), hidden=(8,)), images.signature, mean=(0.3,), std=(0.4,)).double()

    for name in names:
        method = METHODS[name]
        teachers = {role: freeze(network(number)) for number, role in enumerate(method.roles, start=1)}
        training = Training(optimiser=SGD(lr=0.05), schedule=Constant(), clip=1.0)
        module = InOrder(method, network(0), teachers, training, seed=7)
        module.pixels = pixels
        trainer = lightning.Trainer(
            accelerator="cpu",
            devices=processes,
            strategy="ddp_fork" if processes > 1 else "auto",
            max_epochs=2,
            precision="64-true",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[Written(Path(out) / f"{name}.pt")],
            use_distributed_sampler=False,
        )
        trainer.fit(module)


class InOrder(DistillationModule):
    """The images in their own order, which Lightning's own sampler would shuffle."""

    def train_dataloader(self):
        count, rank = self.trainer.world_size, self.global_rank
        sampler = DistributedSampler(self.pixels, num_replicas=count, rank=rank, shuffle=False)
        return DataLoader(self.pixels, batch_size=BATCH // count, sampler=sampler)


class Written(lightning.Callback):
    def __init__(self, file):
        self.file = file

    def on_train_end(self, trainer, module):
        if trainer.global_rank == 0:
            torch.save({"student": module.student.state_dict(), "memory": module.memory}, self.file)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3:])
