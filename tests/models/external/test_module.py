import json
import shutil
import sys
from importlib.util import find_spec
from textwrap import dedent

import pytest
import torch
from torch import nn

from overproof.errors import InputError
from overproof.methods.rrm import RRM
from overproof.models.adapted import FeatureAdapter
from overproof.models.architectures.convnet import ConvNet
from overproof.models.classifier import Classifier
from overproof.models.external.loading import load_external
from overproof.models.external.module import External
from overproof.models.weights import build, freeze, load_model, outline, save_model
from overproof.recipe import dump, of_tree, parse
from overproof.signature import Signature

SIGNATURE = Signature(channels=3, height=8, width=8, classes=4)
NETS = """
    import collections
    import torch
    from torch import nn

    class Net(nn.Sequential):
        def __init__(self, num_classes, in_channels=3, image_size=8, width=2):
            super().__init__(
                nn.Conv2d(in_channels, width, 3), nn.BatchNorm2d(width), nn.Dropout(), nn.Flatten(),
                nn.Linear(width * (image_size - 2) ** 2, 6), nn.ReLU(), nn.Linear(6, num_classes),
            )

    class Several(Net):
        def forward(self, x):
            logits = super().forward(x)
            return collections.namedtuple("Out", "logits aux")(logits, logits)

    class Auxiliary(Net):
        def forward(self, x):
            logits = super().forward(x)
            return {"out": logits, "aux": logits} if self.training else logits

    class Pair(Net):
        def forward(self, x):
            return (super().forward(x),) * 2

    class Wrong(Net):
        def __init__(self, num_classes):
            super().__init__(num_classes + 1)

    def needs(num_classes, depth): return Net(num_classes)
    def nothing(): return None
    def broken(): raise RuntimeError("no luck")
    def anything(**words): return Net(num_classes=4, **words)
    def convolutional(num_classes): return nn.Sequential(nn.Conv2d(3, num_classes, 8), nn.Flatten())
    def lazy(num_classes):
        return nn.Sequential(nn.Flatten(), nn.LazyLinear(5), nn.LazyBatchNorm1d(), nn.Linear(5, num_classes))

    def pooled(num_classes):
        return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(3, num_classes))

    fixed = Net(4)
"""


@pytest.fixture(autouse=True)
def nets(tmp_path, monkeypatch):
    """A module of somebody's own in the current folder, under a name that no other test uses."""
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "own_nets.py").write_text(dedent(NETS))
    monkeypatch.chdir(tmp_path / "code")
    yield tmp_path / "code"
    sys.modules.pop("own_nets", None)


def refused(architecture):
    with pytest.raises(InputError) as caught:
        build(architecture, SIGNATURE)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def logits(network):
    return network(torch.rand(5, 3, 8, 8, generator=torch.Generator().manual_seed(0)))


class TestBuild:
    def test_a_factory_is_given_what_it_has_parameters_for(self):
        network = build(
            External(factory="own_nets:Net", options={"width": 5}), Signature(channels=1, height=9, width=9, classes=7)
        )
        assert network.backbone[0].weight.shape == (5, 1, 3, 3)
        assert network(torch.rand(2, 1, 9, 9)).shape == (2, 7)

    def test_it_draws_what_it_draws_by_itself(self):
        """The look at what it returns moves neither its statistics nor the generator."""
        build(External(factory="own_nets:Net"), SIGNATURE)  # the module itself draws when it is imported
        torch.manual_seed(3)
        network, after = build(External(factory="own_nets:Net"), SIGNATURE), torch.rand(1)
        torch.manual_seed(3)
        plain = sys.modules["own_nets"].Net(4)
        assert torch.equal(torch.rand(1), after)
        assert all(
            torch.equal(a, b)
            for a, b in zip(network.backbone.state_dict().values(), plain.state_dict().values(), strict=True)
        )

    def test_a_lazy_layer_has_its_size(self):
        build(External(factory="own_nets:Net"), SIGNATURE)  # the module itself draws when it is imported
        torch.manual_seed(3)
        network = build(External(factory="own_nets:lazy"), SIGNATURE)
        assert network.backbone[1].weight.shape == (5, 192)
        assert not network.backbone[2].num_batches_tracked  # no image was seen in training
        torch.manual_seed(3)
        again = build(External(factory="own_nets:lazy"), SIGNATURE)
        assert torch.equal(again.backbone[1].weight, network.backbone[1].weight)

    def test_one_of_several_outputs(self):
        for word, output in (("Several", "logits"), ("Several", "1"), ("Pair", "0"), ("Auxiliary", "out")):
            network = build(External(factory=f"own_nets:{word}", output=output), SIGNATURE)
            assert logits(network.train()).shape == logits(network.eval()).shape == (5, 4)

    def test_the_representation_is_the_last_linear_layers_or_the_named_ones(self):
        assert build(External(factory="own_nets:Net"), SIGNATURE).features(torch.rand(2, 3, 8, 8))[1].shape == (2, 6)
        named = build(External(factory="own_nets:Net", features="4"), SIGNATURE)
        assert named.features(torch.rand(2, 3, 8, 8))[1].shape == (2, 72)
        assert named.head is named.backbone[4]

    def test_what_normalises_images_of_one_pixel_may_still_be_trained(self):
        assert logits(build(External(factory="own_nets:pooled"), SIGNATURE)).shape == (5, 4)

    @pytest.mark.parametrize(
        ("architecture", "sentence"),
        [
            (External(factory="own_nets:Nett"), "own_nets:Nett: own_nets has no 'Nett'"),
            (
                External(factory="own_net:Net"),
                "code, or installed (did you mean 'own_nets'?)",
            ),
            (External(factory="own_nets:needs"), "it needs arguments (depth); write them as keys of student"),
            (External(factory="own_nets:Net", options={"widht": 3}), "it takes no 'widht' (did you mean 'width'?)"),
            (External(factory="own_nets:anything", options={"x": 3}), "the factory raised TypeError"),
            (External(factory="own_nets:nothing"), "the factory returned None, not an nn.Module"),
            (External(factory="own_nets:broken"), "the factory raised RuntimeError: no luck"),
            (External(factory="own_nets:fixed"), "a student needs a factory that makes a new one"),
            (
                External(factory="own_nets:Several"),
                "in eval mode it returns an object of type Out with 'logits', 'aux'; ",
            ),
            (
                External(factory="own_nets:Auxiliary"),
                "in training it returns an object of type dict with 'out', 'aux'; ",
            ),
            (External(factory="own_nets:Pair", output="2"), "has no '2' of 2 parts, counted from 0"),
            (External(factory="own_nets:Several", output="x"), "has no 'x' with 'logits', 'aux'"),
            (
                External(factory="own_nets:Wrong"),
                "it returns [2, 5] numbers (torch.float32) of 2 images, the data have 4",
            ),
            (External(factory="own_nets:Net", features="0"), "features: no linear layer is called '0'"),
            (
                External(factory="own_nets:Net", options={"image_size": 5}),
                "given images [2, 3, 8, 8] it raised RuntimeError",
            ),
            (External(factory="robustbench:Net"), "a student is package.module:factory, timm:NAME or torchvision:NAME"),
        ],
    )
    def test_what_cannot_be_taught_is_one_sentence(self, architecture, sentence):
        assert sentence in refused(architecture)

    @pytest.mark.skipif(find_spec("timm") is not None, reason="timm is installed")
    @pytest.mark.parametrize("word", ["timm:resnet18", "torchvision:resnet18"])
    def test_a_zoo_that_is_not_installed_says_how_to_get_it(self, word):
        assert "zoo" in refused(External(factory=word))

    def test_weights_are_no_option(self):
        with pytest.raises(ValueError, match="weights to begin with are what `init` names"):
            External(factory="timm:resnet18", options={"pretrained": True})


class TestZoos:
    @pytest.fixture(autouse=True)
    def zoo(self):
        pytest.importorskip("timm")

    @pytest.mark.parametrize(
        ("word", "size"),
        [
            ("timm:mobilenetv3_small_050", 32),
            ("timm:vit_tiny_patch16_224?patch_size=8&embed_dim=48&num_heads=3&depth=2", 32),
            ("timm:swin_tiny_patch4_window7_224?window_size=4&embed_dim=24&depths=[1, 1]&num_heads=[2, 2]", 32),
            ("timm:mixer_s16_224", 32),
            ("torchvision:mobilenet_v3_small", 32),
            ("torchvision:vit_b_32", 64),
        ],
    )
    def test_a_network_of_a_zoo_for_these_images(self, word, size):
        signature = Signature(channels=3, height=size, width=size, classes=5)
        network = build(External.of(word, {}), signature)
        x = torch.rand(2, 3, size, size)
        assert network.eval()(x).shape == (2, 5)
        assert network.features(x)[1].shape == (2, network.head.in_features)

    def test_an_unknown_one_is_one_sentence(self):
        assert "timm has no such network (did you mean 'resnet18'" in refused(External(factory="timm:resnet18x"))
        assert "torchvision has no such network" in refused(External(factory="torchvision:resnet18x"))


class TestOnDisk:
    def saved(self, folder, architecture=None):
        folder.mkdir(parents=True)
        architecture = architecture or External(factory="own_nets:Net", options={"width": 3})
        network = build(architecture, SIGNATURE)
        save_model(folder, network, architecture, tuple("abcd"), facts={})
        return network

    def test_it_is_read_back_from_wherever_it_is_asked_for(self, tmp_path, monkeypatch):
        network = self.saved(tmp_path / "runs" / "own")
        code = json.loads((tmp_path / "runs" / "own" / "model.json").read_text())["code"]
        assert (code["module"], code["folder"]) == ("own_nets", "../../code")
        monkeypatch.chdir("/")
        sys.modules.pop("own_nets")
        again, _ = load_model(tmp_path / "runs" / "own")
        assert torch.equal(logits(again), logits(network.eval()))

    def test_an_adapted_one_too(self, tmp_path):
        network = self.saved(tmp_path / "run", FeatureAdapter(base=External(factory="own_nets:Net"), features=9))
        again, _ = load_model(tmp_path / "run")
        assert torch.equal(logits(again), logits(network.eval()))
        assert again.head.in_features == 9

    def test_where_the_code_is_not_the_folders_are_named(self, tmp_path, monkeypatch):
        self.saved(tmp_path / "run")
        monkeypatch.chdir(tmp_path)
        sys.modules.pop("own_nets")
        shutil.move(tmp_path / "code", tmp_path / "elsewhere")
        with pytest.raises(InputError, match="a file may only name code that lies beside it or in the current folder"):
            load_model(tmp_path / "run")

    def test_code_that_has_changed_is_warned_of(self, tmp_path, nets):
        self.saved(tmp_path / "run")
        with (nets / "own_nets.py").open("a") as file:
            file.write("# another line\n")
        with pytest.warns(UserWarning, match="has changed since this network was trained"):
            load_model(tmp_path / "run")

    def test_a_strangers_file_runs_no_code(self, tmp_path, nets):
        self.saved(tmp_path / "run")
        (nets / "own_nets.py").write_text("open('RAN', 'w').close()\n" + (nets / "own_nets.py").read_text())
        sys.modules.pop("own_nets")
        with pytest.raises(InputError, match="where you trust it and have it here, add --trust-code"):
            load_model(tmp_path / "run", own=False)
        assert not (nets / "RAN").exists()

    @pytest.mark.parametrize("word", ["os:abort", "torch.hub:load", "signal:pause"])
    def test_no_file_names_what_is_not_its_owners(self, tmp_path, word):
        self.saved(tmp_path / "run")
        file = tmp_path / "run" / "model.json"
        file.write_text(file.read_text().replace("own_nets:Net", word))
        with pytest.raises(InputError, match=word):
            load_model(tmp_path / "run")


class TestRecipe:
    TEXT = "name: own\ndata: digits\nmethod: natural\nstudent: {}\n"

    @pytest.mark.parametrize(
        "word",
        [
            '"own_nets:Net?width=5"',
            '{kind: "own_nets:Net", width: 5}',
            '{kind: external, factory: "own_nets:Net", options: {width: 5}}',
        ],
    )
    def test_its_forms_are_one(self, word):
        recipe = parse(self.TEXT.format(word))
        assert recipe.student == External(factory="own_nets:Net", options={"width": 5})
        assert parse(dump(recipe)) == recipe
        assert hash(recipe.student) == hash(parse(dump(recipe)).student)
        assert recipe.student.label == "own_nets:Net"

    def test_features_and_output_are_no_options(self):
        student = parse(self.TEXT.format('{kind: "own_nets:Net", features: "4", output: logits}')).student
        assert (student.features, student.output, student.options) == ("4", "logits", {})

    @pytest.mark.parametrize(
        ("word", "sentence"),
        [
            ('"own_nets:Net?width"', "options are written"),
            ('{kind: "own_nets:Net?width=2", width: 5}', "width is given twice"),
            ("resnet181", "the nearest name is 'resnet18'"),
        ],
    )
    def test_bad_input_is_one_sentence(self, word, sentence):
        with pytest.raises(InputError, match=sentence):
            parse(self.TEXT.format(word))

    def test_a_file_may_name_what_lies_beside_it_and_the_user_anything(self, tmp_path, nets):
        tree = {"name": "own", "data": "digits", "method": "natural", "student": "own_nets:Net"}
        assert of_tree(tree, folder=nets).student.factory == "own_nets:Net"
        for word in ("os:abort", "json:loads", "torch.hub:load"):
            with pytest.raises(InputError, match="a file may"):
                of_tree({**tree, "student": word}, folder=nets)
            assert of_tree(tree, [f"student={word}"], folder=nets).student.factory == word


def test_rrm_widens_it_where_the_teacher_is_wider():
    teacher = freeze(build(ConvNet(channels=(4,), hidden=(10,)), SIGNATURE))
    own = External(factory="own_nets:Net")
    adapt_student = RRM().adapt_student(own, {"robust": teacher})
    assert adapt_student == FeatureAdapter(base=own, features=10)
    network = build(adapt_student, SIGNATURE)
    assert network.features(torch.rand(2, 3, 8, 8))[1].shape == (2, 10)
    learning = [name for name, value in network.named_parameters() if value.requires_grad]
    network(torch.rand(4, 3, 8, 8)).sum().backward()
    assert all(dict(network.named_parameters())[name].grad is not None for name in learning)  # no layer without use
    same = freeze(build(ConvNet(channels=(4,), hidden=(6,)), SIGNATURE))
    assert RRM().adapt_student(own, {"robust": same}) == own


def test_outline_and_network_have_the_same_weights():
    own = External(factory="own_nets:convolutional")
    names = outline(own, SIGNATURE).state_dict()
    assert {name: value.shape for name, value in names.items()} == {
        name: value.shape for name, value in build(own, SIGNATURE).state_dict().items()
    }
    with pytest.raises(ValueError, match="no linear layer"):
        Classifier(nn.Flatten(), SIGNATURE).head  # noqa: B018


ODD = """\
import torch
from torch import nn
torch.set_default_dtype(torch.float64)
class Net(nn.Module):
    def __init__(self, num_classes, alone=True, sets=False):
        super().__init__()
        self.linear, self.alone, self.sets = nn.Linear(64, num_classes), alone, sets
    def forward(self, x):
        if self.sets:
            torch.set_default_dtype(torch.float64)
        rows = self.linear(x.flatten(1).to(self.linear.weight.dtype))
        return rows if self.alone else rows.squeeze()
"""


def test_a_module_that_sets_torchs_default_type_and_one_that_cannot_be_asked_for_one_image(monkeypatch, tmp_path):
    (tmp_path / "its_own_type.py").write_text(ODD)
    monkeypatch.chdir(tmp_path)
    signature = Signature(channels=1, height=8, width=8, classes=10)
    External(factory="its_own_type:Net").build(signature)
    assert torch.get_default_dtype() == torch.float32
    with pytest.raises(InputError, match=r"in eval mode it returns \[10\] numbers .* of 1 images"):
        External(factory="its_own_type:Net", options={"alone": False}).build(signature)
    with pytest.raises(InputError, match="when it is asked it changes torch's default type"):
        External(factory="its_own_type:Net", options={"sets": True}).build(signature)
    assert torch.get_default_dtype() == torch.float32
    with pytest.raises(InputError, match=r"given images \[1, 1, 8, 8\] it returned \[10\]"):
        load_external("its_own_type:Net", signature, options={"alone": False})
