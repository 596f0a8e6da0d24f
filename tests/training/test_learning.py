import copy

import pytest
import torch
from torch import nn

from overproof.attacks.pgd import PGD
from overproof.data.augment import Augment
from overproof.data.loader import Loader
from overproof.errors import InputError
from overproof.functional import cross_entropy
from overproof.methods.awp import AWP
from overproof.methods.natural import Natural
from overproof.methods.peeraid import PeerAiD
from overproof.methods.pgd_at import PGDAT
from overproof.methods.trades import TRADES
from overproof.processes import ALONE
from overproof.recipe import parse
from overproof.training.averaging import EMA, SWA
from overproof.training.learning import freeze_some, parameter_groups
from overproof.training.loop import Loop
from overproof.training.optimisation import SGD, AdamW, Constant, Cosine, Training

FROZEN = ("0.*", "1.*")
"""The convolution and the BatchNorm of ``net``."""


def finish(loop):
    for _ in loop.run():
        pass
    return loop


def changed(student, began):
    """Return the names of what is another number than at the beginning, to the bit."""
    now, before = student.state_dict(), began.state_dict()
    return {name.removeprefix("backbone.") for name in now if not torch.equal(now[name], before[name])}


def all_of(student):
    return {name.removeprefix("backbone.") for name in student.state_dict()} - {"mean", "std"}


OF_FROZEN = {
    "0.weight",
    "1.weight",
    "1.bias",
    "1.running_mean",
    "1.running_var",
    "1.num_batches_tracked",
}


class TestFreeze:
    @pytest.mark.parametrize(
        "method",
        [Natural(), PGDAT(), AWP(base=PGDAT()), TRADES(), TRADES(inner=PGD(steps=2, mode="train"))],
        ids=["natural", "pgd_at", "awp", "trades", "trades that searches in train mode"],
    )
    @pytest.mark.parametrize("averaging", [None, EMA(decay=0.5), SWA(start=0.3)], ids=["none", "ema", "swa"])
    def test_frozen_layers_keep_weights_and_statistics_to_the_bit(self, looping, net, method, averaging):
        loop = looping(method, freeze=FROZEN, averaging=averaging)
        began = copy.deepcopy(loop.student)
        finish(loop)
        for network in (loop.student, loop.network()):
            assert changed(network, began) == {"4.weight", "4.bias"}
        assert all_of(began) - OF_FROZEN == {"4.weight", "4.bias"}

    def test_what_is_not_frozen_learns(self, looping):
        loop = looping(Natural(), averaging=EMA(decay=0.5))
        began = copy.deepcopy(loop.student)
        finish(loop)
        assert changed(loop.student, began) == all_of(began)

    def test_weight_decay_does_not_reach_frozen_layers(self, looping):
        loop = looping(Natural(), freeze=("4.*",), optimiser=AdamW(weight_decay=0.5))
        began = copy.deepcopy(loop.student)
        assert {"4.weight", "4.bias"}.isdisjoint(changed(finish(loop).student, began))

    def test_a_batchnorm_of_which_something_learns_moves_its_statistics(self, looping):
        loop = looping(Natural(), freeze=("*.weight",))
        began = copy.deepcopy(loop.student)
        assert changed(finish(loop).student, began) == all_of(began) - {"0.weight", "1.weight", "4.weight"}

    def test_a_frozen_vector_of_a_whole_network_freezes_nothing_that_lies_in_it(self, looping, net):
        student = net()
        student.backbone.register_parameter("place", nn.Parameter(torch.ones(2)))
        loop = looping(Natural(), student=student, freeze=("place",))
        began = copy.deepcopy(student)
        assert changed(finish(loop).student, began) == all_of(began) - {"place"}
        assert student.backbone[1].training and not student.backbone.training

    def test_the_frozen_part_answers_by_its_own_statistics(self, looping):
        loop = looping(Natural(), freeze=FROZEN)
        news = loop.run()
        next(news)
        student = loop.student
        x = torch.rand(5, 1, 4, 4)
        assert torch.equal(student.backbone[:2](x), copy.deepcopy(student).eval().backbone[:2](x))

    def test_companions_learn_whole(self, images, net):
        training = Training(
            epochs=1, batch=8, optimiser=SGD(lr=0.1), schedule=Constant(), precision="fp32", freeze=FROZEN
        )
        method = PeerAiD()
        loop = Loop(method, net(0), {}, Loader(images, 8, Augment(), 0), training, 0, auxiliary_models={"peer": net(1)})
        student, peer = copy.deepcopy(loop.student), copy.deepcopy(loop.auxiliary_models["peer"])
        finish(loop)
        assert changed(loop.student, student) == {"4.weight", "4.bias"}
        assert changed(loop.auxiliary_models["peer"], peer) == all_of(peer)

    def test_a_resumed_run_ends_where_an_uninterrupted_one_does(self, looping):
        options = {
            "method": AWP(base=PGDAT()),
            "freeze": FROZEN,
            "learning_rates": {"4.bias": 0.5},
            "averaging": EMA(decay=0.5),
        }
        whole, first = finish(looping(**options)), looping(**options)
        next(one for one in first.run() if one.whole)
        second = looping(**options)
        second.restore(copy.deepcopy(first.state()))
        finish(second)
        assert all(
            torch.equal(one, other)
            for one, other in zip(
                whole.network().state_dict().values(), second.network().state_dict().values(), strict=True
            )
        )

    def test_two_processes_freeze_the_same(self, exactly, looping, net, images, group):
        training = Training(
            epochs=2,
            batch=8,
            optimiser=SGD(lr=0.05),
            schedule=Constant(),
            precision="fp32",
            averaging=EMA(decay=0.5),
            freeze=FROZEN,
            learning_rates={"4.bias": 0.1},
        )

        def work(processes):
            loader = Loader(images, 8, Augment(crop=1, flip=True), 0, processes)
            loop = Loop(AWP(base=PGDAT()), net(0), {}, loader, training, 0)
            began = copy.deepcopy(loop.student)
            finish(loop)
            whole = loop.network()
            return changed(loop.student, began), changed(whole, began), whole.state_dict()

        alone = work(ALONE)
        for found in group(work):
            assert found[0] == found[1] == alone[0] == {"4.weight", "4.bias"}
            # The frozen BatchNorm is no function of the batch, so that processes share it but for float64's rounding.
            for name, value in alone[2].items():
                assert float((found[2][name] - value).abs().max()) < 1e-9


class TestLearningRates:
    def test_factors_scale_the_rate_exactly(self, exactly, looping, net):
        """Against the formula of gradient descent, in float64, with the factor written by hand."""
        loop = looping(
            Natural(),
            optimiser=SGD(lr=0.1, momentum=0, weight_decay=0.01),
            schedule=Cosine(floor=0.2),
            learning_rates={"0.*": 0.25, "*.bias": 3.0, "4.weight": 0.0},
        )
        finish(loop)
        student = net().train()
        factors = {"0.weight": 0.25, "1.weight": 1.0, "1.bias": 3.0, "4.weight": 0.0, "4.bias": 3.0}
        for epoch in range(3):
            for number, (x, y) in enumerate(loop.loader.batches(epoch)):
                rate = 0.1 * Cosine(floor=0.2).factor(epoch + number / 4, 3)
                loss = cross_entropy(student(x), y).mean()
                named = {name.removeprefix("backbone."): value for name, value in student.named_parameters()}
                gradients = torch.autograd.grad(loss, list(named.values()))
                with torch.no_grad():
                    for (name, value), gradient in zip(named.items(), gradients, strict=True):
                        value -= rate * factors[name] * (gradient + 0.01 * value)
        for name, value in student.state_dict().items():
            # Twelve updates of numbers below 10; a factor left out moves a weight by more than 1e-3.
            assert float((loop.student.state_dict()[name] - value).abs().max()) < 1e-12

    def test_the_first_pattern_counts(self, net):
        training = Training(learning_rates={"4.weight": 0.5, "4.*": 2.0, "*": 3.0})
        groups = parameter_groups(nn.ModuleDict({"student": net()}), training)
        assert [(group["factor"], [tuple(value.shape) for value in group["params"]]) for group in groups] == [
            (3.0, [(4, 1, 3, 3), (4,), (4,)]),
            (0.5, [(3, 64)]),
            (2.0, [(3,)]),
        ]

    def test_companions_learn_as_the_recipe_says(self, net):
        learners = nn.ModuleDict({"student": net(), "companions": nn.ModuleDict({"peer": net(1)})})
        groups = parameter_groups(learners, Training(learning_rates={"*": 0.1}))
        assert [(group["factor"], len(group["params"])) for group in groups] == [(0.1, 5), (1.0, 5)]

    def test_the_rate_that_is_told_is_without_factors(self, looping):
        loop = looping(Natural(), learning_rates={"0.*": 0.0})
        finish(loop)
        assert loop.learning_rate == 0.1
        assert loop.optimiser.param_groups[0]["lr"] == 0


class TestRefused:
    @pytest.mark.parametrize("key", ["freeze", "learning_rates"])
    def test_a_pattern_that_names_nothing(self, net, key):
        value = ("0.wieght",) if key == "freeze" else {"0.wieght": 0.5}
        with pytest.raises(InputError, match=r"no parameter of the student is called '0.wieght' \(did you mean"):
            freeze_some(net(), Training(**{key: value}))

    def test_a_student_of_which_nothing_learns(self, net):
        with pytest.raises(InputError, match=r"^training\.freeze: nothing of the student is left to learn$"):
            freeze_some(net(), Training(freeze=("*",)))

    def test_negative_factors(self):
        with pytest.raises(ValueError, match=r"learning_rates: 0\.\* cannot be negative, got -1"):
            Training(learning_rates={"0.*": -1.0})


def test_the_keys_of_a_recipe():
    text = "{name: x, data: digits, student: mlp, method: natural, training: {freeze: [fc1.*], learning_rates: "
    training = parse(text + "{'*.bias': 2}}}").training
    assert (training.freeze, training.learning_rates) == (("fc1.*",), {"*.bias": 2.0})
