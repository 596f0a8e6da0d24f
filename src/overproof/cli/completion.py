"""What the Tab key offers; it answers while the user waits, so nothing here imports torch."""

LISTS = ("methods", "attacks", "models", "datasets", "augmentations", "recipes")
SUITES = ("standard", "quick", "shipped", "mtard", "rrm", "rrm-l2")
FORMATS = ("onnx", "int8", "torch", "vnnlib", "hub")


def recipes(incomplete: str) -> list[str]:
    """Return the shipped recipes that begin so; the shell adds files where there is none."""
    from overproof.shipped import recipe_names

    return [name for name in recipe_names() if name.startswith(incomplete)]


def lists(incomplete: str) -> list[str]:
    """Return the lists that begin so."""
    return [name for name in LISTS if name.startswith(incomplete)]


def suites(incomplete: str) -> list[str]:
    """Return the suites of attacks that begin so."""
    return [name for name in SUITES if name.startswith(incomplete)]


def formats(incomplete: str) -> list[str]:
    """Return the forms of ``export --to`` that begin so."""
    return [name for name in FORMATS if name.startswith(incomplete)]
