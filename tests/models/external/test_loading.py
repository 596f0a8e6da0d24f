import re
import sys
from dataclasses import replace
from enum import Enum
from importlib.util import find_spec
from textwrap import dedent
from types import ModuleType, SimpleNamespace

import pytest
import torch
from torch import nn

from overproof.errors import InputError
from overproof.models.classifier import Classifier
from overproof.models.external.loading import load_external
from overproof.signature import Signature

SIGNATURE = Signature(channels=3, height=8, width=8, classes=4)
UNUSABLE = (
    "RobustBench cannot be imported here ({}); no extra of ours brings it, install it from "
    "https://github.com/RobustBench/robustbench"
)
NETS = """
    import torch
    from torch import nn
    from overproof.models.classifier import Classifier
    from overproof.signature import Signature

    made = []

    class Net(nn.Sequential):
        def __init__(self, classes=4):
            super().__init__(nn.Conv2d(3, 2, 3), nn.BatchNorm2d(2), nn.Dropout(), nn.Flatten(), nn.Linear(72, classes))

    class Stubborn(Net):
        def train(self, mode=True):
            super().train(mode)
            self[2].training = True
            return self

    def build():
        made.append(Net())
        return made[-1]

    def with_default(classes=4, *others, **options):
        return Net(classes)

    def ours():
        return Classifier(Net(), Signature(channels=3, height=8, width=8, classes=4), mean=(.5,) * 3, std=(.25,) * 3)

    def ours_for_others():
        return Classifier(Net(5), Signature(channels=3, height=8, width=8, classes=5))

    def plain():
        return lambda x: 2 * x.mean(dim=(2, 3)).repeat(1, 2)[:, :4]

    def late():
        def call(x):
            from late_part import double
            return double(x).flatten(1)[:, :4]
        return call

    ready = Net()
    number = 3
    silent = dict  # does not say what it takes
    _hidden = build

    def needy(width, depth, mode="x"):
        return Net()

    def breaks():
        raise OSError("no weights\\n at home")

    def leaves():
        raise SystemExit(3)

    def nothing():
        return None

    def the_class():
        return Net

    def five():
        return Net(5)

    def flat():
        return lambda x: x.mean(dim=(1, 2, 3))

    def one_row():
        return lambda x: x[:1].flatten(1)[:, :4]

    def pair():
        return lambda x: (x, x)

    class Output(dict):
        logits = 1

    def hugging():
        return lambda x: Output()

    def labels():
        return lambda x: torch.zeros(len(x), 4, dtype=torch.int64)

    def grey():
        return nn.Sequential(nn.Conv2d(1, 4, 8), nn.Flatten())
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Go into a folder with modules of a user; whatever is imported is forgotten afterwards."""
    before = set(sys.modules)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nets.py").write_text(dedent(NETS))
    (tmp_path / "late_part.py").write_text("def double(x): return 2 * x")
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__init__.py").write_text("")
    (tmp_path / "package" / "models.py").write_text("from nets import Net, build")
    (tmp_path / "wanting.py").write_text("import not_there_at_all")
    (tmp_path / "wrong.py").write_text("def f(:")
    (tmp_path / "script.py").write_text("import sys; sys.exit('usage: script FILE')")
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.split(".")[0] in ("nets", "late_part", "package", "wanting", "wrong", "script"):
            del sys.modules[name]


def refuses(name, sentence, signature=SIGNATURE, *, whole=True):
    with pytest.raises(InputError, match=f"^{re.escape(sentence)}{'$' if whole else ''}") as caught:
        load_external(name, signature)
    assert "\n" not in str(caught.value)


# --- a module of the user's own ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("factory", ["build", "with_default", "Net", "ready", "_hidden"])
def test_a_module_is_wrapped_and_its_answers_are_its_own(factory, here):
    model = load_external(f"nets:{factory}", SIGNATURE)
    assert type(model) is Classifier and not model.normalises and model.signature == SIGNATURE
    x = torch.rand(3, 3, 8, 8)
    assert torch.equal(model(x), model.backbone(x))
    assert type(model.backbone) is sys.modules["nets"].Net


def test_the_factory_is_called_once_and_its_network_taken(here):
    model = load_external("nets:build", SIGNATURE)
    assert sys.modules["nets"].made == [model.backbone]
    assert load_external("nets:ready", SIGNATURE).backbone is sys.modules["nets"].ready


def test_a_module_in_a_package_is_found(here):
    assert type(load_external("package.models:build", SIGNATURE).backbone) is sys.modules["nets"].Net


def test_a_classifier_is_not_wrapped_again(here):
    model = load_external("nets:ours", SIGNATURE)
    assert type(model.backbone) is sys.modules["nets"].Net
    assert model.normalises and model.mean.flatten().tolist() == [0.5] * 3


def test_a_plain_callable_becomes_a_network(here):
    model = load_external("nets:plain", SIGNATURE)
    x = torch.rand(2, 3, 8, 8)
    assert isinstance(model, Classifier) and list(model.parameters()) == []
    torch.testing.assert_close(model(x), 2 * x.mean(dim=(2, 3))[:, [0, 1, 2, 0]])


def test_it_comes_in_eval_mode_and_being_tried_changes_nothing(here, modes):
    model = load_external("nets:ready", SIGNATURE)
    assert not any(modes(model).values())
    norm = model.backbone[1]
    assert norm.num_batches_tracked == 0 and torch.equal(norm.running_mean, torch.zeros(2))
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_a_network_that_keeps_a_part_random_by_its_own_train_keeps_it(here):
    model = load_external("nets:Stubborn", SIGNATURE)
    assert model.backbone[2].training and not model.backbone[1].training


def test_what_is_imported_at_the_first_call_is_found_and_the_search_path_is_given_back(here):
    before = list(sys.path)
    assert load_external("nets:late", SIGNATURE)(torch.rand(2, 3, 8, 8)).shape == (2, 4)
    refuses("nets:breaks", "nets:breaks: the factory raised OSError: no weights at home")
    assert sys.path == before


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("netz:build", "no module 'netz' in {here}, or installed (did you mean 'nets'?)"),
        ("tim:resnet", "no module 'tim' in {here}, or installed (did you mean 'timm'?)"),
        ("qqqqqqqq:build", "no module 'qqqqqqqq' in {here}, or installed"),
        ("qqqqqqqq.part:build", "no module 'qqqqqqqq' in {here}, or installed"),
        ("package.model:x", "no module 'package.model' in {here}, or installed (did you mean 'package.models'?)"),
        ("nets.part:build", "no module 'nets.part' in {here}, or installed"),
        (
            "wanting:x",
            "importing wanting raised ModuleNotFoundError: No module named 'not_there_at_all'",
        ),
        ("script:x", "importing script raised SystemExit: usage: script FILE"),
        ("nets:biuld", "nets has no 'biuld' (did you mean 'build'?)"),
        ("nets:qqqqqqqq", "nets has no 'qqqqqqqq'"),
        ("nets:number", "this is an object of type int, neither a factory nor an nn.Module"),
        (
            "nets:needy",
            "it needs arguments (width, depth); write them behind it, nets:needy?name=value&name=value",
        ),
        ("nets:silent", "the factory returned an object of type dict, not an nn.Module or a function of pixels"),
        ("nets:leaves", "the factory raised SystemExit: 3"),
        ("nets:nothing", "the factory returned None, not an nn.Module or a function of pixels"),
        ("nets:the_class", "the factory returned the class Net, not an nn.Module or a function of pixels"),
        ("nets:five", "it returns 5 logits, the data have 4 classes"),
        ("nets:ours_for_others", "it is for 3x8x8, 5 classes, the data are 3x8x8, 4 classes"),
        ("nets:flat", "given images [2, 3, 8, 8] it returned [2]; expected one row of logits each"),
        ("nets:one_row", "given images [2, 3, 8, 8] it returned [1, 4]; expected one row of logits each"),
        ("nets:pair", "it returned an object of type tuple; return the logits as one tensor"),
        ("nets:hugging", "it returned an object of type Output; return its .logits"),
        ("nets:labels", "it returned torch.int64 numbers; return floating-point logits"),
        ("timn:a-b", "no networks are called 'timn' (did you mean 'timm'?); write {forms}"),
        ("hub:a/b", "no networks are called 'hub' (one of: robustbench, timm, torchvision); write {forms}"),
        ("nets:", "no networks are called 'nets' (one of: robustbench, timm, torchvision); write {forms}"),
        ("timm:", "no networks are called 'timm' (did you mean 'timm'?); write {forms}"),
        (":x", "no networks are called '' (one of: robustbench, timm, torchvision); write {forms}"),
    ],
    ids=lambda value: value.partition(" ")[0],
)
def test_what_cannot_be_used_is_refused_in_one_sentence(name, sentence, here):
    forms = "package.module:factory, FILE.onnx, robustbench:[DATASET/THREAT/]NAME, timm:NAME or torchvision:NAME"
    refuses(name, f"{name}: {sentence.format(forms=forms, here=here)}")


@pytest.mark.parametrize(
    ("name", "start"),
    [("wrong:x", "importing wrong raised SyntaxError: "), ("nets:grey", "given images [2, 3, 8, 8] it raised Runtime")],
)
def test_what_it_raised_is_told_in_one_line(name, start, here):
    with pytest.raises(InputError, match=f"^{re.escape(f'{name}: {start}')}.*$") as caught:
        load_external(name, SIGNATURE)
    assert len(str(caught.value)) < 270 and caught.value.__cause__ is not None


# --- the zoos ---------------------------------------------------------------------------------------------------------


def test_without_timm_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    refuses("timm:resnet18", "timm:resnet18 needs the extra: pip install 'overproof[zoo]'")


@pytest.mark.parametrize("name", ["robustbench:Standard", "robustbench:cifar100/L2/X"])
def test_without_robustbench_its_repository_is_named(name, monkeypatch):
    monkeypatch.setitem(sys.modules, "robustbench.utils", None)
    monkeypatch.setitem(sys.modules, "robustbench", ModuleType("robustbench"))
    why = "ModuleNotFoundError: import of robustbench.utils halted; None in sys.modules"
    refuses(name, f"{name}: {UNUSABLE.format(why)}")


def test_a_folder_of_the_packages_name_is_not_the_package(here):
    (here / "timm").mkdir()
    (here / "timm" / "__init__.py").write_text("raise AssertionError")
    if not find_spec("timm"):
        refuses("timm:x", "timm:x needs the extra: pip install 'overproof[zoo]'")


def network(classes=4):
    return nn.Sequential(nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(192, classes))


@pytest.fixture
def timm(monkeypatch):
    """Put a package in timm's place that knows ``tiny`` and ``tiny.other``; returns the calls to ``create_model``."""
    calls = []

    def create_model(name, pretrained=False):
        calls.append((name, pretrained))
        if name not in ("tiny", "tiny.other", "old", "bare"):
            raise RuntimeError(f"Unknown model ({name})")
        if name == "old":
            raise RuntimeError("No pretrained weights exist for old")
        made = network()
        made.pretrained_cfg = {
            "mean": (0.1, 0.2, 0.3),
            "std": (0.5, 0.25, 0.125),
            "input_size": (3, 8, 8),
            "test_input_size": (3, 12, 12) if name == "tiny.other" else None,
        }
        if name == "bare":
            made.pretrained_cfg = {}
        return made

    fake = ModuleType("timm")
    fake.create_model = create_model
    fake.is_model = lambda name: name in ("tiny", "tiny.other", "old")
    fake.list_models = lambda pretrained: ["tiny", "tiny.other", *(f"some_{number}" for number in range(900))]
    monkeypatch.setitem(sys.modules, "timm", fake)
    return calls


def test_timm_gives_pretrained_weights_and_their_normalisation(timm):
    model = load_external("timm:tiny", SIGNATURE)
    assert timm == [("tiny", True)]
    assert model.normalises and not model.training
    assert model.mean.flatten().tolist() == pytest.approx([0.1, 0.2, 0.3])
    assert model.std.flatten().tolist() == [0.5, 0.25, 0.125]
    x = torch.rand(2, 3, 8, 8)
    assert torch.equal(model(x), model.backbone((x - model.mean) / model.std))


def test_timm_without_a_description_is_taken_as_it_is(timm):
    assert not load_external("timm:bare", SIGNATURE).normalises


def test_the_size_timm_trained_for_is_checked_and_its_test_size_will_do(timm):
    advice = "; where another size is meant, resize inside a network of your own (package.module:factory)"
    refuses(
        "timm:tiny",
        f"timm:tiny: it is for 3x8x8 images, the data are 3x12x12, 4 classes{advice}",
        Signature(channels=3, height=12, width=12, classes=4),
    )
    refuses(
        "timm:tiny.other",
        f"timm:tiny.other: it is for 3x8x8 or 3x12x12 images, the data are 1x8x8, 4 classes{advice}",
        Signature(channels=1, height=8, width=8, classes=4),
    )
    # The size is right; it is the linear layer of the fake that does not fit.
    with pytest.raises(InputError, match=r"^timm:tiny\.other: given images \[2, 3, 12, 12\] it raised RuntimeError: "):
        load_external("timm:tiny.other", Signature(channels=3, height=12, width=12, classes=4))


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("timm:tinny", "timm cannot load it (did you mean 'tiny'?) (RuntimeError: Unknown model (tinny))"),
        ("timm:qqqqqqqq", "timm cannot load it (RuntimeError: Unknown model (qqqqqqqq))"),
        ("timm:old", "timm cannot load it (RuntimeError: No pretrained weights exist for old)"),
    ],
)
def test_what_timm_does_not_have_is_told_with_the_nearest_name(name, sentence, timm):
    refuses(name, f"{name}: {sentence}")


def test_the_classes_of_a_zoos_network_must_be_those_of_the_data(timm):
    refuses(
        "timm:tiny",
        "timm:tiny: it returns 4 logits, the data have 10 classes",
        Signature(channels=3, height=8, width=8, classes=10),
    )


def test_the_real_timm_loads_weights_and_tells_their_normalisation(tmp_path, monkeypatch):
    """All of its own loading but for the download: its entry of the network names a file of ours."""
    timm = pytest.importorskip("timm")
    from timm.models import _registry

    torch.manual_seed(1)
    original = timm.create_model("test_resnet").eval()
    torch.save(original.state_dict(), tmp_path / "weights.pth")
    (full,) = (name for name in _registry._model_pretrained_cfgs if name.startswith("test_resnet."))
    entry = replace(_registry._model_pretrained_cfgs[full], file=str(tmp_path / "weights.pth"))
    monkeypatch.setitem(_registry._model_pretrained_cfgs, full, entry)
    signature = Signature(channels=3, height=160, width=160, classes=1000)
    model, original = load_external(f"timm:{full}", signature).double(), original.double()
    x = torch.rand(2, 3, 160, 160).double()
    mean, std = (torch.tensor(entry_of).reshape(1, 3, 1, 1) for entry_of in (entry.mean, entry.std))
    with torch.no_grad():
        # The entry's own means are rounded to float32, by 6e-8; the rest is float64.
        torch.testing.assert_close(model(x), original((x - mean) / std), atol=1e-9, rtol=1e-9)
        logits, hidden = model.features(x)
        torch.testing.assert_close(model.head(hidden), logits, atol=1e-9, rtol=1e-9)
    refuses(
        f"timm:{full}", f"timm:{full}: it is for 3x160x160 images, the data are 3x8x8, 4 classes; where", whole=False
    )


def test_the_real_timm_names_what_it_does_not_have():
    pytest.importorskip("timm")
    refuses("timm:resnet19", "timm:resnet19: timm cannot load it (did you mean 'resnet", whole=False)


class Data(Enum):
    cifar_10 = "cifar10"
    cifar_100 = "cifar100"


class What(Enum):
    Linf = "Linf"
    L2 = "L2"


@pytest.fixture
def robustbench(monkeypatch):
    """Put a package in RobustBench's place, with its tree of names; returns the calls to ``load_model``."""
    calls = []
    zoo = {
        Data.cifar_10: {What.Linf: {"Wang2023Better": {}, "Broken": {}}, What.L2: {}},
        Data.cifar_100: {What.Linf: {"Cui2023Decoupled": {}}},
    }

    def load_model(model_name, dataset="cifar10", threat_model="Linf"):
        calls.append((model_name, dataset, threat_model))
        _ = zoo[Data(dataset)][What(threat_model)][model_name]
        if model_name == "Broken":
            raise OSError("download failed")
        return network()

    package, utilities = ModuleType("robustbench"), ModuleType("robustbench.utils")
    utilities.load_model = load_model
    monkeypatch.setitem(sys.modules, "robustbench", package)
    monkeypatch.setitem(sys.modules, "robustbench.utils", utilities)
    monkeypatch.setitem(sys.modules, "robustbench.model_zoo", SimpleNamespace(model_dicts=zoo))
    return calls


@pytest.mark.parametrize(
    ("name", "asked"),
    [
        ("robustbench:Wang2023Better", ("Wang2023Better", "cifar10", "Linf")),
        ("robustbench:cifar10/Linf/Wang2023Better", ("Wang2023Better", "cifar10", "Linf")),
        ("robustbench:cifar100/Linf/Cui2023Decoupled", ("Cui2023Decoupled", "cifar100", "Linf")),
    ],
)
def test_robustbench_is_asked_for_data_set_threat_and_name(name, asked, robustbench):
    model = load_external(name, SIGNATURE)
    assert robustbench == [asked]
    assert not model.normalises and not model.training


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        (
            "robustbench:Wang2023Beter",
            "RobustBench has no cifar10/Linf/Wang2023Beter (did you mean 'cifar10/Linf/Wang2023Better'?)",
        ),
        (
            "robustbench:Cui2023Decoupled",
            "RobustBench has no cifar10/Linf/Cui2023Decoupled (did you mean 'cifar100/Linf/Cui2023Decoupled'?)",
        ),
        (
            "robustbench:cifar10/linf/Broken",
            "RobustBench has no cifar10/linf/Broken (did you mean 'cifar10/Linf/Broken'?)",
        ),
        ("robustbench:Broken", "RobustBench cannot load it (OSError: download failed)"),
        ("robustbench:cifar10/X", "write robustbench:NAME or robustbench:DATASET/THREAT/NAME"),
    ],
)
def test_what_robustbench_does_not_have_is_told_with_the_nearest_name(name, sentence, robustbench):
    refuses(name, f"{name}: {sentence}")


@pytest.mark.filterwarnings("ignore")  # what its own imports deprecate
def test_the_real_robustbench_names_what_it_does_not_have():
    pytest.importorskip("robustbench.utils")
    wanted = "cifar10/Linf/Wang2023Better_WRN-28-1"
    told = f"robustbench:{wanted}: RobustBench has no {wanted} (did you mean 'cifar10/Linf/Wang2023Better_WRN-28-10'"
    refuses(f"robustbench:{wanted}", told, whole=False)


@pytest.mark.parametrize(
    ("kind", "missing", "broken"),
    [
        (
            "timm",
            " needs the extra: pip install 'overproof[zoo]'",
            ": timm is installed but cannot be imported (ValueError: made for another torch)",
        ),
        (
            "robustbench",
            ": " + UNUSABLE.format("ModuleNotFoundError: No module named 'not_there_at_all'"),
            ": " + UNUSABLE.format("ValueError: made for another torch"),
        ),
    ],
)
def test_a_package_that_needs_another_missing_one_or_is_broken_says_so(kind, missing, broken, here, monkeypatch):
    folder = here / "elsewhere" / kind
    folder.mkdir(parents=True)
    monkeypatch.syspath_prepend(str(folder.parent))
    for name in (kind, f"{kind}.utils", f"{kind}.model_zoo"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    (folder / "__init__.py").write_text("import not_there_at_all")
    refuses(f"{kind}:x", f"{kind}:x{missing}")
    (folder / "__init__.py").write_text("raise ValueError('made for another torch')")
    refuses(f"{kind}:x", f"{kind}:x{broken}")
