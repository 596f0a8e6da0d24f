"""Every module has a test file of its name in the same place."""

NO_FILE_NEEDED = {
    "__main__.py": "one line; the command line is tested",
    "version.py": "one line; test_version compares it with the changelog",
}


def test_every_module_has_its_test_file(modules, root):
    missing = []
    for module in modules:
        if module.path.name == "__init__.py" or str(module.path) in NO_FILE_NEEDED:
            continue
        mirrored = root / "tests" / module.path.parent / f"test_{module.path.name}"
        if not mirrored.is_file() or "def test_" not in mirrored.read_text():
            missing.append(str(mirrored.relative_to(root)))
    assert missing == []


def test_exceptions_are_still_there(modules):
    assert set(NO_FILE_NEEDED) <= {str(module.path) for module in modules}


def test_every_test_file_is_collected(root):
    """A file that pytest would not collect is a test that cannot fail."""
    for file in (root / "tests").rglob("*.py"):
        if "def test_" in file.read_text() and "reference/methods" not in str(file):
            assert file.name.startswith(("test_", "every_")), file
