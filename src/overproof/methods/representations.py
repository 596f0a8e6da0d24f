"""Methods that match a teacher's penultimate representation: a student as wide as the teacher."""

from overproof.models.adapted import FeatureAdapter
from overproof.models.architectures.architecture import Architecture
from overproof.models.classifier import Classifier
from overproof.models.weights import outline


def as_wide_as(student: Architecture, teacher: Classifier) -> Architecture:
    """Return the student, with a trained linear adapter where its representation is not as wide as the teacher's.

    Raises ``ValueError`` where the teacher has no penultimate layer.
    """
    wanted = teacher.head.in_features
    own = outline(student, teacher.signature).head.in_features
    return student if own == wanted else FeatureAdapter(base=student, features=wanted)
