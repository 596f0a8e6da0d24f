"""The source tree as the house tests see it: every module's name, text and syntax tree."""

import ast
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Module:
    path: Path  # relative to src/overproof
    text: str
    tree: ast.Module

    @property
    def package(self):
        """The first part of its name: a folder, or a file at the top."""
        return self.path.parts[0].removesuffix(".py")

    def calls(self, name):
        """Return the calls whose function is ``name`` or ``something.name``."""
        return [
            node
            for node in ast.walk(self.tree)
            if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] == name
        ]


@pytest.fixture(scope="session")
def root():
    return ROOT


@pytest.fixture(scope="session")
def modules():
    source = ROOT / "src" / "overproof"
    found = []
    for file in sorted(source.rglob("*.py")):
        text = file.read_text()
        found.append(Module(file.relative_to(source), text, ast.parse(text)))
    assert len(found) > 40
    return found
