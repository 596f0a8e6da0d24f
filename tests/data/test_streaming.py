import os
import signal

import pytest
import torch

from overproof.data import streaming
from overproof.data.augment import Augment
from overproof.data.loader import Loader
from overproof.data.sources import Folder, Parquet
from overproof.data.streaming import Loading, Stream
from overproof.errors import InputError

CPU = torch.device("cpu")


@pytest.fixture
def folder(tmp_path, pictures, write_folder):
    """A folder of 23 small colour JPEGs."""
    return write_folder(tmp_path, pictures(23, side=10, colour=True), "JPEG")


@pytest.fixture
def encoded(folder):
    return Folder(path=str(folder)).open("train")


def refused(work):
    with pytest.raises(InputError) as caught:
        work()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(
    "augment", [Augment(), Augment(crop=2, flip=True, cutout=3), Augment(crop=1, bank=2)], ids=["no", "fresh", "bank"]
)
def test_streamed_batches_are_the_resident_ones_to_the_bit(encoded, workers, augment):
    """Every epoch, and from every batch of one on."""
    resident = Loader(encoded.decoded(), 5, augment, seed=3)
    streamed = Loader(Stream(encoded, CPU, workers), 5, augment, seed=3)
    assert len(streamed) == len(resident) == 5
    starts = [(0, 0), (1, 0), (2, 0), (2, 3), (2, 5)] if workers else [(2, start) for start in range(6)]
    for epoch, start in starts:
        pairs = list(zip(resident.batches(epoch, start), streamed.batches(epoch, start), strict=True))
        assert len(pairs) == 5 - start
        for wanted, found in pairs:
            assert found.x.dtype == wanted.x.dtype
            assert torch.equal(found.x, wanted.x)
            assert torch.equal(found.y, wanted.y)


def test_a_table_streams_like_its_images_in_memory(tmp_path, pictures, write_parquet):
    write_parquet(tmp_path / "train.parquet", pictures(9), [0, 1, 2] * 3)
    encoded = Parquet(path=str(tmp_path)).open("train").at(torch.tensor([8, 1, 2, 3, 7]))
    stream = Stream(encoded, CPU, 1)
    assert len(stream) == 5
    for wanted, found in zip(encoded.decoded().batches(2), stream.batches(2), strict=True):
        assert torch.equal(found.x, wanted.x)
        assert torch.equal(found.y, wanted.y)


def test_torchs_global_generator_is_left_alone(encoded):
    stream = Stream(encoded, CPU, 1)
    state = torch.get_rng_state()
    list(stream.batches(8))
    assert torch.equal(torch.get_rng_state(), state)


def test_an_iteration_that_is_dropped_leaves_no_process_behind(encoded):
    batches = Loader(Stream(encoded, CPU, 2), 5, Augment(), 0).batches(0)
    next(batches)
    assert children()
    del batches
    assert not children()


def children():
    import multiprocessing

    return multiprocessing.active_children()


class TestPlacing:
    @pytest.mark.parametrize(
        ("mode", "memory", "kind"),
        [
            ("auto", 23 * 300, "ImageSet"),
            ("auto", 23 * 300 - 1, "Stream"),
            ("resident", 0, "ImageSet"),
            ("streamed", 10**12, "Stream"),
        ],
    )
    def test_by_size_unless_told(self, encoded, monkeypatch, mode, memory, kind):
        monkeypatch.setattr(streaming, "memory_left", lambda device: memory)
        assert type(Loading(mode=mode).place(encoded, CPU)).__name__ == kind

    def test_what_is_in_memory_stays_there(self, encoded):
        images = encoded.decoded()
        assert Loading(mode="streamed").place(images, CPU).images.data_ptr() == images.images.data_ptr()

    def test_workers(self, encoded, monkeypatch):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(99)))
        assert Loading(mode="streamed").place(encoded, CPU).workers == 16
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3})
        assert Loading(mode="streamed").place(encoded, CPU).workers == 1
        assert Loading(mode="streamed", workers=0).place(encoded, CPU).workers == 0
        with pytest.raises(ValueError, match=r"^workers is a number of processes, got -1$"):
            Loading(workers=-1)


class TestBadInput:
    def test_different_sizes_are_found_before_the_first_epoch(self, folder, pictures, encode):
        (folder / "train" / "bee" / "odd.jpeg").write_bytes(encode(pictures(1, side=9, colour=True)[0], "JPEG"))
        encoded = Folder(path=str(folder)).open("train")
        assert refused(lambda: Stream(encoded, CPU, 1)).startswith(
            f"{folder / 'train'}: images must have one size and one colour mode, found 10x10x3 and 9x9x3; "
        )

    @pytest.mark.parametrize("workers", [0, 1])
    def test_a_damaged_file_is_named(self, folder, workers):
        file = folder / "train" / "ant" / "004.jpeg"
        file.write_bytes(file.read_bytes()[:-40])
        encoded = Folder(path=str(folder)).open("train")
        found = refused(lambda: Stream(encoded, CPU, workers))
        assert found.startswith(f"{folder / 'train'}: {file} cannot be decoded (")

    @pytest.mark.parametrize("workers", [0, 1])
    def test_a_set_that_changes_between_epochs(self, folder, encoded, workers):
        loader = Loader(Stream(encoded, CPU, workers), 5, Augment(), 0)
        assert len(list(loader.batches(0))) == 5
        file = folder / "train" / "bee" / "007.jpeg"
        file.write_bytes(file.read_bytes() + b" ")
        assert refused(lambda: list(loader.batches(1))) == (
            f"{folder / 'train'}: {file} has changed since the run began to read the set"
        )
        file.unlink()
        assert refused(lambda: list(loader.batches(2))).endswith("has changed since the run began to read the set")

    def test_workers_that_cannot_be_started_are_one_sentence(self, encoded, monkeypatch):
        def refused_by_the_system(*_):
            raise OSError(30, "Read-only file system")  # what a missing /dev/shm ends in

        monkeypatch.setattr(streaming.DataLoader, "__iter__", refused_by_the_system)
        assert refused(lambda: list(Stream(encoded, CPU, 1).batches(5))) == (
            "processes that decode images cannot be started (OSError: [Errno 30] Read-only file system); "
            "loading.workers=0 decodes in the training process"
        )

    def test_a_worker_that_dies_is_one_sentence(self, encoded, monkeypatch):
        monkeypatch.setattr(
            streaming._Decoding, "__getitem__", lambda *_: os.kill(os.getpid(), signal.SIGKILL), raising=True
        )
        assert refused(lambda: list(Stream(encoded, CPU, 1).batches(5))).startswith(
            "a process that decodes images died (RuntimeError: DataLoader worker"
        )
