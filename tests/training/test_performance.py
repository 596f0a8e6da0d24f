import pytest
import torch

from overproof.training.performance import Performance

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize(
    ("wish", "on_cpu", "on_cuda"),
    [
        ("auto", "off", "networks"),
        ("off", "off", "off"),
        ("networks", "networks", "networks"),
        ("graphs", "off", "graphs"),
    ],
)
def test_what_is_compiled_where(wish, on_cpu, on_cuda):
    options = Performance(compile=wish)
    assert (options.compiles(CPU), options.compiles(CUDA)) == (on_cpu, on_cuda)


def test_graphs_are_of_searches_on_cuda_alone(net, monkeypatch):
    seen = []
    monkeypatch.setattr("overproof.training.performance.use_cuda_graphs", seen.append)
    student = net()
    Performance(compile="graphs").prepare([student], CPU)
    assert not seen
    Performance(compile="graphs").prepare([student], CUDA)
    assert seen == [student] and student._compiled_call_impl is None


@pytest.fixture
def traced(monkeypatch):
    """Compile without a compiler for CPUs, and count the graphs that are made."""
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    compiled = torch.nn.Module.compile
    monkeypatch.setattr(torch.nn.Module, "compile", lambda network: compiled(network, backend=backend))
    torch._dynamo.reset()
    return graphs


@pytest.mark.parametrize("averaging", [False, True])
def test_a_compiled_student_ends_where_a_plain_one_does(exactly, looping, net, traced, averaging):
    from overproof.training.averaging import EMA

    ends = []
    for wish in ("off", "networks"):
        student = net()
        Performance(compile=wish).prepare([student], CPU)
        loop = looping(student=student, epochs=2, averaging=EMA(decay=0.5) if averaging else None)
        list(loop.run())
        assert bool(traced) == (wish == "networks")
        ends.append(loop.network().state_dict())
    assert ends[0].keys() == ends[1].keys()
    for name, value in ends[0].items():
        assert torch.allclose(ends[1][name], value, rtol=0, atol=1e-9), name
