"""What an import costs: the names of a package are imported when they are asked for, and no earlier."""

import subprocess
import sys

import pytest

from overproof.lazy import lazily


def loaded_by(statement):
    """Return the names of the modules that a statement imports in a fresh process."""
    code = f"{statement}\nimport sys\nprint(' '.join(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    return set(found.stdout.split())


def test_names_are_those_of_their_homes_and_no_others():
    get, names = lazily("json", {"OrderedDict": "collections"})
    from collections import OrderedDict

    assert get("OrderedDict") is OrderedDict
    assert {"OrderedDict", "dumps"} <= set(names())
    with pytest.raises(AttributeError, match="module 'json' has no attribute 'Orderd'"):
        get("Orderd")


@pytest.mark.parametrize(
    "package",
    ["attacks", "bounds", "certification", "data", "diagnostics", "evaluation", "methods", "models", "training"],
)
def test_importing_a_package_imports_none_of_it(package):
    found = loaded_by(f"import overproof.{package}")
    assert "torch" not in found
    assert {name for name in found if name.startswith("overproof")} == {
        "overproof",
        "overproof.lazy",
        "overproof.version",
        f"overproof.{package}",
    }


def test_an_attack_needs_torch_and_little_else():
    """What ``from overproof.attacks import PGD`` imports beyond torch is ours, or of the standard library."""
    found = loaded_by("from overproof.attacks import PGD") - loaded_by("import torch")
    rooms = {".".join(name.split(".")[:2]) for name in found if name.startswith("overproof.")}
    assert not rooms & {"overproof.evaluation", "overproof.training", "overproof.methods", "overproof.commands"}
    others = {name.split(".")[0] for name in found} - {"overproof"} - sys.stdlib_module_names
    assert others <= {"typing_extensions"}
