import json
import os
import re
import shutil
import socket
from hashlib import sha256
from pathlib import Path

import huggingface_hub.constants
import pytest
import torch
from tests.formats.fake_hub import FakeHub, serving
from tests.formats.measured import measured_run

import overproof
from overproof.errors import InputError
from overproof.formats.hub import EVIDENCE, fetch, push, repository_id, write_repository
from overproof.runs.folder import Run, find_run, load
from overproof.runs.results import CERTIFICATE, EVALUATION

ALL = {"README.md", "certificate.json", "config.json", "evaluation.json", "model.safetensors", "recipe.yaml"}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return measured_run(tmp_path_factory.mktemp("runs") / "toy")


@pytest.fixture(scope="module")
def repository(run, tmp_path_factory):
    return write_repository(run, tmp_path_factory.mktemp("out") / "toy", licence="apache-2.0")


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """Return a Hub on this machine that is asked instead of the real one, with an empty cache."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    found = FakeHub()
    with serving(found) as address:
        monkeypatch.setenv("HF_ENDPOINT", address)
        found.address = address
        yield found


def refused(function, *arguments, **options):
    with pytest.raises(InputError) as caught:
        function(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def files(folder):
    return {file.name for file in folder.iterdir()}


# --- writing ----------------------------------------------------------------------------------------------------------


def test_a_repository_holds_the_network_its_card_its_recipe_and_its_evidence(run, repository):
    assert files(repository) == ALL
    for name in ("model.safetensors", "recipe.yaml", "evaluation.json", "certificate.json"):
        assert (repository / name).read_bytes() == (run / name).read_bytes()
    config = json.loads((repository / "config.json").read_text())
    assert config == {**Run(run).description(), "library_name": "overproof", "license": "apache-2.0"}
    assert config["digest"] == sha256((repository / "model.safetensors").read_bytes()).hexdigest()


def test_the_folder_is_loaded_as_the_run_is(run, repository):
    x = torch.rand(5, 1, 8, 8)
    assert torch.equal(overproof.load(repository)(x), load(run)(x))
    assert Run(repository).recipe() == Run(run).recipe()


def test_a_run_that_was_not_measured_is_published_and_says_so(run, tmp_path):
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("model.json", "model.safetensors"):
        shutil.copy(run / name, bare)
    found = write_repository(bare, tmp_path / "out")
    assert files(found) == {"README.md", "config.json", "model.safetensors"}
    assert "Nothing was measured" in (found / "README.md").read_text()


@pytest.mark.parametrize("damage", ["flip", "cut"])
def test_damaged_weights_are_not_published(damage, run, tmp_path):
    folder = shutil.copytree(run, tmp_path / "run")
    body = bytearray((folder / "model.safetensors").read_bytes())
    body[-1] ^= 1
    (folder / "model.safetensors").write_bytes(body if damage == "flip" else body[:-9])
    assert "damaged or exchanged" in refused(write_repository, folder, tmp_path / "out")
    assert files(tmp_path) == {"run"}


def test_evidence_about_another_network_is_not_published(run, tmp_path):
    folder = shutil.copytree(run, tmp_path / "run")
    found = json.loads((folder / "evaluation.json").read_text())
    (folder / "evaluation.json").write_text(json.dumps({**found, "model_digest": "0" * 64}))
    told = refused(write_repository, folder, tmp_path / "out")
    assert told.endswith(
        "evaluation.json: it is about another network than model.safetensors; measure it again, or remove it"
    )
    for old in ("{}", json.dumps({**found, "schema": 1})):
        (folder / "evaluation.json").write_text(old)
        assert "not evidence of this version of overproof" in refused(write_repository, folder, tmp_path / "out")
    (folder / "evaluation.json").write_text("{")
    assert "evaluation.json: not readable as JSON (" in refused(write_repository, folder, tmp_path / "out")
    assert files(tmp_path) == {"run"}


def test_a_folder_in_use_and_a_licence_that_is_none_are_refused(run, repository, tmp_path):
    assert refused(write_repository, run, repository) == f"{repository}: exists already; choose another --out"
    told = refused(write_repository, run, tmp_path / "out", licence="Apache License")
    assert told == "licence 'Apache License': write the Hub's id of it, such as apache-2.0, mit, other or unknown"
    assert files(tmp_path) == set()


def test_a_full_disk_leaves_no_folder(run, tmp_path, monkeypatch):
    before, written = Path.replace, []

    def full(self, target):
        written.append(target)
        if len(written) > 2:
            raise OSError(28, "No space left on device")
        return before(self, target)

    monkeypatch.setattr(Path, "replace", full)
    assert "No space left on device" in refused(write_repository, run, tmp_path / "out")
    assert len(written) == 3 and files(tmp_path) == set()


def test_an_empty_folder_will_do(run, tmp_path):
    (tmp_path / "out").mkdir()
    assert files(write_repository(run, tmp_path / "out")) == ALL
    assert files(tmp_path) == {"out"}


def test_the_schemas_are_those_that_are_written():
    assert {"evaluation.json": EVALUATION.schema, "certificate.json": CERTIFICATE.schema} == EVIDENCE


# --- which words ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "found"),
    [
        ("org/name", ("org/name", "")),
        ("hub:org/name", ("org/name", "")),
        ("org/name@v1.0", ("org/name", "v1.0")),
        ("hub:org/name@refs/pr/3", ("org/name", "refs/pr/3")),
        ("org-a/name_b.c", ("org-a/name_b.c", "")),
        ("runs/teacher", None),
        ("here/name", None),
        ("hub:here/name", ("here/name", "")),
        ("hub:runs/teacher", ("runs/teacher", "")),
        ("name", None),
        ("./org/name", None),
        ("../name", None),
        ("/org/name", None),
        ("a/b/c", None),
        ("org/", None),
        ("timm:org/name", None),
        ("hub:name", None),
    ],
)
def test_a_word_is_a_repository_only_where_it_cannot_be_a_path(word, found, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    assert repository_id(word) == found


def test_a_missing_run_is_never_looked_up_elsewhere(hub):
    assert refused(load, "runs/teacher") == "runs/teacher: no such run folder"
    assert hub.asked == []


# --- there and back ---------------------------------------------------------------------------------------------------


def test_what_is_pushed_is_loaded(run, repository, hub):
    assert push(repository, "me/toy", token="hf_secret") == f"{hub.address}/me/toy"
    assert hub.repositories["me/toy"] == {name: (repository / name).read_bytes() for name in ALL}
    assert sum(path.startswith("/api/models/me/toy/commit/") for _, path in hub.asked) == 1  # all files or none
    assert "Bearer hf_secret" in hub.tokens
    x = torch.rand(5, 1, 8, 8)
    assert torch.equal(overproof.load("me/toy")(x), load(run)(x))
    assert find_run("hub:me/toy@main").recipe() == Run(run).recipe()


def test_nothing_but_our_files_is_pushed_or_fetched(repository, hub, tmp_path):
    folder = shutil.copytree(repository, tmp_path / "folder")
    (folder / "diary.txt").write_text("private")
    push(folder, "me/toy", token="hf_secret")
    assert set(hub.repositories["me/toy"]) == ALL
    hub.repositories["me/toy"]["pytorch_model.bin"] = b"pickle"
    assert {file.name for file in fetch("me/toy").iterdir()} == ALL
    assert not any("pytorch_model.bin" in path for _, path in hub.asked)


def test_a_fetched_network_needs_no_hub_the_second_time(repository, hub, monkeypatch):
    hub.holds("org/toy", repository)
    first = fetch("org/toy")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert fetch("org/toy") == first


# --- a Hub that does not give ----------------------------------------------------------------------------------------


def test_without_a_token_nothing_is_asked(repository, hub, monkeypatch):
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", "/nowhere")
    told = refused(push, repository, "me/toy")
    assert told.startswith("me/toy: pushing needs a token; set HF_TOKEN or run: hf auth login (")
    assert hub.asked == []


@pytest.mark.parametrize("name", ["toy", "me/", "a/b/c", "me/toy two", "../toy"])
def test_a_name_that_is_no_repository_is_refused(name, repository, hub):
    assert refused(push, repository, name, token="x") == f"{name!r}: a repository of the Hub is written org/name"
    assert hub.asked == []


def test_a_run_folder_is_not_yet_a_repository(run, hub):
    told = f"{run}: not a Hub repository yet; write one with export --to hub first"
    assert refused(push, run, "me/toy", token="x") == told
    assert hub.asked == []


def test_a_push_that_is_refused_leaves_both_sides_as_they_were(repository, hub):
    before = {name: (repository / name).read_bytes() for name in ALL}
    hub.refuse = {"/api/models/me/toy/commit": 400}
    told = refused(push, repository, "me/toy", token="hf_secret")
    assert told == (
        f"me/toy: the Hub at {hub.address} refuses (HTTP status 400; nothing was pushed, {repository} is written)"
    )
    assert hub.repositories["me/toy"] == {}
    assert {name: (repository / name).read_bytes() for name in ALL} == before


@pytest.mark.parametrize(
    ("word", "refuse", "told"),
    [
        ("org/none", {}, "org/none: no such repository at {hub}, or it is private and needs: hf auth login"),
        ("org/toy@v9", {}, "org/toy: the Hub has the repository, but not this revision"),
        ("org/toy", {"/api/": 403}, "org/toy: its owners grant access on request; ask at {hub}/org/toy"),
        ("org/toy", {"/api/": 401}, "org/toy: "),
    ],
    ids=["unknown", "revision", "gated", "login"],
)
def test_what_the_hub_refuses_is_one_sentence(word, refuse, told, repository, hub):
    hub.holds("org/toy", repository)
    hub.refuse = refuse
    assert re.match(re.escape(told.format(hub=hub.address)), refused(load, word))


def test_a_hub_out_of_reach_is_said_and_nothing_is_left(repository, hub, monkeypatch, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
    monkeypatch.setenv("HF_ENDPOINT", address)
    told = refused(load, "org/toy")
    assert told == (
        f"org/toy: the Hub at {address} cannot be reached and the repository is not in the cache; check the "
        "connection, or name a folder (nothing was fetched)"
    )
    told = refused(push, repository, "me/toy", token="x")
    assert told.startswith(f"me/toy: the Hub at {address} cannot be reached (")
    assert not [file for _, _, names in os.walk(tmp_path / "cache") for file in names if file.endswith(".safetensors")]


def test_a_download_that_breaks_off_is_not_loaded(repository, hub):
    hub.holds("org/toy", repository)
    hub.cut = True
    assert refused(load, "org/toy").startswith("org/toy: ")
    hub.cut = False
    assert load("org/toy")


@pytest.mark.parametrize("damage", ["flip", "cut", "other"])
def test_weights_that_are_not_the_described_ones_are_not_loaded(damage, repository, hub):
    hub.holds("org/toy", repository)
    body = bytearray(hub.repositories["org/toy"]["model.safetensors"])
    body[-1] ^= 1
    hub.repositories["org/toy"]["model.safetensors"] = {"flip": bytes(body), "cut": bytes(body[:-9]), "other": b"x"}[
        damage
    ]
    assert refused(load, "org/toy").endswith("damaged or exchanged; its digest is not the one in config.json")


def test_a_repository_of_another_library_is_called_one(hub):
    hub.repositories["org/bert"] = {"config.json": b'{"model_type": "bert"}', "model.safetensors": b"x"}
    assert "not a model description of overproof" in refused(load, "org/bert")
    hub.repositories["org/empty"] = {"README.md": b"x"}
    assert "no model.json here, so this is not a finished run" in refused(load, "org/empty")
