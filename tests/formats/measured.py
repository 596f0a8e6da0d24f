"""A small run of the digits that was trained, attacked and certified."""

from overproof.commands.certify import certify
from overproof.commands.evaluate import evaluate
from overproof.commands.train import train
from overproof.recipe import parse

TOY = """
name: toy
data: {kind: digits}
threat: {eps: 1/255}
normalise: {mean: [0.3], std: [0.4]}
student: {kind: mlp, hidden: [8]}
method: {kind: natural}
training: {epochs: 1, batch: 64, optimiser: {kind: adamw, lr: 0.01}, precision: fp32}
selection: {examples: 10, trial: {name: pgd-1, attack: {steps: 1}}}
evaluation: {attacks: [{name: fgsm, attack: {steps: 1, start: none}}, {name: pgd-2, attack: {steps: 2}}]}
"""


def measured_run(folder):
    """Train, evaluate and certify in this folder; return it."""
    train(parse(TOY), folder, device="cpu")
    evaluate(folder, examples=50, device="cpu")
    certify(folder, examples=10, bound="ibp", device="cpu")
    return folder
