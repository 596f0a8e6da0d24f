import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.optim.swa_utils import AveragedModel, update_bn

from overproof.training.averaging import EMA, SWA, Average, reestimate_batchnorm


def trajectory(net, length, seed=3):
    """Yield one network whose weights move on at random."""
    student, draws = net(), torch.Generator().manual_seed(seed)
    for _ in range(length):
        with torch.no_grad():
            for value in student.parameters():
                value += torch.randn(value.shape, generator=draws)
        yield student


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.999])
def test_ema_is_its_recursion_written_out(exactly, net, decay):
    average = Average(EMA(decay=decay, batchnorm="copied"), net())
    slow = {name: value.detach().clone() for name, value in net().named_parameters()}
    for n, student in enumerate(trajectory(net, 40)):
        average.take("update", student, n / 40)
        effective = min(decay, (1 + n) / (10 + n))
        for name, value in student.named_parameters():
            slow[name] = effective * slow[name] + (1 - effective) * value.detach().clone()
    for name, value in average.parameters.items():
        torch.testing.assert_close(value, slow[name], rtol=0, atol=1e-12)


@given(st.floats(0, 0.9999), st.integers(0, 10**6))
def test_the_effective_decay_rises_to_the_decay(decay, count):
    rule = EMA(decay=decay)
    assert rule.share(count, 0.0) >= rule.share(count + 1, 0.0) >= 1 - decay - 1e-12
    assert rule.share(10**9, 0.0) == pytest.approx(1 - decay)


def test_until_its_warm_up_is_over_the_average_is_the_newest_network(exactly, net):
    late, alone = Average(EMA(decay=0.9, warmup=0.5), net()), None
    for n, student in enumerate(trajectory(net, 20)):
        if n == 10:  # it begins with the network that was the newest
            alone = Average(EMA(decay=0.9), net())
            alone.parameters = {name: value.clone() for name, value in late.parameters.items()}
        late.take("update", student, n / 20)
        if alone:
            alone.take("update", student, n / 20)
        for name, value in student.named_parameters():
            torch.testing.assert_close(late.parameters[name], alone.parameters[name] if alone else value.detach())


@pytest.mark.parametrize("warmup", [-0.1, 1.0])
def test_a_warm_up_that_is_no_share_of_the_run_is_refused(warmup):
    with pytest.raises(ValueError, match=rf"^warmup is a share of the run, in \[0, 1\), got {warmup}$"):
        EMA(warmup=warmup)


@pytest.mark.parametrize("start", [0.0, 0.3, 0.5, 0.99])
def test_swa_is_the_plain_mean_of_the_networks_from_start_on(exactly, net, start):
    average = Average(SWA(start=start), net())
    counted = []
    for epoch, student in enumerate(trajectory(net, 10)):
        progress = (epoch + 1) / 10
        average.take("epoch", student, progress)
        now = {name: value.detach().clone() for name, value in student.named_parameters()}
        counted = [*counted, now] if progress >= start else []
        for name, value in average.parameters.items():
            wanted = torch.stack([one[name] for one in counted or [now]]).mean(dim=0)
            torch.testing.assert_close(value, wanted, rtol=0, atol=1e-12)


def test_swa_agrees_with_torch(exactly, net):
    average, reference = Average(SWA(start=0.0), net()), AveragedModel(net())
    for epoch, student in enumerate(trajectory(net, 6)):
        average.take("epoch", student, (epoch + 1) / 6)
        reference.update_parameters(student)
    for value, wanted in zip(average.parameters.values(), reference.module.parameters(), strict=True):
        torch.testing.assert_close(value, wanted.detach(), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("rule", "other"), [(EMA(), "epoch"), (SWA(), "update")], ids=repr)
def test_a_rule_ignores_the_other_moment(net, rule, other):
    average = Average(rule, net())
    before = {name: value.clone() for name, value in average.parameters.items()}
    average.take(other, next(iter(trajectory(net, 1))), 1.0)
    assert all(torch.equal(value, before[name]) for name, value in average.parameters.items())


@pytest.mark.parametrize("rule", [EMA(decay=0.9), SWA(start=0.3)], ids=repr)
@pytest.mark.parametrize("cut", [0, 2, 3, 4, 9])
def test_state_and_restore_continue_to_the_bit(net, rule, cut):
    whole, first, second = (Average(rule, net()) for _ in range(3))
    for n, student in enumerate(trajectory(net, 10)):
        whole.take(rule.moment, student, n / 10)
        if n == cut:
            second.restore({name: value.clone() for name, value in first.state().items()})
        (first if n < cut else second).take(rule.moment, student, n / 10)
    assert whole.state().keys() == second.state().keys()
    assert all(torch.equal(value, second.state()[name]) for name, value in whole.state().items())


def test_the_average_is_a_copy_and_the_student_stays_as_it_was(net, images):
    student = net()
    average = Average(EMA(decay=0.5), student)
    for student in trajectory(net, 3):
        average.take("update", student, 0.0)
    before = {name: value.clone() for name, value in student.state_dict().items()}
    network = average.network(student, images.batches(10))
    assert all(torch.equal(value, before[name]) for name, value in student.state_dict().items())
    for name, value in network.named_parameters():
        assert torch.equal(value, average.parameters[name])
        assert not torch.equal(value, dict(student.named_parameters())[name])
    assert network.training == student.training


@pytest.mark.parametrize("rule", [EMA, SWA], ids=lambda rule: rule().kind)
@pytest.mark.parametrize("statistics", ["averaged", "copied", "measured"])
def test_batchnorm_statistics_are_averaged_or_the_newest_networks_or_those_of_the_clean_images(
    rule, statistics, exactly, net, images
):
    """A student that learns from shifted images, as attacked ones are, knows the statistics of these."""
    student = net().train()
    average = Average(rule(batchnorm=statistics), student)
    norm = student.backbone[1]
    slow = norm.running_mean.clone()
    for number, batch in enumerate(images.batches(8)):
        student(batch.x + 0.5)
        share = average.rule.share(number, 1.0)
        slow = (1 - share) * slow + share * norm.running_mean
        average.take(rule.moment, student, 1.0)
    network = average.network(student, images.batches(8))
    measured = net()
    measured.load_state_dict({**student.state_dict(), **average.parameters})
    reestimate_batchnorm(measured, images.batches(8))
    wanted = {"averaged": slow, "copied": norm.running_mean, "measured": measured.backbone[1].running_mean}
    torch.testing.assert_close(network.backbone[1].running_mean, wanted.pop(statistics), rtol=0, atol=1e-12)
    for other in wanted.values():
        assert not torch.allclose(network.backbone[1].running_mean, other)


def test_an_exponential_average_averages_them_and_an_equal_one_measures_them():
    assert (EMA().batchnorm, SWA().batchnorm) == ("averaged", "measured")


def test_batchnorm_statistics_are_those_of_torch(exactly, net, images):
    ours, reference = net(), net()
    for model in (ours, reference):
        model.backbone[1].momentum = 0.3
        for batch in images.batches(8):  # statistics of an earlier life
            model.train()(5 * batch.x + 3)
    reestimate_batchnorm(ours, images.batches(8))
    update_bn([batch.x for batch in images.batches(8)], reference)
    for name, value in ours.state_dict().items():
        torch.testing.assert_close(value, reference.state_dict()[name], rtol=0, atol=1e-12)
    with torch.no_grad():
        seen = torch.cat([ours.backbone[0](batch.x).mean(dim=(0, 2, 3))[None] for batch in images.batches(8)])
    torch.testing.assert_close(ours.backbone[1].running_mean, seen.mean(dim=0))
    assert ours.backbone[1].momentum == 0.3


def test_measuring_batchnorm_gives_every_mode_back_and_keeps_no_gradient(net, images):
    model = net()
    model.train()
    model.backbone[1].eval()
    modes = [module.training for module in model.modules()]
    reestimate_batchnorm(model, images.batches(8))
    assert [module.training for module in model.modules()] == modes
    assert all(value.grad is None for value in model.parameters())


def test_a_network_without_batchnorm_is_not_run():
    class Untouchable(nn.Linear):
        def forward(self, x):
            raise AssertionError("was run")

    reestimate_batchnorm(Untouchable(2, 2), iter([torch.ones(1, 2)]))


@pytest.mark.parametrize("start", [-0.1, 1.0])
def test_a_start_outside_the_run_is_refused(start):
    with pytest.raises(ValueError, match=r"start is a share of the run, in \[0, 1\)"):
        SWA(start=start)
