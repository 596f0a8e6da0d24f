"""Names and words that the project has left for the field's own: docs/decisions.md says why."""

import ast
import re

LEFT = {
    "Adapted": "FeatureAdapter",
    "Attacking": "EvaluationEvent",
    "Brackets": "GapBounds",
    "Cargo": "ExportTask",
    "Certifying": "CertificationEvent",
    "Climb": "AlphaOptimizer",
    "Couple": "PairBounds",
    "Course": "GraphWriter",
    "Evidence": "Proportion",
    "Examinee": "EvaluationTask",
    "Found": "NetworkSource",
    "Free": "Relaxation",
    "Goal": "Misclassification",
    "Imitation": "PairAttack",
    "Learners": "TrainableNetworks",
    "Marks": "ExampleState",
    "Means": "BoundOptions",
    "News": "TrainingEvent",
    "Replay": "CUDAGraphRunner",
    "Rows": "LinearBounds",
    "Sign": "Check",
    "Still": "FusedNetwork",
    "Suitability": "TeacherCheck",
    "Trial": "AttackSpec",
    "Witness": "RecordingNetwork",
    "assail": "run_attacks",
    "broken": "misclassified",
    "cargo": "export_task",
    "carried_out": "run_to_end",
    "certifying": "iter_certify",
    "companions": "auxiliary_models",
    "coupled": "bound_pair",
    "evaluating": "iter_evaluate",
    "examinee": "evaluation_task",
    "fitted": "adapt_student",
    "foreign": "load_external",
    "held_still": "fused_for_attack",
    "priced": "with_betas",
    "prices": "betas",
    "pull": "propagate_backward",
    "stand_in": "fused_form",
}
"""Names of classes, functions and attributes that were, and what is said now."""
WORDS = re.compile(
    r"\bprocessors?\b(?<!Processor)|\banew\b|\blet loose\b|\bproject notes\b|\bLaw \d|\brooms\b"
    r"|\bheld still\b|\b[Cc]limb"
)
ALLOWED = re.compile(r"platform\.processor\(\)")


def defined(tree):
    """Yield the names that a module gives to classes, functions, arguments and attributes."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            yield node.name
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            yield node.target.id
        elif isinstance(node, ast.Attribute):
            yield node.attr


def test_names_that_were_left_do_not_come_back(modules):
    found = {str(module.path): sorted(set(defined(module.tree)) & set(LEFT)) for module in modules}
    assert {path: names for path, names in found.items() if names} == {}


def test_the_new_names_are_there(modules):
    known = {name for module in modules for name in defined(module.tree)}
    aliases = {"ExampleState"}
    assert set(LEFT.values()) - known <= aliases


def test_words_that_were_left_do_not_come_back(modules, root):
    texts = {str(module.path): module.text for module in modules}
    pages = [root / "README.md", root / "CONTRIBUTING.md", *(root / "docs").rglob("*.md")]
    texts |= {str(page.relative_to(root)): page.read_text() for page in pages if "node_modules" not in page.parts}
    found = {name: WORDS.findall(ALLOWED.sub("", text)) for name, text in texts.items()}
    assert {name: words for name, words in found.items() if words} == {}


def test_the_search_for_words_finds_them():
    assert WORDS.findall("on two processors anew; Intel Processor") == ["processors", "anew"]
    tree = ast.parse("class Goal:\n    fitted: int\n    def pull(self): return self.stand_in")
    assert sorted(set(defined(tree)) & set(LEFT)) == ["Goal", "fitted", "pull", "stand_in"]
