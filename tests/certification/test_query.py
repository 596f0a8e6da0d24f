import torch

from overproof.certification.query import Answer, Case


def test_the_score_is_the_worst_row_s_and_zero_without_rows():
    box = torch.zeros(1).double(), torch.ones(1).double()
    weight, bias = torch.tensor([[1.0, -1.0], [2.0, 0.0]]).double(), torch.tensor([0.5, -4.0]).double()
    outputs = torch.tensor([1.0, 2.0])
    assert float(Case(*box, weight, bias).score(outputs)) == min(1 - 2 + 0.5, 2 - 4)
    assert float(Case(*box, weight[:0], bias[:0]).score(outputs)) == 0


def test_an_answer_says_nothing_of_itself():
    assert (Answer("unknown").witness, Answer("unknown").case, Answer("unknown").parts) == (None, None, 0)
