"""What holds for a network of every architecture."""

from collections.abc import Callable
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from overproof.building import build_value, plain
from overproof.models.architectures.architecture import Architecture
from overproof.models.external.module import External
from overproof.models.weights import build
from overproof.signature import Signature
from overproof.testing.toys import draw_statistics
from overproof.trust import Code


class ArchitectureContract:
    """Derive a class ``TestMine`` from it and set ``make``: your class, or a function that returns an architecture.

    ``signature`` is what its networks are built for. To test several, override the fixture ``architecture`` with
    parameters.
    """

    make: Callable[[], Architecture]
    signature: ClassVar[Signature] = Signature(channels=3, height=16, width=16, classes=7)

    @pytest.fixture
    def architecture(self) -> Architecture:
        """Return the architecture that is tested."""
        return type(self).make()

    @pytest.fixture
    def x(self) -> Tensor:
        """Return four images."""
        size = (self.signature.channels, self.signature.height, self.signature.width)
        return torch.rand(4, *size, generator=torch.Generator().manual_seed(0))

    @pytest.fixture
    def network(self, architecture: Architecture) -> nn.Module:
        """Return a network in eval mode, with BatchNorm statistics that are not the identity."""
        network: nn.Module = built(architecture, self.signature)
        return network

    def test_it_maps_images_to_logits(self, network: nn.Module, x: Tensor) -> None:
        """Images ``[N, C, H, W]`` become finite logits ``[N, K]``."""
        logits = network(x)
        assert logits.shape == (4, self.signature.classes)
        assert logits.isfinite().all()

    def test_a_recipe_says_which_it_is(self, architecture: Architecture) -> None:
        """Its options are plain values, from which an equal one is made."""
        words = plain(architecture)
        if type(architecture).__module__.partition(".")[0] != "overproof":
            words["kind"] = f"{type(architecture).__module__}:{type(architecture).__qualname__}"
        made = build_value(Architecture, words, code=Code(own=True))
        if isinstance(made, External) and not isinstance(architecture, External):
            assert type(architecture)(**made.options) == architecture
        else:
            assert made == architecture
        assert isinstance(hash(architecture), int)

    def test_its_representation_leads_to_the_logits(self, architecture: Architecture, x: Tensor) -> None:
        """A classifier finds the input of its last linear layer, which methods that compare features need."""
        model = build(architecture, self.signature).eval()
        logits, features = model.features(x)
        torch.testing.assert_close(logits, model(x))
        assert features.shape[0] == 4 and features.dim() == 2

    def test_compiles_without_a_graph_break(self, network: nn.Module, x: Tensor) -> None:
        """``torch.compile`` sees one graph, with the same answers."""
        torch.compiler.reset()  # one forward method may be shared, whose compiled versions are limited to 8
        compiled = torch.compile(network, backend="eager", fullgraph=True)
        torch.testing.assert_close(compiled(x), network(x))

    def test_an_example_does_not_see_the_rest_of_its_batch_in_eval_mode(self, network: nn.Module, x: Tensor) -> None:
        """An image alone has the logits that it has among others."""
        alone = torch.cat([network(x[i : i + 1]) for i in range(len(x))])
        torch.testing.assert_close(alone, network(x), rtol=1e-4, atol=1e-5)

    def test_channels_last_changes_nothing(self, network: nn.Module, x: Tensor) -> None:
        """The layout of memory changes roundings alone."""
        reference = network(x)
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        out = network(x.to(memory_format=torch.channels_last))
        torch.testing.assert_close(out, reference, rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize("training", [True, False])
    def test_bf16_autocast_is_finite(self, network: nn.Module, training: bool, x: Tensor) -> None:
        """Under autocast logits and gradients are finite, in train mode and in eval mode."""
        network.train(training)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = network(x)
        assert logits.dtype == torch.bfloat16
        logits.float().square().sum().backward()
        assert logits.isfinite().all()
        assert all(value.grad is not None and value.grad.isfinite().all() for value in network.parameters())

    def test_gradient_reaches_the_image_and_every_parameter(self, network: nn.Module, x: Tensor) -> None:
        """Nothing in it is idle, and an attack finds its way back to the pixels."""
        logits = network(x.requires_grad_())
        (logits * torch.randn(logits.shape)).sum().backward()
        assert x.grad is not None and x.grad.abs().sum() > 0
        assert [name for name, value in network.named_parameters() if not _has_gradient(value)] == []

    def test_the_seed_decides_the_weights(self, architecture: Architecture) -> None:
        """Draws come from torch's global generator."""
        first, again = (built(architecture, self.signature).state_dict() for _ in range(2))
        assert all(torch.equal(first[name], again[name]) for name in first)


def built(architecture: Architecture, signature: Signature) -> Any:
    """Return the network in eval mode, with BatchNorm statistics that are not the identity."""
    torch.manual_seed(0)
    return draw_statistics(architecture.build(signature).eval())


def _has_gradient(value: Tensor) -> bool:
    return value.grad is not None and bool(value.grad.abs().sum() > 0)
