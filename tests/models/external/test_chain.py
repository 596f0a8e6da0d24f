import re

import pytest
import torch
from torch import nn

from overproof.errors import InputError
from overproof.models.architectures.convnet import ConvNet
from overproof.models.architectures.mlp import MLP
from overproof.models.external.chain import ChainWord, find_chain
from overproof.models.external.checkpoints import find_weights, load_into
from overproof.models.weights import build
from overproof.signature import Signature

RGB = Signature(channels=3, height=32, width=32, classes=0)
GREY = Signature(channels=1, height=8, width=8, classes=0)
AUTO = ChainWord()


def convolutions(*kinds, channels=3, pixels=32, classes=5, hidden=(7,)):
    """Return an ``nn.Sequential`` of convolutions (kernel, stride, padding) and linear layers, as people write it."""
    layers, planes = [], channels
    for i, (kernel, stride, padding) in enumerate(kinds):
        layers += [nn.Conv2d(planes, 4 + i, kernel, stride, padding), nn.ReLU()]
        planes = 4 + i
    layers.append(nn.Flatten())
    features = nn.Sequential(*layers)(torch.zeros(1, channels, pixels, pixels)).shape[1]
    for width in hidden:
        layers += [nn.Linear(features, width), nn.ReLU()]
        features = width
    return nn.Sequential(*layers, nn.Linear(features, classes)).eval()


def found(tree, size=RGB, word=AUTO, **options):
    return find_chain(tree, word, size, **options)


def logits(tree, x, size=RGB, word=AUTO):
    """Return what the network that is recognised says of images."""
    chain = found(tree, size, word)
    weights = find_weights(chain.tensors, chain.architecture, size, name="chain")
    classes = {"classes": weights.classes}
    network = build(chain.architecture, Signature(**{**vars(size), **classes})).eval()
    load_into(network.backbone, weights)
    return network(x)


def refuses(tree, sentence, size=RGB, word=AUTO, **options):
    with pytest.raises(InputError) as caught:
        found(tree, size, word, **options)
    assert re.search(sentence, str(caught.value)), str(caught.value)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 1000


# --- what is recognised -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kinds",
    [
        [(4, 2, 1), (4, 2, 1)],  # CNN-A of certified training
        [(5, 2, 2), (5, 2, 2)],  # a small network of MadryLab's, without pooling
        [(3, 1, 0), (3, 1, 0), (3, 1, 0)],
        [(8, 8, 0)],
        [(3, 4, 2)],  # an unusual one, where none that is usual fits
    ],
    ids=str,
)
def test_strides_and_paddings_are_found(kinds):
    network = convolutions(*kinds)
    x = torch.rand(3, 3, 32, 32)
    # Convolutions of other code may add up in another order, which is some units of float32 in the last place.
    assert (logits(network.state_dict(), x) - network(x)).abs().max() <= 1e-6
    architecture = found(network.state_dict()).architecture
    assert isinstance(architecture, ConvNet) and architecture.hidden == (7,)
    assert list(zip(architecture.kernel, architecture.stride, architecture.padding, strict=True)) == kinds


@pytest.mark.parametrize("first", [0, 1], ids=["without-flatten", "flatten"])
def test_linear_layers_alone_are_an_mlp(first):
    dense = [nn.Linear(64, 9), nn.ReLU(), nn.Linear(9, 9), nn.ReLU(), nn.Linear(9, 4)]
    network = nn.Sequential(*[nn.Flatten()] * first, *dense)
    assert found(network.state_dict(), GREY).architecture == MLP(hidden=(9, 9))
    x = torch.rand(2, 1, 8, 8)
    assert (logits(network.state_dict(), x, GREY) - nn.Sequential(nn.Flatten(), *dense)(x)).abs().max() <= 1e-6


def test_a_single_linear_layer_is_a_chain():
    assert found(nn.Sequential(nn.Flatten(), nn.Linear(64, 4)).state_dict(), GREY).architecture == MLP(hidden=())


def test_layers_are_in_the_order_of_their_numbers():
    """Safetensors files sort the names: 11 stands before 3."""
    dense = [layer for _ in range(5) for layer in (nn.Linear(64, 64), nn.ReLU())]
    network = nn.Sequential(nn.Flatten(), *dense, nn.Linear(64, 4))
    x = torch.rand(2, 1, 8, 8)
    tree = dict(sorted(network.state_dict().items()))
    assert list(tree)[2].startswith("11.")
    assert (logits(tree, x, GREY) - network(x)).abs().max() <= 1e-6


def test_a_list_a_prefix_and_scalars_beside_change_nothing():
    state = convolutions((4, 2, 1), (4, 2, 1)).state_dict()
    tree = {
        "state_dict": [{**{f"module.{name}": value for name, value in state.items()}, "acc": torch.tensor(96)}],
        "acc": torch.tensor(960),
        "epoch": 3,
    }
    chain = found(tree)
    assert chain.place == "state_dict" and chain.unused == ("acc",)
    assert chain.architecture == found(state).architecture
    assert found({"best": state, "last": {**state}}).place == "best"  # the same numbers twice


def test_a_missing_bias_is_zero():
    network = nn.Sequential(nn.Conv2d(3, 4, 4, 2, 1, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(1024, 5))
    x = torch.rand(2, 3, 32, 32)
    assert (logits(network.state_dict(), x) - network(x)).abs().max() <= 1e-6


def test_batchnorm_right_after_a_layer_is_folded_into_it():
    network = nn.Sequential(
        *(nn.Conv2d(3, 4, 4, 2, 1, bias=False), nn.BatchNorm2d(4), nn.ReLU()),
        *(nn.Conv2d(4, 5, 4, 2, 1), nn.BatchNorm2d(5, affine=False), nn.ReLU(), nn.Flatten()),
        *(nn.Linear(320, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 5)),
    )
    for _ in range(20):
        network(torch.randn(32, 3, 32, 32))  # statistics that are not the initial ones
    x = torch.rand(4, 3, 32, 32)
    assert (logits(network.state_dict(), x) - network.eval()(x)).abs().max() <= 1e-5


def test_what_the_user_says_is_taken():
    tree = convolutions((3, 1, 1), (3, 2, 1)).state_dict()
    for stride in ((1, 2), (2, 1)):
        word = ChainWord(sure=True, stride=stride, padding=(1,))
        assert found(tree, word=word).architecture.stride == stride
    assert found(tree, word=ChainWord(sure=True, stride=(1, 2))).architecture.padding == (1, 1)


# --- what is not ------------------------------------------------------------------------------------------------------


def test_of_several_that_fit_none_is_chosen():
    tree = convolutions((3, 1, 1), (3, 2, 1)).state_dict()
    one, other = "'chain?stride=1,2&padding=1,1'", "'chain?stride=2,1&padding=1,1'"
    sentence = f"several networks fit its tensors; choose with --model {one} or {other}"
    refuses(tree, f"^{re.escape(sentence)}$")


def test_pooling_that_nothing_shows_is_thought_of():
    """Named layers do not show what is between them: a stride of two, or pooling after it."""
    network = convolutions((3, 2, 1))
    names = dict(zip(("0", "3", "5"), ("conv", "fc1", "fc2"), strict=True))
    tree = {re.sub("^[0-9]+", lambda m: names[m[0]], name): value for name, value in network.state_dict().items()}
    refuses(tree, "choose with --model 'chain.stride=2&padding=1'; with pooling between its layers others fit")
    x = torch.rand(2, 3, 32, 32)
    assert (logits(tree, x, word=ChainWord(sure=True)) - network(x)).abs().max() <= 1e-6


@pytest.mark.parametrize(
    ("layers", "sentence"),
    [
        ([nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(1024, 5)],
         "between 0 and 4 there are 3 layers without tensors, where a chain has 2"),
        ([nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(3136, 5)],
         "between 0 and 1 there are 0 layers without tensors"),
        ([nn.Identity(), nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(3600, 5)],
         "before 1 there are 1 layers without tensors"),
        ([nn.Conv2d(3, 4, 3), nn.ReLU(), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(3600, 5)],
         "4 tensors are not of convolutions and linear layers \\(2.weight"),
        ([nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 6, 3, groups=6), nn.ReLU(), nn.Flatten(), nn.Linear(4704, 5)],
         "2 takes 1 channels, the layer before it gives 6"),
        ([nn.Conv2d(3, 4, (3, 5)), nn.ReLU(), nn.Flatten(), nn.Linear(3360, 5)], "is \\[3, 5\\], not square"),
        ([nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 5, 30)], "it has no linear layer"),
        ([nn.LSTM(16, 4), nn.Linear(4, 5)], "it is a recurrent network: 4 tensors"),
        ([nn.Embedding(7, 4), nn.Linear(5, 5)], "its first linear layer \\(0\\) reads 4 numbers"),
        ([nn.Conv1d(3, 4, 3), nn.Flatten(), nn.Linear(120, 5)], "not of convolutions and linear layers"),
    ],
    ids=["pool", "no-relu", "before", "norm-later", "groups", "oblong", "no-head", "lstm", "embedding", "1d"],
)  # fmt: skip
def test_what_is_no_chain_is_one_sentence(layers, sentence):
    refuses(nn.Sequential(*layers).state_dict(), sentence)


def test_images_that_do_not_fit_are_one_sentence():
    tree = convolutions((4, 2, 1), (4, 2, 1)).state_dict()
    refuses(tree, "takes images of 3 channels, these have 1; say --data, or --size such as 1x28x28", GREY)
    other = Signature(channels=3, height=200, width=200, classes=0)
    refuses(tree, "to which no strides and paddings .* lead from images of 3x200x200; is it for images of ano", other)
    refuses(nn.Sequential(nn.Linear(9, 2)).state_dict(), r"reads 9 numbers, images of 1x8x8 have 64; say --data", GREY)


def test_scalars_alone_and_strange_files_are_one_sentence():
    refuses({"acc": torch.tensor(3), "epoch": 4}, "^it holds no weights of layers$")
    refuses({"net": {"0.weight": torch.ones(3)}}, "^it holds no weights of layers$")
    tree = convolutions((4, 2, 1)).state_dict()
    refuses({"a": tree}, "^it holds no weights of layers under 'b'$", key="b")
    refuses({**tree, "extra": torch.ones(3)}, "1 tensors are not of convolutions and linear layers \\(extra\\)")
    refuses({**tree, "0.bias": torch.ones(9)}, "the bias of 0 is \\[9\\] beside a weight of \\[4, 3, 4, 4\\]")
    refuses({**tree, "0.weight": torch.ones(0, 3, 4, 4), "0.bias": torch.ones(0)}, "0 is \\[0, 3, 4, 4\\], empty")
    refuses({f"{i}.weight": torch.ones(192, 192) for i in range(0, 200, 2)}, "it has 100 layers, more than 64")


def test_of_several_networks_one_must_be_chosen():
    tree = {"net": convolutions((4, 2, 1)).state_dict(), "ema": convolutions((4, 2, 1)).state_dict()}
    refuses(tree, "^it holds several networks, under 'net', 'ema'; choose one with --key$")
    assert found(tree, key="ema").place == "ema"


def test_what_the_user_says_must_fit():
    tree = convolutions((4, 2, 1), (4, 2, 1)).state_dict()
    refuses(tree, "stride=1,2,3: the chain has 2 convolutions; give one number", word=ChainWord(stride=(1, 2, 3)))
    refuses(tree, "to which no strides and paddings", word=ChainWord(sure=True, stride=(7,)))
    for wrong in ({"stride": (0,)}, {"padding": (5000,)}):
        with pytest.raises(InputError, match="of a chain must be at least"):
            ChainWord(**wrong)


def test_many_convolutions_of_one_size_are_no_endless_work():
    state = convolutions(*[(3, 1, 1)] * 40, (3, 2, 1)).state_dict()
    refuses(state, "several networks fit its tensors; choose with --model 'chain.stride=1,1,")
