"""Every test of the contract can fail: for each there is a method with the fault that it is there for."""

import inspect
from dataclasses import dataclass

import pytest
import torch

from overproof.functional import cross_entropy, kl
from overproof.methods.method import Method
from overproof.methods.natural import Natural
from overproof.testing import MethodContract
from overproof.testing.methods import count_forward_passes, run
from overproof.testing.toys import make_step

SEEN = {}


@dataclass(frozen=True, kw_only=True)
class Sound(Method):
    """A method without a fault: the teacher's answer is learnt."""

    kind: str = "sound"

    def losses(self, step):
        target = step.teachers["robust"](step.x)
        yield {"kl": kl(step.student(step.x), target).mean()}


class Twice(Sound):
    def losses(self, step):
        yield from super().losses(step)
        yield from super().losses(step)


class NoNumber(Sound):
    def losses(self, step):
        for terms in super().losses(step):
            yield {name: term * float("nan") for name, term in terms.items()}


class Half(Sound):
    def losses(self, step):
        yield {"weights": step.student.backbone[0].weight.square().sum()}


class LowPrecision(Sound):
    def losses(self, step):
        yield {"logit": (step.student(step.x) @ torch.ones(4, 1)).mean()}


class Remembers(Sound):
    def losses(self, step):
        with torch.no_grad():
            step.student(step.x)
        yield from super().losses(step)


class KeepsTheFirst(Sound):
    def losses(self, step):
        x = SEEN.setdefault(id(step.student), step.x)
        yield {"kl": cross_entropy(step.student(x), torch.zeros(len(x), dtype=torch.int64)).mean()}


class Writes(Sound):
    def losses(self, step):
        step.x.clamp_(0.2, 0.8)
        yield from super().losses(step)


class TeachesTheTeacher(Sound):
    def losses(self, step):
        step.teachers["robust"].train()
        yield from super().losses(step)


class LeavesEval(Sound):
    def losses(self, step):
        step.student.eval()
        yield from super().losses(step)


class Moves(Sound):
    def losses(self, step):
        with torch.no_grad():
            next(step.student.parameters()).mul_(1.5)
        yield from super().losses(step)


class MovesBackTooLate(Sound):
    def losses(self, step):
        weight = next(step.student.parameters())
        with torch.no_grad():
            weight.mul_(2)
        yield from super().losses(step)
        with torch.no_grad():
            weight.div_(2)


class SaysNoMemory(Sound):
    def losses(self, step):
        step.state["count"] = torch.ones(())
        yield from super().losses(step)


class RemembersElsewhere(Sound):
    def losses(self, step):
        SEEN["count"] = SEEN.get("count", 0) + 1
        for terms in super().losses(step):
            yield {name: term * SEEN["count"] for name, term in terms.items()}


@dataclass(frozen=True, kw_only=True)
class Forgets(Sound):
    kind: str = "forgets"
    alpha: float = 0.5

    def __eq__(self, other):
        return self is other

    __hash__ = Sound.__hash__


class AsksByChance(Sound):
    def losses(self, step):
        for _ in range(int(torch.randint(1, 9, ()))):
            step.teachers["robust"](step.x)
        yield from super().losses(step)


class AsksNoTeacher(Sound):
    def losses(self, step):
        yield {"label": cross_entropy(step.student(step.x), step.y).mean()}


class DependsOnTheImages(Sound):
    def losses(self, step):
        if step.x.shape[1] == 1 and float(step.x.mean()) < 0.2:  # a dark image of the toy that the list is made with
            step.teachers["robust"](step.x)
        yield from super().losses(step)


class LooksAtTheType(Sound):
    def losses(self, step):
        backbone = getattr(step.student, "_orig_mod", step.student).backbone
        factor = 1.0 if backbone is getattr(step.student, "backbone", None) and hasattr(backbone, "embed") else 2.0
        if hasattr(step.student, "_orig_mod"):
            factor = 3.0
        for terms in super().losses(step):
            yield {name: term * factor for name, term in terms.items()}


FAULTS = {
    "test_yields_its_updates_as_named_finite_scalars": (Twice, NoNumber),
    "test_every_learning_weight_gets_a_gradient": (Half,),
    "test_runs_under_bf16_autocast": (LowPrecision, Half),
    "test_autocast_remembers_no_pass_without_a_gradient": (Remembers,),
    "test_a_smaller_batch_may_follow": (KeepsTheFirst,),
    "test_the_images_and_the_teachers_stay_as_they_are": (Writes, TeachesTheTeacher),
    "test_every_mode_comes_back_before_every_update": (LeavesEval,),
    "test_the_weights_are_where_they_were_when_the_generator_ends": (Moves,),
    "test_the_weights_come_back_when_the_loop_stops_early": (Moves, MovesBackTooLate),
    "test_its_memory_is_a_flat_dict_of_tensors_that_survives_a_file": (SaysNoMemory,),
    "test_a_resumed_method_continues_to_the_bit": (RemembersElsewhere,),
    "test_a_recipe_rebuilds_it": (Forgets,),
    "test_its_cost_is_a_number_and_every_network_is_asked": (AsksByChance, AsksNoTeacher),
    "test_its_cost_is_what_the_list_says": (DependsOnTheImages,),
    "test_a_compiled_student_gives_the_same_losses": (LooksAtTheType,),
    "test_a_plain_module_has_the_losses_of_the_same_network_of_a_family": (LooksAtTheType,),
}
TESTS = [name for name in vars(MethodContract) if name.startswith("test_")]


@pytest.fixture(autouse=True)
def _nothing_seen():
    SEEN.clear()


def tried(name, method):
    """Run one test of the contract as pytest would, on a method."""
    test = getattr(MethodContract, name)
    given = {"short": method, "method": method, "progress": 1.0, "compiler": None}
    test(MethodContract(), **{key: given[key] for key in list(inspect.signature(test).parameters)[1:]})


def test_every_test_has_a_fault_that_it_finds():
    assert set(FAULTS) == set(TESTS)


@pytest.mark.parametrize("name", TESTS)
def test_a_sound_method_passes(name):
    tried(name, Sound())


@pytest.mark.parametrize(("name", "fault"), [(name, fault) for name, faults in FAULTS.items() for fault in faults])
def test_a_fault_is_found(name, fault):
    with pytest.raises((AssertionError, RuntimeError)):
        tried(name, fault())


def test_a_run_takes_every_update_and_adds_up_the_gradients():
    once, twice = (run(cls(), make_step(cls())) for cls in (Sound, Twice))
    assert len(once[0]) == 1 and len(twice[0]) == 2
    for name, gradient in once[1].items():
        assert torch.equal(twice[1][name], 2 * gradient)
    assert count_forward_passes(Natural()) == {"student": 1}
