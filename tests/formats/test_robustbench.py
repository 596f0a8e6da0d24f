import sys
from types import ModuleType

import pytest
import torch

from overproof.errors import InputError
from overproof.formats import robustbench
from overproof.formats.robustbench import model_info, register, timm_name
from overproof.models.architectures.mlp import MLP
from overproof.models.weights import build, save_model
from overproof.signature import Signature

EVALUATION = {
    "architecture": "wide",
    "data": {"name": "uoft-cs/cifar10", "examples": 10000, "of": 10000},
    "threat": {"norm": "linf", "eps": "8/255"},
    "suite": {"name": "standard"},
    "clean": {"share": 0.9244},
    "worst": {"share": 0.67314},
    "reliability": {"verdict": "pass"},
}
WHO = {"title": "Better Things", "authors": "A. Person, B. Person"}


def refused(function, *arguments, **options):
    with pytest.raises(InputError) as caught:
        function(*arguments, **options)
    return str(caught.value)


# --- the leaderboard's entry ------------------------------------------------------------------------------------------


def test_the_entry_has_the_fields_and_forms_of_the_leaderboard():
    found = model_info(EVALUATION, **WHO, link="https://arxiv.org/abs/1", architecture="WideResNet-28-10")
    # Names, order and forms of model_info/cifar10/Linf/Wang2023Better_WRN-28-10.json.
    assert found == {
        "link": "https://arxiv.org/abs/1",
        "name": "Better Things",
        "authors": "A. Person, B. Person",
        "additional_data": False,
        "number_forward_passes": 1,
        "dataset": "cifar10",
        "venue": "Unpublished",
        "architecture": "WideResNet-28-10",
        "eps": "8/255",
        "clean_acc": "92.44",
        "reported": "67.31",
        "autoattack_acc": "67.31",
        "footnote": None,
        "unreliable": False,
    }


def test_what_could_not_be_relied_on_is_marked():
    assert model_info({**EVALUATION, "reliability": {"verdict": "fail"}}, **WHO)["unreliable"]
    assert not model_info({**EVALUATION, "reliability": None}, **WHO)["unreliable"]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"data": {"name": "mnist"}}, "RobustBench has no leaderboard for 'mnist'"),
        ({"threat": {"norm": "l1", "eps": "12"}}, "RobustBench has no leaderboard for l1"),
        (
            {"suite": {"name": "quick"}},
            "RobustBench lists the standard suite, not 'quick'; run: overproof evaluate RUN ",
        ),
        (
            {"data": {"name": "cifar10", "examples": 1000, "of": 10000}},
            "RobustBench lists the whole test split, not 1000 of its 10000 images",
        ),
    ],
)
def test_what_the_leaderboard_does_not_list_is_refused(change, told):
    assert refused(model_info, {**EVALUATION, **change}, **WHO).startswith(told)


# --- its loader -------------------------------------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path):
    torch.manual_seed(0)
    signature = Signature(channels=3, height=4, width=4, classes=10)
    network = build(MLP(hidden=(3,)), signature, mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2))
    save_model(tmp_path, network, MLP(hidden=(3,)), tuple("0123456789"), facts={})
    return tmp_path, network.eval()


@pytest.fixture
def timm(monkeypatch):
    """Put a package in timm's place with its registry as it is described: a function, filed under its own name."""
    entries = {}

    def register_model(entry):
        assert sys.modules[entry.__module__] is robustbench  # timm looks the module up
        entries[entry.__name__] = entry
        return entry

    def create_model(name, pretrained=False, pretrained_cfg=None, checkpoint_path="", **options):
        return entries[name](pretrained=pretrained, pretrained_cfg=pretrained_cfg, **options)

    timm, models = ModuleType("timm"), ModuleType("timm.models")
    timm.models, timm.create_model, timm.is_model = models, create_model, entries.__contains__
    models.register_model = register_model
    monkeypatch.setitem(sys.modules, "timm", timm)
    monkeypatch.setitem(sys.modules, "timm.models", models)
    return timm


def ask(timm, name, dataset, threat):
    """Ask as robustbench.utils.load_model does, with its rule for the name written out."""
    wanted = name.lower().replace("-", "_") + "_" + dataset + "_" + threat.lower()
    assert timm.is_model(wanted)
    return timm.create_model(wanted, num_classes=10, pretrained=True, checkpoint_path="").eval()


def test_robustbench_finds_our_network_through_timm(run, timm):
    folder, network = run
    assert register(folder, "Person2026Better_MLP-3", dataset="cifar10") == "person2026better_mlp_3_cifar10_linf"
    x = torch.rand(2, 3, 4, 4)
    assert torch.equal(ask(timm, "Person2026Better_MLP-3", "cifar10", "Linf")(x), network(x))
    fresh = timm.create_model("person2026better_mlp_3_cifar10_linf")
    assert fresh.normalises and not torch.equal(fresh(x), network(x))
    told = refused(timm.create_model, "person2026better_mlp_3_cifar10_linf", num_classes=100)
    assert told == "person2026better_mlp_3_cifar10_linf: it has 10 classes, not 100"


def test_the_real_timm_is_asked_as_robustbench_asks_it(run):
    timm = pytest.importorskip("timm")
    folder, network = run
    name = register(folder, "Person2026Better_MLP-4", dataset="cifar10", threat="L2")
    x = torch.rand(2, 3, 4, 4)
    assert torch.equal(ask(timm, "Person2026Better_MLP-4", "cifar10", "L2")(x), network(x))
    fresh = timm.create_model(name)
    assert fresh.normalises and not torch.equal(fresh(x), network(x))
    assert name in timm.list_models("person2026better*")
    assert refused(timm.create_model, name, num_classes=100) == f"{name}: it has 10 classes, not 100"


@pytest.mark.filterwarnings("ignore")  # what its own imports deprecate
def test_the_real_packages_find_it(run):
    pytest.importorskip("timm")
    load_model = pytest.importorskip("robustbench.utils").load_model
    folder, network = run
    register(folder, "Person2026Better_MLP-3", dataset="cifar10", threat="L2")
    x = torch.rand(2, 3, 4, 4)
    assert torch.equal(load_model("Person2026Better_MLP-3", dataset="cifar10", threat_model="L2")(x), network(x))


def test_what_cannot_be_registered(run, timm, monkeypatch):
    folder, _ = run
    assert refused(register, folder, "X", dataset="cifar100") == f"{folder}: it has 10 classes, cifar100 has 100"
    assert refused(timm_name, "a b", "cifar10").startswith(
        "'a b': RobustBench's ids look like Wang2023Better_WRN-28-10"
    )
    assert refused(timm_name, "X", "cifar-10") == "RobustBench has no data set 'cifar-10' (did you mean 'cifar10'?)"
    assert refused(timm_name, "X", "cifar10", "linf") == "RobustBench has no threat 'linf' (did you mean 'Linf'?)"
    monkeypatch.setitem(sys.modules, "timm.models", None)
    assert refused(register, folder, "X", dataset="cifar10") == "timm is an extra: pip install 'overproof[zoo]'"
