"""Contract tests that run on a class of your own, as pytest classes; and the small networks and images they use.

    from overproof.testing import MethodContract

    class TestMine(MethodContract):
        make = Mine

What each test asserts is in its docstring. ``pytest.register_assert_rewrite("overproof.testing")`` in a ``conftest.py``
lets a failed assertion show its values.
"""

from typing import TYPE_CHECKING

from overproof.lazy import lazily

if TYPE_CHECKING:
    from overproof.testing.architectures import ArchitectureContract
    from overproof.testing.attacks import AttackContract
    from overproof.testing.augmentations import AugmentContract
    from overproof.testing.methods import MethodContract
    from overproof.testing.sources import SourceContract
    from overproof.testing.toys import make_step, modes, tiny_batch, tiny_classifier

_HOMES = {
    "ArchitectureContract": "overproof.testing.architectures",
    "AttackContract": "overproof.testing.attacks",
    "AugmentContract": "overproof.testing.augmentations",
    "MethodContract": "overproof.testing.methods",
    "SourceContract": "overproof.testing.sources",
    "make_step": "overproof.testing.toys",
    "modes": "overproof.testing.toys",
    "tiny_batch": "overproof.testing.toys",
    "tiny_classifier": "overproof.testing.toys",
}

__all__ = [
    "ArchitectureContract",
    "AttackContract",
    "AugmentContract",
    "MethodContract",
    "SourceContract",
    "make_step",
    "modes",
    "tiny_batch",
    "tiny_classifier",
]

if not TYPE_CHECKING:  # where every other name would pass for one that exists
    __getattr__, __dir__ = lazily(__name__, _HOMES)
