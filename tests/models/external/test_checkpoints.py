import re

import pytest
import torch
from tests.models.external.checkpoints import LAYOUTS, MEAN, STD, hub, saved, weights

from overproof.errors import InputError
from overproof.models.architectures.catalogue import NAMED
from overproof.models.architectures.convnet import ConvNet
from overproof.models.architectures.dm_wide import DMWideResNet
from overproof.models.architectures.mobilenetv2 import MobileNetV2
from overproof.models.architectures.preact import PreActResNet
from overproof.models.architectures.resnet import ResNet
from overproof.models.architectures.vgg import VGG
from overproof.models.architectures.wide import WideResNet
from overproof.models.external.checkpoints import _common, find_weights, load_into
from overproof.models.external.untrusted import read_untrusted
from overproof.models.weights import build
from overproof.signature import Signature

SIZE = Signature(channels=3, height=16, width=16, classes=10)
NETWORKS = {
    "mobilenetv2": MobileNetV2(width=0.125),
    "resnet18": ResNet(depth=18, width=0.0625),
    "resnet20": ResNet(depth=20, width=0.25),
    "wide": WideResNet(depth=10, width=1),
    "dm_wide": DMWideResNet(depth=10, width=1),
    "preact": PreActResNet(width=0.0625),
    "vgg": VGG(depth=11, width=0.0625),
}


def network(name, *, size=SIZE):
    """Return a network with BatchNorm statistics that are not the initial ones."""
    made = build(NETWORKS[name], size).backbone
    with torch.no_grad():
        made(torch.rand(8, size.channels, size.height, size.width))
    return made.eval()


def find(tree, name, **options):
    return find_weights(tree, NETWORKS.get(name) or NAMED[name], SIZE, name=name, **options)


def refuses(tree, name, sentence, **options):
    with pytest.raises(InputError, match=f"^{re.escape(sentence)}$"):
        find(tree, name, **options)


WHERE = {
    "ard": ("net", "", ()),
    "ard-parallel": ("net", "module.", ()),
    "trades": ("", "", ("sub_block1",)),
    "rslad": ("", "module.", ()),
    "mtard": ("", "", ()),
    "iad": ("state_dict", "module.", ()),
    "adaad": ("net", "", ()),
    "rrm": ("state_dict", "", ()),
    "torchdistill": ("model", "", ()),
    "madry": ("model", "module.model.", ()),
    "mair": ("rmodel", "model.", ()),
    "mair-parallel": ("rmodel", "model.module.1.", ()),
    "robustbench": ("", "", ()),
    "robustbench-wrapped": ("state_dict", "module.model.", ()),
    "timm": ("state_dict", "", ()),
    "hub": ("", "", ()),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_of_the_field_gives_the_network_it_holds(layout, tmp_path):
    write, name, normalised = LAYOUTS[layout]
    original = network(name)
    file = write(original, tmp_path)
    found = find(read_untrusted(file / "model.safetensors" if file.is_dir() else file), name)
    copy = build(NETWORKS[name], SIZE).backbone.eval()
    load_into(copy, found)
    x = torch.rand(4, 3, 16, 16)
    with torch.no_grad():
        assert (copy(x) - original(x)).abs().max() <= 1e-6
    assert (found.place, found.prefix, found.unused) == WHERE[layout]
    assert found.classes == 10
    inside = normalised and write is not hub  # the Hub's lies beside the file
    assert found.mean == pytest.approx(MEAN if inside else ())
    assert found.std == pytest.approx(STD if inside else ())


@pytest.mark.parametrize(("ours", "theirs"), [("downsample", "shortcut"), ("fc", "linear"), ("fc", "head")])
def test_names_of_another_lineage_are_understood(ours, theirs):
    original = network("resnet20")
    assert any(f"{ours}." in name for name in original.state_dict())
    renamed = {name.replace(f"{ours}.", f"{theirs}."): value for name, value in weights(original).items()}
    found = find(renamed, "resnet20")
    assert all(torch.equal(found.tensors[name], value) for name, value in original.state_dict().items())


@pytest.mark.parametrize("name", NAMED)
def test_no_network_has_two_names_that_mean_the_same(name):
    with torch.device("meta"):
        made = NAMED[name].build(Signature(channels=3, height=32, width=32, classes=10))
    names = list(made.state_dict())
    assert len({_common(each) for each in names}) == len(names)


def test_half_precision_becomes_single_and_counts_stay_whole():
    original = network("resnet20")
    found = find(
        {name: value.half() if value.is_floating_point() else value for name, value in weights(original).items()},
        "resnet20",
    )
    assert found.tensors["conv1.weight"].dtype == torch.float32
    assert found.tensors["bn1.num_batches_tracked"].dtype == torch.int64
    assert torch.allclose(found.tensors["conv1.weight"], original.state_dict()["conv1.weight"], atol=1e-3)


def test_files_from_before_batches_were_counted_are_whole():
    original = network("resnet20")
    old = {name: value for name, value in weights(original).items() if "num_batches" not in name}
    copy = build(NETWORKS["resnet20"], SIZE).backbone.eval()
    load_into(copy, find(old, "resnet20"))
    x = torch.rand(2, 3, 16, 16)
    assert torch.equal(copy(x), original(x))


def test_a_normaliser_that_changes_nothing_is_none():
    tree = {"mean": torch.zeros(3), "std": torch.ones(3), **weights(network("resnet20"), "model.")}
    assert find(tree, "resnet20").mean == ()


# --- what does not fit ------------------------------------------------------------------------------------------------


def test_missing_and_left_over_tensors_are_told_in_words():
    tree = weights(network("resnet20"))
    del tree["conv1.weight"]
    tree["gate.weight"], tree["gate.bias"] = torch.ones(1), torch.ones(1)
    refuses(
        tree,
        "resnet20",
        f"it is no resnet20: 1 of {len(tree) - 1} tensors are missing (conv1.weight); 2 belong to nothing "
        f"(gate.weight, gate.bias)",
    )


def test_another_shape_is_told_with_both():
    tree = weights(network("resnet20"))
    tree["conv1.weight"] = tree["conv1.weight"][:, :1]
    refuses(
        tree,
        "resnet20",
        "it is no resnet20: 1 are of another shape (conv1.weight is [4, 1, 3, 3] where [4, 3, 3, 3] is needed)",
    )


def test_the_network_it_is_is_suggested():
    made = NAMED["resnet32"].build(Signature(channels=3, height=16, width=16, classes=100))
    tree = {"state_dict": {f"module.{name}": value for name, value in made.state_dict().items()}}
    with pytest.raises(InputError, match=r"^it is no resnet56: \d+ of \d+ tensors are missing \(layer1\.5") as caught:
        find(tree, "resnet56")
    assert str(caught.value).endswith("; by names and shapes it is 'resnet32': say --model resnet32")
    with pytest.raises(InputError, match=r"it is 'resnet32'"):
        find(tree, "wrn-28-10")


def test_a_file_without_any_of_its_names():
    refuses({"a": {"x": torch.ones(1)}}, "resnet20", "it holds nothing of resnet20; its entries are 'a'")
    refuses({"epoch": 3, "name": "x"}, "resnet20", "it holds no tensors by their names")


def test_the_number_of_classes_is_checked():
    tree = weights(network("resnet20"))
    assert find(tree, "resnet20", classes=10).classes == 10
    refuses(tree, "resnet20", "its last layer (fc.weight) is for 10 classes, not 100", classes=100)


def test_of_several_networks_one_must_be_chosen():
    one, two = network("resnet20"), network("resnet20")
    tree = {"state_dict": weights(one), "state_dict_ema": weights(two)}
    refuses(
        tree,
        "resnet20",
        "it holds several networks, under 'state_dict', 'state_dict_ema'; choose one with --key",
    )
    found = find(tree, "resnet20", key="state_dict_ema")
    assert torch.equal(found.tensors["conv1.weight"], two.state_dict()["conv1.weight"])
    pair = {**weights(one, "student."), **weights(two, "teacher.")}
    refuses(pair, "resnet20", "it holds several networks, under 'student', 'teacher'; choose one with --key")
    found = find(pair, "resnet20", key="teacher")
    assert torch.equal(found.tensors["conv1.weight"], two.state_dict()["conv1.weight"])
    # The same network twice is one.
    assert find({"state_dict": weights(one), "best": weights(one)}, "resnet20").place == "best"
    refuses(tree, "resnet20", "it holds nothing of resnet20; its entries are 'state_dict', 'state_dict_ema'", key="x")


def test_a_diverged_network_is_refused():
    tree = weights(network("resnet20"))
    tree["fc.bias"][0] = float("nan")
    refuses(tree, "resnet20", "1 of its tensors are not finite (fc.bias); the training had diverged")


def test_an_architecture_that_the_images_are_too_small_for():
    tiny = Signature(channels=3, height=2, width=2, classes=0)
    with pytest.raises(InputError, match=r"^convnet for 3x2x2, 2 classes: an input of 2x2 is too small"):
        find_weights({"x": torch.ones(1)}, ConvNet(), tiny, name="cnn-small")


def test_a_file_is_only_read(tmp_path):
    file = saved(weights(network("resnet20")), tmp_path / "x.pt")
    body = file.read_bytes()
    find(read_untrusted(file), "resnet20")
    assert file.read_bytes() == body
