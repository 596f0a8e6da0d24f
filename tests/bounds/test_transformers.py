import pytest
import torch
from torch import nn

from overproof.bounds.trace import trace
from overproof.errors import InputError

from .networks import ForwardOf, generator
from .test_steps import assert_held

SHAPE = (2, 2, 6)


def attended(self, x):
    tokens = self.into(x.flatten(2).transpose(1, 2))
    return self.head(self.attention(tokens, tokens, tokens)[0].flatten(1))


def attended_tokens_first(self, x):
    tokens = self.into(x.flatten(2).permute(2, 0, 1))
    found, _ = self.attention(tokens, tokens, tokens, need_weights=False)
    return self.head(found.permute(1, 0, 2).flatten(1))


def encoded(self, x):
    return self.head(self.encoder(self.into(x.flatten(2).transpose(1, 2))).flatten(1))


def layer(**options):
    return nn.TransformerEncoderLayer(4, 2, dim_feedforward=6, batch_first=True, layer_norm_eps=0.1, **options)


NETWORKS = {
    "attention": (attended, {"attention": nn.MultiheadAttention(4, 2, batch_first=True)}),
    "attention without bias": (attended, {"attention": nn.MultiheadAttention(4, 1, bias=False, batch_first=True)}),
    "attention, tokens first": (attended_tokens_first, {"attention": nn.MultiheadAttention(4, 2)}),
    "a layer": (encoded, {"encoder": layer()}),
    "a layer, norm first, GELU": (encoded, {"encoder": layer(norm_first=True, activation="gelu")}),
    "an encoder": (
        encoded,
        {
            "encoder": nn.TransformerEncoder(
                layer(norm_first=True), 2, norm=nn.LayerNorm(4, eps=0.1), enable_nested_tensor=False
            )
        },
    ),
}


def network_of(forward, modules):
    network = ForwardOf(forward, into=nn.Linear(2, 4), head=nn.Linear(48, 3), **modules)
    g = generator(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=g) * 0.4)
    return network.double().eval().requires_grad_(False)


@pytest.mark.parametrize(("forward", "modules"), NETWORKS.values(), ids=NETWORKS)
def test_torch_s_transformers_are_held_by_every_bound(forward, modules):
    assert_held(network_of(forward, modules), SHAPE, radii=(0.005,), methods=("ibp", "crown_ibp", "crown"))


def the_weights(self, x):
    tokens = self.into(x.flatten(2).transpose(1, 2))
    return self.head(self.attention(tokens, tokens, tokens)[1].flatten(1)[:, :48])


def masked(self, x):
    tokens = self.into(x.flatten(2).transpose(1, 2))
    mask = torch.zeros(12, 12, dtype=torch.float64)
    return self.head(self.attention(tokens, tokens, tokens, attn_mask=mask)[0].flatten(1))


@pytest.mark.parametrize(
    ("forward", "modules", "words"),
    [
        (masked, {"attention": nn.MultiheadAttention(4, 2, batch_first=True)}, "MultiheadAttention with a mask"),
        (the_weights, {"attention": nn.MultiheadAttention(4, 2, batch_first=True)}, "of several tensors"),
        (attended, {"attention": nn.MultiheadAttention(4, 2)}, "across the images of a batch"),
        (attended, {"attention": nn.MultiheadAttention(4, 2, add_bias_kv=True, batch_first=True)}, "added keys"),
        (encoded, {"encoder": layer(activation=torch.tanh)}, "another activation"),
    ],
)
def test_what_has_no_bounds_is_refused_where_it_stands(forward, modules, words):
    with pytest.raises(InputError, match=words):
        trace(network_of(forward, modules), SHAPE)


def test_dropout_in_train_mode_is_refused_unless_it_is_meant():
    network = network_of(*NETWORKS["a layer"])
    traced = trace(network, SHAPE)
    network.train()
    with pytest.raises(InputError, match="encoder: no bounds for dropout in train mode"):
        traced.graph()
    assert traced.graph(running=True).classes == 3
