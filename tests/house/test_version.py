"""One version everywhere."""

import re
import tomllib
from importlib.metadata import version


def test_project_changelog_and_installation_agree(root):
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    changes = re.findall(r"^## (\S+)", (root / "CHANGELOG.md").read_text(), flags=re.MULTILINE)
    assert project["version"] == changes[0] == version("overproof")
    assert len(set(changes)) == len(changes)
