"""The laws of the house that can be read off the source."""

import ast

FRONT = {"cli", "__main__"}


def places(modules, name):
    return [str(module.path) for module in modules for _ in module.calls(name)]


def test_one_backward_and_one_optimiser_step(modules):
    ours = [module for module in modules if module.package != "testing"]  # contract tests do what the loop does
    assert places(ours, "backward") == ["training/step.py"]
    assert places(modules, "step") == ["training/step.py"]


def test_only_searches_ask_autograd(modules):
    """Attacks, what they replay, the weight-space wrapper, and the ascents and choices of bounds.

    None of them touches a model.
    """
    found = [
        str(module.path)
        for module in modules
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Attribute) and ast.unparse(node).endswith("autograd.grad")
    ]
    assert {path for path in found if not path.startswith("attacks/")} <= {
        "methods/awp.py",
        "models/inference/cuda_graph.py",
        "bounds/slopes.py",
        "bounds/split.py",
    }
    assert any(path.startswith("attacks/") for path in found)


def own_nodes(function):
    """Yield the nodes of a function without those of the functions inside it."""
    stack = list(ast.iter_child_nodes(function))
    while stack:
        node = stack.pop()
        yield node
        if not isinstance(node, ast.FunctionDef | ast.Lambda):
            stack.extend(ast.iter_child_nodes(node))


def yields_inside_with(tree):
    """Return the names of functions that yield while they hold something."""
    found = []
    for function in ast.walk(tree):
        if not isinstance(function, ast.FunctionDef):
            continue
        for held in own_nodes(function):
            if isinstance(held, ast.With) and any(
                isinstance(node, ast.Yield | ast.YieldFrom) for node in own_nodes(held)
            ):
                found.append(function.name)
    return found


def test_a_method_holds_nothing_while_it_yields(modules):
    """A generator that is dropped between two yields would not give back what a ``with`` borrowed."""
    found = {str(module.path): yields_inside_with(module.tree) for module in modules if module.package == "methods"}
    assert {path: names for path, names in found.items() if names} == {}


HELD = """
def found():
    with a:
        for x in y:
            yield x

def free():
    with a:
        def inner():
            yield 1
    yield 2
"""


def test_the_search_for_held_yields_finds_one():
    assert yields_inside_with(ast.parse(HELD)) == ["found"]


def test_no_host_synchronisation_in_methods_and_attacks(modules):
    found = [module for module in modules if module.package in ("methods", "attacks")]
    assert len(found) > 10
    for name in ("item", "cpu", "tolist", "numpy", "synchronize"):
        assert places(found, name) == [], name


def test_only_the_command_line_prints(modules):
    for module in modules:
        if module.package not in FRONT:
            assert module.calls("print") == [], module.path
            assert "sys.stdout" not in module.text, module.path
            assert "sys.stderr" not in module.text, module.path
            assert "from rich" not in module.text, module.path


def test_no_pickles(modules):
    for module in modules:
        assert "import pickle" not in module.text, module.path
        for call in module.calls("load"):
            if ast.unparse(call.func) == "torch.load":
                assert "weights_only=True" in ast.unparse(call), module.path


def test_no_global_switches(modules):
    for module in modules:
        assert not any(isinstance(node, ast.Global) for node in ast.walk(module.tree)), module.path
        for name in ("set_default_dtype", "set_default_device", "set_num_threads", "set_grad_enabled"):
            gives_back = name == "set_default_dtype" and str(module.path) == "models/mode.py"  # what others have set
            assert gives_back or module.calls(name) == [], module.path


def public(node):
    return isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")


def undocumented(tree):
    """Yield the public names of a module, and of its public classes, that have no docstring."""
    if ast.get_docstring(tree) is None:
        yield "the module"
    for node in filter(public, tree.body):
        if ast.get_docstring(node) is None:
            yield node.name
        if isinstance(node, ast.ClassDef):
            for method in filter(public, node.body):
                described_above = any("override" in ast.unparse(mark) for mark in method.decorator_list)
                if ast.get_docstring(method) is None and not described_above:
                    yield f"{node.name}.{method.name}"


def test_every_public_name_has_a_docstring(modules):
    found = {str(module.path): list(undocumented(module.tree)) for module in modules if module.text.strip()}
    assert {path: names for path, names in found.items() if names} == {}


def test_no_file_is_longer_than_six_hundred_lines(modules):
    assert [str(module.path) for module in modules if module.text.count("\n") > 600] == []
