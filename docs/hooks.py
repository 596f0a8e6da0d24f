"""What mkdocs is told beside mkdocs.yml: pages whose text lives elsewhere in the repository, and folders as lists."""

import json
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
MERMAID = ROOT / "docs" / "browser" / "node_modules" / "mermaid" / "dist" / "mermaid.min.js"
ELSEWHERE = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}


def on_config(config: Any) -> Any:
    """Put the pages of a folder below its entry; diagrams are drawn by a script of the site's own, where it is here."""
    config.nav = [_listed(entry) for entry in config.nav]
    if MERMAID.is_file():
        config.extra_javascript.append("assets/mermaid.min.js")
    return config


def _listed(entry: Any) -> Any:
    """Return an entry of the navigation; one that names a folder with all of the folder's pages."""
    ((title, folder),) = entry.items()
    if not (isinstance(folder, str) and folder.endswith("/")):
        return entry
    names = sorted(file.stem for file in (ROOT / "docs" / folder).glob("*.md") if file.stem != "index")
    return {title: [f"{folder}index.md", *({name: f"{folder}{name}.md"} for name in names)]}


def on_files(files: Files, config: Any) -> Files:
    """Add the pages whose text is not in the folder."""
    for source, page in ELSEWHERE.items():
        text = (ROOT / source).read_text().replace("](docs/", "](")
        for other, name in ELSEWHERE.items():
            text = text.replace(f"]({other})", f"]({name})")
        text = text.replace("](notebooks/distil_and_prove.ipynb)", "](notebook.md)")
        files.append(File.generated(config, page, content=text))
    if MERMAID.is_file():
        files.append(File.generated(config, "assets/mermaid.min.js", abs_src_path=str(MERMAID)))
    notebook = ROOT / "docs" / "notebooks" / "distil_and_prove.ipynb"
    files.append(File.generated(config, "notebook.md", content=notebook_page(json.loads(notebook.read_text()))))
    return files


def on_post_page(output: str, page: Any, config: Any) -> str:
    """Name the theme's search dialog for those who hear the page; show diagrams as text where nothing draws them."""
    if not MERMAID.is_file():  # the theme would fetch a script from elsewhere
        output = output.replace('class="mermaid"', 'class="diagram"')
    return output.replace(
        'data-md-component="search" role="dialog"', 'data-md-component="search" role="dialog" aria-label="Search"'
    )


def notebook_page(notebook: dict[str, Any]) -> str:
    """Return a notebook's cells as Markdown."""
    cells = [
        "".join(cell["source"]) if cell["cell_type"] == "markdown" else f"```python\n{''.join(cell['source'])}\n```"
        for cell in notebook["cells"]
    ]
    return "\n\n".join(cells) + "\n"
