"""How far an adversary may go, as users write it: lengths and norms, and the fields of a dataclass that read both."""

from collections.abc import Callable
from typing import Any, ClassVar, Literal, Self, overload

from overproof.errors import InputError, nearest
from overproof.reading import read_fraction

Norm = Literal["linf", "l2", "l1"]
AnyNorm = Literal["linf", "l2", "l1", "Linf", "L2", "L1"]
"""A norm as other libraries write it; capitals do not matter."""
NORMS: tuple[Norm, ...] = ("linf", "l2", "l1")
_NOTHING = 5e-324  # the least positive number, which is zero in float32


class Radius(float):
    """A positive length in pixel space that remembers how it was written: ``Radius("8/255")`` prints ``8/255``."""

    text: str

    def __new__(cls, written: "str | float") -> Self:
        """Read ``8/255``, ``0.031``, ``1e-2`` or a number; raise ``InputError`` unless it is positive and finite."""
        if isinstance(written, Radius) and written == _NOTHING:
            return cls.none()
        text = written.text if isinstance(written, Radius) else str(written).replace(" ", "")
        try:
            value = float(read_fraction(text))
        except (ValueError, ZeroDivisionError, OverflowError):
            raise InputError(f"cannot read {text[:80]!r} as a length; write it as 8/255 or 0.031") from None
        if not value > 0:
            raise InputError(f"a length must be positive, got {text}")
        radius = super().__new__(cls, value)
        radius.text = text
        return radius

    @classmethod
    def none(cls) -> Self:
        """Return the length of a ball that holds the image alone: no number is so near another one in float32."""
        radius = super().__new__(cls, _NOTHING)
        radius.text = "0"
        return radius

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return f"Radius({self.text!r})"

    def __reduce__(self) -> tuple[Callable[..., Self], tuple[str, ...]]:  # copies and pickles keep the text
        return (type(self).none, ()) if self == _NOTHING else (type(self), (self.text,))


def is_zero(eps: str | float) -> bool:
    """Tell whether a length is written that is zero."""
    try:
        return read_fraction(str(eps).replace(" ", "")) == 0
    except (ValueError, ZeroDivisionError):  # Radius says what is wrong with it
        return False


def radius_or_none(eps: str | float) -> Radius:
    """Return a length that may be zero, where only the image itself is meant; raise ``InputError``."""
    return Radius.none() if is_zero(eps) else Radius(eps)


def read_norm(written: str) -> Norm:
    """Return the norm that a word means, whatever its capitals; raise ``InputError`` for no norm."""
    for norm in NORMS:
        if str(written).lower() == norm:
            return norm
    raise InputError(f"there is no norm {written!r}{nearest(str(written), NORMS)}")


def check_eps(norm: str, eps: float) -> None:
    """Raise ``InputError`` with the right spelling where an linf eps cannot be meant in [0, 1] pixels."""
    if norm == "linf" and eps > 1:
        raise InputError(f"eps {eps} is not in [0, 1] pixel units; did you mean {eps:g}/255?")


class ReadField:
    """A field of a frozen dataclass that accepts more types than it keeps; ``holds`` is the type of what it keeps.

    It is the field's annotation and its default at once. A type checker takes what ``__set__`` accepts for the
    constructor, and what ``__get__`` returns for the value.
    """

    holds: ClassVar[Any]
    name: str

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name


class Length(ReadField):
    """A field with a ``Radius``, which may be given as ``"8/255"``, ``0.03`` or a ``Radius``."""

    holds = Radius

    def __init__(self, default: str | float) -> None:
        self.default = Radius(default)

    def __get__(self, instance: object, owner: type | None = None) -> Radius:
        """Return the value of an instance, or the default for the class itself."""
        return self.default if instance is None else instance.__dict__[self.name]

    def __set__(self, instance: object, value: str | float) -> None:
        """Keep what is given as a ``Radius``; raise ``InputError``."""
        instance.__dict__[self.name] = value if isinstance(value, Radius) else Radius(value)


class OptionalLength(ReadField):
    """A field like ``Length`` that may also be None, its default."""

    holds = Radius | None

    def __get__(self, instance: object, owner: type | None = None) -> Radius | None:
        """Return the value of an instance, or None for the class itself."""
        return None if instance is None else instance.__dict__[self.name]

    def __set__(self, instance: object, value: str | float | None) -> None:
        """Keep what is given as a ``Radius`` or None; raise ``InputError``."""
        instance.__dict__[self.name] = value if value is None or isinstance(value, Radius) else Radius(value)


class NormField(ReadField):
    """A field with a norm, which may be given in capitals, as in ``"Linf"``."""

    holds = Norm

    def __init__(self, default: Norm) -> None:
        self.default: Norm = default

    @overload
    def __get__(self, instance: None, owner: type) -> Norm: ...
    @overload
    def __get__(self, instance: object, owner: type | None = None) -> Norm: ...
    def __get__(self, instance: object | None, owner: type | None = None) -> Norm:
        """Return the value of an instance, or the default for the class itself."""
        return self.default if instance is None else instance.__dict__[self.name]

    def __set__(self, instance: object, value: AnyNorm) -> None:
        """Keep the norm that is meant; raise ``InputError``."""
        instance.__dict__[self.name] = read_norm(value)
