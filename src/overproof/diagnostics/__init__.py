"""Diagnostics: whether a figure can be trusted, whether a network can teach, whether two networks are one."""

from typing import TYPE_CHECKING

from overproof.lazy import lazily

if TYPE_CHECKING:
    from overproof.diagnostics.reliability import Reliability
    from overproof.diagnostics.teacher_check import TeacherCheck

_HOMES = {
    "Reliability": "overproof.diagnostics.reliability",
    "TeacherCheck": "overproof.diagnostics.teacher_check",
}

__all__ = [
    "Reliability",
    "TeacherCheck",
]

if not TYPE_CHECKING:  # where every other name would pass for one that exists
    __getattr__, __dir__ = lazily(__name__, _HOMES)
