import numpy as np
import pytest
from tests.models.external.onnx_files import LAST, chain, file, head

from overproof.errors import InputError
from overproof.models.external.onnx_session import Session


def test_it_runs_a_graph_of_any_input():
    weights = head(6)
    session = Session(file(chain(*LAST), weights, sizes=(2, 3)), where="net.onnx")
    x = np.arange(12, dtype=np.float32).reshape(2, 2, 3)
    np.testing.assert_allclose(session.run(x), x.reshape(2, 6) @ weights["w"] + weights["b"], rtol=1e-5)
    assert session.metadata() == {} and session.runtime.get_inputs()[0].shape == ["batch", 2, 3]


def test_what_onnxruntime_raises_is_one_sentence():
    session = Session(file(chain(*LAST), head(6), sizes=(2, 3)), where="net.onnx")
    with pytest.raises(InputError, match=r"^net\.onnx: onnxruntime failed on 2 images \(.*"):
        session.run(np.zeros((2, 5), dtype=np.float32))
    with pytest.raises(InputError, match=r"^net\.onnx: onnxruntime cannot run this file \(.*"):
        Session(file(chain(("Conv", ("w",), {})), {}), where="net.onnx")
