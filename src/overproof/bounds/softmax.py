"""From bounds on margins to bounds on confidences and on the difference of two networks' confidences.

For a class c of K >= 2 the *margins* are ``m_j = z_j - z_c`` for ``j != c``, ``[N, K - 1]``. With ``s = logsumexp_j
m_j`` the softmax confidence in c is ``f = sigmoid(-s)``: every class has its probability from the margins relative to
it, by this one formula. Subscripts T and S are a teacher and a student on the same input.

The ranges are exact in real arithmetic, and a bound on the margins may be infinite. In floating point a range may be
short by a few units in the last place of 1, or of the margins where these are larger. All this is the project's own
specification of faithful imitation; how Lamb et al. (2023, arXiv 2306.04431) compute their bounds we do not know.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, softplus

from overproof.bounds.region import Bounds

_ENUMERATED = 10  # margins of which all 2 ** 10 vertices are visited: 8 kB an example
_HALVINGS = 60  # bisections: enough for every bit of a double
_LONGEST = 1e8  # side of a polygon's box on which a double still resolves where the confidences change


def _finite(side: Tensor) -> Tensor:
    """Clip infinities to numbers that give the same confidence, 0 or 1, and that can be added and subtracted."""
    largest = torch.finfo(side.dtype).max / 8
    return side.clamp(-largest, largest)


# --- One network, and two of them apart -------------------------------------------------------------------------------


def logsumexp(margins: Bounds) -> Bounds:
    """Return the exact range ``[N]`` of ``s`` over a box of margins: it rises with every margin."""
    return Bounds(_finite(margins.lower).logsumexp(dim=1), _finite(margins.upper).logsumexp(dim=1))


def confidence(margins: Bounds) -> Bounds:
    """Return the exact range ``[N]``, within [0, 1], of the confidence over a box of margins; differentiable."""
    s = logsumexp(margins)
    return Bounds((-s.upper).sigmoid(), (-s.lower).sigmoid())


def separate(teacher: Bounds, student: Bounds) -> Bounds:
    """Return the exact range ``[N]``, within [-1, 1], of ``f_T - f_S`` over two boxes of margins; differentiable."""
    f_t, f_s = confidence(teacher), confidence(student)
    return Bounds(f_t.lower - f_s.upper, f_t.upper - f_s.lower)


# --- Two networks whose margins' difference is bounded ----------------------------------------------------------------


def difference_box(teacher: Bounds, student: Bounds, difference: Bounds) -> Bounds:
    """Return the exact range ``[N]`` of ``f_T - f_S`` over ``m_T``, ``m_S`` and ``m_T - m_S`` in boxes ``[N, K - 1]``.

    Never looser than ``separate``, and as differentiable. Bounds that contradict each other, so that there are no such
    margins, may return ``lower > upper``; where only rounding is to blame, by as little as it.
    """
    lower = -greatest_difference(student, teacher, -difference.upper)
    return Bounds(lower, greatest_difference(teacher, student, difference.lower))


def greatest_difference(teacher: Bounds, student: Bounds, least: Tensor) -> Tensor:
    """Return the maximum ``[N]`` of ``f_T - f_S`` over the boxes and ``m_T - m_S >= d``.

    1. ``f_T`` falls with ``m_T``, so ``m_T = max(l_T, m_S + d)``, which the box allows for ``m_S <= u_T - d``. Up to
       ``l_T - d`` raising ``m_S`` costs nothing, so ``m_S`` starts there, and beyond it ``m_T = m_S + d``. (An upper
       bound on ``m_T - m_S`` is met on this way if it can be met at all.)
    2. In ``x_j = exp m_S_j`` and ``w_j = exp d_j`` we maximise ``1 / (1 + w.x) - 1 / (1 + 1.x)`` over a box: for every
       sum of the x the one of least ``w.x``. That is a fractional knapsack, filled in ascending order of w.
    3. So one x moves at a time in ``1 / (C_T + w x) - 1 / (C_S + x)``. The slope has the sign of ``C_T + w x - sqrt(w)
       (C_S + x)``, and so for w < 1 the value rises, then falls, with its top where the two agree; else an end is best.
    """
    l_t, u_t, l_s, u_s, d = (_finite(side) for side in (*teacher, *student, least))
    high = torch.maximum(torch.minimum(u_s, u_t - d), l_s)
    low = torch.maximum(torch.minimum(l_t - d, high), l_s)
    order = d.argsort(dim=1)
    l_t, d, low, high = (side.gather(1, order) for side in (l_t, d, low, high))
    log_c_t = _log_others(torch.maximum(l_t, low + d), torch.maximum(l_t, high + d), 0.0)
    log_c_s = _log_others(low, high, 0.0)

    with torch.no_grad():  # at the top the slope is zero, so its place has no gradient to pass on
        ratio = log_c_t - d / 2 - log_c_s
        top = log_c_t - d / 2 + (-torch.expm1(-ratio)).log() - (-torch.expm1(d / 2)).log()
        top = torch.where(top.isnan(), -torch.inf, top)  # there is no top: an end is best
    m_s = torch.stack([low, torch.minimum(torch.maximum(top, low), high), high])
    m_t = torch.maximum(l_t, m_s + d)
    values = (-torch.logaddexp(log_c_t, m_t)).exp() - (-torch.logaddexp(log_c_s, m_s)).exp()
    return values.amax(dim=(0, 2))


def _log_others(low: Tensor, high: Tensor, start: float) -> Tensor:
    """Return ``log(exp start + sum_{i < j} exp high_i + sum_{i > j} exp low_i)`` for every j, ``[N, K - 1]``."""
    before = torch.cat([torch.full_like(high[:, :1], start), high[:, :-1]], dim=1).logcumsumexp(dim=1)
    after = torch.cat([torch.full_like(low[:, :1], -torch.inf), low.flip(1)[:, :-1]], dim=1).logcumsumexp(dim=1)
    return torch.logaddexp(before, after.flip(1))


# --- Linear cuts: s between two linear functions of the margins -------------------------------------------------------


def tangent(margins: Bounds) -> Tensor:
    """Return the slopes p ``[N, K - 1]`` of the lower cut that is highest at the box's centre: the softmax there."""
    return Bounds(_finite(margins.lower), _finite(margins.upper)).centre.softmax(dim=1)


def lower_cut(p: Tensor) -> Tensor:
    """Return the constant ``[N]`` of ``s >= p.m + constant``, for all margins and a distribution p ``[N, K - 1]``.

    It is the entropy of p (Gibbs' variational principle); the two sides agree where p is the softmax of m.
    """
    entropy: Tensor = torch.special.entr(p).sum(dim=1)
    return entropy


def secant(margins: Bounds) -> Tensor:
    """Return slopes q ``[N, K - 1]`` in [0, 1]: how much s falls per unit from the upper corner to each next to it.

    The plane through these K corners is an upper cut. s is convex, so it is furthest above a plane at a corner; and the
    mixed derivatives of s, ``-p_i p_j``, are negative, so to lower several margins from the upper corner lowers s by at
    least the sum of what each does alone. With two classes the plane is s. Between bounds of real networks gradient
    descent on q found no cut that is clearly lower at the box's centre.
    """
    lower, upper = _finite(margins.lower), _finite(margins.upper)
    width = upper - lower
    others = _log_others(upper, upper, -torch.inf) - upper  # log odds against the margin in the softmax
    fall = softplus(others) - torch.logaddexp(-width, others)
    return torch.where(width > 0, fall / width, (-others).sigmoid()).clamp(0, 1)


def upper_cut(margins: Bounds, q: Tensor) -> Tensor:
    """Return a constant ``[N]`` with ``s <= q.m + constant`` on the box, for any slopes q ``[N, K - 1]``.

    The least one, ``max(s - q.m)``, is attained at a vertex, and up to ten margins all vertices are visited. For more,
    s lies below the cut of ``secant``, and the maximum of a linear function is left: still the least constant if q is
    the secant. Infinite where a bound is.
    """
    lower, upper = margins
    if q.shape[1] > _ENUMERATED:
        slope = secant(margins)
        corner = upper.logsumexp(dim=1) - (slope * upper).sum(dim=1)
        constant = corner + torch.maximum((slope - q) * lower, (slope - q) * upper).sum(dim=1)
    else:
        s = torch.full_like(q[:, :1], -torch.inf)
        plane = torch.zeros_like(s)
        for j in range(q.shape[1]):
            ends = [side[:, j, None] for side in margins]
            s = torch.cat([torch.logaddexp(s, end) for end in ends], dim=1)
            plane = torch.cat([plane + q[:, j, None] * end for end in ends], dim=1)
        constant = (s - plane).amax(dim=1)
    return torch.where((upper - lower).isfinite().all(dim=1), constant, torch.inf)


# --- Two networks whose logsumexps are linked by cuts -----------------------------------------------------------------


def sigmoid_polygon(teacher: Bounds, student: Bounds, a: Tensor, b: Tensor, c: Tensor) -> Bounds:
    """Return the exact range ``[N]`` of ``f_T - f_S`` over a polygon of ``s_T`` and ``s_S``.

    They have bounds ``[N]`` and satisfy ``a s_T - b s_S >= c`` with ``[N, I]`` numbers of any sign; a half plane that
    is not finite is left out. Where the polygon is empty, or a bound exceeds 1e8, this is the range over the box. Half
    planes give way by some 1e-14 of the box's size. Computed in double precision, without gradients.
    """
    t_low, t_high, s_low, s_high, a, b, c = (side.detach().double() for side in (*teacher, *student, a, b, c))
    t, s = Bounds(_finite(t_low), _finite(t_high)), Bounds(_finite(s_low), _finite(s_high))
    lower, upper = -_polygon_maximum(s, t, -b, -a, c), _polygon_maximum(t, s, a, b, c)
    return Bounds(lower.to(teacher.lower.dtype), upper.to(teacher.lower.dtype))


def _gap(x: Tensor, y: Tensor) -> Tensor:
    return (-x).sigmoid() - (-y).sigmoid()


def _polygon_maximum(x: Bounds, y: Bounds, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """Return the maximum ``[N]`` of ``sigmoid(-x) - sigmoid(-y)`` over the box and ``a x - b y >= c``.

    The function falls with x and rises with y, so it is greatest at the corner of least x and greatest y; if that is
    cut off, then on the edge of a half plane, as from any other point one may still move towards the corner.
    """
    x_low, x_high, y_low, y_high = (side[:, None] for side in (*x, *y))
    corner = _gap(x_low, y_high)
    x_size, y_size = (torch.maximum(low.abs(), high.abs()) for low, high in ((x_low, x_high), (y_low, y_high)))
    length = torch.hypot(a, b)
    usable = (length > 0) & length.isfinite() & c.isfinite() & (torch.maximum(x_size, y_size) <= _LONGEST)
    a, b, c = (torch.where(usable, side / length, 0) for side in (a, b, c))
    # Every half plane gives way by more than rounding, and once more to the others' edges, so that none gets lost.
    slack = 16 * torch.finfo(c.dtype).eps * (a.abs() * x_size + b.abs() * y_size + c.abs())
    c = c - slack

    # An edge is (px, py) + t (dx, dy), dx >= 0, with (px, py) nearest to the box's centre and value + rate t >= 0.
    x_centre, y_centre = (x_low + x_high) / 2, (y_low + y_high) / 2
    short = c - a * x_centre + b * y_centre
    px, py = x_centre + short * a, y_centre - short * b
    dx, dy = b.abs(), torch.copysign(a, a * b)
    a_k, b_k, c_k = (side[:, None] for side in (a, b, c - slack))
    of_box = torch.stack([px - x_low, x_high - px, py - y_low, y_high - py], dim=2)
    value = torch.cat([of_box, a_k * px[..., None] - b_k * py[..., None] - c_k], dim=2)
    rate = torch.cat([torch.stack([dx, -dx, dy, -dy], dim=2), a_k * dx[..., None] - b_k * dy[..., None]], dim=2)
    start = torch.where(rate > 0, -value / rate, -torch.inf).amax(dim=2)
    end = torch.where(rate < 0, -value / rate, torch.inf).amin(dim=2)
    exists = usable & (start <= end) & ((rate != 0) | (value >= 0)).all(dim=2)

    ends = [
        torch.minimum(torch.maximum(p + torch.where(exists, t, 0) * d, low), high)
        for t in (start, end)
        for p, d, low, high in ((px, dx, x_low, x_high), (py, dy, y_low, y_high))
    ]
    on_edges = torch.where(exists, _segment_maximum(*ends), -torch.inf)
    in_reach = (a * x_low - b * y_high >= c).all(dim=1, keepdim=True) | ~exists.any(dim=1, keepdim=True)
    return torch.cat([torch.where(in_reach, corner, -torch.inf), on_edges], dim=1).amax(dim=1)


def _segment_maximum(x0: Tensor, y0: Tensor, x1: Tensor, y1: Tensor) -> Tensor:
    """Return the maximum of ``sigmoid(-x) - sigmoid(-y)`` on the segments from ``(x0, y0)`` to ``(x1, y1)``.

    ``x0 <= x1``. If y falls, an end is best. If it rises, let it rise no slower than x, as ``(x, y) -> (-y, -x)`` keeps
    the function: ``y = r x - h`` with r >= 1. With v the logistic density, the function rises where ``k = log r + log
    v(y) - log v(x)`` is positive. ``k' = tanh(x / 2) - r tanh(y / 2)`` turns from plus to minus, and at most once: take
    h >= 0 (else mirror x and y). For x < 0 and for y < 0 it is positive. Beyond, the ratio of the second term to the
    first starts at 0 and rises while ``sinh y < r sinh x``, then falls to r >= 1, for ``sinh y / sinh x`` grows. So k
    rises, then falls, and the only maximum between the ends is where k falls through zero.
    """
    flat = y1 - y0 < x1 - x0
    x0, y0, x1, y1 = (torch.where(flat, -p, q) for p, q in ((y1, x0), (x1, y0), (y0, x1), (x0, y1)))
    dx, dy = x1 - x0, y1 - y0
    log_r = (dy / dx).log()

    def k_rises(t: Tensor) -> Tensor:
        return dx * ((x0 + t * dx) / 2).tanh() > dy * ((y0 + t * dy) / 2).tanh()

    def function_rises(t: Tensor) -> Tensor:
        x, y = x0 + t * dx, y0 + t * dy
        return log_r + logsigmoid(y) + logsigmoid(-y) > logsigmoid(x) + logsigmoid(-x)

    first, last = torch.zeros_like(dx), torch.ones_like(dx)
    top = _while(function_rises, _while(k_rises, first, last), last)
    return torch.stack([_gap(x0 + t * dx, y0 + t * dy) for t in (first, top, last)]).amax(dim=0)


def _while(holds: Callable[[Tensor], Tensor], low: Tensor, high: Tensor) -> Tensor:
    """Return the largest t between ``low`` and ``high`` up to which a condition holds, by bisection."""
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        yes = holds(middle)
        low, high = torch.where(yes, middle, low), torch.where(yes, high, middle)
    return low
