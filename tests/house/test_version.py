"""One version everywhere."""

import re
import sys
from importlib.metadata import version
from subprocess import run

import overproof


def test_package_changelog_and_installation_agree(root):
    changes = re.findall(r"^## (\S+)", (root / "CHANGELOG.md").read_text(), flags=re.MULTILINE)
    assert overproof.__version__ == changes[0] == version("overproof")
    assert len(set(changes)) == len(changes)


def test_the_source_tree_knows_its_version_where_nothing_is_installed(root):
    # As on a machine without registries: the tree on the path, and no metadata (-S: no site-packages).
    asked = "import overproof; print(overproof.__version__)"
    told = run(
        [sys.executable, "-S", "-c", asked],
        env={"PYTHONPATH": str(root / "src")},
        capture_output=True,
        text=True,
    )
    assert told.stdout.strip() == overproof.__version__, told.stderr
