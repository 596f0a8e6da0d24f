import pytest
import torch

from overproof.bounds.composed import Draft
from overproof.bounds.graph import Graph
from overproof.bounds.maps import NoBoundsError
from overproof.bounds.products import Layer, add_product, einsum_terms, elementwise_terms, matmul_terms

from .networks import normal, value

LIKE = torch.zeros(1, dtype=torch.float64)
MATRICES = [((2, 3, 4), (4, 5)), ((2, 3, 4), (2, 4, 5)), ((2, 6, 3, 4), (4, 5)), ((2, 3, 4), (4,)), ((5, 3), (2, 3, 4))]
LAYERS = [
    ("zab,zab->zab", (3, 4), (3, 4)),
    ("zab,zcb->zac", (3, 4), (5, 4)),
    ("zab,zab->za", (3, 4), (3, 4)),
    ("zab,zcd->zac", (3, 4), (5, 2)),
    ("zab,zab->zab", (3, 4), (3, 1)),
    ("zab,zab->zab", (1, 4), (3, 1)),
    ("zab,zac->bzc", (3, 4), (3, 2)),
]
CONSTANTS = [
    ("zab,bc->zac", (3, 4), (4, 5)),
    ("zab,zbc->zca", (3, 4), (1, 4, 5)),
    ("zab,cd->zabc", (3, 4), (2, 3)),
    ("zab,ab->zab", (3, 4), (3, 1)),
    ("zab,ab->zab", (3, 1), (3, 4)),
    ("zab,b->zb", (3, 4), (4,)),
    ("zab,b->za", (3, 4), (1,)),
]


@pytest.mark.parametrize(("first", "second"), MATRICES)
def test_a_product_of_matrices_has_these_terms(first, second):
    a, b = normal(*first), normal(*second)
    one, other, out = matmul_terms(a.dim(), b.dim())
    torch.testing.assert_close(torch.einsum(f"{one},{other}->{out}", a, b), a @ b)


@pytest.mark.parametrize(("first", "second"), [((2, 3, 4), (4,)), ((4,), (2, 3, 4)), ((3, 1), (2, 3, 4))])
def test_a_product_of_numbers_has_these_terms(first, second):
    a, b = normal(*first), normal(*second)
    one, other, out = elementwise_terms(a.dim(), b.dim())
    torch.testing.assert_close(torch.einsum(f"{one},{other}->{out}", a, b), a * b)


@pytest.mark.parametrize("equation", ["ab,bc->ac", "...a,ab->...b", "a...,b...->ab...", "ab ->ba"])
def test_an_equation_is_read(equation):
    shapes = {"ab,bc->ac": [(2, 3), (3, 4)], "...a,ab->...b": [(5, 2, 3), (3, 4)], "ab ->ba": [(2, 3)]}
    operands = [normal(*shape, seed=i) for i, shape in enumerate(shapes.get(equation, [(2, 5, 6), (3, 5, 6)]))]
    terms, out = einsum_terms(equation, [each.dim() for each in operands])
    torch.testing.assert_close(torch.einsum(f"{','.join(terms)}->{out}", *operands), torch.einsum(equation, *operands))


@pytest.mark.parametrize("equation", ["ab,bc", "aB,Bc->ac", "ab->ab"])
def test_an_equation_of_another_form_is_refused(equation):
    with pytest.raises(NoBoundsError, match="einsum"):
        einsum_terms(equation, [2, 2])


def parts(equation):
    left, out = equation.split("->")
    return left.split(","), out


@pytest.mark.parametrize(("equation", "first", "second"), LAYERS)
def test_a_product_of_layers_is_torch_s(equation, first, second):
    """The image is both, one after the other."""
    draft, sizes = Draft(), [torch.Size(shape).numel() for shape in (first, second)]
    image = draft.put(None, (), (sum(sizes),))
    numbers = torch.arange(sum(sizes))
    one = draft.gathered(image, numbers[: sizes[0]].view(first))
    other = draft.gathered(image, numbers[sizes[0] :].view(second))
    terms, out = parts(equation)
    found = add_product(draft, terms, [Layer(one, 0), Layer(other, 0)], out, LIKE)
    x = normal(3, sum(sizes))
    truth = torch.einsum(equation, x[:, : sizes[0]].view(3, *first), x[:, sizes[0] :].view(3, *second))
    torch.testing.assert_close(value(Graph(tuple(draft.nodes)), x), truth.movedim(found.batch, 0))
    assert found.batch == out.index("z") and draft.shape(found.node) == tuple(truth.movedim(found.batch, 0).shape[1:])


@pytest.mark.parametrize(("equation", "first", "second"), CONSTANTS)
def test_a_product_with_a_constant_is_torch_s(equation, first, second):
    draft, constant = Draft(), normal(*second, seed=5)
    image = draft.put(None, (), first)
    terms, out = parts(equation)
    found = add_product(draft, terms, [Layer(image, 0), constant], out, LIKE)
    x = normal(3, *first)
    truth = torch.einsum(equation, x, constant).movedim(found.batch, 0)
    torch.testing.assert_close(value(Graph(tuple(draft.nodes)), x), truth)


@pytest.mark.parametrize(
    ("terms", "out", "words"),
    [
        (["zab", "zab"], "ab", "mixes the batch"),
        (["zab", "azb"], "zab", "mixes the batch"),
        (["zaa", "zab"], "zab", "a diagonal"),
    ],
)
def test_what_mixes_the_batch_is_refused(terms, out, words):
    draft = Draft()
    image = draft.put(None, (), (3, 3))
    with pytest.raises(NoBoundsError, match=words):
        add_product(draft, terms, [Layer(image, 0), Layer(image, 0)], out, LIKE)


def test_another_constant_for_each_image_is_refused():
    draft = Draft()
    image = draft.put(None, (), (3,))
    with pytest.raises(NoBoundsError, match="another constant for each image"):
        add_product(draft, ["za", "za"], [Layer(image, 0), normal(2, 3)], "za", LIKE)
