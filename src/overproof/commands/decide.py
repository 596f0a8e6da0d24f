"""``certify --query``: decides a VNN-LIB query about an ONNX file, or about two, as a verifier of VNN-COMP does."""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from time import monotonic
from typing import Any, Unpack

import torch
from torch import Tensor, nn
from typing_extensions import override

from overproof.allocation import keep_freed_memory
from overproof.archives import gunzip
from overproof.attacks.box import Ask
from overproof.bounds.graph import Graph, join_graphs
from overproof.bounds.trace import trace
from overproof.certification.cascade import check_finite_weights
from overproof.certification.falsifier import falsify
from overproof.certification.query import Answer, Case
from overproof.certification.verifier import verify
from overproof.commands.options import DecideOptions, Decision
from overproof.data.draws import seed_at
from overproof.environment import package
from overproof.errors import InputError
from overproof.files import make_folder, write_atomically
from overproof.formats.properties import Property, Sizes, networks_of, property_of
from overproof.formats.queries import Query
from overproof.formats.vnnlib import check_version_2
from overproof.models.external.onnx_form import without_softmax
from overproof.models.external.onnx_graph import with_weights
from overproof.models.external.onnx_raw import RawFile, RawNetwork, raw_networks
from overproof.models.external.onnx_writer import Unconverted
from overproof.reading import read_bytes
from overproof.wording import one_line

_MOST_TEXT = 1 << 27  # bytes of a query
_TRIED = 4  # points of its boxes at which a file and its torch network are compared
_LONGEST = 60  # bytes of a file's name in the name of a counter-example
_SEARCHED = "nothing can be proved, only a counter-example searched for"
_ASKED = f"{_SEARCHED}, without gradients"

Files = str | Path | Sequence[str | Path] | Mapping[str, str | Path]
"""A file; two; or files by the names of the query's networks, the only one of a 1.0 query by an empty name."""


def decide(networks: Files, query: str | Path, **options: Unpack[DecideOptions]) -> dict[str, Any]:
    """Decide whether a query has a counter-example, within ``seconds`` for all; return what was found.

    ``networks`` is the ONNX file that the query is about, or the two of a VNN-LIB 2.0 query: in the order in which it
    declares them, or by name. ``result`` is ``sat``, with the file ``witness`` of a counter-example that onnxruntime
    confirms on the files themselves; ``unsat``, which is a proof; or ``unknown``. ``notes`` says what could not be
    bounded. The options are those of ``Decision``. Raises ``InputError``.
    """
    return decide_named(networks, query, "", Decision(**options))


def decide_named(networks: Files, query: str | Path, name: str, asked_for: Decision) -> dict[str, Any]:
    """Decide as ``decide`` does; ``name`` is that of a counter-example's file, without its end."""
    started, place = monotonic(), Path(query)
    keep_freed_memory()
    read = read_query(place)
    paths = _in_order(networks, read, place)
    files = [RawFile(with_weights(gunzip(read_bytes(path), path), path), where=str(path)) for path in paths]
    try:
        asked = property_of(read, [Sizes(file.where, file.shape, file.outputs) for file in files])
        _check_equal(read, files)
    except InputError as problem:
        raise InputError(f"{place}: {problem}") from problem
    subject = _subject(files, asked, asked_for) if asked.cases else _Subject(files, None, None, None)
    answer = _answer(subject, asked, asked_for, started) if asked.cases else Answer("unsat")
    witness, result = None, answer.decision
    if answer.decision == "sat":
        assert answer.witness is not None and answer.case is not None
        x = asked.inside(answer.case, subject.flat(answer.witness[None])[0])
        outputs = [file(x[None])[0] for file in files]
        if asked.meets(answer.case, torch.cat(outputs)) and asked.holds(x, outputs):
            name = name or witness_name(paths, place)
            witness = _write(Path(asked_for.out), name, asked.witness(x, outputs))
        else:  # the search and the query's own reading disagree: neither is believed
            result = "unknown"
            subject = replace(subject, notes=(*subject.notes, "a counter-example was found that the query denies"))
    return {
        "networks": [str(path) for path in paths],
        "query": str(place),
        "result": result,
        "witness": None if witness is None else str(witness),
        "seconds": monotonic() - started,
        "cases": len(asked.cases),
        "parts": answer.parts,
        "notes": list(subject.notes),
    }


def witness_name(networks: Sequence[Path], query: Path) -> str:
    """Return the name of a counter-example's file, without its end: those of the networks and of the query."""
    stems = [place.name.removesuffix(".gz").rpartition(".")[0] or place.name for place in (*networks, query)]
    return "_".join(stem.encode(errors="replace")[:_LONGEST].decode(errors="ignore") for stem in stems[-3:])


def read_query(place: Path) -> Query:
    """Return the query of a file, packed or not; raise ``InputError`` where it holds none."""
    body = gunzip(read_bytes(place, limit=_MOST_TEXT), place, most=_MOST_TEXT)
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as problem:
        raise InputError(f"{place}: not UTF-8 text") from problem
    try:
        read = Query.read(text)
        two = networks_of(read)
    except InputError as problem:
        raise InputError(f"{place}: {problem}") from problem
    if two and _has_parser():
        check_version_2(text, where=str(place))
    return read


def _has_parser() -> bool:
    """Whether the standard's own parser is installed, which judges 2.0; without it, only our reader does."""
    try:
        package("vnnlib", extra="export", where="a query")
    except InputError:
        return False
    return True


def _in_order(networks: Files, query: Query, place: Path) -> list[Path]:
    """Return the files in the order of the query's networks."""
    declared = networks_of(query)
    if isinstance(networks, Mapping) and list(networks) != [""]:
        if set(networks) != set(declared):
            given, wanted = (one_line(", ".join(names), 200) for names in (networks, declared))
            raise InputError(f"{place}: it is about the networks {wanted}, and files are given for {given}")
        return [Path(networks[name]) for name in declared]
    named = networks.values() if isinstance(networks, Mapping) else networks
    paths = [Path(named)] if isinstance(named, str | Path) else [Path(each) for each in named]
    return paths * 2 if len(paths) == 1 and len(declared) == 2 and any(declared.values()) else paths


def _check_equal(query: Query, files: Sequence[RawFile]) -> None:
    """Raise ``InputError`` where networks that the query calls equal are other files."""
    for name, other in networks_of(query).items():
        if other and len({file.digest for file in files}) > 1:
            raise InputError(f"the query says that {name} is equal to {other}, but {files[1].where} is another network")


# --- the network that is searched -------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Subject:
    """The files as one function of their input: in torch and as a graph, as far as they have such a form.

    ``form`` says how inputs lie; ``confirmed`` are the outputs ``[K]`` of the files themselves for an input ``[F]``.
    """

    files: Sequence[RawFile]
    form: RawNetwork | None
    network: nn.Module | None
    graph: Graph | None
    notes: tuple[str, ...] = ()

    def arranged(self, x: Tensor) -> Tensor:
        return x if self.form is None else self.form.arranged(x)

    def flat(self, x: Tensor) -> Tensor:
        return x if self.form is None else self.form.flat(x)

    def outputs(self, x: Tensor) -> Tensor:
        """Return the outputs ``[N, K]`` of the files for ``[N, F]``, by onnxruntime."""
        return torch.cat([file.together(x) for file in self.files], dim=1)


class _Pair(nn.Module):
    """The outputs of two networks for the same input, one after the other."""

    def __init__(self, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.first, self.second = first, second

    @override
    def forward(self, x: Tensor) -> Tensor:
        """Map ``[N, *shape]`` to ``[N, K + L]``."""
        return torch.cat([self.first(x), self.second(x)], dim=1)


def _subject(files: Sequence[RawFile], asked: Property, asked_for: Decision) -> _Subject:
    """Return what is searched. What has no form in torch, or no bounds, is named in its notes."""
    tried = _points(asked, asked_for.seed)
    searched, said = _without_softmax(files, asked)
    subject: _Subject | None = None
    for flat in (False, True) if len(files) == 2 else (False,):
        forms, notes = [], list(said)
        for file in searched:
            form, graph, note = _trace_file(file, tried, flat=flat, dtype=getattr(torch, asked_for.precision))
            if form is None:
                return _Subject(
                    files,
                    None,
                    None,
                    None,
                    (*notes, f"{file.where}: {note}; {_ASKED}"),
                )
            notes += [f"{file.where}: {note}; {_SEARCHED}"] if note else []
            forms.append((form, graph))
        (first, graph), (second, other) = forms[0], forms[-1]
        if first.axes != second.axes or first.sizes != second.sizes:
            continue
        if len(forms) == 1:
            return _Subject(files, first, first.module, graph, tuple(notes))
        both = None if graph is None or other is None else join_graphs(graph, other)
        subject = _Subject(files, first, _Pair(first.module, second.module), both, tuple(dict.fromkeys(notes)))
        if both is not None:
            break
    return subject or _Subject(
        files, None, None, None, ("the two networks have no common form in torch, and are only asked",)
    )


def _without_softmax(files: Sequence[RawFile], asked: Property) -> tuple[Sequence[RawFile], list[str]]:
    """Return the files without a softmax at their end, where the query compares outputs of one network alone.

    A softmax keeps the order of its inputs, so the query means the same; nothing bounds its values as tightly.
    """
    if not asked.compares:
        return files, []
    cut, notes = list[RawFile](), list[str]()
    for file in files:
        body, said = without_softmax(file.body, file.where)
        cut.append(RawFile(body, where=file.where) if said else file)
        notes += [f"{file.where}: {note}, and the query compares outputs alone" for note in said]
    return cut, notes


def _trace_file(
    file: RawFile, tried: Tensor, *, flat: bool, dtype: torch.dtype
) -> tuple[RawNetwork | None, Graph | None, str]:
    """Return a file's torch network, and its graph where bounds can follow it; else why not.

    Of several orders of its input's axes it is the one with the shortest graph, in which least is transposed.
    """
    first, problem, followed = None, "", list[tuple[RawNetwork, Graph]]()
    try:
        for form in raw_networks(file, tried, flat=flat):
            first = first or form
            try:
                check_finite_weights(form.module, where="its torch network")
                # Converted before it is read: what is folded together is folded in that precision.
                followed.append((form, trace(deepcopy(form.module).to(dtype), form.shape).graph()))
            except InputError as refused:
                problem = problem or str(refused)
    except Unconverted as refused:
        problem = one_line(str(refused), 300)
    if followed:
        return *min(followed, key=lambda pair: len(pair[1].nodes)), ""
    return first, None, problem


def _points(asked: Property, seed: int) -> Tensor:
    """Return inputs ``[N, F]`` drawn from the boxes of the first cases."""
    draws = torch.Generator().manual_seed(seed_at(seed, "query", "tried"))
    points = []
    for number in range(_TRIED):
        lower, upper = asked.inner[number % len(asked.inner)]
        points.append(lower + (upper - lower) * torch.rand(lower.shape, generator=draws))
    return torch.stack(points)


def _answer(subject: _Subject, asked: Property, asked_for: Decision, started: float) -> Answer:
    cases = _arrange(subject, asked)

    def confirm(number: int, x: Tensor) -> bool:
        inside = asked.inside(number, subject.flat(x[None])[0])
        return asked.meets(number, torch.cat([file(inside[None])[0] for file in subject.files]))

    for number, case in enumerate(cases):
        if not len(case.bias) and confirm(number, centre := ((case.lower + case.upper) / 2).float()):
            return Answer("sat", witness=centre, case=number)
    how: dict[str, Any] = {"seconds": asked_for.seconds - (monotonic() - started), "confirm": confirm}
    how["seed"] = asked_for.seed
    if subject.network is not None and subject.graph is not None:
        return verify(subject.network, subject.graph, cases, **how)
    ask: Ask = subject.outputs if subject.network is None else subject.network
    return falsify(ask, cases, **how)


def _arrange(subject: _Subject, asked: Property) -> list[Case]:
    """Return the cases with their boxes in the shape that the network takes; equal boxes stay one."""
    boxes: dict[int, tuple[Tensor, Tensor]] = {}
    for case in asked.cases:
        if id(case.lower) not in boxes:
            boxes[id(case.lower)] = subject.arranged(case.lower[None])[0], subject.arranged(case.upper[None])[0]
    return [Case(*boxes[id(case.lower)], weight=case.weight, bias=case.bias) for case in asked.cases]


def _write(folder: Path, name: str, text: str) -> Path:
    make_folder(folder)
    file = folder / f"{name}.counterexample"
    write_atomically(file, text.encode())
    return file
