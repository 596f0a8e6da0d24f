from typing import get_args

from overproof.attacks.ball import Norm
from overproof.certification.cascade import Reach
from overproof.cli.options import BoundName, BoundPrecision, NormName, PrecisionName
from overproof.commands import options
from overproof.models.precision import Precision


def values(words):
    return {word.value for word in words}


def test_the_words_are_those_of_the_rooms_behind():
    """The command line may not import them: they need torch, and --help must not wait."""
    assert values(NormName) == set(get_args(Norm))
    assert values(BoundName) == set(get_args(Reach))
    assert values(BoundPrecision) == set(get_args(options.BoundPrecision))
    assert values(PrecisionName) == {"auto", *get_args(Precision)}
