"""Write the pages that are made from code and results; ``--check`` fails where a page is out of date."""

import inspect
import json
import sys
from functools import cache
from pathlib import Path
from typing import Any

from api_pages import api_pages
from published_pages import published_page
from reference_pages import files_page, recipe_page

from overproof.methods.catalogue import methods
from overproof.recipe import plain
from overproof.shipped import recipe_folder, recipe_names
from overproof.statistics import Spread
from overproof.training.cost import passes

DOCS = Path(__file__).parent
sys.path.insert(0, str(DOCS.parent))  # the studies lie beside the package, and this file is run as a script

from benchmarks.gpu import figures as gpu_figures  # noqa: E402
from benchmarks.ratio import Ratio  # noqa: E402
from studies.grid import find_study  # noqa: E402
from studies.page import pages as study_pages  # noqa: E402
from studies.page import summary  # noqa: E402


def pages() -> dict[Path, str]:
    """Return every generated page's text by its path."""
    return {
        DOCS / "methods" / "index.md": index_page(),
        DOCS / "results.md": results_page(),
        DOCS / "speedrun.md": speedrun_page(),
        DOCS / "reference" / "recipe.md": recipe_page(),
        DOCS / "reference" / "files.md": files_page(),
        DOCS / "reference" / "published.md": published_page(),
        **study_pages(),
        **{DOCS / "api" / name: text for name, text in api_pages().items()},
        **{DOCS / "methods" / f"{kind}.md": method_page(kind) for kind in methods()},
    }


def index_page() -> str:
    """Return the table of all methods."""
    rows = [
        f"| [`{kind}`]({kind}.md) | {first_sentence(kind)} | {', '.join(cls().roles) or 'none'} | {cost_line(kind)} |"
        for kind, cls in methods().items()
    ]
    table = "\n".join(["| kind | what | teachers | passes per batch |", "|---|---|---|---|", *rows])
    return f"{INDEX_HEAD}\n{table}\n{INDEX_TAIL}"


def method_page(kind: str) -> str:
    """Return one method's page: its card, its options, its cost and its recipes."""
    cls = methods()[kind]
    method = cls()
    options = "\n".join(f"| `{name}` | `{value}` |" for name, value in plain(method).items() if name != "kind")
    presets = "".join(f"\nPreset `{name}`: `{values}`.\n" for name, values in cls.presets.items())
    recipes = [name for name in recipe_names() if mentions(name, kind)]
    return f"""# `{kind}`

{inspect.cleandoc(cls.__doc__ or "")}

**Cost per batch** (measured at the defaults): {cost_line(kind)}.

| option | default |
|---|---|
{options}
{presets}
Recipes: {", ".join(f"`{name}`" for name in recipes) or "none yet"}.
"""


def results_page() -> str:
    """Return the page of measured tables; every figure comes from a file under ``docs/results``."""
    resumed = json.loads((DOCS / "results" / "resume.json").read_text())
    return RESULTS.format(
        methods=summary(find_study("all-methods")),
        faithful=summary(find_study("faithful")),
        kills=resumed["kills"],
        alone=resumed["model.safetensors"]["alone"][:16],
        resumed=resumed["model.safetensors"]["killed and resumed"][:16],
        speed="\n\n".join(
            speed_table(file)
            for file in sorted((DOCS.parent / "benchmarks" / "results").glob("*threads-of-*.json"))
            if not file.name.startswith("gpu-")
        ),
        gpu="\n\n".join(
            gpu_table(json.loads(file.read_text()))
            for file in sorted((DOCS.parent / "benchmarks" / "results").glob("gpu-*.json"))
        )
        or gpu_table({}),
        bounds=bounds_tables(DOCS.parent / "benchmarks" / "results" / "bounds.json"),
        slopes=slopes_table(DOCS.parent / "benchmarks" / "results" / "slopes.json"),
        footprint=footprint_table(DOCS.parent / "benchmarks" / "results" / "footprint.json"),
        allocation=allocation_table(DOCS.parent / "benchmarks" / "results" / "allocation.json"),
        families=families_table(DOCS.parent / "benchmarks" / "results" / "families.json"),
        roundtrips=roundtrips_table(DOCS.parent / "benchmarks" / "results" / "roundtrips.json"),
        search=search_table(DOCS.parent / "benchmarks" / "results" / "search.json"),
        verifier=verifier_table(DOCS.parent / "benchmarks" / "results" / "verifier.json"),
        soundness=soundness_line(DOCS.parent / "benchmarks" / "results" / "soundness.json"),
        published=published_table(DOCS.parent / "benchmarks" / "results" / "published.json"),
        parity=parity_table(sorted((DOCS.parent / "benchmarks" / "results").glob("parity-*.json"))),
    )


def speed_table(file: Path) -> str:
    """Return the measured claims of one machine."""
    suites = json.loads(file.read_text()).values()
    rows = [
        f"| {claim['name']} | {Ratio(**claim['measured'])} | {claim['target']} | "
        f"{'yes' if claim['holds'] else '**no**'} |"
        for suite in suites
        for claim in suite["claims"]
    ]
    place = next(iter(suites))["hardware"]
    return "\n".join([f"{place}:", "", "| what | ratio | target | holds |", "|---|---|---|---|", *rows])


def parity_table(files: list[Path]) -> str:
    """Return what our standard suite and the reference's left standing, attack by attack, and their times."""
    head = ["network", "threat", "examples", "attack", "given", "ours", "theirs", "seconds, ours", "theirs", "ratio"]
    lines = []
    for found in (json.loads(file.read_text()) for file in files):
        place = [found["network"], f"{found['threat']['norm']} {found['threat']['eps']}", str(found["examples"])]
        for name, one in found["attacks"].items():
            cells = [name, *(one[key] for key in ("given", "ours_left", "theirs_left", "our_seconds", "their_seconds"))]
            lines.append([*place, *map(str, cells), f"{one['ratio']:.2f}"])
            place = ["", "", ""]
        whole = ["**all four**", found["clean"], found["ours"]["passed"], found["theirs"]["passed"]]
        lines.append([*place, *map(str, whole), "", "", f"**{found['speed']:.2f}**"])
        lines.append(["", "", "", f"{found['hardware']}, search in {found['search_precision']}", *[""] * 6])
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *lines))


def bounds_tables(file: Path) -> str:
    """Return the bounds on the reference networks and the reference pair beside the reference library's."""
    parts = json.loads(file.read_text())["parts"]
    networks = ["| network | eps | bound | mean width | reference | seconds, 16 images |", "|---|---|---|---|---|---|"]
    pair = [
        "| eps | attacked | separate | joint | reference diffbox | cuts | joint / CROWN |",
        "|---|---|---|---|---|---|---|",
    ]
    split = [
        "| eps | layers | seconds allowed | before | after | reference best | seconds an image |",
        "|---|---|---|---|---|---|---|",
    ]
    steps = ["| method | network | step / plain step | target |", "|---|---|---|---|"]
    for name, part in parts.items():
        kind, *which = name.split("/")
        if kind == "networks":
            for bound in ("ibp", "crown_ibp", "crown"):
                found = part[bound]["float32"]
                cells = (*which, bound, f"{found['width']:.3f}", f"{part[bound]['reference_width']:.3f}")
                networks.append("| " + " | ".join([*cells, f"{found['seconds']:.3f}"]) + " |")
        elif kind == "pair":
            one, there = part["float32"], part["reference"]
            cells = [part["attacked"], one["separate"], one["joint"], there["diffbox"], there["cuts"]]
            row = [*which, *(f"{cell:.4f}" for cell in cells), f"{one['ratio_median']:.2f}"]
            pair.append("| " + " | ".join(row) + " |")
        elif kind == "splitting":
            eps, layers, seconds = which
            figures = (part["before"], part["after"], part["reference_best"])
            row = [eps, layers, seconds, *(f"{figure:.4f}" for figure in figures)]
            split.append("| " + " | ".join([*row, f"{part['processor_seconds_per_image']:.2f}"]) + " |")
        elif kind == "training":
            steps.append(f"| {which[0]} | {which[1]} | {part['ratio_median']:.2f} | {part['target_ratio']} |")
    return "\n\n".join("\n".join(table) for table in (networks, pair, split, steps))


def speedrun_page() -> str:
    """Return the records of the speedrun: every group of runs of one recipe pair on one machine is a line."""
    file = DOCS.parent / "benchmarks" / "results" / "speedrun.json"
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for run in json.loads(file.read_text()) if file.is_file() else []:
        teacher = "none" if "alone" in run["of"] else "trained"
        place = (run["data"], teacher, run["hardware"], f"torch {run['versions']['torch']}", run["commit"])
        groups.setdefault(place, []).append(run)
    heads = ("data", "teacher", "n", "minutes", "clean", "`standard`", "seeds", "hardware", "versions", "commit")
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    for (data, teacher, machine, torch, commit), runs in groups.items():
        minutes = Spread.of([run["minutes"] for run in runs])
        width = f" ± {minutes.half_width:.2f}" if minutes.seeds > 1 else ""
        clean, robust = (Spread.of([run[key]["share"] for run in runs]) for key in ("clean", "standard"))
        seeds = ", ".join(str(run["seed"]) for run in runs)
        figures = [data, teacher, str(len(runs)), f"{minutes.mean:.2f}{width}", str(clean), str(robust)]
        lines.append("| " + " | ".join([*figures, seeds, machine, torch, commit]) + " |")
    if not any(data == "cifar10" for data, *_ in groups):
        lines.append("| cifar10 | | | | | | | no GPU was available | | |")
    return SPEEDRUN.format(table="\n".join(lines))


def roundtrips_table(file: Path) -> str:
    """Return what became of networks of every family as the files that are shipped."""
    lines = ["| network | parameters | ONNX off by, of the largest logit | same class in INT8 | bytes, INT8 / float |"]
    lines.append("|" + "---|" * 5)
    for name, one in json.loads(file.read_text())["networks"].items():
        off = max(one["onnx_difference"], one["torch_difference"]) / max(1.0, one["largest_logit"])
        same = f"{one['agreeing']} of {one['images']}"
        lines.append(
            f"| {name} | {one['parameters']:,} | {off:.0e} | {same} | {one['bytes_int8'] / one['bytes']:.2f} |"
        )
    return "\n".join(lines)


def families_table(file: Path) -> str:
    """Return which families of timm's networks are bounded, and why others are not."""
    found = json.loads(file.read_text())
    lines = ["| family | network | parameters | pixels | bounded |", "|" + "---|" * 5]
    for family, one in found["families"].items():
        said = "yes" if one.get("finite") else "yes, but infinite"
        bounded = one.get("refused") or (said if one["held"] else "**wrongly**")
        lines.append(f"| {family} | {one['network']} | {one['parameters']:,} | {one.get('pixels', '')} | {bounded} |")
    rows = found["families"].values()
    finite = sum(one.get("held", False) and one["finite"] for one in rows)
    tried = sum(not one.get("refused", "").startswith("not tried") for one in rows)
    counts = f"Finite bounds for {finite} of {tried} that were tried, of {found['of']}"
    said = f"{counts}; timm {found['timm']}, torch {found['versions']['torch']}."
    return "\n".join([*lines, "", said])


def published_table(file: Path) -> str:
    """Return what was found of ONNX files of other people."""
    found = json.loads(file.read_text())
    head = ["file", "images", "seconds to load", "clean", "attacked at", "withstands", "certified at", "verified"]
    head += ["falsified", "wrong", "open"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for name, one in found["files"].items():
        counts, of = one["counts"], one["attacked"]
        left = counts["unknown"] + counts["error"]
        figures = [f"`{name}`", one["images"], f"{one['loading']:.2f}", f"{one['clean']} of {of}", one["eps"]]
        figures += [f"{one['robust']} of {of}", one["certified_eps"], f"{counts['verified']} of {sum(counts.values())}"]
        lines.append("| " + " | ".join(map(str, [*figures, counts["falsified"], counts["wrong"], left])) + " |")
    return "\n".join([*lines, "", f"{found['hardware']}, torch {found['versions']['torch']}."])


def search_table(file: Path) -> str:
    """Return what each part of branch and bound is worth."""
    found = json.loads(file.read_text())
    queries = list(next(iter(found["rows"].values())))
    head = ["", *(f"query {number}" for number in queries), "CPU seconds"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for name, row in found["rows"].items():
        parts = [f"{one['parts']:,}" if one["proved"] else f"open after {one['parts']:,}" for one in row.values()]
        lines.append("| " + " | ".join([name, *parts, f"{sum(one['seconds'] for one in row.values()):.0f}"]) + " |")
    return "\n".join([*lines, "", f"{found['hardware']}, torch {found['versions']['torch']}, float64."])


def verifier_table(file: Path) -> str:
    """Return what of VNN-COMP's queries is decided, beside the tools of the competition."""
    found = json.loads(file.read_text())
    lines = []
    for name, part in found["benchmarks"].items():
        asked = f"{part['queries']} queries, {part['by some tool']} of them decided by some tool of the competition"
        lines += [f"`{name}`, {asked}; {part['against']} of our answers against a public one:", ""]
        lines += ["| verifier | decided | sat | unsat | median seconds |", "|---|---|---|---|---|"]
        for tool, one in part["tools"].items():
            seconds = "" if one["seconds"] is None else f"{one['seconds']:.1f}"
            lines.append(f"| {tool} | {one['sat'] + one['unsat']} | {one['sat']} | {one['unsat']} | {seconds} |")
        lines.append("")
    where = f"{found['hardware']}, torch {found['versions']['torch']}"
    return "\n".join([*lines, f"Ours: {found['seconds']:g} s a query, bounds in {found['precision']}; {where}."])


def soundness_line(file: Path) -> str:
    """Return of how many random networks the bounds were compared with attained values, and how many were wrong."""
    found = json.loads(file.read_text())
    return (
        f"{found['networks']:,} so far, {found['wrong']:,} wrong ({found['exact']:,} compared with the exact minimum)"
    )


def gpu_table(results: dict[str, Any]) -> str:
    """Return what one GPU was measured at; every figure is left out where there was none."""
    lines = [f"| {what} | {target} | {figure} |" for what, target, figure in gpu_figures(results)]
    where = f"{results['hardware']}, torch {results['versions']['torch']}" if results else "No GPU was available"
    return "\n".join([f"{where}:", "", "| what | target | measured |", "|---|---|---|", *lines])


def slopes_table(file: Path) -> str:
    """Return how the time of a step grows with each size."""
    axes = json.loads(file.read_text())["axes"]
    lines = [f"| {name} | {one['sizes'][0]} | {one['sizes'][-1]} | {one['slope']:.2f} |" for name, one in axes.items()]
    return "\n".join(["| what grows | from | to | slope |", "|---|---|---|---|", *lines])


def allocation_table(file: Path) -> str:
    """Return what it is worth that a process keeps the memory it was given back."""
    found = json.loads(file.read_text())
    lines = []
    for name, one in found["cases"].items():
        middle, low, high = one["kept / given back"]
        rest = " | ".join(f"{kept:,.0f} | {back:,.0f}" for kept, back in (one["page faults"], one["peak MiB"]))
        lines.append(f"| {name} | {middle:.2f} [{low:.2f}, {high:.2f}] | {rest} |")
    head = [
        "| what | seconds, kept / given back | page faults, kept | given back | peak MiB, kept | given back |",
        "|---|---|---|---|---|---|",
    ]
    return "\n".join([f"{found['hardware']}:", "", *head, *lines])


def footprint_table(file: Path) -> str:
    """Return the peak memory of both sides and the share of an evaluation that its files take."""
    found = json.loads(file.read_text())
    lines = [
        f"| {name} | {one['before']} | {one['ours']} | {one['theirs']} | {one['ours'] / one['theirs']:.2f} |"
        for name, one in found["peak_mib"].items()
    ]
    share = 100 * found["records"]["in_files"] / found["records"]["seconds"]
    head = ["| network | before any attack, MiB | ours | theirs | ours / theirs |", "|---|---|---|---|---|"]
    return "\n".join(
        [*head, *lines, "", f"Files took {share:.2f} % of a `standard` evaluation on digits (target: 1 %)."]
    )


def first_sentence(kind: str) -> str:
    """Return the card's first paragraph in one line."""
    return " ".join(inspect.cleandoc(methods()[kind].__doc__ or "").split("\n\n")[0].split("\nFormula")[0].split())


@cache
def cost_line(kind: str) -> str:
    """Return what a batch costs in passes of each network."""
    return "; ".join(f"{name} {cost}" for name, cost in passes(methods()[kind]()).items())


def mentions(recipe: str, kind: str) -> bool:
    """Whether a shipped recipe is of this method."""
    return f"method: {{kind: {kind}" in (recipe_folder() / f"{recipe}.yaml").read_text()


SPEEDRUN = """# Speedrun

The least total time, teacher and student, to a small robust student; as airbench is for clean accuracy. The clock is
the training's, validation included: CPU minutes on a CPU, wall minutes on a GPU; evaluation is not counted. A
record counts where the student's accuracy under `standard` on 1,000 class-balanced test images reaches the goal.

| data | threat | student | goal | device |
|---|---|---|---|---|
| CIFAR-10 | L-inf 8/255 | MobileNetV2 or smaller | 45 % | one CUDA GPU |
| MNIST | L-inf 0.3 | at least 10 times smaller than its teacher | 88 % | two cores |

    python -m benchmarks.speedrun cifar10 --runs 5
    python -m benchmarks.speedrun mnist --runs 5
    python -m benchmarks.speedrun mnist --runs 5 --alone     # a student without a teacher

Recipes: `recipes/*/speedrun-teacher.yaml`, `-student.yaml` and `-alone.yaml`. Mean ± half of the 95 % Student interval
over the n runs. This page is made from `benchmarks/results/speedrun.json` by `make docs`.

{table}

MNIST with a teacher: one of the student's convolutions with a wide hidden layer (4 epochs), a growing radius and a
growing number of steps, one cycle, an average of the weights, one validation, searches on a fused network. What
each is worth: [one left out at a time](results/study-speedrun.md), `make study NAME=speedrun`. No
difference of the teacher's making was seen there, so the record without one is the faster: the student alone, 4 epochs,
one cycle, and the two tricks that were seen to pay.
"""

RESULTS = """# Results

Tables are made from the files under `docs/results` by `make docs`; no figure in them is typed. Percent of the test
split. With several seeds: mean ± 95 % Student interval over seeds; with one: Wilson 95 % interval over images. The
papers' claims, one study each: [studies](results/index.md); the first two tables here are from there.

## MNIST, L-inf 0.3: one teacher, one student, every method

{methods}

## MNIST, L-inf 0.1: what is proved of students of one teacher

{faithful}

## Resuming

`python -m benchmarks.resume` trained `digits/at` once alone and once killed {kills} times with SIGKILL and resumed:
`model.safetensors` has the SHA-256 `{alone}` and `{resumed}`.

## Parity

`python -m benchmarks.parity RUN`: our `standard` suite and pyautoattack's, in one process and in turn. *given* are the
reference's survivors before the attack; *ours* and *theirs* are what each attack left of them; the last line of a
network is the verdict of each suite's own chain. Seconds are CPU seconds of one thread.

{parity}

## Bounds

`python -m benchmarks.bounds`, float32, one thread, CPU seconds: our bounds and the reference library's on the
reference networks; the difference of confidences of the reference pair (mean over 16 images of the larger absolute
bound), for which the reference states 19.5 s by CROWN at eps 0.02 on its machine; the same with ReLUs split, on layers
bounded by CROWN or alpha-CROWN; and steps of certified training (`ibp-alone`: kappa 0) against plain ones.

{bounds}

## Shipped files

`python -m benchmarks.roundtrips`: every family of ours and ten networks of timm, bodies of random weights and heads
fitted to the digits (32x32), as ONNX, as a `torch.export` program and in INT8 (min-max, 128 images). Random
bodies are harder on INT8 than trained ones; of the vision transformer it leaves nothing.

{roundtrips}

## Networks of timm that are bounded

`python -m benchmarks.families`: of every family of timm the network with the fewest parameters, of random weights, its
BatchNorms settled on random images. Bounds by intervals are finite for a tiny radius and hold for images of the region;
what refuses a network names the step.

{families}

## As a verifier

`python -m benchmarks.verifier`: queries of [VNN-COMP 2021](https://arxiv.org/abs/2109.00498) about networks of other
people, each decided as by `overproof certify --instances instances.csv --seconds 60` ([page](verifier.md)). Beside
it stand the public answers of the competition, found within 300 to 720 s a query on its own machines, alpha-beta-CROWN
with a GPU, their start-up included (5 to 7 s for some). So the numbers decided compare; seconds as they stand do not.
A tool with none took no part in that benchmark, or answered none of these queries.

{verifier}

What each part of the search is worth, on four queries of `cifar10_resnet` (`python -m benchmarks.search`): parts that
were bounded until the proof was finished, or within 60 s; one line leaves one part out.

{search}

`python -m benchmarks.soundness 100000`: random tiny networks with planted counter-examples, every bound against values
that are attained, a third of them exact minima: {soundness}.

## ONNX files of other people

`python -m benchmarks.published`: the classifiers of VNN-COMP 2021's benchmarks as they were published: four with a
batch fixed at 1, one of them flat, one by height, width and channels. Each is loaded (read, converted and compared
with onnxruntime), attacked as by `overproof evaluate FILE.onnx --data DATA --attacks quick --eps EPS --examples 100`,
and certified as by `overproof certify FILE.onnx --data DATA --eps EPS --examples 50 --seconds 5`. Behind `?` stands the
normalisation that a file wants. *open* are neither proved nor falsified in 5 seconds.

{published}

## How cost grows

`python -m benchmarks.slopes`: the slope of log time over log size of one PGD-10 ARD step, ResNet-20 in fp32 (for width
a convnet of two layers), one thread.

{slopes}

## Memory

`python -m benchmarks.footprint`: peak resident memory of APGD-CE on 250 images of CIFAR's size.

{footprint}

`python -m benchmarks.allocation`: CPU seconds where the process keeps what tensors give back, as training,
evaluation and certification do, beside those where the C library returns it to the system; each in fresh processes, in
turn, median of 5 [least, greatest].

{allocation}

## Speed

`make bench`: every claim as a ratio in one process, the two sides in turn; median [smallest, largest] of the pairs.
CPU time where there is one thread.

{speed}

## On a GPU

`python -m benchmarks.gpu`, batch 256, bf16, PGD-10 ARD; ratios as above, of time on the wall.

{gpu}
"""

INDEX_HEAD = """# Methods

One file each in `src/overproof/methods`; this page is made from their cards by `make docs`. Every method in its
`preset: paper` form is compared with the official code's numbers in `tests/reference` (adversarial examples, terms,
gradients, BatchNorm statistics, controllers' trajectories), except where its card says that no numbers were at hand.
"""

INDEX_TAIL = """
## Without our loop

A method is a value and a generator; any loop can drive it. Everything a step of plain PyTorch (or a Lightning
`training_step` with manual optimisation) needs:

```python
import torch
from overproof.data.images import Batch
from overproof.methods.method import Step
from overproof.methods.rslad import RSLAD


def fit(method, student, teachers, batches, optimiser, epochs):
    state = method.initial_state(Batch(*batches[0]))
    total = epochs * len(batches)
    for number in range(total):
        x, y = batches[number % len(batches)]
        step = Step(x=x, y=y, student=student, teachers=teachers, state=state, progress=number / max(1, total - 1))
        for terms in method.losses(step):
            loss = torch.stack(list(terms.values())).sum()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
```

Wrap any network as `overproof.models.classifier.Classifier(network, signature)`, freeze teachers with
`overproof.models.weights.freeze`, and put the student in train mode. A method with `auxiliary_models` wants them in
`Step(auxiliary_models=...)` and their parameters in the optimiser.

## Left out, and why

| method | reason |
|---|---|
| CIARD | its code differs from its text in weights and push term, reports no AutoAttack, and carries no licence |
| ABSLD | targets worst-class accuracy; its code shares one tensor between two scalings, so there is nothing to equal |
| MMARD, DARD, information-bottleneck | no code was available to prove equality with |
| ProARD, DARHT, TALD, SmaraAD, STARSHIP | neither code nor figures were found |
| IAD-II, AKD2 | a fixed mixture of two teachers and labels, weaker than what is here |
"""


def main() -> None:
    """Write every page, or check that each is as it would be written."""
    found = pages()
    stale = [path for path, text in found.items() if not path.is_file() or path.read_text() != text]
    if "--check" in sys.argv:
        sys.exit(f"out of date, run make docs: {', '.join(path.name for path in stale)}" if stale else 0)
    for path, text in found.items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)


if __name__ == "__main__":
    main()
