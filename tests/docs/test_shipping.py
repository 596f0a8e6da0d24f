"""The two examples of docs/shipping.md do what they say, without overproof."""

import functools
import json
import re
import subprocess
import sys
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from overproof.data.sources import Digits
from overproof.formats.onnx import metadata_of, to_onnx
from overproof.models.architectures.mlp import MLP
from overproof.models.weights import build
from overproof.signature import Signature

DOCS = Path(__file__).parents[2] / "docs"
CHROMIUM = Path("/usr/bin/chromium")
NAMES = [f"digit {number}" for number in range(10)]


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return build(MLP(hidden=(8,)), Signature(channels=1, height=8, width=8, classes=10), mean=(0.3,), std=(0.4,)).eval()


@pytest.fixture(scope="module")
def images():
    return Digits().load("test").images[:5]


@pytest.fixture(scope="module")
def expected(network, images):
    with torch.no_grad():
        confidences = network(images.float() / 255).softmax(dim=1)
    return [(NAMES[int(one.argmax())], float(one.max())) for one in confidences]


@pytest.fixture(scope="module")
def file(network, images, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    metadata = metadata_of({"classes": json.dumps(NAMES)}, "MIT")
    (folder / "model.onnx").write_bytes(to_onnx(network, images.float() / 255, metadata=metadata, where="net"))
    (folder / "model.onnx.json").write_text(json.dumps({"classes": NAMES}))
    return folder / "model.onnx"


def test_the_runner_needs_neither_torch_nor_overproof():
    found = re.findall(r"^(?:import|from) (\w+)", (DOCS / "shipping" / "classify.py").read_text(), flags=re.MULTILINE)
    assert set(found) == {"json", "sys", "numpy", "onnxruntime"}


@pytest.mark.parametrize("floats", [False, True])
def test_the_runner_says_class_and_confidence(file, images, expected, floats, tmp_path):
    np.save(tmp_path / "images.npy", (images.float() / 255 if floats else images).numpy())
    words = [sys.executable, str(DOCS / "shipping" / "classify.py"), str(file), str(tmp_path / "images.npy")]
    out = subprocess.run(words, check=True, capture_output=True, text=True).stdout.splitlines()
    assert [line.rpartition(" ")[0] for line in out] == [name for name, _ in expected]
    assert [float(line.rpartition(" ")[2]) for line in out] == pytest.approx([one for _, one in expected], abs=6e-4)


@pytest.fixture
def server(file):
    """Serve docs/browser, with the model in its place, and return the address."""
    root = DOCS / "browser"

    class Handler(SimpleHTTPRequestHandler):
        def translate_path(self, path):
            name = path.partition("?")[0].lstrip("/")
            return str(file.parent / name if name.startswith("model.onnx") else root / (name or "index.html"))

        def log_message(self, *_):
            pass

    Handler.extensions_map = {**SimpleHTTPRequestHandler.extensions_map, ".mjs": "text/javascript"}
    served = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler))
    thread = threading.Thread(target=served.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{served.server_port}/"
    served.shutdown()
    thread.join()
    served.server_close()


@pytest.mark.skipif(not (DOCS / "browser" / "node_modules").is_dir(), reason="npm install in docs/browser copies it")
@pytest.mark.skipif(not CHROMIUM.is_file(), reason="there is no browser here")
def test_the_page_says_class_and_confidence(server, images, expected, tmp_path):
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        page = browser.new_page()
        problems = []
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("request", lambda request: problems.append(request.url) if server not in request.url else None)
        page.goto(server)
        playwright.expect(page.locator("#answer")).to_have_text("Ready: draw, or choose a picture.", timeout=60_000)
        for image, (name, confidence) in zip(images[:2], expected, strict=False):
            Image.fromarray(image[0].numpy()).save(tmp_path / "image.png")
            page.set_input_files("#file", str(tmp_path / "image.png"))
            playwright.expect(page.locator("#answer")).to_have_text(f"{name}, confidence {100 * confidence:.1f} %")
            assert page.locator("#classes tr").count() == 10
        page.click("#clear")
        assert page.locator("#classes tr").count() == 0
        page.hover("#image")
        page.mouse.down()
        page.mouse.move(5, 5)
        page.hover("#image")
        page.mouse.up()
        playwright.expect(page.locator("#answer")).to_contain_text(", confidence ")
        browser.close()
    assert problems == []
