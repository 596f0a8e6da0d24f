"""A hub that answers, one that does not, and one with several configurations."""

import socket
import time
from threading import Event

import datasets
import pytest
from huggingface_hub import constants

from overproof.data import hub
from overproof.data.hub import answers, hub_table
from overproof.errors import InputError

ANSWERS = answers  # of the module the tests replace it


class TestAnswers:
    def test_a_server_that_takes_connections(self, monkeypatch):
        monkeypatch.setattr(hub, "getproxies", dict)
        with socket.create_server(("127.0.0.1", 0)) as server:
            assert ANSWERS(f"http://127.0.0.1:{server.getsockname()[1]}")
            port = server.getsockname()[1]
        assert not ANSWERS(f"http://127.0.0.1:{port}")

    def test_the_search_for_an_address_is_not_waited_for(self, monkeypatch):
        monkeypatch.setattr(hub, "getproxies", dict)
        end = Event()

        def create_connection(*_):
            end.wait(60)
            raise OSError

        monkeypatch.setattr(socket, "create_connection", create_connection)
        assert not ANSWERS("https://hub.invalid", 0.1)
        assert not end.is_set()
        end.set()

    def test_behind_a_proxy_the_client_decides(self, monkeypatch):
        monkeypatch.setattr(hub, "getproxies", lambda: {"https": "http://proxy.invalid"})
        assert ANSWERS("https://hub.invalid")


class TestWithoutAConnection:
    @pytest.fixture(autouse=True)
    def no_answer(self, monkeypatch):
        monkeypatch.setattr(hub, "answers", lambda *_: False)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)

    def test_one_sentence_at_once(self):
        began = time.monotonic()
        with pytest.raises(InputError) as caught:
            hub_table("nobody-of-this-name/nothing", "", "train")
        assert time.monotonic() - began < 10  # the client's own attempts took 23 s
        assert str(caught.value) == (
            "cannot read data set 'nobody-of-this-name/nothing' from the hub (the hub does not answer, and its cache "
            "here does not hold it); check the name and the connection, or point OVERPROOF_DATA at a folder that holds "
            "'nothing'"
        )

    def test_the_cache_is_asked_alone_and_the_switches_are_put_back(self, monkeypatch):
        asked = []

        def names(*_):
            asked.append((constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE))
            return ["train"]

        table = datasets.Dataset.from_dict({"a": [1]})
        monkeypatch.setattr(datasets, "get_dataset_split_names", names)
        monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: table)
        found, splits, picked = hub_table("someone/toy", "", "train")
        assert (len(found), splits, picked) == (1, ["train"], "train")
        assert asked == [(True, True)]
        assert (constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE) == (False, False)


def test_several_configurations_are_named(monkeypatch):
    asked = []

    def names(id, config=None):
        asked.append((id, config))
        if config is None:
            raise ValueError(
                "Config name is missing.\nPlease pick one among the available configs: ['small', 'large']\nExample"
            )
        return ["train"]

    monkeypatch.setattr(datasets, "get_dataset_split_names", names)
    monkeypatch.setattr(datasets, "load_dataset", lambda id, split, name: datasets.Dataset.from_dict({name: [id]}))
    with pytest.raises(
        InputError, match=r"several configurations; choose one with config: small among .* \(small; lar"
    ):
        hub_table("someone/toy", "", "train")
    assert hub_table("someone/toy", "large", "train")[0].column_names == ["large"]
    assert asked == [("someone/toy", None), ("someone/toy", "large")]
