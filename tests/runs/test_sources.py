import re
from pathlib import Path

import pytest

from overproof.errors import InputError
from overproof.runs.sources import read_word, with_layout

DIGEST = "ab" * 32


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("word", "kind"),
    [
        *((word, "run") for word in ("runs/a", "a", ".", "", "/runs/12:30", "runs/12:30", "./a:b", "a.txt")),
        *((word, "hub") for word in ("org/name", "org/name@v1", "hub:org/name", "hub:runs/name@main", "hub:make")),
        *((word, "onnx") for word in ("net.onnx", "runs/a/net.onnx", "a:b.onnx")),
        *((word, "checkpoint") for word in ("w.pt", "w.pth", "a/b/w.safetensors", "W.PTH", "w.ckpt")),
        *((word, "program") for word in ("net.pt2", "a/net.pt2")),
        *((word, "module") for word in ("a:b", "a.b:c", "hugging:x", "timn:a-b", "nets:", ":x")),
        *((word, "timm") for word in ("timm:resnet18.a1_in1k", "timm:hf-hub:a/b", "timm:net.pt", "timm:")),
        ("torchvision:vgg11", "torchvision"),
        ("robustbench:cifar10/Linf/X", "robustbench"),
    ],
)
def test_what_a_word_means_where_nothing_of_its_name_is_here(word, kind):
    assert read_word(word).kind == kind
    assert read_word(word).name == word


def test_what_is_here_goes_before_a_name_elsewhere(here):
    (here / "org" / "name").mkdir(parents=True)
    (here / "net.onnx").mkdir()
    (here / "run:1").mkdir()
    for word in ("org/name", "net.onnx", "run:1"):
        assert read_word(word).kind == "run"
    assert read_word("hub:org/name").kind == "hub"


def test_a_path_is_never_looked_up(here):
    for path in ("org/name", "timm:resnet18", "nets:make"):
        assert read_word(Path(path)).kind == "run"
    assert read_word(Path("net.onnx")).kind == "onnx"
    assert read_word(Path("w.pt?model=vgg11")).kind == "run"


@pytest.mark.parametrize("word", ["nets:make", "a.b:make", "timm:resnet18", "hub:org", "robustbench:x"])
@pytest.mark.parametrize("make", [Path.mkdir, Path.touch])
def test_what_is_here_and_names_code_as_well_is_for_the_user_to_decide(word, make, here):
    make(here / word)
    sentence = (
        f"{word}: this is here, and a name of code or of a zoo as well; write ./{word} for what is here, or rename"
    )
    with pytest.raises(InputError, match=f"^{re.escape(sentence)}"):
        read_word(word)
    assert read_word(f"./{word}").kind == "run"


def test_options_and_a_pin_are_read(here):
    word = read_word(f"nets:make?depth=8&bias=false#sha256={DIGEST.upper()}")
    assert (word.text, word.kind, word.pin) == ("nets:make", "module", DIGEST)
    assert word.options == {"depth": 8, "bias": False}
    assert word.name == "nets:make?depth=8&bias=false"
    word = read_word("w.pt?model=wrn-28-10&mean=0.5,0.5,0.5")
    assert (word.path, word.options) == (Path("w.pt"), {"model": "wrn-28-10", "mean": "0.5,0.5,0.5"})
    (here / "w.pt?model=vgg11").touch()
    assert read_word("w.pt?model=vgg11").options == {}  # it is a file's name


@pytest.mark.parametrize("word", ["runs/a?x=1", "org/name?x=1", "net.pt2?x=1"])
def test_options_of_what_takes_none(word):
    with pytest.raises(InputError, match=r": options \(\?key=value\) are for package.module:factory, files of w"):
        read_word(word)


class TestLayout:
    def test_it_is_one_more_option_of_an_onnx_file(self):
        assert with_layout("net.onnx", None) == "net.onnx"
        for word in ("net.onnx", "net.onnx?mean=0.5&std=0.2", f"net.onnx#sha256={DIGEST}"):
            read, before = read_word(with_layout(word, "nhwc")), read_word(word)
            assert read.options == {**before.options, "layout": "nhwc"}
            assert (read.text, read.pin) == (before.text, before.pin)

    @pytest.mark.parametrize("word", ["runs/a", "w.pt", "a:b", "timm:x", "org/name"])
    def test_for_others_it_is_no_question(self, word):
        with pytest.raises(InputError, match=f"^{word}: the layout of images .* ONNX files alone$"):
            with_layout(word, "nhwc")

    def test_it_is_said_once(self):
        with pytest.raises(InputError, match="it says its layout already"):
            with_layout("net.onnx?layout=nchw", "nhwc")
