import json

import pytest
import torch
from torch import nn

import overproof
from overproof.attacks.pgd import PGD
from overproof.attacks.suites import AttackSpec
from overproof.commands.train import train
from overproof.data.sources import Digits
from overproof.errors import InputError
from overproof.methods.natural import Natural
from overproof.methods.rrm import RRM
from overproof.models.adapted import FeatureAdapter
from overproof.models.architectures.catalogue import FAMILIES
from overproof.models.architectures.convnet import ConvNet
from overproof.models.architectures.mlp import MLP
from overproof.models.classifier import Classifier
from overproof.models.weights import build, freeze
from overproof.recipe import Recipe, Selection
from overproof.runs.folder import Run
from overproof.signature import Signature
from overproof.training.optimisation import SGD, Training

from .by_hand import SIGNATURE, X, ce, descend, equal, gradients, network, only, step_of, total


def hidden(net, x):
    return net.backbone[2](net.backbone[1](net.backbone[0](x)))


def distance(kind, own, wanted):
    if kind == "cosine":
        lengths = (own**2).sum(dim=1).sqrt() * (wanted**2).sum(dim=1).sqrt()
        return -(own * wanted).sum(dim=1) / lengths
    return ((own - wanted) ** 2).sum(dim=1).sqrt() / (wanted**2).sum(dim=1).sqrt()


@pytest.mark.parametrize("kind", ["cosine", "relative_l2"])
@pytest.mark.parametrize("label_weight", [0.0, 0.005, 1.0])
def test_terms_are_the_formula(kind, label_weight):
    method = RRM(distance=kind, label_weight=label_weight)
    step = step_of(method)
    student, teacher = step.student, step.teachers["robust"]
    hand = {
        "label": label_weight * ce(student(X)).mean(),
        "features": distance(kind, hidden(student, X), hidden(teacher, X)).mean(),
    }
    equal(only(method.losses(step)), hand, student)


@pytest.mark.parametrize("kind", ["cosine", "relative_l2"])
def test_without_labels_the_head_does_not_learn(kind):
    step = step_of(RRM())
    loss = total(only(RRM(distance=kind, label_weight=0.0).losses(step)))
    loss.backward()
    assert not step.student.head.weight.grad.any() and not step.student.head.bias.grad.any()
    assert step.student.backbone[1].weight.grad.any()


@pytest.mark.parametrize("replays", [1, 3])
def test_replays_use_the_batch_again_and_the_teacher_once(replays):
    method = RRM(replays=replays, label_weight=0.5)
    step, twin = step_of(method), network()
    wanted = hidden(step.teachers["robust"], X)
    asked = []
    features = step.teachers["robust"].features
    step.teachers["robust"].features = lambda x: (asked.append(x), features(x))[1]
    assert descend(method.losses(step), step.student) == replays == method.updates
    assert len(asked) == 1 and torch.equal(asked[0], X)
    for _ in range(replays):
        loss = 0.5 * ce(twin(X)).mean() + distance("cosine", hidden(twin, X), wanted).mean()
        with torch.no_grad():
            for weight, slope in zip(twin.parameters(), gradients(loss, twin), strict=True):
                weight -= 0.1 * slope
    for ours, hand in zip(step.student.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(ours, hand)


def test_a_student_like_its_teacher_has_nothing_to_learn_but_labels():
    step = step_of(RRM(), student=network(10), teachers={"robust": freeze(network(10))})
    assert float(only(RRM().losses(step))["features"].detach()) == pytest.approx(-1)
    assert only(RRM(distance="relative_l2").losses(step))["features"] == 0


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"label_weight": -0.1}, "label_weight cannot be negative, got -0.1"),
        ({"replays": 0}, "replays must be at least 1, got 0"),
    ],
)
def test_bad_options_are_refused(options, sentence):
    with pytest.raises(ValueError, match=f"^{sentence}$"):
        RRM(**options)


# --- representations of two widths ------------------------------------------------------------------------------------


def test_an_adapter_is_built_where_the_widths_differ_and_only_there():
    teacher = freeze(build(MLP(hidden=(9, 7)), SIGNATURE))
    for student in (MLP(hidden=(7,)), MLP(hidden=(30, 7))):
        assert RRM().adapt_student(student, {"robust": teacher}) is student
    for student in (MLP(hidden=(9,)), MLP(hidden=())):
        assert RRM().adapt_student(student, {"robust": teacher}) == FeatureAdapter(base=student, features=7)


@pytest.mark.parametrize("kind", FAMILIES)
def test_a_student_of_every_family_can_be_fitted(kind):
    signature = Signature(channels=3, height=32, width=32, classes=10)
    teacher = freeze(build(MLP(hidden=(7,)), signature))
    assert RRM().adapt_student(FAMILIES[kind](), {"robust": teacher}) == FeatureAdapter(
        base=FAMILIES[kind](), features=7
    )


def test_a_fitted_student_learns():
    teacher = freeze(build(MLP(hidden=(7,)), SIGNATURE).double())
    student = build(RRM().adapt_student(MLP(hidden=(5,)), {"robust": teacher}), SIGNATURE).double()
    step = step_of(RRM(), student=student, teachers={"robust": teacher})
    total(only(RRM().losses(step))).backward()
    assert all(weight.grad.any() for weight in student.parameters())


def recipe(name, method, student, teachers=None):
    return Recipe(
        name=name,
        data=Digits(),
        student=student,
        teachers=teachers or {},
        method=method,
        training=Training(epochs=2, batch=128, optimiser=SGD(lr=0.05), precision="fp32"),
        selection=Selection(examples=20, trial=AttackSpec(name="fgsm", attack=PGD(steps=1, start="none"))),
    )


@pytest.fixture
def teacher(tmp_path):
    train(recipe("teacher", Natural(), MLP(hidden=(12,))), tmp_path / "teacher", device="cpu")
    return str(tmp_path / "teacher")


def test_a_run_with_an_adapter_is_read_back(teacher, tmp_path):
    small = ConvNet(channels=(4,), hidden=(8,))
    out = tmp_path / "student"
    taught = recipe("student", RRM(label_weight=0.1), small, {"robust": teacher})
    run = train(taught, out, device="cpu", keep_checkpoint=True)
    for name in ("model", "last"):
        description = json.loads((out / f"{name}.json").read_text())["architecture"]
        assert (description["kind"], description["features"]) == ("adapted", 12)
        assert description["base"]["kind"] == "convnet"
        network, _ = Run(out).model(name)
        assert isinstance(network, Classifier) and network.head.in_features == 12
    x = Digits().load("test").images[:20] / 255
    checkpoint = torch.load(max((out / "checkpoint").iterdir()), weights_only=True)
    fresh = build(FeatureAdapter(base=small, features=12), Digits().load("test").signature)
    fresh.load_state_dict(checkpoint["student"])
    assert torch.equal(Run(out).model("last")[0](x), fresh.eval()(x))
    best = overproof.load(out)
    if run.model()[1]["validation"]["epoch"] == 2:
        assert torch.equal(best(x), fresh(x))
    assert best.features(x)[1].shape == (20, 12)
    # The recipe still names the student that was asked for.
    assert run.recipe().student == small


def test_widths_that_agree_leave_the_student_as_it_is(teacher, tmp_path):
    student = MLP(hidden=(20, 12))
    train(recipe("student", RRM(), student, {"robust": teacher}), tmp_path / "student", device="cpu")
    assert json.loads((tmp_path / "student" / "model.json").read_text())["architecture"]["kind"] == "mlp"


def test_a_teacher_without_a_linear_layer_is_one_sentence(teacher, tmp_path, monkeypatch):
    signature = Digits().load("test").signature
    convolution = Classifier(nn.Sequential(nn.Conv2d(1, 10, 8), nn.Flatten()), signature)
    monkeypatch.setattr("overproof.runs.trainer.load_teacher", lambda *_, **__: freeze(convolution))
    with pytest.raises(InputError) as problem:
        train(recipe("student", RRM(), MLP(), {"robust": teacher}), tmp_path / "student", device="cpu")
    sentence = str(problem.value)
    assert sentence.startswith("method 'rrm' cannot use this teacher: ") and "\n" not in sentence
    assert not (tmp_path / "student").exists()
