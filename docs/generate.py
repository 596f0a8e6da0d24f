"""Write the pages that are made from code and results; ``--check`` fails where a page is out of date."""

import inspect
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from reference_pages import files_page, recipe_page

from overproof.evaluation.evidence import Evidence, Spread
from overproof.methods.catalogue import methods
from overproof.recipe import plain
from overproof.shipped import recipe_folder, recipe_names
from overproof.training.cost import passes

DOCS = Path(__file__).parent
sys.path.insert(0, str(DOCS.parent))  # the studies lie beside the package, and this file is run as a script

from studies.page import pages as study_pages  # noqa: E402


def pages() -> dict[Path, str]:
    """Return every generated page's text by its path."""
    return {
        DOCS / "methods" / "index.md": index_page(),
        DOCS / "results.md": results_page(),
        DOCS / "speedrun.md": speedrun_page(),
        DOCS / "reference" / "recipe.md": recipe_page(),
        DOCS / "reference" / "files.md": files_page(),
        **study_pages(),
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
    runs = json.loads((DOCS / "results" / "mnist.json").read_text())
    footing = {(run["data"]["digest"], str(run["threat"])) for run in runs}
    assert len(footing) == 1, "figures on different images or threats do not belong in one table"
    # Students of different teachers are not seeds of one another.
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for run in runs:
        name = re.sub(r"-\d+$", "", run["run"]).removeprefix("mnist-")
        own = [run["model_digest"]] if name.endswith("teacher") else []
        teachers = " ".join(digest[:8] for digest in [*own, *run["teachers"].values()])
        groups.setdefault((name, teachers), []).append(run)
    names = dict.fromkeys(name for name, _ in groups)
    rows = [result_row(name, teachers, group) for (name, teachers), group in sorted(groups.items())]
    attacks = list(runs[0]["attacks"])
    head = [
        "network",
        "method",
        "teacher",
        "parameters",
        "seeds",
        "clean",
        *attacks,
        "worst",
        "processor minutes",
        "student forward batches",
    ]
    table = "\n".join("| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *rows))
    machines = ", ".join(sorted({f"{run['hardware']}, {run['precision']}" for run in runs}))
    versions = ", ".join(sorted({f"torch {run['versions']['torch']}" for run in runs}))
    resumed = json.loads((DOCS / "results" / "resume.json").read_text())
    sizes = sorted({run["parameters"] for run in runs})
    return RESULTS.format(
        table=table,
        machines=machines,
        versions=versions,
        times=sizes[-1] / sizes[0],
        students=" ".join(name for name in names if not name.endswith("teacher")),
        kills=resumed["kills"],
        alone=resumed["model.safetensors"]["alone"][:16],
        resumed=resumed["model.safetensors"]["killed and resumed"][:16],
        speed="\n\n".join(
            speed_table(file)
            for file in sorted((DOCS.parent / "benchmarks" / "results").glob("*threads-of-*.json"))
            if not file.name.startswith("gpu-")
        ),
        faithful=faithful_table(DOCS.parent / "docs" / "results" / "faithful.json"),
        bounds=bounds_tables(DOCS.parent / "benchmarks" / "results" / "bounds.json"),
        footprint=footprint_table(DOCS.parent / "benchmarks" / "results" / "footprint.json"),
        parity=parity_table(sorted((DOCS.parent / "benchmarks" / "results").glob("parity-*.json"))),
    )


def faithful_table(file: Path) -> str:
    """Return what was attacked and proved of one teacher's students: a mean over seeds and its interval each."""
    head = ["method", "seeds", "clean", "standard", "certified", "gap attacked", "gap proven", "bounds apart"]
    head += ["agreement proven", "not refuted", "processor minutes"]
    groups: dict[str, list[dict[str, Any]]] = {}
    for run in json.loads(file.read_text()):
        groups.setdefault(re.sub(r"-\d+$", "", run["run"]).removeprefix("mnist-"), []).append(run)
    rows = []
    for name, runs in groups.items():

        def cell(of: Callable[[dict[str, Any]], float], runs: list[dict[str, Any]] = runs) -> str:
            return str(Spread.of([of(run) for run in runs])) if len(runs) > 1 else f"{100 * of(runs[0]):.1f}"

        beside = [
            cell(lambda run, part=part, side=side: run["certificate"]["teacher"][part][side])
            if runs[0]["certificate"]["teacher"]
            else ""
            for part, side in (
                ("gap", "attacked"),
                ("gap", "proven"),
                ("gap", "separate"),
                ("agreement", "proven"),
                ("agreement", "standing"),
            )
        ]
        minutes = sum(run["training_processor_seconds"] for run in runs) / len(runs) / 60
        rows.append(
            [
                name,
                str(len(runs)),
                cell(lambda run: run["clean"]["share"]),
                cell(lambda run: run["worst"]["share"]),
                cell(lambda run: run["certificate"]["verified"]["share"]),
                *beside,
                f"{minutes:.1f}",
            ]
        )
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *rows))


def speed_table(file: Path) -> str:
    """Return the measured claims of one machine."""
    suites = json.loads(file.read_text()).values()
    rows = [
        f"| {claim['name']} | {claim['measured']['median']:.2f} [{claim['measured']['low']:.2f}, "
        f"{claim['measured']['high']:.2f}] | {claim['target']} | {'yes' if claim['holds'] else '**no**'} |"
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
        place = (run["data"], run["hardware"], f"torch {run['versions']['torch']}", run["commit"])
        groups.setdefault(place, []).append(run)
    lines = ["| data | n | minutes | clean | `standard` | seeds | hardware | versions | commit |", "|" + "---|" * 9]
    for (data, machine, torch, commit), runs in groups.items():
        minutes = Spread.of([run["minutes"] for run in runs])
        width = f" ± {minutes.half_width:.2f}" if minutes.seeds > 1 else ""
        clean, robust = (Spread.of([run[key]["share"] for run in runs]) for key in ("clean", "standard"))
        seeds = ", ".join(str(run["seed"]) for run in runs)
        figures = [data, str(len(runs)), f"{minutes.mean:.2f}{width}", str(clean), str(robust)]
        lines.append("| " + " | ".join([*figures, seeds, machine, torch, commit]) + " |")
    return SPEEDRUN.format(table="\n".join(lines) if groups else "**Not run yet.**")


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


def result_row(name: str, teachers: str, runs: list[dict[str, Any]]) -> list[str]:
    """Return one method's line: mean and 95 % Student interval over seeds, or the Wilson interval of a single run."""

    def cell(of: Callable[[dict[str, Any]], dict[str, Any]]) -> str:
        if len(runs) == 1:
            found = of(runs[0])
            return str(Evidence(claim="", passed=found["passed"], of=found["of"]))
        return str(Spread.of([of(run)["share"] for run in runs]))

    minutes = sum(run["training_processor_seconds"] for run in runs) / len(runs) / 60
    passes = sum(run["student_passes"] for run in runs) / len(runs)
    return [
        name,
        f"`{runs[0]['method']}`",
        teachers,
        f"{runs[0]['parameters']:,}",
        str(len(runs)),
        cell(lambda run: run["clean"]),
        *(cell(lambda run, attack=attack: run["attacks"][attack]) for attack in runs[0]["attacks"]),
        cell(lambda run: run["worst"]),
        f"{minutes:.1f}",
        f"{passes:,.0f}",
    ]


def first_sentence(kind: str) -> str:
    """Return the card's first paragraph in one line."""
    return " ".join(inspect.cleandoc(methods()[kind].__doc__ or "").split("\n\n")[0].split("\nFormula")[0].split())


def cost_line(kind: str) -> str:
    """Return what a batch costs in passes of each network."""
    return "; ".join(f"{name} {cost}" for name, cost in passes(methods()[kind]()).items())


def mentions(recipe: str, kind: str) -> bool:
    """Whether a shipped recipe is of this method."""
    return f"method: {{kind: {kind}" in (recipe_folder() / f"{recipe}.yaml").read_text()


SPEEDRUN = """# Speedrun

The least total time, teacher and student, to a small robust student; as airbench is for clean accuracy. The clock is
the training's, validation included: processor minutes on a CPU, wall minutes on a GPU; evaluation is not counted. A
record counts where the student's accuracy under `standard` on 1,000 class-balanced test images reaches the goal.

| data | threat | student | goal | device |
|---|---|---|---|---|
| CIFAR-10 | L-inf 8/255 | MobileNetV2 or smaller | 45 % | one CUDA GPU |
| MNIST | L-inf 0.3 | at least 10 times smaller than its teacher | 88 % | two cores |

    python -m benchmarks.speedrun cifar10 --runs 5
    python -m benchmarks.speedrun mnist --runs 5

Recipes: `recipes/*/speedrun-teacher.yaml`, `recipes/*/speedrun-student.yaml`. Mean ± half of the 95 % Student interval
over the n runs. This page is made from `benchmarks/results/speedrun.json` by `make docs`.

{table}

The MNIST record: a teacher of the student's convolutions with a wide hidden layer (4 epochs), a growing radius and a
growing number of steps, one cycle, an average of the weights, one validation, searches on a network held still. What
each is worth alone was not measured.
"""

RESULTS = """# Results

Tables are made from the files under `docs/results` by `make docs`; no figure in them is typed. Percent of the test
split. With several seeds: mean ± 95 % Student interval over seeds; with one: Wilson 95 % interval over images. The
papers' claims, one study each: [studies](results/index.md).

## MNIST, L-inf 0.3: one teacher, one student, several ways to teach it

Teacher: convnet 32-64-256, 15 epochs. Student: convnet 8-16-64, {times:.1f} times fewer parameters. All students: 8
epochs, AdamW, one cycle, searches of 7 steps with a growing radius over the first half; the best epoch by PGD-10 on
held-out training images. Attacks: FGSM; PGD-20 with 3 random restarts. These are first-order attacks on cross-entropy:
an upper estimate of robustness. Students of different teachers (first digits of the SHA-256 of its weights) stand on
lines of their own: f0e11443 is the recipe of f5ecf7c4 on a slower processor without bf16. Minutes are processor time of
training on one thread, validation included, whatever else the machine did. Forward batches count the student alone.

{table}

Hardware: {machines}; {versions}.

Commands, with `OVERPROOF_DATA` at the folder that holds `mnist`:

    overproof train mnist/teacher && overproof evaluate runs/mnist-teacher
    for seed in 0 1 2; do for m in {students}; do
      overproof train mnist/$m --set seed=$seed --set name=mnist-$m-$seed && overproof evaluate runs/mnist-$m-$seed
    done; done
    python docs/collect.py docs/results/mnist.json runs/mnist-* && make docs

## MNIST, L-inf 0.1: what is proved of students of one teacher

Teacher: convnet 16-32-100, 20 epochs of `ibp`. Students: convnet 4-8-50, 8.0 times fewer parameters, 20 epochs each;
`ard` and `rslad` with 7 steps of search and a radius that grows over the first half (without it ARD's loss stayed
where it was for five epochs, and that run was stopped), `kd` on clean images, `faithful` with bounds by interval
arithmetic, and `faithful- attacked` with nine tenths of its gap found by a search of 3 steps. 500 test images,
balanced by class. *Standard*: correct under the `standard` suite. *Certified*: by the cascade, at most 1 s of
splitting per image. *Gap*: how far the student's confidence in the label can be from the teacher's within the ball,
mean over the images that the teacher gets right, in hundredths; *attacked* is found, *proven* is an upper bound
(*bounds apart*: without the bounds of the pair). *Agreement*: the same class all over the ball. Mean ± 95 % Student
interval over seeds.

{faithful}

Reading, of one seed (the others, and RSLAD's figures, are to come): splitting and the bounds of the pair tighten
ARD's gap far more than faithful's, so that little is left between the two. Faithful's proven gap is nearly attained
by attack: it is the student that is less sure, not the bound that is loose. The aim, half of ARD's proven gap, is not
met here.

Commands:

    overproof train mnist/ibp-0.1 && overproof certify runs/mnist-ibp-0.1 --examples 500
    overproof evaluate runs/mnist-ibp-0.1 --attacks standard --examples 500
    for seed in 0 1 2; do for m in kd ard rslad faithful; do
      overproof train mnist/$m-0.1 --set seed=$seed --set name=mnist-$m-0.1-$seed
      overproof certify runs/mnist-$m-0.1-$seed --teacher runs/mnist-ibp-0.1 --examples 500
      overproof evaluate runs/mnist-$m-0.1-$seed --attacks standard --examples 500
    done; done
    python docs/collect.py docs/results/faithful.json runs/mnist-*-0.1 runs/mnist-*-0.1-* && make docs

## Resuming

`python -m benchmarks.resume` trained `digits/at` once alone and once killed {kills} times with SIGKILL and resumed:
`model.safetensors` has the SHA-256 `{alone}` and `{resumed}`.

## Parity

`python -m benchmarks.parity RUN`: our `standard` suite and pyautoattack's, in one process and in turn. *given* are the
reference's survivors before the attack; *ours* and *theirs* are what each attack left of them; the last line of a
network is the verdict of each suite's own chain. Seconds are processor seconds of one thread.

{parity}

## Bounds

`python -m benchmarks.bounds`, float32, one thread, processor seconds: our bounds and the reference library's on the
reference networks; the difference of confidences of the reference pair (mean over 16 images of the larger absolute
bound), for which the reference states 19.5 s by CROWN at eps 0.02 on its machine; the same with ReLUs split, on layers
bounded by CROWN or alpha-CROWN; and steps of certified training (`ibp-alone`: kappa 0) against plain ones.

{bounds}

## Memory

`python -m benchmarks.footprint`: peak resident memory of APGD-CE on 250 images of CIFAR's size.

{footprint}

## Speed

`make bench`: every claim as a ratio in one process, the two sides in turn; median [smallest, largest] of the pairs.
Processor time where there is one thread.

{speed}
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
`overproof.models.weights.freeze`, and put the student in train mode. A method with `companions` wants them in
`Step(companions=...)` and their parameters in the optimiser.

## Left out, and why

| method | reason |
|---|---|
| CIARD | its code differs from its text in weights and push term, reports no AutoAttack, and carries no licence |
| ABSLD | targets worst-class accuracy; its code shares one tensor between two scalings, so there is nothing to equal |
| DGAD, MMARD, DARD, information-bottleneck | no code was at hand to prove equality with |
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
