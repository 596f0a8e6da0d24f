"""The order in which packages may import each other: upward only, and no circle."""

import ast
import sys

GROUND = {
    "allocation",
    "archives",
    "bases",
    "clamp",
    "environment",
    "errors",
    "files",
    "functional",
    "lazy",
    "locking",
    "memory",
    "plain_yaml",
    "processes",
    "reading",
    "shipped",
    "signature",
    "statistics",
    "stopping",
    "trust",
    "version",
    "wording",
}
BASE = GROUND | {"models", "data"}
BELOW = {
    # The ground floor; a file here may use another one, but nothing above it.
    **dict.fromkeys(GROUND, GROUND),
    # Data and models share a signature and nothing else.
    "models": GROUND | {"models"},
    "data": GROUND | {"data"},
    # Names that mean classes, of this package or another one.
    "registry": GROUND | {"models"},
    "attacks": BASE | {"registry", "attacks"},
    # A region is the ball of an attack.
    "bounds": BASE | {"attacks", "bounds"},
    "methods": BASE | {"attacks", "bounds", "methods"},
    "training": BASE | {"attacks", "bounds", "methods", "training"},
    # The examiner does not know how the student was taught.
    "evaluation": BASE | {"attacks", "evaluation"},
    "certification": BASE | {"attacks", "bounds", "evaluation", "certification"},
    "diagnostics": BASE | {"attacks", "evaluation", "diagnostics"},
    "report": GROUND | {"evaluation", "report"},
    # A model card shows the report's tables.
    "formats": BASE | {"attacks", "evaluation", "certification", "diagnostics", "report", "formats"},
    # Other people's training loops around a method.
    "integrations": BASE | {"attacks", "bounds", "methods", "training", "integrations"},
}
# Options and folders, then the commands, then the command line.
PACKAGES = set(BELOW)
BELOW |= {
    "unloaded": PACKAGES | {"unloaded"},
    "building": PACKAGES | {"unloaded", "building"},
    "recipe": PACKAGES | {"unloaded", "building", "recipe"},
    # What users test their own classes with.
    "testing": PACKAGES | {"unloaded", "building", "testing"},
    "runs": PACKAGES | {"building", "recipe", "runs"},
    "commands": PACKAGES | {"building", "recipe", "runs", "commands"},
    "cli": PACKAGES | {"recipe", "runs", "commands", "cli"},
    "__main__": {"cli"},
    "__init__": PACKAGES | {"recipe", "runs", "commands"},
}
AT_THE_TOP = {"numpy", "pydantic", "rich", "safetensors", "torch", "typer", "typing_extensions", "yaml"}
"""Packages that any module may import at once; every other one waits inside the function that needs it."""


def imported(tree):
    """Yield the full names that a tree imports, wherever it does."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def packages_imported(tree):
    return {name.split(".")[1] for name in imported(tree) if name.startswith("overproof.")}


def runtime_body(tree):
    """Return what is done when a module is imported, leaving out what only the type checker sees."""
    return [
        node
        for node in tree.body
        if not (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
        and not isinstance(node, ast.FunctionDef | ast.ClassDef)
    ]


def at_the_top(tree):
    """Return the packages imported when the module is."""
    return {name.split(".")[0] for node in runtime_body(tree) for name in imported(node)}


def test_every_package_has_its_place(modules):
    assert {module.package for module in modules} <= set(BELOW)


def is_face(module):
    """Tell a package's list of public names, which imports none of them by itself."""
    return module.path.name == "__init__.py" and module.package not in ("__init__", "cli")


def test_a_package_imports_nothing_before_a_name_is_asked_for(modules):
    faces = [module for module in modules if is_face(module)]
    assert len(faces) > 8
    for module in faces:
        names = {name for node in runtime_body(module.tree) for name in imported(node)}
        known = {"typing", "typing.TYPE_CHECKING", "overproof.lazy", "overproof.lazy.lazily"}
        if module.package == "__init__":
            known |= {"overproof.version", "overproof.version.__version__"}
        assert names <= known, module.path


def test_packages_import_only_those_below_them(modules):
    broken = [
        f"{module.path} imports {name}"
        for module in modules
        if not is_face(module)  # AutoAttack is called beside the attacks, and lives where it is evaluated
        for name in sorted(packages_imported(module.tree) & set(BELOW))
        if name not in BELOW[module.package]
    ]
    assert broken == []


def test_the_order_has_no_circle():
    """No two packages may import each other; the files of the ground floor may."""
    for package, allowed in BELOW.items():
        for other in allowed - {package}:
            assert package in GROUND or package not in BELOW[other], f"{package} and {other} may import each other"


def test_the_examiner_does_not_know_the_teacher(modules):
    for module in modules:
        if module.package in ("evaluation", "certification", "diagnostics"):
            assert not packages_imported(module.tree) & {"methods", "training"}


def test_nothing_imports_the_command_line(modules):
    importers = [
        str(module.path) for module in modules if module.package != "cli" and "cli" in packages_imported(module.tree)
    ]
    assert importers == ["__main__.py"]


def test_no_module_imports_the_root_for_what_lies_below(modules):
    for module in modules:
        assert "overproof" not in set(imported(module.tree)), module.path


def test_optional_packages_wait_inside_functions(modules):
    allowed = AT_THE_TOP | {"overproof"} | sys.stdlib_module_names
    early = {
        str(module.path): at_the_top(module.tree) - allowed - ({"pytest"} if module.package == "testing" else set())
        for module in modules
    }
    assert {path: names for path, names in early.items() if names} == {}


def test_the_command_line_waits_with_everything_that_needs_torch(modules):
    front = [module for module in modules if module.package == "cli"]
    assert len(front) > 5
    for module in front:
        assert at_the_top(module.tree) - sys.stdlib_module_names <= {"overproof", "rich", "typer"}, module.path
        top = ast.Module([node for node in module.tree.body if isinstance(node, ast.ImportFrom)], [])
        assert packages_imported(top) <= {"errors", "stopping", "version", "wording", "cli"}, module.path
