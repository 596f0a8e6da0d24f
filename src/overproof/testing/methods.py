"""What holds for every method."""

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import fields, is_dataclass, replace
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from overproof.attacks.pgd import PGD
from overproof.building import build_value, plain
from overproof.data.images import Batch
from overproof.methods.method import Method, Step
from overproof.models.architectures.convnet import ConvNet
from overproof.models.architectures.mlp import MLP
from overproof.models.classifier import Classifier
from overproof.models.weights import build, freeze
from overproof.signature import Signature
from overproof.testing.toys import make_step, modes, tiny_batch
from overproof.training.cost import passes
from overproof.trust import Code

_OWN = Code(own=True)
_MEAN, _STD = (0.5, 0.4, 0.3), (0.25, 0.2, 0.25)


class MethodContract:
    """Derive a class ``TestMine`` from it and set ``make``: the class of your method, or a function that returns one.

    To test several, override the fixture ``method`` with parameters. Searches are shortened to two steps.
    """

    make: Callable[[], Method]

    @pytest.fixture
    def method(self) -> Method:
        """Return the method that is tested, with its options as they are."""
        return type(self).make()

    def untrained(self, method: Method) -> Sequence[str]:
        """Return the weights of the test's networks that the method leaves as they are, by their names; none."""
        del method
        return ()

    @pytest.fixture
    def short(self, method: Method) -> Method:
        """Return the method with searches of at most two steps, those of a method that it wraps included."""
        return cast(Method, shrunk(method))

    # --- losses -------------------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("progress", [0.0, 1.0], ids=["first", "last"])
    def test_yields_its_updates_as_named_finite_scalars(self, short: Method, progress: float) -> None:
        """It yields ``updates`` dictionaries of named float32 scalars, each finite, at both ends of a run."""
        seen, _ = run(short, make_step(short, progress=progress))
        assert len(seen) == short.updates >= 1
        for terms in seen:
            assert terms
            for name, term in terms.items():
                assert isinstance(name, str) and name
                assert term.shape == () and term.dtype == torch.float32
                assert term.isfinite()

    def test_every_learning_weight_gets_a_gradient(self, short: Method) -> None:
        """The terms lead a finite gradient to every weight of the student and of the auxiliary models."""
        step = make_step(short)
        _, gradients = run(short, step)
        assert_a_gradient_everywhere(step, gradients, self.untrained(short))

    def test_runs_under_bf16_autocast(self, short: Method) -> None:
        """Under autocast its terms are float32 and finite, and every weight gets a gradient."""
        step = make_step(short)
        seen, gradients = run(short, step, autocast=True)
        assert len(seen) == short.updates and all(seen)
        assert all(term.isfinite() and term.dtype == torch.float32 for terms in seen for term in terms.values())
        assert_a_gradient_everywhere(step, gradients, self.untrained(short))

    def test_autocast_remembers_no_pass_without_a_gradient(self, short: Method) -> None:
        """What learns is asked without a gradient under ``no_gradient()``, which keeps autocast's memory out of it.

        Up to torch 2.10 a weight that it had rounded in such a pass got no gradient in the passes that follow.
        """
        step = make_step(short)
        remembered: list[bool] = []

        def look(network: nn.Module, inputs: Any) -> None:
            if torch.is_autocast_enabled("cpu") and not torch.is_grad_enabled():
                remembered.append(torch.is_autocast_cache_enabled())

        for network in networks(step).values():
            network.register_forward_pre_hook(look)
        run(short, step, autocast=True)
        assert not any(remembered)

    def test_a_smaller_batch_may_follow(self, short: Method) -> None:
        """The last batch of an epoch is smaller: the terms have the same names, and are those of its images."""
        step = make_step(short)
        before, _ = run(short, step)
        seen, gradients = run(short, replace(step, x=step.x[:3], y=step.y[:3]))
        assert [set(terms) for terms in seen] == [set(terms) for terms in before]
        assert all(term.isfinite() for terms in seen for term in terms.values())
        # Other images, other losses: nothing of the larger batch stands in for them.
        assert [list(terms.values()) for terms in seen] != [list(terms.values()) for terms in before]
        assert all(gradient.isfinite().all() for gradient in gradients.values())

    # --- what it leaves alone -----------------------------------------------------------------------------------------

    def test_the_images_and_the_teachers_stay_as_they_are(self, short: Method) -> None:
        """Images and labels, and the teachers' weights, buffers and modes are as they were."""
        step = make_step(short)
        x, y = step.x.clone(), step.y.clone()
        before = {role: deepcopy(teacher.state_dict()) for role, teacher in step.teachers.items()}
        assert set(before) == set(short.roles)
        run(short, step)
        assert torch.equal(step.x, x) and torch.equal(step.y, y)
        assert not step.x.requires_grad and step.x.grad is None
        for role, teacher in step.teachers.items():
            assert all(torch.equal(value, before[role][name]) for name, value in teacher.state_dict().items())
            assert all(value.grad is None and not value.requires_grad for value in teacher.parameters())
            assert not any(module.training for module in teacher.modules())

    def test_every_mode_comes_back_before_every_update(self, short: Method) -> None:
        """At each of its losses every module trains or not as before, and a frozen BatchNorm keeps its statistics."""
        step = make_step(short)
        for network in networks(step).values():
            _layer(network, 1).eval()  # a BatchNorm that its owner froze
        everyone: dict[str, nn.Module] = {**networks(step), **step.teachers}
        before = {name: modes(network) for name, network in everyone.items()}
        frozen = deepcopy(_layer(step.student, 1).state_dict())

        def compare() -> None:
            assert {name: modes(network) for name, network in everyone.items()} == before

        run(short, step, between=compare)
        assert before["student"]["backbone.1"] is False and before["student"]["backbone.4"] is True
        # Statistics of a frozen BatchNorm stay, whatever the passes.
        after = _layer(step.student, 1).state_dict()
        assert all(torch.equal(after[name], frozen[name]) for name in ("running_mean", "running_var"))

    def test_the_weights_are_where_they_were_when_the_generator_ends(self, short: Method) -> None:
        """It moves no weight itself: the loop does."""
        step = make_step(short)
        before = {name: value.detach().clone() for name, value in weights(step).items()}
        run(short, step)
        assert all(torch.equal(value, before[name]) for name, value in weights(step).items())
        assert all(value.requires_grad for value in weights(step).values())

    def test_the_weights_come_back_when_the_loop_stops_early(self, short: Method) -> None:
        """A generator that is closed after its first losses leaves nothing displaced."""
        step = make_step(short)
        before = {name: value.detach().clone() for name, value in weights(step).items()}
        losses = short.losses(step)
        next(losses)
        losses.close()  # type: ignore[attr-defined]
        assert all(torch.equal(value, before[name]) for name, value in weights(step).items())

    # --- memory -------------------------------------------------------------------------------------------------------

    def test_its_memory_is_a_flat_dict_of_tensors_that_survives_a_file(self, short: Method) -> None:
        """``initial_state`` says all names of its memory, which is tensors without gradients, as in a checkpoint."""
        step = make_step(short)
        initial = short.initial_state(Batch(step.x, step.y))
        assert_same_state(initial, step.state)
        run(short, step)
        assert step.state.keys() == initial.keys()
        assert all(isinstance(value, Tensor) and not value.requires_grad for value in step.state.values())
        assert_same_state(step.state, through_a_file(step.state))
        assert_same_state(initial, short.initial_state(Batch(step.x, step.y)))

    def test_a_resumed_method_continues_to_the_bit(self, short: Method) -> None:
        """Equal options, networks and memory give equal losses: nothing is remembered elsewhere."""
        step = make_step(short)
        run(short, step, seed=1)
        # Another process: equal options read again, the memory from a file, the networks from a checkpoint.
        resumed = replace(
            step,
            state=through_a_file(step.state),
            student=deepcopy(step.student),
            auxiliary_models={name: deepcopy(network) for name, network in step.auxiliary_models.items()},
        )
        straight, _ = run(short, step, seed=2)
        again, _ = run(_copy(short), resumed, seed=2)
        assert straight == again
        assert_same_state(step.state, resumed.state)

    # --- options ------------------------------------------------------------------------------------------------------

    def test_a_recipe_rebuilds_it(self, method: Method) -> None:
        """What a recipe says of it is read back as an equal value; its kind alone means its defaults."""
        assert build_value(Method, plain(method), code=_OWN) == method
        assert isinstance(hash(method), int)
        assert plain(build_value(Method, plain(method)["kind"], code=_OWN))["kind"] == plain(method)["kind"]

    # --- cost ---------------------------------------------------------------------------------------------------------

    def test_its_cost_is_a_number_and_every_network_is_asked(self, method: Method) -> None:
        """Each network is asked equally often whatever is drawn, and at least once; a bounded student need not be."""
        measured = count_forward_passes(method)
        assert measured == count_forward_passes(method, seed=1)
        if method.bounds_student:
            del measured["student"]
        else:
            assert measured["student"] >= method.updates
        assert all(measured.values())

    def test_its_cost_is_what_the_list_says(self, method: Method) -> None:
        """The passes in ``overproof list methods`` are those that are counted here."""
        assert {name: measured.forward for name, measured in passes(method).items()} == count_forward_passes(method)

    # --- other networks -----------------------------------------------------------------------------------------------

    @pytest.fixture
    def compiler(self) -> Iterator[None]:
        """Forget what was compiled, before and after a test."""
        torch.compiler.reset()
        yield
        torch.compiler.reset()

    # Tracing looks at the ``grad`` of a replay's images, which are no leaf; torch hides that where it is no error.
    @pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
    def test_a_compiled_student_gives_the_same_losses(self, short: Method, compiler: None) -> None:
        """``torch.compile`` changes nothing but roundings."""
        step = make_step(short)
        student = cast(Classifier, torch.compile(deepcopy(step.student), backend="eager"))
        twin = replace(step, student=student, state=dict(step.state))
        twin = replace(
            twin, auxiliary_models={name: deepcopy(network) for name, network in step.auxiliary_models.items()}
        )
        expected, gradients = run(short, step)
        terms, compiled_gradients = run(short, twin)
        torch.testing.assert_close(terms, expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(list(compiled_gradients.values()), list(gradients.values()), rtol=1e-3, atol=1e-4)

    def test_a_plain_module_has_the_losses_of_the_same_network_of_a_family(self, short: Method) -> None:
        """A student that is any ``nn.Module`` has the losses of the same layers as one of overproof's families."""
        signature = Signature(channels=3, height=8, width=8, classes=int(tiny_batch().y.max()) + 1)
        network = ConvNet(channels=(6, 8), kernel=3, stride=2, padding=1, hidden=(32,))
        ours = build(network, signature, mean=_MEAN, std=_STD).double().train()
        theirs = Classifier(_Plain(ours.backbone), signature, mean=_MEAN, std=_STD).double().train()
        one, _ = run(short, make_step(short, student=ours, dtype=torch.float64))
        other, _ = run(short, make_step(short, student=theirs, dtype=torch.float64))
        for terms, same in zip(one, other, strict=True):
            assert terms.keys() == same.keys()
            for name in terms:
                # Float64 rounds by 1e-16; a search through some ten layers does not make 1e-9 of it.
                torch.testing.assert_close(same[name], terms[name], rtol=0, atol=1e-9)


def shrunk(value: Any) -> Any:
    """Return the same method with searches of at most two steps, those of a method it wraps included."""
    if isinstance(value, PGD):
        return replace(value, steps=min(value.steps, 2))
    if isinstance(value, Method) and is_dataclass(value):
        return replace(value, **{part.name: shrunk(getattr(value, part.name)) for part in fields(value)})
    return value


def networks(step: Step) -> dict[str, Classifier]:
    """Return everything that learns."""
    return {"student": step.student, **step.auxiliary_models}


def weights(step: Step) -> dict[str, Tensor]:
    """Return every weight that is learnt, by network and name."""
    return {f"{name}.{key}": value for name, net in networks(step).items() for key, value in net.named_parameters()}


def run(
    method: Method,
    step: Step,
    *,
    seed: int = 1,
    autocast: bool = False,
    between: Callable[[], None] = lambda: None,
) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
    """Do what the training loop does, but for the optimiser's step.

    Return the terms of every update, and the weights' absolute gradients added up over the updates.
    """
    torch.manual_seed(seed)
    losses, seen = method.losses(step), list[dict[str, Tensor]]()
    gradients: dict[str, Tensor] = {}
    while True:
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            terms = next(losses, None)
        between()
        if terms is None:
            return seen, gradients
        for network in networks(step).values():
            network.zero_grad(set_to_none=True)
        torch.stack(list(terms.values())).sum().backward()  # type: ignore[no-untyped-call]
        seen.append({name: term.detach() for name, term in terms.items()})
        for name, value in weights(step).items():
            if value.grad is not None:
                gradients[name] = gradients.get(name, torch.zeros(())) + value.grad.abs()


def assert_a_gradient_everywhere(step: Step, gradients: Mapping[str, Tensor], untrained: Sequence[str] = ()) -> None:
    """Assert that each weight has a gradient that is finite, and not zero everywhere but for the ``untrained``."""
    assert [name for name in weights(step) if name not in gradients] == []
    still = [name for name in weights(step) if not gradients[name].sum() > 0]
    assert [name for name in still if name not in untrained] == []
    assert all(gradient.isfinite().all() for gradient in gradients.values())


def assert_same_state(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> None:
    """Assert that two memories are equal to the bit; NaN equals NaN."""
    assert one.keys() == other.keys()
    for name in one:
        torch.testing.assert_close(other[name], one[name], rtol=0, atol=0, equal_nan=True)


def through_a_file(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a memory as a checkpoint gives it back."""
    file = io.BytesIO()
    torch.save(dict(state), file)
    file.seek(0)
    read: dict[str, Tensor] = torch.load(file, weights_only=True)
    return read


def count_forward_passes(method: Method, *, seed: int = 0) -> dict[str, int]:
    """Return the forward passes per batch of ``student``, each auxiliary model and teacher, at the end of a run."""
    torch.manual_seed(seed)
    signature = Signature(channels=1, height=4, width=4, classes=3)
    asked = {name: build(MLP(hidden=(5,)), signature) for name in ("student", *method.auxiliary_models, *method.roles)}
    counts = {name: _Counted(network.backbone) for name, network in asked.items()}
    for name, network in asked.items():
        network.backbone = counts[name]
    batch = Batch(torch.rand(3, 1, 4, 4), torch.arange(3))
    step = Step(
        x=batch.x,
        y=batch.y,
        student=asked["student"],
        teachers={role: freeze(asked[role]) for role in method.roles},
        auxiliary_models={name: asked[name] for name in method.auxiliary_models},
        state=method.initial_state(batch),
        progress=1.0,
    )
    run(method, step, seed=seed)
    return {name: network.count for name, network in counts.items()}


class _Counted(nn.Module):
    """Counts how often a network is asked, for logits or for features."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network, self.count = network, 0

    def forward(self, x: Tensor) -> Any:
        self.count += 1
        return self.network(x)


class _Plain(nn.Module):
    """Somebody's own module: other layers' copies, and nothing else of this package."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.layers = deepcopy(backbone)

    def forward(self, x: Tensor) -> Any:
        return self.layers(x)


def _layer(network: Classifier, number: int) -> nn.Module:
    return cast(nn.Sequential, network.backbone)[number]


def _copy(method: Method) -> Method:
    return cast(Method, replace(cast(Any, method)))
