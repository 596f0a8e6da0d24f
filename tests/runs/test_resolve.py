"""Which network a source is: every kind of source through every command, as the table of the documentation says."""

import json
import re
import shutil
import sys
from hashlib import sha256
from pathlib import Path
from textwrap import dedent
from types import ModuleType

import huggingface_hub.constants
import pytest
import torch
from tests.commands.every_command import COMMANDS, SENTENCES, TABLE, Around
from tests.formats.fake_hub import FakeHub, serving
from torch import nn

from overproof.commands.certify import certify
from overproof.commands.check_teacher import check_teacher
from overproof.commands.evaluate import evaluate
from overproof.commands.export import export
from overproof.commands.import_teacher import import_teacher
from overproof.commands.train import train
from overproof.data.sources import Digits
from overproof.errors import InputError
from overproof.formats.hub import write_repository
from overproof.models.architectures.mlp import MLP
from overproof.models.external.module import External
from overproof.models.weights import build, save_model
from overproof.runs.initial import read_weights
from overproof.runs.resolve import find_network, resolve, results_folder
from overproof.signature import Signature

DIGITS = Signature(channels=1, height=8, width=8, classes=10)
NETS = """
    import torch
    from torch import nn

    def make(width=16):
        torch.manual_seed(3)
        return nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10))

    def student(num_classes, image_size, width=16):
        return nn.Sequential(
            nn.Flatten(), nn.Linear(image_size**2, width), nn.ReLU(), nn.Linear(width, num_classes)
        )

    def silent():
        return None
"""


def network():
    torch.manual_seed(5)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))


# --- the table of the documentation -----------------------------------------------------------------------------------


def test_the_table_is_whole():
    assert set(TABLE) == set(MAKERS)
    assert all(set(row) == set(COMMANDS) for row in TABLE.values())
    letters = {word for row in TABLE.values() for word in row.values()} - {"yes", "-"}
    assert letters == set(SENTENCES)


# --- a source of each kind --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def place(toy, tmp_path_factory):
    """A folder with everything that is named; it is the current one while the module is tested."""
    folder = tmp_path_factory.mktemp("sources")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        (folder / "resolve_nets.py").write_text(dedent(NETS))
        run = train(toy(), folder / "runs" / "toy", device="cpu")
        train(toy("student=resolve_nets:student"), folder / "runs" / "own", device="cpu")
        torch.save(build(MLP(hidden=(16,)), DIGITS).backbone.state_dict(), folder / "weights.pt")
        import_teacher("weights.pt", model="{kind: mlp, hidden: [16]}", data="digits", out=folder / "runs" / "imported")
        export(run, to="onnx", out=folder / "net.onnx")
        export(run, to="int8", out=folder / "net.int8.onnx", examples=64)
        export(run, to="torch", out=folder / "net.pt2")
        write_repository(run.folder, folder / "repository")
        stand_ins(patch)
        patch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(folder / "cache"))
        hub = FakeHub()
        hub.holds("org/toy", folder / "repository")
        with serving(hub) as address:
            patch.setenv("HF_ENDPOINT", address)
            yield folder
    sys.modules.pop("resolve_nets", None)


def stand_ins(patch):
    """Put packages in the place of timm and RobustBench that each know one network for digits."""

    def make(*_, **__):
        made = network()
        made.pretrained_cfg = {}
        return made

    timm, utilities = ModuleType("timm"), ModuleType("robustbench.utils")
    timm.create_model, utilities.load_model = make, make
    patch.setitem(sys.modules, "timm", timm)
    patch.setitem(sys.modules, "robustbench", ModuleType("robustbench"))
    patch.setitem(sys.modules, "robustbench.utils", utilities)


MAKERS = {
    "a network in memory": network,
    "a run folder": lambda: "runs/toy",
    "a run with a student of your own": lambda: "runs/own",
    "an imported teacher": lambda: "runs/imported",
    "weights of a run": lambda: "runs/toy/model.safetensors",
    "a repository of the Hub": lambda: "org/toy",
    "weights and their network": lambda: "weights.pt?model={kind: mlp, hidden: [16]}",
    "weights alone": lambda: "weights.pt",
    "an ONNX file": lambda: "net.onnx",
    "a quantised ONNX file": lambda: "net.int8.onnx",
    "a program": lambda: "net.pt2",
    "a factory": lambda: "resolve_nets:make?width=12",
    "a network of timm or torchvision": lambda: "timm:tiny",
    "a network of RobustBench": lambda: "robustbench:Some2023Name",
}


def student_for(source):
    """Return a student whose tensors have the names of a source's."""
    if source.startswith(("runs/toy", "runs/imported", "org/", "weights", "net.")):
        return "{kind: mlp, hidden: [16]}"
    return f"resolve_nets:student?width={12 if 'width=12' in source else 16}"


@pytest.mark.parametrize(
    ("row", "column"), [(row, column) for row, cells in TABLE.items() for column in cells if cells[column] != "-"]
)
def test_every_cell_of_the_table(row, column, place, toy, tmp_path):
    """What the table calls yes works to its end; what has a letter is refused with its sentence."""
    before = {path for path in (place / "cache").rglob("*") if path.is_file()}
    word, source = TABLE[row][column], MAKERS[row]()
    around = Around(toy, "digits", student_for)
    if word == "yes":
        COMMANDS[column](source, tmp_path / "out", around)
    else:
        with pytest.raises(InputError, match=re.escape(SENTENCES[word])) as caught:
            COMMANDS[column](source, tmp_path / "out", around)
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "out").exists()
    if before:
        assert {path for path in (place / "cache").rglob("*") if path.is_file()} == before


# --- what is known, and what cannot be used ---------------------------------------------------------------------------


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Go into an empty folder with a module of a user; it is forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "resolve_more.py").write_text(dedent(NETS))
    yield tmp_path
    for name in [name for name in sys.modules if name.startswith("resolve_")]:
        sys.modules.pop(name, None)


def refused(source, **options):
    with pytest.raises(InputError) as caught:
        resolve(source, DIGITS, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_is_known_of_a_run_its_recipe_says(finished):
    run = finished()
    recipe, known = run.recipe(), find_network(run).known
    assert (known.name, known.method, known.architecture) == ("toy", "natural", "mlp")
    assert (known.data, known.threat, known.seed, known.recipe) == (Digits(), recipe.threat, 0, recipe)
    assert (known.classes, known.digest) == (tuple("0123456789"), run.description()["digest"])
    assert (known.origin.kind, known.origin.run) == ("run", run)
    loaded = resolve(str(run.folder), DIGITS)
    assert loaded.known.recipe is None and loaded.digest == known.digest  # whoever asks for the network alone
    assert loaded.known.parameters == 64 * 16 + 16 + 16 * 10 + 10


def test_a_run_is_loaded_for_its_network_alone_whatever_its_recipe(finished, here):
    """A teacher of a later or an earlier version teaches, though its recipe cannot be read here."""
    shutil.copytree(finished().folder, here / "run")
    (here / "run" / "recipe.yaml").write_text("a: later version")
    assert torch.equal(resolve("run", DIGITS).model(X), finished().model()[0](X))


X = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(2))


def test_every_way_to_the_weights_of_a_run_is_the_same_network(finished, here):
    run = finished()
    expected = run.model()[0](X)
    for source in (run, run.folder, str(run.folder), run.folder / "model.safetensors"):
        assert torch.equal(resolve(source, DIGITS).model(X), expected)
    last = resolve(str(run.folder / "last.safetensors"), DIGITS)
    assert torch.equal(last.model(X), run.model("last")[0](X))
    assert last.known.origin.folder("evaluations").parts[0] == "evaluations"
    assert results_folder(str(run.folder / "model.safetensors"), None) == run.folder


def test_a_checkpoint_with_its_network(here):
    model = build(MLP(hidden=(16,)), DIGITS, mean=(0.5,), std=(0.25,)).eval()
    torch.save({"net": model.backbone.state_dict(), "epoch": 3}, "w.t7")
    word = "w.t7?model={kind: mlp, hidden: [16]}&mean=0.5&std=0.25"
    loaded = resolve(word, DIGITS)
    assert torch.equal(loaded.model(X), model(X))
    assert loaded.known.preprocessing.mean == (0.5,)
    digest = sha256(Path("w.t7").read_bytes()).hexdigest()
    assert resolve(f"{word}#sha256={digest}", DIGITS).digest == loaded.digest
    assert "this is another file: its SHA-256 is" in refused(f"{word}#sha256={'ab' * 32}")
    assert refused("w.t7?modle=vgg11") == "w.t7: it takes no 'modle' (did you mean 'model'?)"
    assert refused("w.t7?model=vgg111").startswith("w.t7: model: there is no network named 'vgg111'; the nearest")
    assert "write one number per channel" in refused(f"{word[:-4]}grey")
    assert refused("w.t7?model=vgg11").startswith("w.t7: it holds nothing of vgg11")
    assert refused("w.t7?model=timm:vgg11").startswith("w.t7: model timm:vgg11: a zoo's networks need no import")
    assert refused("absent.pt?model=vgg11") == "absent.pt: there is no such file"
    assert refused("absent.pt").startswith("absent.pt: a file of weights does not say of which network they are; write")


def test_a_program_is_read_where_its_user_trusts_it_and_what_lies_beside_it_is_known(finished, here):
    run, folder = finished(), here / "run"
    shutil.copytree(run.folder, folder)
    export(folder, to="torch")
    word = str(folder / "model.pt2")
    assert "reading a torch.export program can run any code that is in it; where you trust it, add --tr" in refused(
        word
    )
    loaded = find_network(word, trust_code=True)
    assert (loaded.known.classes, loaded.known.data, loaded.known.method) == (
        tuple("0123456789"),
        Digits(),
        "natural",
    )
    torch.testing.assert_close(loaded.load(DIGITS).model(X), run.model()[0](X))
    shutil.move(word, "alone.pt2")
    assert find_network("alone.pt2", trust_code=True).known.data is None
    digest = sha256(Path("alone.pt2").read_bytes()).hexdigest()
    resolve(f"alone.pt2#sha256={digest}", DIGITS, trust_code=True)
    assert "this is another network" in refused(f"alone.pt2#sha256={'ab' * 32}", trust_code=True)
    Path("broken.pt2").write_bytes(b"PK")
    assert refused("broken.pt2", trust_code=True).startswith("broken.pt2: torch cannot read this program")


def test_a_factory_is_called_with_the_options_behind_it(here):
    loaded = resolve("resolve_more:make?width=5", DIGITS)
    assert loaded.model.backbone[1].out_features == 5
    assert (loaded.known.name, loaded.known.method) == ("resolve_more:make?width=5", None)
    assert resolve("resolve_more:student", DIGITS).model.backbone[3].out_features == 10  # what it cannot do without
    assert refused("resolve_more:make?widht=5") == "resolve_more:make: it takes no 'widht' (did you mean 'width'?)"
    assert refused("timm:tiny?width=5").startswith("timm:tiny: options are for a factory of your own")
    assert refused("resolve_more:silent").startswith("resolve_more:silent: the factory returned None")
    assert refused("resolve_mre:make") == (
        f"resolve_mre:make: no module 'resolve_mre' in {here}, or installed (did you mean 'resolve_more'?)"
    )


def test_a_module_beside_a_recipe_is_found_and_its_absence_names_both_folders(here, tmp_path_factory):
    folder = tmp_path_factory.mktemp("beside")
    (folder / "resolve_beside.py").write_text(dedent(NETS))
    assert resolve("resolve_beside:make", DIGITS, beside=folder).known.parameters > 0
    assert f"no module 'resolve_gone' in {here} or in {folder}, or installed" in refused(
        "resolve_gone:make", beside=folder
    )


def test_the_hub_is_no_module(here):
    (here / "hub.py").write_text("raise SystemExit")
    for word in ("hub:make", "hub:", "hub:a/b/c"):
        assert refused(word) == f"{word}: a repository of the Hub is written hub:org/name or hub:org/name@revision"
        with pytest.raises(InputError, match=r"^init: hub:.*: a repository of the Hub is written"):
            read_weights(word, {}, DIGITS)
    assert "hub" not in sys.modules


@pytest.mark.parametrize("source", [3, None, b"runs/a", ["runs/a"]])
def test_what_is_no_source_is_one_sentence(source):
    assert refused(source).startswith("a network is an nn.Module, a Run, a run folder or a word such as package.")


# --- code that a file names -------------------------------------------------------------------------------------------


def own_run(folder, nets="resolve_more"):
    architecture = External(factory=f"{nets}:student")
    folder.mkdir(parents=True)
    facts = {"name": "own", "selected_on": "unknown", "parameters": 0}
    save_model(folder, build(architecture, DIGITS), architecture, tuple("0123456789"), facts=facts)


def commands_on(source):
    """Yield every command on a source, with and without trust."""
    for trusted in (False, True):
        given = {"data": "digits", "trust_code": trusted, "out": Path(f"out-{trusted}")}
        quick = {"attacks": ("fgsm",), "examples": 5, "reliability": False, "device": "cpu"}
        yield trusted, lambda given=given, quick=quick: evaluate(source, **quick, **given)
        yield trusted, lambda given=given: certify(source, bound="ibp", examples=5, device="cpu", **given)
        yield trusted, lambda given=given: check_teacher(source, examples=20, device="cpu", **given)
        yield trusted, lambda given=given: export(source, to="torch", **{**given, "out": given["out"] / "net.pt2"})
        yield trusted, lambda given=given: export(source, to="hub", **{**given, "out": given["out"] / "hub"})


def test_code_that_lies_elsewhere_is_run_with_trust_alone(here, tmp_path_factory, monkeypatch):
    own_run(here / "runs" / "own")
    for _, command in commands_on("runs/own"):
        command()  # its module lies in the current folder
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    shutil.move(here / "resolve_more.py", elsewhere)
    sys.modules.pop("resolve_more")
    monkeypatch.syspath_prepend(elsewhere)
    for number, (trusted, command) in enumerate(commands_on("runs/own")):
        for out in here.glob("out-*"):
            shutil.move(out, here / f"done-{number}-{out.name}")
        if trusted:
            command()
        else:
            with pytest.raises(InputError, match="a file may only name code that lies beside it or in the current"):
                command()
            assert "resolve_more" not in sys.modules


def test_a_repository_that_names_a_factory_runs_it_with_trust_alone(here, monkeypatch):
    own_run(here / "runs" / "own")
    write_repository(here / "runs" / "own", here / "repository")
    code = json.loads((here / "repository" / "config.json").read_text())["code"]
    assert set(code) == {"module", "sha256"}  # no folder of its maker
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(here / "cache"))
    sys.modules.pop("resolve_more")
    hub = FakeHub()
    hub.holds("org/own", here / "repository")
    with serving(hub) as address:
        monkeypatch.setenv("HF_ENDPOINT", address)
        for trusted, command in commands_on("org/own"):
            if trusted:
                command()
                continue
            with pytest.raises(InputError, match="code that is not part of the file; where you trust it and have it h"):
                command()
            assert "resolve_more" not in sys.modules


def test_a_module_that_changed_since_the_run_is_told_of(here):
    own_run(here / "runs" / "own")
    sys.modules.pop("resolve_more")
    (here / "resolve_more.py").write_text(dedent(NETS) + "\n# changed\n")
    with pytest.warns(UserWarning, match=r"resolve_more\.py has changed since this network was trained; its weights"):
        resolve("runs/own", DIGITS)


def test_nothing_is_written_into_the_cache_of_the_hub(finished, here, monkeypatch):
    """An export, an evaluation and a check of a repository go into the current folder, and say where."""
    write_repository(finished().folder, here / "repository")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(here / "cache"))
    hub = FakeHub()
    hub.holds("org/toy", here / "repository")
    with serving(hub) as address:
        monkeypatch.setenv("HF_ENDPOINT", address)
        find_network("org/toy")
        before = set((here / "cache").rglob("*"))
        assert export("org/toy", to="torch")["file"] == "exports/org-toy/model.pt2"
        evaluate("org/toy", attacks=("fgsm",), examples=5, reliability=False, device="cpu")
        check_teacher("org/toy", examples=20, device="cpu")
        assert set((here / "cache").rglob("*")) == before
    assert (here / "evaluations" / "org-toy" / "evaluation.json").is_file()
    assert (here / "evaluations" / "org-toy" / "teacher.json").is_file()


def test_a_teacher_that_code_elsewhere_makes_is_trusted_by_who_trains(here, toy, tmp_path_factory, monkeypatch):
    own_run(here / "runs" / "own")
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    shutil.move(here / "resolve_more.py", elsewhere)
    sys.modules.pop("resolve_more")
    monkeypatch.syspath_prepend(elsewhere)
    recipe = toy("method={kind: ard, inner: {steps: 1}}", "training.epochs=1", "teachers.robust=runs/own")
    with pytest.raises(InputError, match=r"^teacher 'robust': runs/own/model.json: .* add --trust-code$"):
        train(recipe, here / "student", device="cpu")
    assert "resolve_more" not in sys.modules and not (here / "student").exists()
    train(recipe, here / "student", device="cpu", trust_code=True)


class TestOptionsOfAnOnnxFile:
    @pytest.fixture
    def net(self, finished, here):
        return str(export(finished(), to="onnx", out=here / "net.onnx") and "net.onnx")

    def test_the_normalisation_is_inside_and_makes_another_network(self, net):
        plain, given = resolve(net, DIGITS), resolve(f"{net}?mean=0.3&std=0.5", DIGITS)
        x = torch.rand(3, 1, 8, 8)
        with torch.no_grad():
            torch.testing.assert_close(given.model(x), plain.model((x - 0.3) / 0.5))
        assert given.digest != plain.digest == plain.file.digest
        assert given.known.title == f"{net}?mean=0.3&std=0.5" and given.file.where == net
        assert plain.has_layers and plain.known.parameters == 1210

    def test_the_pin_is_the_files(self, net):
        digest = resolve(net, DIGITS).digest
        assert resolve(f"{net}?mean=0.3&std=0.5#sha256={digest}", DIGITS).file.digest == digest

    @pytest.mark.parametrize(
        ("options", "said"),
        [
            ("maen=0.3", "it takes no 'maen' (did you mean 'mean'?)"),
            ("mean=0.3", "mean and std need one number per channel"),
            ("mean=0.3,0.3&std=1,1", "mean and std need one number per channel"),
            ("mean=0.3&std=0", "std must be positive"),
            ("mean=x&std=1", "write one number per channel"),
            ("layout=flat", "there is no layout 'flat'"),
            ("layout=nhwc", "it takes images of 1x8x8 (NHWC), the data are 8x8x1"),
        ],
    )
    def test_options_that_do_not_fit(self, net, options, said):
        assert said in refused(f"{net}?{options}")
