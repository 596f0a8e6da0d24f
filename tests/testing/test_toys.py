import torch
from torch import nn

from overproof.methods.ard import ARD
from overproof.methods.peeraid import PeerAiD
from overproof.testing.toys import TINY, draw_statistics, make_step, modes, tiny_batch, tiny_classifier


def test_the_network_fits_the_images_and_is_the_seeds():
    x, y = tiny_batch()
    assert tiny_classifier()(x).shape == (6, TINY.classes) and y.tolist() == [0, 1, 2, 3, 0, 1]
    assert (x == 0).any() and (x == 1).any() and ((x >= 0) & (x <= 1)).all()
    one, same, other = tiny_classifier(1), tiny_classifier(1), tiny_classifier(2)
    assert all(torch.equal(value, same.state_dict()[name]) for name, value in one.state_dict().items())
    assert not torch.equal(one.backbone[0].weight, other.backbone[0].weight)
    assert tiny_classifier(dtype=torch.float64).backbone[0].weight.dtype == torch.float64


def test_it_draws_nothing_of_the_global_generator():
    state = torch.get_rng_state()
    tiny_classifier()
    assert torch.equal(torch.get_rng_state(), state)


def test_a_step_has_what_the_method_asks_for():
    step = make_step(ARD(), progress=0.25, dtype=torch.float64)
    assert set(step.teachers) == {"robust"} and not step.auxiliary_models and step.progress == 0.25
    assert step.x.dtype == torch.float64 and step.student.training
    assert not step.teachers["robust"].training
    assert set(make_step(PeerAiD()).auxiliary_models) == set(PeerAiD().auxiliary_models) != set()


def test_statistics_and_modes():
    norm = nn.BatchNorm2d(2)
    network = nn.Sequential(norm, nn.Conv2d(2, 2, 1))
    assert draw_statistics(network) is network and norm.running_mean.abs().min() > 0 and (norm.running_var != 1).all()
    norm.eval()
    assert modes(network) == {"": True, "0": False, "1": True}
