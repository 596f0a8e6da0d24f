"""What a file's weights are said to be; the files themselves are in ``test_import_teacher``."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from overproof.errors import InputError
from overproof.models.architectures.mlp import MLP
from overproof.models.external.chain import ChainWord
from overproof.models.weights import build
from overproof.runs.checkpoints import network_of, read_architecture, weights_in
from overproof.signature import Signature

SHAPE = Signature(channels=1, height=4, width=4, classes=0)


@pytest.fixture
def network():
    torch.manual_seed(0)
    return build(MLP(hidden=(5,)), replace(SHAPE, classes=3)).eval()


class TestReadArchitecture:
    @pytest.mark.parametrize(
        ("word", "name", "architecture"),
        [
            ("{kind: mlp, hidden: [5]}", "mlp", MLP(hidden=(5,))),
            (MLP(hidden=(5,)), "mlp", MLP(hidden=(5,))),
            ("auto", "chain", ChainWord(sure=False)),
            ("chain?stride=2,2", "chain", ChainWord(sure=True, stride=(2, 2))),
        ],
    )
    def test_what_a_word_means(self, word, name, architecture):
        said, found = read_architecture(word)
        assert found == architecture and (said == name or (isinstance(word, str) and word.startswith("{")))

    @pytest.mark.parametrize(
        ("word", "sentence"),
        [
            ("auto?stride=2", "--model auto: it takes no options; chain takes stride and padding"),
            ("chain?depth=2", "--model chain: it takes no 'depth'"),
            (
                "chain?stride=two",
                "--model chain: stride=two: write whole numbers, one for each convolution, such as 2,2",
            ),
            ("{", "--model {: not readable as YAML"),
            ("timm:resnet18", "--model timm:resnet18: a zoo's networks need no import"),
        ],
    )
    def test_what_it_cannot_mean_is_one_sentence(self, word, sentence):
        with pytest.raises(InputError) as caught:
            read_architecture(word)
        assert str(caught.value).startswith(sentence) and "\n" not in str(caught.value)


class TestNetwork:
    def found(self, network):
        return weights_in(network.backbone.state_dict(), MLP(hidden=(5,)), SHAPE, where=Path("w.pt"), name="mlp")

    def test_it_answers_as_the_one_whose_weights_they_are(self, network):
        weights, architecture = self.found(network)
        made = network_of(weights, architecture, SHAPE, where=Path("w.pt"), given=((), ()))
        x = torch.rand(3, 1, 4, 4)
        assert made.signature.classes == 3 and not made.training
        torch.testing.assert_close(made(x), network(x), rtol=0, atol=0)

    def test_the_normalisation_that_is_given_is_inside(self, network):
        weights, architecture = self.found(network)
        made = network_of(weights, architecture, SHAPE, where=Path("w.pt"), given=((0.5,), (0.25,)))
        x = torch.rand(3, 1, 4, 4)
        torch.testing.assert_close(made(x), network((x - 0.5) / 0.25))

    def test_two_that_differ_are_refused(self, network):
        weights, architecture = self.found(network)
        other = replace(weights, mean=(0.4,), std=(0.25,))
        with pytest.raises(InputError, match="contradict each other"):
            network_of(other, architecture, SHAPE, where=Path("w.pt"), given=((0.5,), (0.25,)))

    def test_tensors_of_another_network_are_a_sentence_with_the_file(self, network):
        with pytest.raises(InputError, match=r"^w\.pt: "):
            weights_in({"conv.weight": torch.rand(2, 1, 3, 3)}, MLP(hidden=(5,)), SHAPE, where=Path("w.pt"), name="mlp")
