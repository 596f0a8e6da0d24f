"""Whoever knows less yields to whoever knows more: the order in which rooms may import each other."""

import ast
import sys

GROUND = {
    "allocation",
    "archives",
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
    "signature",
    "stopping",
    "trust",
    "wording",
}
BASE = GROUND | {"models", "data"}
LAW = {
    # The ground floor; a file here may use another one, but nothing above it.
    **dict.fromkeys(GROUND, GROUND),
    # Data and models share a signature and nothing else.
    "models": GROUND | {"models"},
    "data": GROUND | {"data"},
    "attacks": BASE | {"attacks"},
    # A region is the ball of an attack.
    "bounds": BASE | {"attacks", "bounds"},
    "methods": BASE | {"attacks", "bounds", "methods"},
    "training": BASE | {"attacks", "bounds", "methods", "training"},
    # The examiner does not know how the student was taught.
    "evaluation": BASE | {"attacks", "bounds", "evaluation"},
    "report": GROUND | {"evaluation", "report"},
    # A model card shows the report's tables.
    "formats": BASE | {"attacks", "bounds", "evaluation", "report", "formats"},
    # Other people's training loops around a method.
    "integrations": BASE | {"attacks", "bounds", "methods", "training", "integrations"},
}
# Names that mean classes, of this package or another one; an attack suite is found by its name where it is evaluated.
LAW["registry"] = GROUND | {"models"}
LAW["evaluation"] |= {"registry"}
# The house's front: options and folders, then the verbs, then the words.
ROOMS = set(LAW)
LAW |= {
    "unloaded": ROOMS | {"unloaded"},
    "building": ROOMS | {"unloaded", "building"},
    "recipe": ROOMS | {"unloaded", "building", "recipe"},
    # What users test their own classes with.
    "testing": ROOMS | {"unloaded", "building", "testing"},
    "run": ROOMS | {"recipe", "run"},
    "shipped": GROUND | {"shipped"},
    "results": GROUND | {"results"},
    "verbs": ROOMS | {"building", "recipe", "results", "run", "shipped", "verbs"},
    "cli": ROOMS | {"recipe", "results", "run", "shipped", "verbs", "cli"},
    "__main__": {"cli"},
    "__init__": ROOMS | {"lazy", "recipe", "run", "shipped", "verbs"},
}
AT_THE_TOP = {"numpy", "pydantic", "rich", "safetensors", "torch", "typer", "typing_extensions", "yaml"}
"""Packages that any module of the room may import at once; every other one waits inside the function that needs it."""


def imported(tree):
    """Yield the full names that a tree imports, wherever it does."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def rooms_imported(tree):
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


def test_every_room_has_a_law(modules):
    assert {module.room for module in modules} <= set(LAW)


def is_face(module):
    """Tell a package's list of public names, which imports none of them by itself."""
    return module.path.name == "__init__.py" and module.room not in ("__init__", "cli")


def test_a_package_imports_nothing_before_a_name_is_asked_for(modules):
    faces = [module for module in modules if is_face(module)]
    assert len(faces) > 8
    for module in faces:
        names = {name for node in runtime_body(module.tree) for name in imported(node)}
        assert names <= {"typing", "typing.TYPE_CHECKING", "overproof.lazy", "overproof.lazy.lazily"}, module.path


def test_rooms_import_only_rooms_that_know_less(modules):
    broken = [
        f"{module.path} imports {name}"
        for module in modules
        if not is_face(module)  # an attack suite is called beside the attacks, and lives where it is evaluated
        for name in sorted(rooms_imported(module.tree) & set(LAW))
        if name not in LAW[module.room]
    ]
    assert broken == []


def test_the_law_itself_has_an_order():
    """No two rooms may import each other; the ground floor and the front are single files."""
    for room, allowed in LAW.items():
        for other in allowed - {room}:
            assert room in GROUND or room not in LAW[other], f"{room} and {other} may import each other"


def test_the_examiner_does_not_know_the_teacher(modules):
    for module in modules:
        if module.room == "evaluation":
            assert not rooms_imported(module.tree) & {"methods", "training"}


def test_nothing_imports_the_command_line(modules):
    importers = [
        str(module.path) for module in modules if module.room != "cli" and "cli" in rooms_imported(module.tree)
    ]
    assert importers == ["__main__.py"]


def test_optional_packages_wait_inside_functions(modules):
    allowed = AT_THE_TOP | {"overproof"} | sys.stdlib_module_names
    early = {
        str(module.path): at_the_top(module.tree) - allowed - ({"pytest"} if module.room == "testing" else set())
        for module in modules
    }
    assert {path: names for path, names in early.items() if names} == {}


def test_the_command_line_waits_with_everything_that_needs_torch(modules):
    front = [module for module in modules if module.room == "cli"]
    assert len(front) > 5
    for module in front:
        assert at_the_top(module.tree) - sys.stdlib_module_names <= {"overproof", "rich", "typer"}, module.path
        top = ast.Module([node for node in module.tree.body if isinstance(node, ast.ImportFrom)], [])
        assert rooms_imported(top) <= {"errors", "stopping", "wording", "cli"}, module.path
