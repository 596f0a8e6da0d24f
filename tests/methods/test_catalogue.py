import importlib
import inspect
import pkgutil
import re
from dataclasses import MISSING, fields, is_dataclass

import pytest

from overproof import methods as package
from overproof.methods.catalogue import methods
from overproof.methods.method import Method

every_method = pytest.mark.parametrize("kind", methods())


def test_every_file_that_defines_a_method_is_found_by_itself():
    defined = set()
    for module in pkgutil.iter_modules(package.__path__):
        path = f"{package.__name__}.{module.name}"
        members = vars(importlib.import_module(path)).values()
        here = [m for m in members if isinstance(m, type) and issubclass(m, Method) and m.__module__ == path]
        assert len(here) <= 1, f"{module.name} defines more than one method"
        defined |= set(here)
    assert set(methods().values()) == defined - {Method}
    assert {"natural", "pgd_at", "kd", "ard"} <= set(methods())


def test_the_order_is_alphabetical():
    assert list(methods()) == sorted(methods())


@every_method
def test_a_method_is_a_frozen_value_written_with_keywords(kind):
    cls = methods()[kind]
    assert is_dataclass(cls) and cls.__dataclass_params__.frozen and cls.__dataclass_params__.eq
    assert all(part.kw_only for part in fields(cls))
    assert (fields(cls)[0].name, fields(cls)[0].default) == ("kind", kind)
    assert all(part.default is not MISSING or part.default_factory is not MISSING for part in fields(cls))
    assert cls() == cls() and hash(cls()) == hash(cls())


@every_method
def test_a_method_is_final(kind):
    cls = methods()[kind]
    assert cls.__bases__ == (Method,)
    # Other tests make methods of their own.
    assert not [child for child in cls.__subclasses__() if child.__module__.startswith("overproof")]


@every_method
def test_the_docstring_is_the_card(kind):
    cls = methods()[kind]
    wraps_another = any(part.name == "base" for part in fields(cls))
    assert cls.__doc__.splitlines()[0].endswith((".", "?"))
    assert re.search("^Formula[:,]", inspect.getdoc(cls), re.MULTILINE) or wraps_another
