"""Files as other codes write them: each layout of the field, made from one of our networks with the original's keys.

Sources of the layouts: what each project's training script hands to ``torch.save`` (or timm and the Hub to
``save_file``), read in their repositories; no file of theirs is used.
"""

import argparse
import io
import json
import pickletools
import struct
import sys
import zipfile
from collections import OrderedDict
from datetime import datetime
from itertools import cycle
from types import ModuleType

import numpy as np
import torch
from safetensors.torch import save_file

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616)


def optimiser_state(network):
    """Return the state of an optimiser that has taken a step, as training scripts store it beside the weights."""
    optimiser = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    for parameter in network.parameters():
        parameter.grad = torch.ones_like(parameter)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    optimiser.step()
    network.load_state_dict(before)
    return optimiser.state_dict()


def weights(network, prefix=""):
    return OrderedDict((prefix + name, value.clone()) for name, value in network.state_dict().items())


def ard(network, folder):
    return saved({"net": weights(network), "optimizer": optimiser_state(network)}, folder / "epoch=199.t7")


def ard_parallel(network, folder):
    return saved({"net": weights(network, "module.")}, folder / "parallel.t7")


def trades(network, folder):
    """TRADES' wide network has a block that is stored and never used: a copy of block1."""
    unused = {f"sub_{name}": value for name, value in weights(network).items() if name.startswith("block1.")}
    return saved(OrderedDict({**weights(network), **unused}), folder / "model_cifar_wrn.pt")


def rslad(network, folder):
    return saved(weights(network, "module."), folder / "0.8346_0.5411.pth")


def mtard(network, folder):
    return saved(weights(network), folder / "student.pth")


def iad(network, folder):
    body = {
        "epoch": 200,
        "test_nat_acc": np.float64(83.1),
        "test_pgd10_acc": np.float32(52.2),
        "state_dict": weights(network, "module."),
        "optimizer": optimiser_state(network),
    }
    return saved(body, folder / "bestpoint.pth.tar")


def adaad(network, folder):
    body = {"net": weights(network), "clean_acc": 85.0, "PGD10_acc": 57.0, "epoch": 199}
    return saved(body, folder / "best_PGD10_acc.pth")


def rrm(network, folder):
    body = {"state_dict": weights(network), "optimizer_state_dict": optimiser_state(network), "epoch": 100}
    return saved(body, folder / "checkpoint.pt")


def torchdistill(network, folder):
    body = {
        "model": weights(network),
        "optimizer": optimiser_state(network),
        "best_value": 71.0,
        "lr_scheduler": {"milestones": {5: 1}, "gamma": 0.1, "last_epoch": 9},
        "args": argparse.Namespace(config="kd.yaml", seed=1),
    }
    return saved(body, folder / "cifar10-student.pt")


def madry(network, folder):
    """MadryLab's wrapper keeps the network twice, and its normaliser twice."""
    normaliser = {"new_mean": torch.tensor(MEAN)[:, None, None], "new_std": torch.tensor(STD)[:, None, None]}
    body = OrderedDict(
        [
            *((f"module.normalizer.{name}", value) for name, value in normaliser.items()),
            *weights(network, "module.model.").items(),
            *((f"module.attacker.normalize.{name}", value) for name, value in normaliser.items()),
            *weights(network, "module.attacker.model.").items(),
        ]
    )
    record = {"model": body, "optimizer": {}, "schedule": None, "epoch": 150, "amp": "N/A", "nat_prec1": 87.0}
    return saved(record, folder / "cifar_linf_8.pt")


def mair(network, folder):
    """MAIR's trainer stores its record keeper as an object of its own classes."""
    wrapped = OrderedDict(
        {"n_classes": torch.tensor(10), "mean": torch.tensor(MEAN), "std": torch.tensor(STD)}
        | weights(network, "model.")
    )
    with module_in_place("mair.defenses.rm") as module:
        for name in ("RecordManager", "FloatMeter"):
            setattr(module, name, type(name, (), {"__module__": module.__name__}))
        meter = module.FloatMeter()
        meter.history = {1: np.float64(83.0)}
        keeper = module.RecordManager()
        keeper.records = OrderedDict({"Clean": meter})
        keeper._init_time = datetime(2023, 1, 1)
        if sys.version_info < (3, 14):  # itertools are no longer picklable there
            keeper._spinner = cycle(["-", "/"])
        body = {"accumulated_epoch": 200, "rmodel": wrapped, "recordmanager": keeper, "scheduler_type": "Epoch"}
        return saved(body, folder / "best.pth")


def mair_parallel(network, folder):
    """MAIR with its normaliser inside the network, which is spread over several devices."""
    wrapped = weights(network, "model.module.1.") | {
        "n_classes": torch.tensor(10),
        "model.module.0.mean": torch.tensor(MEAN),
        "model.module.0.std": torch.tensor(STD),
    }
    return saved({"rmodel": wrapped}, folder / "rmodel.pth")


def robustbench(network, folder):
    wrapped = {"mu": torch.tensor(MEAN)[None, :, None, None], "sigma": torch.tensor(STD)[None, :, None, None]}
    return saved(OrderedDict(wrapped | weights(network)), folder / "Rice2020Overfitting.pt")


def robustbench_wrapped(network, folder):
    wrapped = {"normalize.mean": torch.tensor(MEAN), "normalize.std": torch.tensor(STD)}
    body = OrderedDict(wrapped | weights(network, "module.model."))
    return saved({"state_dict": body, "epoch": 3}, folder / "Carmon2019Unlabeled.pt")


def timm(network, folder):
    """What timm's training script writes: the arguments are an object, and an average of the weights lies beside."""
    body = {
        "epoch": 9,
        "arch": "resnet20",
        "state_dict": weights(network),
        "optimizer": optimiser_state(network),
        "version": 2,
        "args": argparse.Namespace(model="resnet20"),
        "metric": 71.0,
    }
    return saved(body, folder / "model_best.pth.tar")


def hub(network, folder):
    """What timm pushes to the Hub: safetensors, and the normalisation in a config.json."""
    save_file(weights(network), folder / "model.safetensors")
    config = {"architecture": "resnet20", "num_classes": 10, "pretrained_cfg": {"mean": MEAN, "std": STD}}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


LAYOUTS = {
    # name: (writer, the network it is for, whether it holds a normalisation)
    "ard": (ard, "mobilenetv2", False),
    "ard-parallel": (ard_parallel, "resnet18", False),
    "trades": (trades, "wide", False),
    "rslad": (rslad, "resnet18", False),
    "mtard": (mtard, "resnet18", False),
    "iad": (iad, "wide", False),
    "adaad": (adaad, "mobilenetv2", False),
    "rrm": (rrm, "vgg", False),
    "torchdistill": (torchdistill, "resnet20", False),
    "madry": (madry, "resnet18", True),
    "mair": (mair, "preact", True),
    "mair-parallel": (mair_parallel, "preact", True),
    "robustbench": (robustbench, "preact", True),
    "robustbench-wrapped": (robustbench_wrapped, "dm_wide", True),
    "timm": (timm, "resnet20", False),
    "hub": (hub, "resnet20", True),
}


def saved(body, file, **options):
    torch.save(body, file, **options)
    return file


class module_in_place:
    """A module that exists while a file is written, as its authors had it, and is gone when the file is read."""

    def __init__(self, name):
        self.names = [name[: len(".".join(name.split(".")[: depth + 1]))] for depth in range(name.count(".") + 1)]

    def __enter__(self):
        for name in self.names:
            sys.modules[name] = ModuleType(name)
        return sys.modules[self.names[-1]]

    def __exit__(self, *_):
        for name in self.names:
            del sys.modules[name]


class Canary:
    """An object whose pickle runs ``call`` with these arguments when it is read."""

    def __init__(self, call, *arguments):
        self.call, self.arguments = call, arguments

    def __reduce__(self):
        return self.call, self.arguments


def with_code(file, canary, *, zipped=True):
    """Write a checkpoint that touches ``canary`` when it is read as a pickle."""
    body = {"net": OrderedDict(w=torch.zeros(2)), "hook": Canary(exec, f"open({str(canary)!r}, 'w').close()")}
    return saved(body, file, _use_new_zipfile_serialization=zipped)


def opcodes(file):
    """Return the operations of a zipped checkpoint's pickle."""
    with zipfile.ZipFile(file) as archive:
        name = next(name for name in archive.namelist() if name.endswith("data.pkl"))
        return [operation.name for operation, _, _ in pickletools.genops(io.BytesIO(archive.read(name)))]


def safetensors_cut(file):
    """Write the start of a safetensors file."""
    file.write_bytes(struct.pack("<Q", 400) + b'{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}')
    return file
