"""What holds for every method, at its defaults and at each of its presets."""

import io
from copy import deepcopy
from dataclasses import fields, replace

import pytest
import torch
from torch import nn

from overproof import recipe
from overproof.attacks.ball import Radius, Threat
from overproof.attacks.pgd import PGD
from overproof.data.images import Batch
from overproof.methods.awp import AWP
from overproof.methods.catalogue import methods
from overproof.methods.method import Method, Step
from overproof.methods.natural import Natural
from overproof.models.classifier import Classifier
from overproof.models.convnet import ConvNet
from overproof.models.mlp import MLP
from overproof.models.weights import build, freeze
from overproof.signature import Signature
from overproof.training import cost

CASES = [pytest.param(cls, None, id=kind) for kind, cls in methods().items()]
CASES += [pytest.param(cls, preset, id=f"{kind}-{preset}") for kind, cls in methods().items() for preset in cls.presets]
every_method = pytest.mark.parametrize(("cls", "preset"), CASES)
every_default = pytest.mark.parametrize("cls", [pytest.param(cls, id=kind) for kind, cls in methods().items()])


def made(cls, preset):
    return cls() if preset is None else recipe.build(cls, {"kind": cls.kind, "preset": preset})


def shrunk(value):
    """Return the same method with searches of at most two steps, those of a method it wraps included."""
    if isinstance(value, PGD):
        return replace(value, steps=min(value.steps, 2))
    if isinstance(value, Method):
        return replace(value, **{part.name: shrunk(getattr(value, part.name)) for part in fields(value)})
    return value


def networks(step):
    """Return everything that learns."""
    return {"student": step.student, **step.companions}


def weights(step):
    return {f"{name}.{key}": value for name, net in networks(step).items() for key, value in net.named_parameters()}


def run(method, step, *, seed=1, autocast=False, between=lambda: None):
    """Do what the training loop does, but for the optimiser's step.

    Return the terms of every update, and the weights' gradients added up over the updates.
    """
    torch.manual_seed(seed)
    losses, seen, gradients = method.losses(step), [], {}
    while True:
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            terms = next(losses, None)
        between()
        if terms is None:
            return seen, gradients
        for network in networks(step).values():
            network.zero_grad(set_to_none=True)
        torch.stack(list(terms.values())).sum().backward()
        seen.append({name: term.detach() for name, term in terms.items()})
        for name, value in weights(step).items():
            if value.grad is not None:
                gradients[name] = gradients.get(name, 0) + value.grad.abs()


def assert_a_gradient_everywhere(step, gradients):
    assert [name for name in weights(step) if not (name in gradients and gradients[name].sum() > 0)] == []
    assert all(gradient.isfinite().all() for gradient in gradients.values())


# --- losses -----------------------------------------------------------------------------------------------------------


@every_method
@pytest.mark.parametrize("progress", [0.0, 1.0], ids=["first", "last"])
def test_yields_its_updates_as_named_finite_scalars(cls, preset, progress, make_step):
    method = shrunk(made(cls, preset))
    seen, _ = run(method, make_step(method, progress=progress))
    assert len(seen) == method.updates >= 1
    for terms in seen:
        assert terms
        for name, term in terms.items():
            assert isinstance(name, str) and name
            assert term.shape == () and term.dtype == torch.float32
            assert term.isfinite()


@every_method
def test_every_learning_weight_gets_a_gradient(cls, preset, make_step):
    method = shrunk(made(cls, preset))
    step = make_step(method)
    _, gradients = run(method, step)
    assert_a_gradient_everywhere(step, gradients)


@every_method
def test_runs_under_bf16_autocast(cls, preset, make_step):
    method = shrunk(made(cls, preset))
    step = make_step(method)
    seen, gradients = run(method, step, autocast=True)
    assert len(seen) == method.updates and all(seen)
    assert all(term.isfinite() and term.dtype == torch.float32 for terms in seen for term in terms.values())
    assert_a_gradient_everywhere(step, gradients)


@every_method
def test_autocast_remembers_no_pass_without_a_gradient(cls, preset, make_step):
    # Up to torch 2.10 a weight that it had rounded in such a pass got no gradient in the passes that follow.
    method = shrunk(made(cls, preset))
    step = make_step(method)
    remembered = []

    def look(network, inputs):
        if torch.is_autocast_enabled("cpu") and not torch.is_grad_enabled():
            remembered.append(torch.is_autocast_cache_enabled())

    for network in networks(step).values():
        network.register_forward_pre_hook(look)
    run(method, step, autocast=True)
    assert not any(remembered)


def test_under_autocast_a_method_that_moves_weights_is_answered_by_the_moved_ones(make_step):
    # Autocast keeps low-precision copies of weights it has seen, which know nothing of AWP's displacement.
    found = {}
    for gamma in (0.0, 0.2):
        for autocast in (False, True):
            method = AWP(base=Natural(), gamma=gamma)
            step = make_step(method)
            step.student.eval()
            seen, _ = run(method, step, autocast=autocast)
            found[gamma, autocast] = float(seen[0]["label"])
    assert found[0.2, False] > 1.05 * found[0.0, False]
    assert found[0.2, True] == pytest.approx(found[0.2, False], rel=0.02)


@every_method
def test_a_smaller_batch_may_follow(cls, preset, make_step):
    method = shrunk(made(cls, preset))
    step = make_step(method)
    before, _ = run(method, step)
    seen, gradients = run(method, replace(step, x=step.x[:3], y=step.y[:3]))
    assert [set(terms) for terms in seen] == [set(terms) for terms in before]
    assert all(term.isfinite() for terms in seen for term in terms.values())
    # Other images, other losses: nothing of the larger batch stands in for them.
    assert [list(terms.values()) for terms in seen] != [list(terms.values()) for terms in before]
    assert all(gradient.isfinite().all() for gradient in gradients.values())


# --- what it leaves alone ---------------------------------------------------------------------------------------------


@every_method
def test_the_images_and_the_teachers_stay_as_they_are(cls, preset, make_step):
    method = shrunk(made(cls, preset))
    step = make_step(method)
    x, y = step.x.clone(), step.y.clone()
    before = {role: deepcopy(teacher.state_dict()) for role, teacher in step.teachers.items()}
    assert set(before) == set(method.roles)
    run(method, step)
    assert torch.equal(step.x, x) and torch.equal(step.y, y)
    assert not step.x.requires_grad and step.x.grad is None
    for role, teacher in step.teachers.items():
        assert all(torch.equal(value, before[role][name]) for name, value in teacher.state_dict().items())
        assert all(value.grad is None and not value.requires_grad for value in teacher.parameters())
        assert not any(module.training for module in teacher.modules())


@every_method
def test_every_mode_comes_back_before_every_update(cls, preset, make_step, modes):
    method = shrunk(made(cls, preset))
    step = make_step(method)
    for network in networks(step).values():
        network.backbone[1].eval()  # a BatchNorm that its owner froze
    everyone = {**networks(step), **step.teachers}
    before = {name: modes(network) for name, network in everyone.items()}
    frozen = deepcopy(step.student.backbone[1].state_dict())

    def compare():
        assert {name: modes(network) for name, network in everyone.items()} == before

    run(method, step, between=compare)
    assert before["student"]["backbone.1"] is False and before["student"]["backbone.4"] is True
    # Statistics of a frozen BatchNorm stay, whatever the passes.
    after = step.student.backbone[1].state_dict()
    assert all(torch.equal(after[name], frozen[name]) for name in ("running_mean", "running_var"))


@every_method
def test_the_weights_are_where_they_were_when_the_generator_ends(cls, preset, make_step):
    method = shrunk(made(cls, preset))
    step = make_step(method)
    before = {name: value.detach().clone() for name, value in weights(step).items()}
    run(method, step)
    assert all(torch.equal(value, before[name]) for name, value in weights(step).items())
    assert all(value.requires_grad for value in weights(step).values())


@every_method
def test_the_weights_come_back_when_the_loop_stops_early(cls, preset, make_step):
    method = shrunk(made(cls, preset))
    step = make_step(method)
    before = {name: value.detach().clone() for name, value in weights(step).items()}
    losses = method.losses(step)
    next(losses)
    losses.close()
    assert all(torch.equal(value, before[name]) for name, value in weights(step).items())


# --- memory -----------------------------------------------------------------------------------------------------------


def through_a_file(state):
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def assert_same_state(one, other):
    assert one.keys() == other.keys()
    for name in one:
        torch.testing.assert_close(other[name], one[name], rtol=0, atol=0, equal_nan=True)


@every_method
def test_its_memory_is_a_flat_dict_of_tensors_that_survives_a_file(cls, preset, make_step):
    method = shrunk(made(cls, preset))
    step = make_step(method)
    initial = method.initial_state(Batch(step.x, step.y))
    assert_same_state(initial, step.state)
    run(method, step)
    assert step.state.keys() == initial.keys()
    assert all(isinstance(value, torch.Tensor) and not value.requires_grad for value in step.state.values())
    assert_same_state(step.state, through_a_file(step.state))
    assert_same_state(initial, method.initial_state(Batch(step.x, step.y)))


@every_method
def test_a_resumed_method_continues_to_the_bit(cls, preset, make_step):
    method = shrunk(made(cls, preset))
    step = make_step(method)
    run(method, step, seed=1)
    # Another process: equal options read anew, the memory from a file, the networks from a checkpoint.
    resumed = replace(
        step,
        state=through_a_file(step.state),
        student=deepcopy(step.student),
        companions={name: deepcopy(network) for name, network in step.companions.items()},
    )
    straight, _ = run(method, step, seed=2)
    again, _ = run(replace(method), resumed, seed=2)
    assert straight == again
    assert_same_state(step.state, resumed.state)


# --- options ----------------------------------------------------------------------------------------------------------

NAMES = {"PGD": PGD, "Radius": Radius, "Threat": Threat, **{cls.__name__: cls for cls in methods().values()}}


@every_method
def test_its_repr_rebuilds_it(cls, preset):
    method = made(cls, preset)
    assert eval(repr(method), dict(NAMES)) == method


@every_method
def test_a_recipe_rebuilds_it(cls, preset):
    method = made(cls, preset)
    assert recipe.build(cls, recipe.plain(method)) == method
    assert recipe.build(Method, recipe.plain(method)) == method
    assert isinstance(hash(method), int)


@every_default
def test_a_recipe_needs_to_say_its_kind_only(cls):
    assert recipe.build(Method, {"kind": cls.kind}) == cls()


# --- cost -------------------------------------------------------------------------------------------------------------


class Counted(nn.Module):
    """Counts how often a network is asked, for logits or for features."""

    def __init__(self, network):
        super().__init__()
        self.network, self.count = network, 0

    def forward(self, x):
        self.count += 1
        return self.network(x)


def passes(method, *, seed=0):
    """Return the forward passes per batch of ``student``, each companion and each teacher, at the end of a run."""
    torch.manual_seed(seed)
    signature = Signature(channels=1, height=4, width=4, classes=3)
    asked = {}
    for name in ("student", *method.companions, *method.roles):
        asked[name] = build(MLP(hidden=(5,)), signature)
        asked[name].backbone = Counted(asked[name].backbone)
    batch = Batch(torch.rand(3, 1, 4, 4), torch.arange(3))
    step = Step(
        x=batch.x,
        y=batch.y,
        student=asked["student"],
        teachers={role: freeze(asked[role]) for role in method.roles},
        companions={name: asked[name] for name in method.companions},
        state=method.initial_state(batch),
        progress=1.0,
    )
    run(method, step, seed=seed)
    return {name: network.backbone.count for name, network in asked.items()}


@every_method
def test_its_cost_is_a_number_and_every_network_is_asked(cls, preset):
    method = made(cls, preset)
    measured = passes(method)
    assert measured == passes(method, seed=1)
    assert measured["student"] >= method.updates
    assert all(measured.values())


@every_method
def test_its_cost_is_what_the_catalogue_says(cls, preset):
    method = made(cls, preset)
    assert {name: found.forward for name, found in cost.passes(method).items()} == passes(method)


# --- compiled networks ------------------------------------------------------------------------------------------------


@pytest.fixture
def compiler():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


# Tracing looks at the ``grad`` of a replay's images, which are no leaf; torch hides that warning where it is no error.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
@every_default
def test_a_compiled_student_gives_the_same_losses(cls, make_step, compiler):
    method = shrunk(cls())
    step = make_step(method)
    twin = replace(step, student=torch.compile(deepcopy(step.student), backend="eager"), state=dict(step.state))
    twin = replace(twin, companions={name: deepcopy(network) for name, network in step.companions.items()})
    expected, gradients = run(method, step)
    found, compiled_gradients = run(method, twin)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(list(compiled_gradients.values()), list(gradients.values()), rtol=1e-3, atol=1e-4)


# --- networks that are not ours ---------------------------------------------------------------------------------------


class Plain(nn.Module):
    """Somebody's own module: the tiny classifier's layers, and nothing else of this package."""

    def __init__(self, backbone):
        super().__init__()
        self.layers = deepcopy(backbone)

    def forward(self, x):
        return self.layers(x)


@every_method
def test_a_plain_module_has_the_losses_of_the_same_network_of_a_family(cls, preset, make_step, tiny_batch, exactly):
    method, inside = shrunk(made(cls, preset)), {"mean": (0.5, 0.4, 0.3), "std": (0.25, 0.2, 0.25)}
    signature = Signature(channels=3, height=8, width=8, classes=int(tiny_batch.y.max()) + 1)
    ours = (
        build(ConvNet(channels=(6, 8), kernel=3, stride=2, padding=1, hidden=(32,)), signature, **inside)
        .double()
        .train()
    )
    theirs = Classifier(Plain(ours.backbone), signature, **inside).double().train()
    one, _ = run(method, make_step(method, student=ours, dtype=torch.float64))
    other, _ = run(method, make_step(method, student=theirs, dtype=torch.float64))
    for terms, same in zip(one, other, strict=True):
        assert terms.keys() == same.keys()
        for name in terms:
            # Float64 rounds by 1e-16; a search through some ten layers does not make 1e-9 of it.
            torch.testing.assert_close(same[name], terms[name], rtol=0, atol=1e-9)
