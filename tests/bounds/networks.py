"""What the tests of the bounds share: small networks of every kind, points of a region, graphs as functions."""

import random

import torch
import torch.nn.functional as F
from torch import nn

from overproof.bounds.crown import intermediate
from overproof.bounds.region import Bounds, Region
from overproof.models.classifier import Classifier
from overproof.signature import Signature

ROUNDING = 1e-9
CLASSES = 3


def generator(seed):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=0):
    return torch.randn(shape, generator=generator(seed), dtype=torch.float64)


def uniform(*shape, low=0.0, high=1.0, seed=0):
    return low + (high - low) * torch.rand(shape, generator=generator(seed), dtype=torch.float64)


class ForwardOf(nn.Module):
    """A network, or a step of one, whose forward is a function of itself and of the image."""

    def __init__(self, function, **modules):
        super().__init__()
        self.function = function
        for name, module in modules.items():
            setattr(self, name, module)

    def forward(self, x):
        return self.function(self, x)


class Join(nn.Module):
    """A step that makes one value of two."""

    def __init__(self, join):
        super().__init__()
        self.join = join

    def forward(self, x, y):
        return self.join(x, y)


def settled(network, seed=0):
    """Return the network in float64 and eval mode, with BatchNorms that are not the identity."""
    g = generator(seed)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.running_mean.normal_(std=0.3, generator=g)
            module.running_var.uniform_(0.4, 2, generator=g)
            if module.affine:
                nn.init.normal_(module.weight, generator=g)  # of either sign
                nn.init.normal_(module.bias, std=0.3, generator=g)
    return network.double().eval()


def value(graph, x):
    """Return what the graph computes at images, ``[N, K]``: the interval of a box that is one point."""
    return intermediate(graph, Region(Bounds(x, x)), "ibp")[-1].centre


def affine_of(function, shape):
    """Return matrix ``[O, I]`` and offset ``[O]`` of an affine function of one tensor without batch, flattened."""
    offset = function(torch.zeros(1, *shape, dtype=torch.float64)).flatten()
    size = torch.Size(shape).numel()
    columns = function(torch.eye(size, dtype=torch.float64).reshape(size, *shape)).flatten(1)
    return (columns - offset).T, offset


# --- points of a region -----------------------------------------------------------------------------------------------


def points(region, count, seed=0):
    """Return ``count`` points of every example's region, ``[count, N, C, H, W]``; a third of their pixels at an end."""
    share = uniform(count, *region.box.lower.shape, low=-0.25, high=1.25, seed=seed).clamp(0, 1)
    found = region.box.lower + share * (region.box.upper - region.box.lower)
    if region.centre is None:
        return found
    # Most corners are outside the ball: move each point onto its sphere or a little inside, never out of the box.
    step = found - region.centre
    length = step.flatten(2).norm(dim=2)[..., None, None, None]
    depth = uniform(count, 1, 1, 1, 1, low=0.7, high=1.0, seed=seed + 1)
    return region.centre + step * (depth * region.eps / length.clamp(min=1e-12)).clamp(max=1)


def steepest(network, region, spec, steps=2):
    """Return the points of every example's region to which each row of ``spec`` points down, ``[2 S, N, C, H, W]``."""
    rows = torch.cat([spec, -spec], dim=1).transpose(0, 1)
    start = (region.box.centre if region.centre is None else region.centre).expand(len(rows), *region.box.lower.shape)
    x = start
    for _ in range(steps):
        x = x.detach().requires_grad_()
        (slope,) = torch.autograd.grad((rows * network(x.flatten(0, 1)).unflatten(0, rows.shape[:2])).sum(), x)
        if region.centre is None:
            x = torch.where(slope > 0, region.box.lower, region.box.upper)
        else:
            length = slope.flatten(2).norm(dim=2)[..., None, None, None].clamp(min=1e-12)
            away = start - region.eps * slope / length
            x = torch.minimum(torch.maximum(away, region.box.lower), region.box.upper)
    return x.detach()


def reached(network, region, spec, count=400):
    """Return the least and largest ``spec . logits`` ``[N, S]`` found in the region by sampling and by gradients."""
    where = torch.cat([points(region, count), steepest(network, region, spec)])
    with torch.no_grad():
        z = network(where.flatten(0, 1)).view(len(where), len(region), -1)
    found = torch.einsum("nsk,pnk->pns", spec.to(z), z)
    return Bounds(found.amin(dim=0), found.amax(dim=0))


def assert_holds(outer, inner, slack=ROUNDING):
    """Assert that ``inner`` is nowhere outside ``outer``."""
    below, above = (outer.lower - inner.lower).max().item(), (inner.upper - outer.upper).max().item()
    assert below <= slack and above <= slack, (below, above)


# --- random graphs ----------------------------------------------------------------------------------------------------


class RandomGraph(nn.Module):
    """A residual convolutional network drawn from a seed; step i reads earlier values, 0 being the image."""

    def __init__(self, seed):
        super().__init__()
        self.draw = random.Random(seed)
        g = generator(seed)
        self.shape = (self.draw.choice((1, 2)), self.draw.randint(4, 6), self.draw.randint(4, 6))
        self.steps, self.kinds = nn.ModuleList(), []
        self.sources = []
        self.values = [torch.rand(1, *self.shape, generator=g)]
        makers = (
            *(self.conv,) * 3,
            *(self.norm,) * 2,
            *(self.relu,) * 3,
            *(self.add,) * 2,
            self.leaky,
            self.average,
            *(self.largest,) * 2,
            self.adaptive,
            self.pad,
            self.constant,
            self.cat,
        )
        self.conv()
        self.relu()
        while len(self.steps) < self.draw.randint(6, 9):
            self.draw.choice(makers)()
        self.residual()
        self.head()
        del self.values

    def forward(self, x):
        values = [x]
        for step, sources in zip(self.steps, self.sources, strict=True):
            values.append(step(*(values[i] for i in sources)))
        return values[-1]

    def put(self, step, *sources):
        sources = sources or (len(self.values) - 1,)
        self.steps.append(step.eval())
        self.sources.append(sources)
        with torch.no_grad():
            self.values.append(step(*(self.values[i] for i in sources)))

    @property
    def size(self):
        return self.values[-1].shape[1:]

    def conv(self):
        channels, height, width = self.size
        kernel = self.draw.randint(1, min(3, height)), self.draw.randint(1, min(3, width))
        dilation = self.draw.choice((1, 1, 2))
        padding = self.draw.randint(0, 1), self.draw.randint(0, 2)
        if any(dilation * (k - 1) + 1 > n + 2 * p for k, n, p in zip(kernel, (height, width), padding, strict=True)):
            dilation, padding = 1, (1, 1)
        stride = self.draw.choice((1, 1, 2)), self.draw.choice((1, 1, 2))
        groups = 2 if channels % 2 == 0 and self.draw.random() < 0.3 else 1
        options = {"padding": padding, "dilation": dilation, "groups": groups, "bias": self.draw.random() < 0.6}
        self.put(nn.Conv2d(channels, self.draw.choice((2, 4)), kernel, stride, **options))

    def norm(self):
        self.put(settled(nn.BatchNorm2d(self.size[0]), self.draw.randrange(10**6)).float())

    def relu(self):
        forms = nn.ReLU(), ForwardOf(lambda _, x: F.relu(x)), ForwardOf(lambda _, x: x.relu())
        self.put(self.draw.choice(forms))

    def leaky(self):
        leak = self.draw.choice((0.01, 0.2, 0.6))
        self.put(self.draw.choice((nn.LeakyReLU(leak), ForwardOf(lambda _, x: F.leaky_relu(x, leak)))))

    def average(self):
        if min(self.size[1:]) > 2:
            padding = self.draw.randint(0, 1)
            forms = nn.AvgPool2d(2, 1, padding), ForwardOf(lambda _, x: F.avg_pool2d(x, 3, 2, padding=1))
            self.put(self.draw.choice(forms))

    def largest(self):
        if min(self.size[1:]) > 2:
            kernel, stride, padding = self.draw.choice(((2, 2, 0), (3, 1, 1), (3, 2, 1), (2, 1, 1)))
            self.put(nn.MaxPool2d(kernel, stride, padding))

    def adaptive(self):
        _, height, width = self.size
        if min(height, width) > 2 and self.draw.random() < 0.5:
            smaller = tuple(max(d for d in range(1, n) if n % d == 0) for n in (height, width))
            self.put(nn.AdaptiveAvgPool2d(smaller))

    def pad(self):
        if max(self.size[1:]) < 7:
            margins = self.draw.choice(((1, 0, 0, 2), (0, 1, 1, 1)))
            forms = nn.ZeroPad2d(margins), ForwardOf(lambda _, x: F.pad(x, margins))
            self.put(self.draw.choice(forms))

    def constant(self):
        a, b = self.draw.uniform(-2, 2), self.draw.uniform(-0.5, 0.5)
        scale = ForwardOf(lambda self, x: x * self.scale, scale=nn.Parameter(torch.rand(self.size[0], 1, 1) - 0.5))
        forms = ForwardOf(lambda _, x: x * a), ForwardOf(lambda _, x: b - x), ForwardOf(lambda _, x: x / 2 + b), scale
        self.put(self.draw.choice(forms))

    def partner(self, same):
        """Return an earlier value that agrees with the last one in these dimensions, or None."""
        last = self.values[-1]
        found = [
            i for i, v in enumerate(self.values[:-1]) if v.dim() == 4 and all(v.shape[d] == last.shape[d] for d in same)
        ]
        return self.draw.choice(found) if found else None

    def add(self):
        other = self.partner((1, 2, 3))
        if other is not None:
            self.put(Join(lambda x, y: x + y), len(self.values) - 1, other)

    def cat(self):
        other = self.partner((2, 3))
        if other is not None and self.size[0] < 6:
            self.put(Join(lambda x, y: torch.cat([y, x], dim=1)), len(self.values) - 1, other)

    def residual(self):
        entry, (channels, _, _) = len(self.values) - 1, self.size
        self.put(nn.Conv2d(channels, 3, 3, padding=1, bias=False))
        self.norm()
        self.relu()
        self.put(nn.Conv2d(3, channels, 3, padding=1))
        self.put(Join(lambda x, y: x + y), len(self.values) - 1, entry)
        self.relu()

    def head(self):
        if self.draw.random() < 0.3:
            self.put(ForwardOf(lambda _, x: x.mean([2, 3])))
        else:
            flat = (
                nn.Flatten(),
                ForwardOf(lambda _, x: torch.flatten(x, 1)),
                ForwardOf(lambda _, x: x.view(x.size(0), -1)),
            )
            self.put(self.draw.choice(flat))
        if self.draw.random() < 0.6:
            self.put(nn.Linear(self.size[0], 5, bias=self.draw.random() < 0.5))
            self.relu()
        self.put(nn.Linear(self.size[0], CLASSES))


def random_network(seed):
    """Return a random residual graph in float64 and eval mode, every other one behind a normalisation, and its shape.

    One whose ReLUs let nothing of the image through would be bounded by anything; the next one is drawn then.
    """
    for number in range(seed, seed + 100_000, 1000):
        torch.manual_seed(number)
        backbone = RandomGraph(number)
        channels, height, width = backbone.shape
        signature = Signature(channels=channels, height=height, width=width, classes=CLASSES)
        mean, std = ((0.5, 0.4)[:channels], (0.25, 0.3)[:channels]) if seed % 2 else ((), ())
        network = Classifier(backbone, signature, mean=mean, std=std).double().eval().requires_grad_(False)
        if network(uniform(50, *backbone.shape, seed=number)).std(dim=0).min() > 1e-3:
            return network, backbone.shape
    raise AssertionError("every network is constant")
