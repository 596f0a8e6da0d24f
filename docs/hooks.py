"""What mkdocs is told beside mkdocs.yml: pages whose text lives elsewhere in the repository, and the methods' list."""

import json
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
ELSEWHERE = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}


def on_config(config: Any) -> Any:
    """Put every method's page below *Methods*."""
    kinds = sorted(file.stem for file in (ROOT / "docs" / "methods").glob("*.md") if file.stem != "index")
    pages = ["methods/index.md", *({f"{kind}": f"methods/{kind}.md"} for kind in kinds)]
    config.nav = [{"Methods": pages} if entry == {"Methods": "methods/"} else entry for entry in config.nav]
    return config


def on_files(files: Files, config: Any) -> Files:
    """Add the pages whose text is not in the folder."""
    for source, page in ELSEWHERE.items():
        text = (ROOT / source).read_text().replace("](docs/", "](")
        for other, name in ELSEWHERE.items():
            text = text.replace(f"]({other})", f"]({name})")
        text = text.replace("](notebooks/distil_and_prove.ipynb)", "](notebook.md)")
        files.append(File.generated(config, page, content=text))
    notebook = ROOT / "docs" / "notebooks" / "distil_and_prove.ipynb"
    files.append(File.generated(config, "notebook.md", content=notebook_page(json.loads(notebook.read_text()))))
    return files


def notebook_page(notebook: dict[str, Any]) -> str:
    """Return a notebook's cells as Markdown."""
    cells = [
        "".join(cell["source"]) if cell["cell_type"] == "markdown" else f"```python\n{''.join(cell['source'])}\n```"
        for cell in notebook["cells"]
    ]
    return "\n\n".join(cells) + "\n"
