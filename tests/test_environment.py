import os
import platform
from pathlib import Path

import pytest
import torch

import overproof
from overproof.environment import hardware, memory, memory_left, package, pick_device, versions
from overproof.errors import InputError


def test_auto_is_the_accelerator_where_there_is_one():
    assert pick_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")


def test_cpu_is_itself():
    assert pick_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize("wish", ["gpu", "", "cuda:99", "hpu", "privateuseone", "mps:7"])
def test_an_absent_device_is_an_input_error(wish):
    with pytest.raises(InputError, match=f"^device '{wish}' is not available here; use auto or cpu$"):
        pick_device(wish)


def test_versions_are_those_in_use():
    assert versions() == {
        "overproof": overproof.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def test_hardware_names_a_processor_and_its_threads():
    name, _, threads = hardware(torch.device("cpu")).rpartition(", ")
    assert name
    assert threads.split()[0].isdigit() and threads.split()[1:3] == ["threads", "of"]


def test_memory_is_the_machines_or_the_containers(monkeypatch):
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    monkeypatch.setattr(Path, "is_file", lambda _: True)
    for written, wanted in (("max", machine), ("4096", 4096), (str(2 * machine), machine)):
        monkeypatch.setattr(Path, "read_text", lambda _, written=written: written + "\n")
        assert memory() == wanted
        assert memory_left(torch.device("cpu")) == wanted // 2
    monkeypatch.setattr(Path, "is_file", lambda _: False)
    assert memory() == machine


def test_a_package_that_is_here_is_returned():
    assert package("platform", extra="zoo", where="this") is platform


def test_a_package_that_is_absent_names_its_extra():
    with pytest.raises(InputError, match=r"^this needs the extra: pip install 'overproof\[zoo\]'$"):
        package("absent_package.part", extra="zoo", where="this")


def test_a_package_that_cannot_be_imported_says_why(tmp_path, monkeypatch):
    (tmp_path / "broken_package.py").write_text("raise OSError('libfoo.so is missing')")
    monkeypatch.syspath_prepend(tmp_path)
    said = r"^this: broken_package is installed but cannot be imported \(OSError: libfoo.so is missing\)$"
    with pytest.raises(InputError, match=said):
        package("broken_package", extra="zoo", where="this")
