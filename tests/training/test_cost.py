"""The passes of every method, derived by hand from its formula: ten steps of search where it searches."""

import pytest
import torch

from overproof.attacks.pgd import PGD
from overproof.methods.adaad import AdaAD
from overproof.methods.adaiad import AdaIAD
from overproof.methods.ard import ARD
from overproof.methods.awp import AWP
from overproof.methods.catalogue import methods
from overproof.methods.divergence import IKL
from overproof.methods.fast_ard import FastARD
from overproof.methods.free_at import FreeAT
from overproof.methods.iad import IAD
from overproof.methods.igdm import IGDM
from overproof.methods.kd import KD
from overproof.methods.mtard import MTARD
from overproof.methods.natural import Natural
from overproof.methods.peeraid import PeerAiD
from overproof.methods.pgd_at import PGDAT
from overproof.methods.rrm import RRM
from overproof.methods.rslad import RSLAD
from overproof.methods.saad import SAAD
from overproof.methods.saad_weight import SAADWeight
from overproof.methods.trades import TRADES
from overproof.training.cost import Passes, passes, passes_of_epoch

BY_DEFAULT = {
    # One clean pass; the teacher's needs no gradient.
    "natural": {"student": (1, 1)},
    "kd": {"student": (1, 1), "robust": (1, 0)},
    "rrm": {"student": (1, 1), "robust": (1, 0)},
    # The search, then S(x').
    "pgd_at": {"student": (10 + 1, 10 + 1)},
    "ard": {"student": (10 + 1, 10 + 1), "robust": (1, 0)},
    # The search, then S(x') and S(x).
    "mart": {"student": (10 + 2, 10 + 2)},
    "rslad": {"student": (10 + 2, 10 + 2), "robust": (1, 0)},
    "mtard": {"student": (10 + 2, 10 + 2), "robust": (1, 0), "clean": (1, 0)},
    "b_mtard": {"student": (10 + 2, 10 + 2), "robust": (1, 0), "clean": (1, 0)},
    # The target of the search is the student's own clean answer, asked for without a gradient.
    "trades": {"student": (1 + 10 + 2, 10 + 2)},
    # S(x) is a target that is not descended; T(x) teaches and T(x') is trusted.
    "iad": {"student": (10 + 2, 10 + 1), "robust": (2, 0)},
    # The search goes through the teacher too; T(x') is asked once more for the loss.
    "adaad": {"student": (10 + 1, 10 + 1), "robust": (10 + 1, 10)},
    "adaiad": {"student": (10 + 2, 10 + 1), "robust": (10 + 1, 10)},
    # AdaAD, and one pass of each at the mirrored image.
    "igdm": {"student": (11 + 1, 11 + 1), "robust": (11 + 1, 10)},
    # T(x) with a gradient for the pixels, T(x') and T(x - d); S(x') and S(x - d).
    "saad": {"student": (10 + 2, 10 + 2), "robust": (3, 1)},
    # RSLAD, whose teacher is asked about x' too.
    "saad_weight": {"student": (10 + 2, 10 + 2), "robust": (2, 0)},
    # AdaAD's search, then S(x), S(x'), T(x) and T(x').
    "dgad": {"student": (10 + 2, 10 + 2), "robust": (10 + 2, 10)},
    # TRADES, and the helper; the clean teacher labels it.
    "hat": {"student": (1 + 10 + 3, 10 + 3), "clean": (1, 0)},
    # TRADES without its own consistency at beta 0; the guide sees the clean image.
    "lbgat": {"student": (1 + 10 + 1, 10 + 1), "guide": (1, 1)},
    "fare": {"student": (10 + 1, 10 + 1), "clean": (1, 0)},
    "n_fgsm": {"student": (1 + 1, 1 + 1)},
    # One step of search.
    "fast_at": {"student": (1 + 1, 1 + 1)},
    # One pass per replay: eight, and four.
    "free_at": {"student": (8, 8)},
    "fast_ard": {"student": (4, 4), "robust": (1, 0)},
    # Adversarial training whose outer loss is computed twice.
    "awp": {"student": (10 + 2, 10 + 2)},
    # P(x) without a gradient and P(x'); S(x') is descended and S(x) is a target.
    "peeraid": {"student": (10 + 2, 10 + 1), "peer": (2, 1)},
    # A clean pass; what the bounds cost is no pass.
    "ibp": {"student": (1, 1)},
    "crown_ibp": {"student": (1, 1)},
    "faithful": {"student": (1, 1), "robust": (1, 0)},
    # A search of eight steps; then S(x'), or bounds around x' alone.
    "mtl_ibp": {"student": (8 + 1, 8 + 1)},
    "sabr": {"student": (8, 8)},
    "staps": {"student": (8, 8)},
    "taps": {"student": (0, 0)},
}

SHORT = PGD(steps=3)
BY_OPTION = [
    (PGDAT(inner=PGD(steps=7)), {"student": (8, 8)}),
    (PGDAT(inner=PGD(steps=2, restarts=3)), {"student": (10, 7)}),  # the ends of restarts are scored once more
    (PGDAT(inner=PGD(steps=2, best=True)), {"student": (4, 3)}),
    (KD(alpha=1.0), {"student": (1, 1), "robust": (1, 0)}),
    (ARD(alpha=0.5, inner=SHORT), {"student": (5, 5), "robust": (1, 0)}),
    (ARD(clean_forward="always", inner=SHORT), {"student": (5, 5), "robust": (1, 0)}),
    (TRADES(clean_target_forward="again", inner=SHORT), {"student": (7, 6)}),
    (TRADES(clean_target_forward="again", detach_target=True, inner=SHORT), {"student": (7, 5)}),
    (TRADES(detach_target=True, inner=SHORT), {"student": (6, 5)}),  # the label still descends S(x)
    (IAD(alpha=0.5, inner=SHORT), {"student": (5, 5), "robust": (2, 0)}),  # one clean pass, target and label
    (IAD(warmup=1.0, inner=SHORT), {"student": (5, 4), "robust": (2, 0)}),  # the cost is that of the end of a run
    (IAD(detach_self=False, inner=SHORT), {"student": (5, 5), "robust": (2, 0)}),
    # Idle: S(x') again; then S(x) as a target and S(x) for the label.
    (IAD(idle_forwards="official", inner=SHORT), {"student": (7, 5), "robust": (2, 0)}),
    (AdaAD(alpha=0.5, inner=SHORT), {"student": (5, 5), "robust": (5, 3)}),
    (AdaAD(clean_forward="always", inner=SHORT), {"student": (5, 4), "robust": (4, 3)}),
    (AdaAD(search_target="clean", inner=SHORT), {"student": (4, 4), "robust": (2, 0)}),  # T(x), and T(x') for the loss
    (ARD(divergence=IKL(), inner=SHORT), {"student": (4, 4), "robust": (1, 0)}),
    (AdaIAD(idle_forwards="official", inner=SHORT), {"student": (7, 5), "robust": (4, 3)}),
    (FreeAT(replays=3), {"student": (3, 3)}),
    (FastARD(replays=3, alpha=0.5), {"student": (6, 6), "robust": (1, 0)}),
    (FastARD(replays=3, ascend="cross_entropy"), {"student": (6, 6), "robust": (1, 0)}),
    (RRM(replays=3), {"student": (3, 3), "robust": (1, 0)}),
    (RRM(label_weight=0.0, distance="relative_l2"), {"student": (1, 1), "robust": (1, 0)}),
    (SAAD(clean_weight=1.0, inner=SHORT), {"student": (6, 6), "robust": (3, 1)}),
    (PeerAiD(idle_forwards="official", inner=SHORT), {"student": (6, 4), "peer": (2, 1)}),
    (PeerAiD(detach_targets=False, inner=SHORT), {"student": (5, 5), "peer": (2, 1)}),
    # The base has asked for S(x') and T(x'), or for S(x') alone.
    (IGDM(base=MTARD(inner=SHORT)), {"student": (6, 6), "robust": (2, 0), "clean": (1, 0)}),
    (IGDM(base=RSLAD(inner=SHORT)), {"student": (6, 6), "robust": (3, 0)}),
    (IGDM(base=ARD(inner=SHORT)), {"student": (5, 5), "robust": (3, 0)}),
    (IGDM(weight=0.0, base=ARD(inner=SHORT)), {"student": (4, 4), "robust": (1, 0)}),
    # The official code asks the student four times.
    (
        IGDM(attacked_forward="again", base=AdaAD(clean_forward="always", inner=SHORT)),
        {"student": (7, 6), "robust": (5, 3)},
    ),
    (SAADWeight(base=AdaAD(inner=SHORT)), {"student": (4, 4), "robust": (4, 3)}),
    (AWP(gamma=0.0, base=PGDAT(inner=SHORT)), {"student": (4, 4)}),
    (AWP(base=Natural()), {"student": (2, 2)}),
    (AWP(base=MTARD(inner=SHORT)), {"student": (7, 7), "robust": (2, 0), "clean": (2, 0)}),
    (AWP(base=PeerAiD(inner=SHORT)), {"student": (7, 5), "peer": (4, 1)}),
]


def counted(method):
    return {name: (found.forward, found.backward) for name, found in passes(method).items()}


def test_every_method_is_in_the_table():
    assert set(BY_DEFAULT) == set(methods())


@pytest.mark.parametrize("kind", BY_DEFAULT)
def test_passes_are_what_the_formula_says(kind):
    assert counted(methods()[kind]()) == BY_DEFAULT[kind]


@pytest.mark.parametrize(("method", "wanted"), BY_OPTION, ids=lambda value: repr(value)[:60])
def test_an_option_costs_what_the_formula_says(method, wanted):
    assert counted(method) == wanted


@pytest.mark.parametrize("cls", [RSLAD, ARD, RRM])
def test_a_target_at_the_clean_image_is_asked_for_once_per_batch(cls):
    for options in ({}, {"inner": PGD(steps=20)} if cls is not RRM else {"replays": 5}):
        assert passes(cls(**options))["robust"] == Passes(forward=1, backward=0)


@pytest.mark.parametrize("kind", BY_DEFAULT)
def test_counting_leaves_the_random_state_alone_and_says_the_same_again(kind):
    method = methods()[kind]()
    state = torch.get_rng_state()
    first = passes.__wrapped__(method)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(1)
    assert passes.__wrapped__(method) == first


def test_it_reads_as_words():
    assert str(Passes(forward=3, backward=2)) == "3 forward, 2 backward"


class TestEpochs:
    def test_a_search_that_grows_is_counted_batch_by_batch(self):
        method = ARD(inner=PGD(steps=4, steps_ramp=0.5))
        assert counted(method) == {"student": (5, 5), "robust": (1, 0)}
        found = [passes_of_epoch(method, epoch, 3, 40) for epoch in range(3)]
        steps = [method.inner.at(batch / 119).steps for batch in range(120)]
        for epoch, one in enumerate(found):
            wanted = sum(steps[40 * epoch : 40 * epoch + 40]) + 40
            assert one["student"].forward == one["student"].backward == pytest.approx(wanted, abs=2)  # a hundredth
            assert one["robust"] == Passes(forward=40, backward=0)
        assert found[2]["student"] == Passes(forward=200, backward=200)

    def test_a_warm_up_is_no_longer_counted_as_if_it_were_over(self):
        method = IAD(warmup=0.5, inner=SHORT)
        assert passes(method, 0)["robust"].forward == 1
        assert [passes_of_epoch(method, epoch, 2, 10)["robust"].forward for epoch in range(2)] == [10, 20]

    def test_what_never_changes_is_counted_once_and_multiplied(self):
        assert passes_of_epoch(PGDAT(inner=SHORT), 7, 9, 11) == {"student": Passes(forward=44, backward=44)}

    def test_a_method_that_the_toy_is_too_small_for_has_no_cost_and_ends_no_run(self):
        class Large(PGDAT):
            def losses(self, step):
                raise RuntimeError(f"{step.x.shape[2]} pixels are too few")

        assert passes_of_epoch(Large(inner=SHORT), 0, 1, 1) == {}
        with pytest.raises(RuntimeError, match="too few"):
            passes(Large(inner=SHORT))
