"""The notebook runs from its first cell to its last, and is kept without what it once printed."""

import json
from pathlib import Path

import pytest

FILE = Path(__file__).parents[2] / "docs" / "notebooks" / "distil_and_prove.ipynb"


def test_it_is_kept_without_outputs():
    cells = [cell for cell in json.loads(FILE.read_text())["cells"] if cell["cell_type"] == "code"]
    assert cells and all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells)


@pytest.mark.filterwarnings("ignore")
def test_it_runs(tmp_path, monkeypatch):
    nbformat = pytest.importorskip("nbformat", reason="the extra dev has it")
    nbclient = pytest.importorskip("nbclient", reason="the extra dev has it")
    pytest.importorskip("ipykernel", reason="the extra dev has it")
    monkeypatch.setenv("JUPYTER_PLATFORM_DIRS", "1")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    notebook = nbformat.read(FILE, as_version=4)
    nbformat.validate(notebook)
    client = nbclient.NotebookClient(notebook, timeout=240, resources={"metadata": {"path": str(tmp_path)}})
    client.execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    printed = "".join(output.text for output in outputs if output.output_type == "stream" and output.name == "stdout")
    for line in ("clean: ", "worst: ", "proved robust: ", "mean gap of confidences: at least "):
        assert line in printed
    assert any("image/png" in output.data for output in outputs if output.output_type == "execute_result")
    errors = [output.text for output in outputs if output.output_type == "stream" and output.name == "stderr"]
    assert errors == []
