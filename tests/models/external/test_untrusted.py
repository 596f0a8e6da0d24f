import argparse
import gzip
import io
import os
import re
import struct
import tarfile
import warnings
import zipfile
from collections import OrderedDict
from hashlib import sha256

import pytest
import torch
from safetensors.torch import save_file
from tests.models.external.checkpoints import Canary, module_in_place, opcodes, safetensors_cut, saved, with_code
from torch import nn

from overproof import archives
from overproof.errors import InputError
from overproof.models.external.untrusted import read_config_beside, read_untrusted, tensor_maps


def refuses(file, start, **options):
    with pytest.raises(InputError, match=f"^{re.escape(f'{file}: {start}')}") as caught:
        read_untrusted(file, **options)
    assert "\n" not in str(caught.value) and "\x1b" not in str(caught.value)
    return str(caught.value)


# --- what can be read -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("zipped", [True, False], ids=["new", "before-1.6"])
def test_tensors_are_read_from_both_forms_of_pytorch_files(zipped, tmp_path):
    body = {"net": OrderedDict(a=torch.arange(3.0)), "epoch": 7, "deep": {"er": {"b": torch.ones(2)}}}
    found = read_untrusted(saved(body, tmp_path / "x.pt", _use_new_zipfile_serialization=zipped))
    assert torch.equal(found["net"]["a"], torch.arange(3.0))
    assert found["epoch"] == 7
    maps = dict(tensor_maps(found))
    assert set(maps) == {"net", "deep.er"}
    assert torch.equal(maps["deep.er"]["b"], torch.ones(2))


def test_safetensors_are_recognised_whatever_their_name(tmp_path):
    save_file({"a": torch.arange(3.0)}, tmp_path / "x.pt")
    assert torch.equal(dict(tensor_maps(read_untrusted(tmp_path / "x.pt")))[""]["a"], torch.arange(3.0))


def test_a_digest_is_checked_before_anything_is_parsed(tmp_path):
    file = saved({"a": torch.ones(1)}, tmp_path / "x.pt")
    digest = sha256(file.read_bytes()).hexdigest()
    assert read_untrusted(file, digest=digest.upper())
    refuses(file, f"this is another file: its SHA-256 is {digest}, expected {'0' * 64}", digest="0" * 64)
    file.write_bytes(b"<html>")
    refuses(file, "this is another file", digest=digest)


# --- records beside the weights ---------------------------------------------------------------------------------------


def test_known_records_are_read_without_their_classes(tmp_path):
    file = saved({"w": torch.ones(1), "args": argparse.Namespace(lr=0.1)}, tmp_path / "x.pt")
    assert not isinstance(read_untrusted(file)["args"], argparse.Namespace)


def test_a_known_records_name_gives_a_payload_no_power(tmp_path):
    """The same trick through an allowed name: ``builtins.iter`` is never called, and its result is of no class."""
    file = saved({"w": torch.ones(1), "trick": Canary(iter, [1, 2])}, tmp_path / "x.pt")
    assert "REDUCE" in opcodes(file)
    trick = read_untrusted(file)["trick"]
    assert not hasattr(trick, "__next__") and not hasattr(trick, "__iter__")


def test_reading_leaves_torchs_list_of_safe_names_as_it_was(tmp_path):
    before = set(torch.serialization.get_safe_globals())
    read_untrusted(saved({"w": torch.ones(1)}, tmp_path / "x.pt"))
    with pytest.raises(InputError):
        read_untrusted(with_code(tmp_path / "y.pt", tmp_path / "canary"))
    assert set(torch.serialization.get_safe_globals()) == before


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("zipped", [True, False], ids=["new", "before-1.6"])
def test_a_pickle_with_code_is_refused_and_nothing_runs(zipped, tmp_path):
    canary = tmp_path / "canary"
    file = with_code(tmp_path / "teacher.pt", canary, zipped=zipped)
    told = refuses(file, "refused, and nothing of it was run: it holds more than tensors (exec)")
    assert told.endswith("save the tensors alone: torch.save(network.state_dict(), 'weights.pt')")
    assert not canary.exists()
    torch.load(file, weights_only=False)
    assert canary.exists()  # the canary sings where pickles are trusted


@pytest.mark.parametrize(
    ("call", "arguments"),
    [(os.system, ("true",)), (eval, ("1",)), (getattr, (1, "real")), (__import__, ("os",))],
    ids=["system", "eval", "getattr", "import"],
)
def test_other_calls_are_refused_as_well(call, arguments, tmp_path):
    file = saved({"w": torch.ones(1), "hook": Canary(call, *arguments)}, tmp_path / "x.pt")
    assert call.__name__ in refuses(file, "refused, and nothing of it was run: it holds more than tensors (")


def test_a_whole_network_is_refused_with_its_class(tmp_path):
    with module_in_place("models.wideresnet") as module:
        net = type("WideResNet", (nn.Linear,), {"__module__": "models.wideresnet"})
        module.WideResNet = net
        file = saved(net(2, 2), tmp_path / "x.pt")
    refuses(file, "refused, and nothing of it was run: it holds more than tensors (models.wideresnet.WideResNet)")


@pytest.mark.parametrize(
    ("body", "start"),
    [
        (b"", "this is an empty file; the download failed"),
        (b"<!DOCTYPE html><html>Google Drive can't scan", "this is a web page, not a network"),
        (b"\n  <html>404", "this is a web page, not a network"),
        (b"\xef\xbb\xbf<?xml version", "this is a web page, not a network"),
        (b'{"error": "not found"}', "this is a JSON text, not a network"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "this is a Git LFS pointer instead of the file"),
        (gzip.compress(b"x"), "this is a gzip archive; unpack it first"),
        (b"\x93NUMPY\x01\x00", "this is a NumPy array"),
        (b"Not found", "not a PyTorch or safetensors file"),
        (b"\x80\x02", "not a PyTorch or safetensors file, or cut off"),
    ],
    ids=["empty", "page", "page-after-blanks", "xml", "json", "lfs", "gzip", "numpy", "text", "two-bytes"],
)
def test_what_is_no_checkpoint_is_called_by_its_name(body, start, tmp_path):
    file = tmp_path / "teacher.pt"
    file.write_bytes(body)
    refuses(file, start)


def test_a_tar_archive_is_called_one(tmp_path):
    file, body = tmp_path / "x.pth.tar", b"weights"
    with tarfile.open(file, "w", format=tarfile.USTAR_FORMAT) as archive:
        member = tarfile.TarInfo("x.pt")
        member.size = len(body)
        archive.addfile(member, io.BytesIO(body))
    refuses(file, "this is a tar archive; unpack it first")


@pytest.mark.parametrize("zipped", [True, False], ids=["new", "before-1.6"])
@pytest.mark.parametrize("share", [0.03, 0.5, 0.99])
def test_a_file_that_was_cut_off_is_called_so(zipped, share, tmp_path):
    file = saved({"a": torch.rand(1000)}, tmp_path / "x.pt", _use_new_zipfile_serialization=zipped)
    body = file.read_bytes()
    file.write_bytes(body[: int(share * len(body))])
    assert "cut off" in refuses(file, "")


def test_safetensors_that_were_cut_off_are_called_so(tmp_path):
    refuses(safetensors_cut(tmp_path / "x.safetensors"), "damaged or cut off; not a whole safetensors file")


def test_a_program_is_not_weights(tmp_path):
    file = tmp_path / "x.pt"
    with warnings.catch_warnings(action="ignore"):  # newer versions call it deprecated
        torch.jit.save(torch.jit.script(nn.Linear(2, 2)), file)
    refuses(file, "this is a TorchScript program, not weights")


def test_a_lone_tensor_and_a_missing_file(tmp_path):
    refuses(saved(torch.ones(2), tmp_path / "x.pt"), "it holds an object of type Tensor, not weights by their names")
    refuses(tmp_path / "nowhere.pt", "there is no such file")


def test_the_description_beside_a_file(tmp_path):
    assert read_config_beside(tmp_path / "model.safetensors") == {}
    (tmp_path / "config.json").write_text("[1]")
    assert read_config_beside(tmp_path / "model.safetensors") == {}
    (tmp_path / "config.json").write_text('{"a": 1}')
    assert read_config_beside(tmp_path / "model.safetensors") == {"a": 1}
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(InputError, match=r"config\.json: not readable as JSON \("):
        read_config_beside(tmp_path / "model.safetensors")
    for body in (b"[" * 100_000, b"1" * 5000, b"\xff"):
        (tmp_path / "config.json").write_bytes(body)
        with pytest.raises(InputError, match=r"config\.json: not "):
            read_config_beside(tmp_path / "model.safetensors")
    (tmp_path / "config.json").unlink()
    os.mkfifo(tmp_path / "config.json")
    assert read_config_beside(tmp_path / "model.safetensors") == {}


# --- what would take more than its size -------------------------------------------------------------------------------


def with_record(file, name, change):
    """Write a checkpoint of one tensor of 1,000 numbers in which ``change`` was made to the bytes of a record."""
    saved({"w": torch.ones(1000)}, file)
    with zipfile.ZipFile(file) as archive:
        parts = {each: archive.read(each) for each in archive.namelist()}
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for each, body in parts.items():
            archive.writestr(each, change(body) if each.endswith(name) else body)
    return file


def test_a_checkpoint_that_was_packed_again_is_read(tmp_path):
    assert torch.equal(read_untrusted(with_record(tmp_path / "x.pt", "pkl", bytes))["w"], torch.ones(1000))


def test_a_file_that_inflates_is_refused_before_it_does(tmp_path, monkeypatch):
    file = with_record(tmp_path / "x.pt", "data.pkl", lambda body: body + bytes(200_000))
    monkeypatch.setattr(archives, "_ALWAYS", 0)
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("it was read"))
    refuses(file, f"its {file.stat().st_size:,} bytes would unpack to 204,")


def test_a_tensor_that_claims_more_numbers_than_its_record_is_refused(tmp_path):
    file = with_record(tmp_path / "x.pt", "data.pkl", lambda body: body.replace(b"M\xe8\x03", b"M\xff\xff"))
    refuses(file, "")
    short = with_record(tmp_path / "y.pt", "data/0", lambda body: body[:40])
    refuses(short, "")


def test_a_view_of_a_number_is_not_many(tmp_path):
    file = saved({"w": torch.ones(1).expand(10**12)}, tmp_path / "x.pt")
    refuses(file, f"its {file.stat().st_size:,} bytes would unpack to 4,000,000,000,000")


def test_a_record_that_contains_itself_is_refused(tmp_path):
    tree = {"w": torch.ones(1)}
    tree["again"] = tree
    refuses(saved(tree, tmp_path / "x.pt"), "its records contain each other")


def test_a_record_that_is_reached_on_exponentially_many_ways_is_refused(tmp_path):
    tree = {"w": torch.ones(1)}
    for _ in range(50):
        tree = {"a": tree, "b": tree}
    refuses(saved(tree, tmp_path / "x.pt"), "its records contain each other")


def test_a_list_that_contains_itself_is_refused(tmp_path):
    for before in ([], [{"w": torch.ones(1)}]):  # alone in itself, and beside weights
        tree = [*before]
        tree.append(tree)
        refuses(saved({"state_dict": tree}, tmp_path / "x.pt"), "its records contain each other")


@pytest.mark.parametrize("wrap", [list, tuple])
def test_lists_and_tuples_are_looked_into(wrap, tmp_path):
    weights = {"w": torch.ones(1)}
    for tree, places in (
        ({"state_dict": wrap([weights]), "order": wrap(range(9))}, {"state_dict"}),
        ({"nets": wrap([weights, 3, weights])}, {"nets.0", "nets.2"}),
        (wrap([weights]), {""}),
        (wrap([3, wrap([weights])]), {"1"}),
        (wrap([torch.ones(1)]), set()),
    ):
        assert set(dict(tensor_maps(read_untrusted(saved(tree, tmp_path / "x.pt"))))) == places


def test_a_tensor_in_a_list_that_claims_more_numbers_than_its_record_is_refused(tmp_path):
    file = saved([{"w": torch.ones(1).expand(10**12)}], tmp_path / "x.pt")
    refuses(file, f"its {file.stat().st_size:,} bytes would unpack to 4,000,000,000,000")


def test_the_same_weights_under_two_names_are_read(tmp_path):
    weights = {"w": torch.ones(1)}
    found = read_untrusted(saved({"model": weights, "best": weights}, tmp_path / "x.pt"))
    assert set(dict(tensor_maps(found))) == {"model", "best"}


def test_a_name_of_a_megabyte_is_refused(tmp_path):
    refuses(saved({"." * 10**6: torch.ones(1)}, tmp_path / "x.pt"), "a name in it has more than 1000 characters")


def test_only_dense_tensors_on_the_cpu_count(tmp_path):
    body = {
        "w": torch.ones(2),
        "s": torch.ones(2).to_sparse(),
        "m": torch.ones(2, device="meta"),
        "c": 1j * torch.ones(2),
    }
    found = read_untrusted(saved(body, tmp_path / "x.pt"))
    assert [set(tensors) for _, tensors in tensor_maps(found)] == [{"w"}]


def test_a_key_that_is_a_huge_number_is_one_sentence(tmp_path):
    refuses(saved({10**5000: {"w": torch.ones(1)}}, tmp_path / "x.pt"), "not a PyTorch or safetensors file")


def test_numbers_of_a_type_that_torch_lacks_are_one_sentence(tmp_path):
    header = b'{"w":{"dtype":"F99","shape":[2],"data_offsets":[0,8]}}'
    file = tmp_path / "x.safetensors"
    file.write_bytes(struct.pack("<Q", len(header)) + header + bytes(8))
    refuses(file, "damaged or cut off; not a whole safetensors file")


@pytest.mark.parametrize("kind", ["a pipe", "a device", "a folder"])
def test_what_is_no_file_is_not_waited_for(kind, tmp_path):
    place = tmp_path / "x.pt"
    if kind == "a pipe":
        os.mkfifo(place)
    elif kind == "a device":
        place.symlink_to("/dev/zero")
    else:
        place.mkdir()
    refuses(place, "cannot be read (it is a folder)" if kind == "a folder" else f"{kind}, not a file")


def test_a_zip_archive_of_something_else_is_called_one(tmp_path):
    torch.save({"w": torch.ones(2, 2)}, tmp_path / "w.pt")
    with zipfile.ZipFile(tmp_path / "w.zip", "w") as archive:
        archive.write(tmp_path / "w.pt", "w.pt")
    with pytest.raises(InputError, match="this is a zip archive of something else; unpack it first"):
        read_untrusted(tmp_path / "w.zip")
