from dataclasses import FrozenInstanceError, dataclass

import pytest

from overproof.methods.method import Method
from overproof.models.architectures.mlp import MLP


@dataclass(frozen=True, kw_only=True)
class Silent(Method):
    """A method that says only what it must."""

    kind: str = "silent"

    def losses(self, step):
        yield {"nothing": step.x.sum()}


def test_a_method_listens_to_one_teacher_takes_one_update_and_remembers_nothing(tiny_batch):
    method = Silent()
    assert (method.roles, method.updates, dict(method.presets)) == (("robust",), 1, {})
    assert method.initial_state(tiny_batch) == {}
    assert method.auxiliary_models == () and method.adapt_student(MLP(hidden=(3,)), {}) == MLP(hidden=(3,))


def test_a_method_without_losses_is_none():
    with pytest.raises(TypeError, match="abstract"):
        Method()


def test_what_a_method_sees_cannot_be_exchanged(make_step):
    step = make_step(Silent())
    with pytest.raises(FrozenInstanceError):
        step.progress = 0.5
    step.state["memory"] = step.x  # the one thing that changes
