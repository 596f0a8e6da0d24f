"""``compare``: what several runs hold, in one table per footing, as text and as one offline page."""

from collections.abc import Sequence
from pathlib import Path

from overproof.errors import InputError
from overproof.files import write_atomically
from overproof.reading import parsing
from overproof.report.findings import Findings
from overproof.report.page import page
from overproof.report.table import Table, tables
from overproof.report.text import as_csv, as_latex, as_markdown
from overproof.runs.loaded import BY_POSITION, check_classes
from overproof.runs.reader import findings
from overproof.runs.resolve import evaluated_folder
from overproof.runs.sources import AnySource


def compare(
    folders: Sequence[AnySource],
    *,
    out: Path | str | None = None,
    csv: Path | str | None = None,
    latex: Path | str | None = None,
    markdown: Path | str | None = None,
    classes_by_position: bool = False,
    trust_code: bool = False,
) -> list[Table]:
    """Return a table per data set and threat model; write the offline page ``out`` and the tables as text.

    A run named twice counts once; a network that has no folder of the user's is found in ``evaluations/NAME``, one of
    the Hub else by the results in its repository. ``classes_by_position`` compares runs on the same images although
    their classes come in another order. ``trust_code`` makes a network that a run's files name, to count what results
    of an early version do not say. Raises ``InputError``, before anything is written.
    """
    places = map(evaluated_folder, folders)
    distinct = list({place.resolve(): place for place in places}.values())
    if not distinct:
        raise InputError("name at least one run to compare")
    all_findings = [findings(folder, trust_code=trust_code) for folder in distinct]
    if not classes_by_position:
        _check_classes(all_findings)
    laid = tables(all_findings)
    if out is not None:
        alone, several = all_findings[0], len(all_findings) > 1
        title = "Comparison" if several else alone.name
        lead = f"{len(all_findings)} runs side by side." if several else _about(alone)
        with parsing(", ".join(map(str, distinct)), "results as overproof writes them"):
            body = page(all_findings, title=title, lead=lead)
        _write(Path(out), body)
    for file, written in ((csv, as_csv), (latex, as_latex), (markdown, as_markdown)):
        if file is not None:
            _write(Path(file), written(laid))
    return laid


def _check_classes(findings: Sequence[Findings]) -> None:
    """Raise ``InputError`` where the same images have the same classes in another order.

    Equal digests mean equal labels, so classes that are merely called something else are the same classes.
    """
    first: dict[str, Findings] = {}
    for one in findings:
        known = first.setdefault(str(one.evaluation["data"]["digest"]), one)
        if sorted(one.classes) == sorted(known.classes):
            check_classes(known.classes, one.classes, where=f"{one.folder} beside {known.folder}", advice=BY_POSITION)


def _write(file: Path, text: str) -> None:
    # A name may hold bytes that are no UTF-8 (lone surrogates); they are written as their codes.
    write_atomically(file, text.encode(errors="backslashreplace"))


def _about(alone: Findings) -> str:
    """Return in one line what a run is."""
    evaluation = alone.evaluation
    size = evaluation.get("parameters")
    return " · ".join([alone.method, evaluation["architecture"], *([f"{size:,} parameters"] if size else [])])


def write_report(folder: Path) -> Path:
    """Write the page of one evaluated run into its folder, and return its path.

    Raises ``InputError`` that says what was kept: the results were written before.
    """
    out = folder / "report.html"
    try:
        compare([folder], out=out)
    except InputError as problem:
        raise InputError(f"the results are in {folder}, but the page of them is not: {problem}") from problem
    return out
