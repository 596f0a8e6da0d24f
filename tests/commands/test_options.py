"""A misspelt option fails type checking, and what the types say is what the functions take."""

import inspect
import subprocess
import sys
from dataclasses import fields
from importlib.util import find_spec

import pytest
import torch
from torch import nn

from overproof.cli.certify import certify as cli_certify
from overproof.cli.evaluate import evaluate as cli_evaluate
from overproof.commands.export import TARGETS
from overproof.commands.options import (
    Certification,
    CertifyOptions,
    EvaluateOptions,
    Evaluation,
    ExportOptions,
    Format,
    call_of,
)
from overproof.data.sources import Digits
from overproof.errors import InputError

SCRIPT = """\
from pathlib import Path

import torch
from torch import Tensor, nn

import overproof
from overproof.attacks import APGD, PGD, AutoAttack, Square, Threat
from overproof.bounds import certify, compute_bounds

net: nn.Module = nn.Linear(1, 2)
x, y = torch.rand(2, 3, 8, 8), torch.zeros(2, dtype=torch.int64)
found: dict[str, object] = overproof.evaluate("runs/a", examples=20, eps="8/255", attacks="standard", norm="Linf")
found = overproof.evaluate(net, data=(x, y), eps=0.03, attacks=("fgsm", "pgd-20"), out="results")
found = overproof.evaluate(Path("runs/a"), resume=True, out=Path("here"), precision="bf16")
found = overproof.certify("runs/a", eps="2/255", bound="crown", teacher="runs/b")
found = overproof.certify(net, data=(x, y), eps="2/255")
found = overproof.export("runs/a", to="onnx", opset=18)
found = overproof.export("runs/a", to="int8", calibration="entropy", out="model.onnx")
x_adv: Tensor = PGD(eps="8/255", step="2/255", norm="L2")(net, x, y)
x_adv = PGD(eps=0.1, step=None)(lambda p: net(p), x, y, loss="dlr", target=1)
x_adv = APGD()(net, x, y, target=y)
x_adv = PGD()(net, x, objective=lambda p: net(p).sum(dim=1))
Threat(eps="8/255", norm="linf")
robust: float = AutoAttack(net, norm="Linf", eps="8/255", suite="quick").evaluate(x, y).robust_accuracy
lower, upper = compute_bounds(net, x, eps="1/255", method="alpha-crown")
proved: float = certify(net, x, y, eps="1/255").certified_accuracy
overproof.evaluate("runs/a", exmples=20)  # wrong
overproof.evaluate("runs/a", examples="20")  # wrong
overproof.evaluate("runs/a", norm="l7")  # wrong
overproof.certify("runs/a", bound="crwn")  # wrong
overproof.certify("runs/a", secnds=1.0)  # wrong
overproof.export("runs/a", to="onyx")  # wrong
overproof.export("runs/a", to="onnx", opsett=18)  # wrong
overproof.evluate("runs/a")  # wrong
PGD(epz="8/255")  # wrong
PGD(eps=None)  # wrong
PGD()(net, x, y, los="dlr")  # wrong
Square(norm="l3")  # wrong
AutoAttack(net, suite="standrad")  # wrong
compute_bounds(net, x, eps="1/255", method="crwn")  # wrong
from overproof.attacks import PDG  # wrong
"""


OF_QUERIES = ("other", "query", "instances", "jobs")
"""Words of ``overproof certify`` that are for the queries of a verifier (``overproof.decide``)."""


OTHERS = {cli_certify: {"seconds": None, "precision": None}}


def test_the_options_are_those_of_the_functions():
    """The same names and types for a type checker, for the function and on the command line."""
    for typed, options, command in (
        (EvaluateOptions, Evaluation, cli_evaluate),
        (CertifyOptions, Certification, cli_certify),
    ):
        assert typed.__annotations__ == {part.name: part.type for part in fields(options)}
        words = inspect.signature(command).parameters
        # What a word says of its file, a function takes in the word itself.
        assert set(words) - {"run", "layout", *OF_QUERIES} == set(typed.__annotations__)
        for part in fields(options):
            written = words[part.name].default
            # None: comma-separated attacks, and what queries have another default of.
            default = {"attacks": "", **OTHERS.get(command, {})}.get(part.name, part.default)
            assert getattr(written, "value", written) == default, part.name
    assert set(ExportOptions.__annotations__) == {name for target in TARGETS.values() for name in target.options}
    assert set(Format.__args__) == set(TARGETS)


def test_a_call_says_what_is_not_as_by_default(tmp_path):
    options = Evaluation(
        attacks=("fgsm", "square"), eps="8/255", data=Digits(), reliability=False, resume=True, out=tmp_path, seed=0
    )
    assert call_of("nets:make", options, batch=20) == {
        "source": "nets:make",
        "kind": "module",
        "options": {
            "attacks": ["fgsm", "square"],
            "eps": "8/255",
            "data": {"kind": "digits"},
            "reliability": False,
            "batch": 20,
        },
    }
    x = torch.rand(2, 1, 8, 8)
    found = call_of(nn.Linear(1, 2), Certification(data=(x, torch.zeros(2)), teacher=tmp_path, norm="L2"))
    assert found == {
        "source": None,
        "kind": "in memory",
        "options": {"data": None, "teacher": str(tmp_path), "norm": "L2"},
    }


def test_what_no_option_can_be_is_one_sentence():
    for options in (Evaluation, Certification):
        with pytest.raises(InputError, match=r"^batch must be at least 1, got 0$"):
            options(batch=0)
        assert options(norm="Linf").known_norm == "linf" and options().known_norm is None
        with pytest.raises(InputError, match="there is no norm 'l7'"):
            _ = options(norm="l7").known_norm


@pytest.mark.skipif(find_spec("mypy") is None, reason="mypy is in the extra dev")
def test_strict_type_checking_of_a_users_script(tmp_path):
    """Every line marked wrong has an error, and no other line."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    # Torch's own files take two thirds of the time, and no line that is marked needs their types.
    (tmp_path / "mypy.ini").write_text("[mypy]\nstrict = True\n[mypy-torch.*]\nfollow_imports = skip\n")
    words = [sys.executable, "-m", "mypy", "--no-error-summary", "--cache-dir", str(tmp_path / "cache")]
    found = subprocess.run(
        [*words, script.name], cwd=tmp_path, capture_output=True, text=True, timeout=280, check=False
    )
    assert not found.stderr
    lines = {int(line.split(":")[1]) for line in found.stdout.splitlines() if ": error: " in line}
    wrong = {number for number, line in enumerate(SCRIPT.splitlines(), start=1) if line.endswith("# wrong")}
    assert lines == wrong, found.stdout
