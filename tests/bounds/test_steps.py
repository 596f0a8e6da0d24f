"""Steps of today's networks: followed as torch computes them, and held by every bound wherever an image is sampled."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from overproof.bounds.crown import bound, intermediate
from overproof.bounds.region import Region
from overproof.bounds.spec import logits, margins
from overproof.bounds.split import Budget, bound_least
from overproof.bounds.trace import trace
from overproof.errors import InputError

from .networks import ROUNDING, ForwardOf, assert_holds, generator, reached, settled, uniform, value
from .test_trace import SHAPE, ending

METHODS = ("ibp", "crown_ibp", "crown", "alpha")


def two_halves(_, x):
    one, other = x.chunk(2, dim=1)
    return one * other.sigmoid()


def queries_and_keys(_, x):
    query, key = x.reshape(x.shape[0], 2, 2, 16).permute(1, 0, 2, 3).unbind(0)
    return query @ key.transpose(-2, -1)


def some_of_several(_, x):
    parts = x.split([1, 2, 1], dim=1)[0:2]
    return torch.cat([parts[1], parts[0]], dim=1)


def standardised(_, x):
    away = x - x.mean((1, 2, 3), keepdim=True)
    return away * torch.rsqrt(away.pow(2).mean((1, 2, 3), keepdim=True) + 0.1)


def with_a_class_token(self, x):
    tokens = x.flatten(2).transpose(1, 2)
    return torch.cat([self.token.expand(x.shape[0], -1, -1), tokens], dim=1) + self.places


def windows(_, x):
    """Windows of 2 by 2 pixels that are carried as if they were images, as those of Swin are."""
    n, c = x.shape[:2]
    cut = x.view(n, c, 2, 2, 2, 2).permute(0, 2, 4, 3, 5, 1).reshape(-1, 4, c)
    cut = F.layer_norm(cut, (c,)) * torch.linspace(1, 2, 4, dtype=x.dtype)[:, None] + 0.1
    mixed = (0.2 * cut @ cut.transpose(-2, -1)).softmax(dim=-1) @ cut.mean(dim=-1, keepdim=True)
    return mixed.view(n, 2, 2, 2, 2, 1).permute(0, 5, 1, 3, 2, 4).reshape(n, 1, 4, 4)


def heads_in_the_batch(_, x):
    """As torch's own attention computes it."""
    n = x.shape[0]
    tokens = x.flatten(2).transpose(1, 2).reshape(n, 16, 2, 2).transpose(1, 2).reshape(n * 2, 16, 2)
    mixed = torch.bmm(torch.bmm(tokens, tokens.transpose(1, 2)).softmax(dim=-1), tokens)
    return mixed.view(n, 2, 16, 2).transpose(1, 2).reshape(n, 16, 4)


def a_mask_for_each_window(_, x):
    n = x.shape[0]
    cut = x.view(n, 4, 16).reshape(n * 4, 4, 4)
    mask = torch.linspace(-1, 1, 16, dtype=x.dtype).view(4, 2, 2).repeat(1, 2, 2)
    cut = (cut.view(n, 4, 4, 4) + mask[None]).view(-1, 4, 4)
    return (cut.sigmoid() + mask.repeat(n, 1, 1)).view(n, -1)


def maps_of_windows(self, x):
    """Convolutions and pooling of windows that are carried as if they were images."""
    n, c = x.shape[:2]
    cut = x.view(n, c, 2, 2, 4).transpose(1, 2).reshape(-1, c, 2, 4)
    cut = F.conv2d(cut, self.kernel, torch.ones(3).to(x), padding=1).relu()
    return F.max_pool2d(F.avg_pool2d(cut, 3, 1, 1), 2).view(n, 2, 3, 1, 2).flatten(1)


def lines(self, x):
    tokens = F.conv1d(x.flatten(2), self.kernel[:, :, 0], padding=1, stride=2)
    return F.avg_pool1d(tokens, 3, 2, 1, count_include_pad=False)


def with_a_mask(places):
    def step(_, x):
        tokens = x.flatten(2).transpose(1, 2).view(x.shape[0], 16, 2, 2).transpose(1, 2)
        return F.scaled_dot_product_attention(tokens, tokens, tokens, attn_mask=places(x))

    return step


def one_head_of_keys(_, x):
    """Keys and values that all heads share."""
    tokens = x.flatten(2).transpose(1, 2).view(x.shape[0], 16, 2, 2).transpose(1, 2)
    return F.scaled_dot_product_attention(tokens, tokens[:, :1], tokens[:, 1:])


def grouped_heads(_, x):
    tokens = x.flatten(2).transpose(1, 2)
    tokens = torch.stack([tokens, 2 * tokens, -tokens, tokens.flip(-1)], 1)
    return F.scaled_dot_product_attention(tokens, tokens[:, :2], tokens[:, 1:3], enable_gqa=True)


def responses(_, x):
    """The response normalisation of ConvNeXt V2."""
    length = x.norm(p=2, dim=(2, 3), keepdim=True)
    return x + x * (length / (length.mean(dim=1, keepdim=True) + 1e-6))


def over_its_deviation(_, x):
    """As EvoNorm does."""
    groups = x.view(x.shape[0], 2, 2, 4, 4)
    deviation = groups.var(dim=(2, 3, 4), unbiased=False, keepdim=True).add(1e-3).sqrt()
    return x * x.sigmoid() / deviation.expand(groups.shape).reshape(x.shape)


FORMS = {
    "maps of windows": maps_of_windows,
    "lines": lines,
    "attention with a bias": with_a_mask(lambda x: torch.linspace(-2, 2, 256).view(16, 16).to(x)),
    "attention with places left out": with_a_mask(lambda x: torch.arange(256).view(16, 16) % 3 > 0),
    "attention to what came before": lambda _, x: F.scaled_dot_product_attention(x, x, x, is_causal=True),
    "one head of keys": one_head_of_keys,
    "groups of heads": grouped_heads,
    "norms of maps": responses,
    "over the deviation": over_its_deviation,
    "norm": lambda _, x: torch.linalg.vector_norm(x, dim=1),
    "normalize": lambda _, x: F.normalize(x - 0.4, dim=-1),
    "normalize near zero": lambda _, x: F.normalize(x * 1e-3, dim=1, eps=1e-2),
    "var": lambda _, x: x.var((2, 3), keepdim=True) * x,
    "std": lambda _, x: torch.std(x, dim=1),
    "bilinear": lambda _, x: F.interpolate(x, size=(7, 3), mode="bilinear"),
    "bilinear, corners": lambda _, x: F.interpolate(x, scale_factor=1.7, mode="bilinear", align_corners=True),
    "bicubic": lambda _, x: F.interpolate(x, size=(5, 6), mode="bicubic", antialias=True),
    "nearest": lambda _, x: F.interpolate(x, scale_factor=2),
    "prelu": lambda self, x: F.prelu(x - 0.2, self.places[0, 0]),
    "steep prelu": lambda _, x: F.prelu(x - 0.2, torch.tensor([-0.5]).to(x)),
    "overlapping patches": lambda _, x: F.fold(
        F.unfold(x, 3, padding=1, stride=2).relu(), (4, 4), 3, padding=1, stride=2
    ),
    "the largest of a map": lambda _, x: x.amax((1, 3)) + x.amin((2, 3), keepdim=True).flatten(1),
    "patches": lambda _, x: F.unfold(x, 3, padding=1, stride=2),
    "a larger pool": lambda _, x: F.max_pool2d(F.pad(x, (0, 1, 0, 1), value=-torch.inf), 3, 2),
    "a pool with margins": lambda _, x: F.max_pool2d(F.pad(x, (2, 0, 1, 1), value=-torch.inf), 3, 1),
    "adaptive max": lambda _, x: F.adaptive_max_pool2d(x, (2, 1)),
    "transposed convolution": lambda self, x: F.conv_transpose2d(x, self.kernel.transpose(0, 1), stride=2, padding=1),
    "BatchNorm of tokens": lambda _, x: F.batch_norm(
        x.flatten(2).transpose(1, 2).flatten(0, 1), torch.ones(4).to(x), torch.arange(1.0, 5).to(x)
    ).view(x.shape),
    "addcmul": lambda _, x: torch.addcmul(x, x, torch.arange(4.0).to(x)),
    "addmm": lambda self, x: torch.baddbmm(x.flatten(2), self.matrix.expand(x.shape[0], -1, -1), x.flatten(2), beta=2),
    "lerp": lambda _, x: torch.lerp(x, x.relu(), 0.3),
    "the larger one": lambda _, x: torch.maximum(x, 0.3 - x) + torch.minimum(x, x.flip(1)),
    "windows": windows,
    "heads in the batch": heads_in_the_batch,
    "a mask for each window": a_mask_for_each_window,
    "sigmoid": lambda _, x: torch.sigmoid(x),
    "tanh": lambda _, x: x.tanh(),
    "GELU": lambda _, x: F.gelu(x),
    "GELU, tanh": lambda _, x: F.gelu(x, approximate="tanh"),
    "SiLU": lambda _, x: F.silu(x),
    "SiLU by hand": lambda _, x: x * torch.sigmoid(x),
    "GELU by hand": lambda _, x: 0.5 * x * (1 + torch.erf(x / 2**0.5)),
    "hardswish": lambda _, x: F.hardswish(3 * x),
    "hardswish by hand": lambda _, x: x * F.relu6(x + 3) / 6,
    "hardsigmoid": lambda _, x: F.hardsigmoid(6 * x),
    "ReLU6": lambda _, x: F.relu6(9 * x),
    "clamp": lambda _, x: x.clamp(-0.1, 0.2),
    "clamp in place": lambda _, x: (x + 0).clamp_(max=0.1),
    "mish": lambda _, x: F.mish(x),
    "softplus": lambda _, x: F.softplus(x, beta=2),
    "selu": lambda _, x: F.selu(x),
    "power": lambda _, x: x**3 + torch.square(x),
    "a quotient": lambda _, x: x / (x.exp() + 1),
    "a number over a layer": lambda _, x: 2 / (x.abs() + 1),
    "a norm": lambda _, x: x / (x.pow(2).sum(1, keepdim=True) + 0.1).sqrt(),
    "a product": lambda _, x: F.relu(x) * x,
    "a difference": lambda _, x: F.relu(x) - x,
    "squeeze and excite": lambda _, x: x * F.adaptive_avg_pool2d(x, 1).sigmoid(),
    "a broadcast sum": lambda _, x: x + F.adaptive_avg_pool2d(x, 1),
    "a mean over channels": lambda _, x: x.mean(1),
    "a sum over two": lambda _, x: x.sum(dim=[1, 3], keepdim=True),
    "two halves": two_halves,
    "queries and keys": queries_and_keys,
    "some of several": some_of_several,
    "stacked": lambda _, x: torch.stack([x, x.relu()], dim=2),
    "beside each other": lambda _, x: torch.cat([x, x.relu()], dim=3),
    "a constant beside": with_a_class_token,
    "a crop": lambda _, x: x[:, :, 1:, -2:],
    "reflected": lambda _, x: F.pad(x, (1, 1, 1, 1), mode="reflect"),
    "filled": lambda _, x: F.pad(x, (1, 0, 0, 1), value=2.0),
    "channels last": lambda _, x: x.permute(0, 2, 3, 1).relu(),
    "the batch second": lambda _, x: (x.transpose(0, 1).relu() * 2).transpose(0, 1),
    "softmax": lambda _, x: x.softmax(1),
    "softmax over the last": lambda _, x: F.softmax(5 * x.flatten(2), dim=-1),
    "a product of matrices": lambda _, x: x.flatten(2) @ x.flatten(2).transpose(1, 2),
    "einsum": lambda _, x: torch.einsum("bchw,bdhw->bcd", x, x.relu()),
    "a matrix from the left": lambda self, x: self.matrix @ x,
    "attention": lambda _, x: F.scaled_dot_product_attention(x, x.relu(), 2 * x, scale=1.5),
    "LayerNorm": lambda _, x: F.layer_norm(x, (4,), eps=0.01),
    "LayerNorm over all": lambda _, x: F.layer_norm(x, (4, 4, 4)),
    "RMSNorm": lambda _, x: F.rms_norm(x, (4,), eps=0.1),
    "GroupNorm": lambda _, x: F.group_norm(x, 2),
    "normalised by hand": standardised,
    "a convolution as a function": lambda self, x: F.conv2d(x, self.kernel, padding=1),
    "pooled, last windows not whole": lambda _, x: F.max_pool2d(x, 3, 2, ceil_mode=True),
    "averaged, padding not counted": lambda _, x: F.avg_pool2d(x, 3, 2, 1, count_include_pad=False),
    "a condition on the shape": lambda _, x: x if x.shape[-1] == 4 else x.relu(),
}


def network_of(step):
    parameters = {"token": (1, 1, 4), "places": (1, 17, 4), "matrix": (4, 4), "kernel": (3, 4, 3, 3)}
    made = {
        name: nn.Parameter(torch.randn(size, generator=generator(i)))
        for i, (name, size) in enumerate(parameters.items())
    }
    return ending(step, **made).requires_grad_(False)


def assert_held(network, shape=SHAPE, radii=(0.005, 0.05), methods=METHODS):
    """Every method's bounds hold whatever is found in the region, and are what the network says at a point."""
    graph, x = trace(network, shape).graph(), uniform(2, *shape)
    torch.testing.assert_close(value(graph, x), network(x), rtol=0, atol=1e-9)
    for eps in radii:
        region, spec = Region.around(x, eps), logits(2, graph.classes)
        found = reached(network, region, spec, count=150)
        for method in methods:
            assert_holds(bound(graph, region, spec, method), found)


@pytest.mark.parametrize("step", FORMS.values(), ids=FORMS)
def test_a_step_is_held_by_every_bound(step):
    assert_held(network_of(step))


def test_a_step_in_another_precision_is_bounded_in_the_network_s():
    """Bounds are for real arithmetic: what such a step rounds is left out, constants have one precision."""
    network = network_of(lambda self, x: F.linear(F.gelu(x.float() * 2).clamp(-1, 1), self.matrix.float()).to(x.dtype))
    graph, x = trace(network, SHAPE).graph(), uniform(2, *SHAPE)
    torch.testing.assert_close(value(graph, x), network(x), rtol=1e-5, atol=1e-5)
    for method in METHODS:
        assert bound(graph, Region.around(x, 0.01), logits(2, 3), method).lower.dtype == torch.float64


@pytest.mark.parametrize("step", ["GELU", "softmax", "LayerNorm", "attention", "squeeze and excite", "power"])
def test_in_l2_as_well(step):
    network = network_of(FORMS[step])
    graph, x = trace(network, SHAPE).graph(), uniform(2, *SHAPE)
    region, spec = Region.around(x, 0.2, "l2"), logits(2, 3)
    found = reached(network, region, spec, count=150)
    for method in METHODS:
        assert_holds(bound(graph, region, spec, method), found)


@pytest.mark.parametrize("step", ["GELU", "SiLU", "softmax", "LayerNorm", "a product", "two halves"])
def test_linear_bounds_close_on_the_network(step):
    """As the region shrinks tenfold, so does what they leave open, and what is left between them faster than that."""
    network = network_of(FORMS[step])
    graph, x = trace(network, SHAPE).graph(), uniform(2, *SHAPE)
    over = []
    for eps in (1e-2, 1e-3, 1e-4):
        region, spec = Region.around(x, eps), logits(2, 3)
        outer, inner = bound(graph, region, spec, "crown"), reached(network, region, spec, count=1)
        over.append(((outer.upper - inner.upper) + (inner.lower - outer.lower)).max().item() / eps)
    assert over[1] < over[0] / 5 and over[2] < over[1] / 5  # a relaxation of a smooth function errs by eps squared


# --- networks of these steps ------------------------------------------------------------------------------------------


class MobileBlock(nn.Module):
    """An inverted residual of MobileNetV3: hardswish, a convolution of each channel, squeeze and excite."""

    def __init__(self, channels, inner):
        super().__init__()
        self.widen, self.norm1 = nn.Conv2d(channels, inner, 1, bias=False), nn.BatchNorm2d(inner)
        self.deep, self.norm2 = nn.Conv2d(inner, inner, 3, padding=1, groups=inner, bias=False), nn.BatchNorm2d(inner)
        self.reduce, self.expand = nn.Conv2d(inner, 2, 1), nn.Conv2d(2, inner, 1)
        self.narrow, self.norm3 = nn.Conv2d(inner, channels, 1, bias=False), nn.BatchNorm2d(channels)
        self.act, self.gate = nn.Hardswish(inplace=True), nn.Hardsigmoid()

    def forward(self, x):
        y = self.act(self.norm1(self.widen(x)))
        y = self.act(self.norm2(self.deep(y)))
        y = y * self.gate(self.expand(F.relu(self.reduce(y.mean((2, 3), keepdim=True)))))
        return x + self.norm3(self.narrow(y))


class SmallViT(nn.Module):
    """A vision transformer as they are written: patches, a class token, places, two blocks with LayerNorm first."""

    def __init__(self, size=8, heads=2, patch=4, image=8, channels=2, classes=3):
        super().__init__()
        self.heads = heads
        self.patches = nn.Conv2d(channels, size, patch, stride=patch)
        self.token = nn.Parameter(torch.zeros(1, 1, size))
        self.places = nn.Parameter(torch.zeros(1, 1 + (image // patch) ** 2, size))
        self.blocks = nn.ModuleList(
            nn.ModuleDict(
                {
                    "norm1": nn.LayerNorm(size, eps=1e-3),
                    "qkv": nn.Linear(size, 3 * size),
                    "out": nn.Linear(size, size),
                    "norm2": nn.LayerNorm(size, eps=1e-3),
                    "mlp": nn.Sequential(nn.Linear(size, 2 * size), nn.GELU(), nn.Linear(2 * size, size)),
                }
            )
            for _ in range(2)
        )
        self.norm, self.head = nn.LayerNorm(size, eps=1e-3), nn.Linear(size, classes)

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], dim=1) + self.places
        for block in self.blocks:
            count, tokens, size = x.shape
            qkv = block["qkv"](block["norm1"](x)).reshape(count, tokens, 3, self.heads, size // self.heads)
            query, key, value_ = qkv.permute(2, 0, 3, 1, 4).unbind(0)
            mixed = F.scaled_dot_product_attention(query, key, value_).transpose(1, 2).reshape(count, tokens, size)
            x = x + block["out"](mixed)
            x = x + block["mlp"](block["norm2"](x))
        return self.head(self.norm(x)[:, 0])


def drawn(network, seed=0):
    """Return a network with weights of a trained one's size, no parameter at its usual start."""
    g = generator(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=g) * (0.4 if parameter.dim() > 1 else 0.2))
            if parameter.dim() == 1 and parameter.shape[0] % 8 == 0:
                parameter.add_(0.5)
    return network.double().eval().requires_grad_(False)


def vit():
    return drawn(SmallViT())


def mobile():
    return settled(nn.Sequential(nn.Conv2d(2, 3, 3, 2, 1), MobileBlock(3, 6), nn.Flatten(), nn.Linear(48, 3)))


@pytest.mark.parametrize("network", [vit, mobile])
def test_a_network_is_held_and_attacked(network):
    """No bound of a margin is above the least one that is found by gradients or by sampling."""
    network, x = network(), uniform(2, 2, 8, 8)
    graph = trace(network, (2, 8, 8)).graph()
    for eps in (1e-4, 1e-3, 1e-2):
        region, spec = Region.around(x, eps), margins(network(x).argmax(dim=1), 3)
        found = reached(network, region, spec, count=100)
        previous = None
        for method in METHODS[:3]:
            bounds = bound(graph, region, spec, method)
            assert_holds(bounds, found)
            assert torch.isfinite(bounds.lower).all()
            if previous is not None and method == "crown":
                assert (bounds.lower.sum() >= previous.lower.sum() - ROUNDING).all()
            previous = bounds
        if eps == 1e-4:
            assert (bounds.lower > 0).all()  # so small a region is proved


def test_splitting_ends_where_no_relu_is_open():
    """What is open are other functions, which are not split: nothing is proved, and no time is lost."""
    network, x = vit(), uniform(1, 2, 8, 8)
    graph = trace(network, (2, 8, 8)).graph()
    region = Region.around(x, 0.05)
    layers, spec = intermediate(graph, region, "ibp"), margins(network(x).argmax(dim=1), 3)[0]
    lower = torch.full((len(spec),), -torch.inf).double()
    proof = bound_least(graph, region, layers, spec, lower, enough=0.0, budget=Budget(seconds=30.0))
    assert proof.finished and proof.worst > 0 and proof.parts == 1


def test_gradients_flow_through_the_bounds():
    network, x = vit().requires_grad_(), uniform(2, 2, 8, 8)
    traced = trace(network, (2, 8, 8))
    for method in ("ibp", "crown_ibp"):
        found = bound(traced.graph(), Region.around(x, 1e-3), logits(2, 3), method)
        for slope in torch.autograd.grad(found.lower.sum(), list(network.parameters())):
            assert torch.isfinite(slope).all()


@pytest.mark.parametrize(
    "forward",
    [
        lambda self, x: self.head(x.flatten(1).relu_() + x.flatten(1)),
        lambda self, x: self.head(self.act(x.flatten(1)) + x.flatten(1)),
        lambda self, x: self.head(self.act(self.idle(x)).flatten(1) + x.flatten(1)),
    ],
)
def test_a_step_in_place_through_a_view_is_refused_where_others_read_the_memory(forward):
    network = ForwardOf(forward, head=nn.Linear(32, 3), act=nn.ReLU(inplace=True), idle=nn.Dropout())
    with pytest.raises(InputError, match="no bounds for a step in place on a value that others read"):
        trace(settled(network), SHAPE)


def a_part(self, x):
    x[:, 0] = 0.5
    return x


def a_part_of_itself(self, x):
    x[:, 1:, 1:] = x[:, :-1, 1:] + x[:, 1:, :1].relu()
    return x


def another_layer(self, x):
    y = x * 2
    y[..., 0] = x[..., 1]
    y[:, :, 0, 1:] = torch.arange(3.0)
    return y + x


def relu_for_all(self, x):
    """What is read later is what was written."""
    before = x.sigmoid()
    F.relu(x, inplace=True)
    return before + x


def a_view_that_was_read(self, x):
    view = x.flatten(2)
    before = view.sigmoid()
    x.add_(1).relu_()
    return before.view(x.shape) * x


def the_image(self, x):
    return x.mul_(2).relu() + x


@pytest.mark.parametrize(
    "step", [a_part, a_part_of_itself, another_layer, relu_for_all, the_image, a_view_that_was_read]
)
def test_what_is_written_into_is_read_as_it_is_then(step):
    try:
        trace(network_of(step), SHAPE)
    except InputError as refusal:
        assert step is a_view_that_was_read and "in place" in str(refusal)
        return
    assert_held(network_of(step))


def a_view_that_is_read_later(self, x):
    view = x.flatten(2)
    x.relu_()
    return view + x.flatten(2)


def a_view_of_a_view(self, x):
    view, other = x.flatten(2), x.transpose(1, 2)
    view[:, 0] = 0
    return other + 1


def two_names(self, x):
    other = x.relu_()
    other.mul_(2)
    return x + other


@pytest.mark.parametrize("step", [a_view_that_is_read_later, a_view_of_a_view, two_names])
def test_what_is_read_under_another_name_is_refused(step):
    with pytest.raises(InputError, match="in place on a value that others read"):
        trace(network_of(step), SHAPE)


def test_what_depends_on_the_other_images_of_a_batch_is_refused():
    network = settled(ForwardOf(lambda self, x: self.head(x.flatten(1)) * x.shape[0], head=nn.Linear(32, 3)))
    with pytest.raises(InputError, match="depends on the others of a batch"):
        trace(network, SHAPE)
