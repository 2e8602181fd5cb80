"""The hub, through its own client and over HTTP: a stand-in server holds the models."""

from __future__ import annotations

import errno

import pytest
from support.hub_server import Hub
from support.llamas import reference, save_llada
from support.published_models import save_published

from sedd_cli import load_model
from sedd_cli.checkpoints.export import FILES
from sedd_cli.checkpoints.hub import push
from sedd_cli.errors import RequestError, WorkError

OFFLINE = r"; offline: download config\.json and model\.safetensors elsewhere and pass their folder$"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub on this machine, an empty cache, and nobody logged in."""
    from huggingface_hub import constants

    server = Hub()
    with server.serve() as address:
        monkeypatch.setattr(constants, "ENDPOINT", address)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_PROGRESS_BARS", True)
        yield server


@pytest.mark.parametrize("pickled", [False, True])
def test_a_model_is_fetched_once_and_then_cached(hub, tmp_path, monkeypatch, pickled):
    save_published(tmp_path / "m", pickled=pickled)
    hub.put("someone/small", tmp_path / "m")
    local = load_model(tmp_path / "m")
    assert load_model("someone/small").fingerprint == local.fingerprint
    hub.asked.clear()
    assert load_model("someone/small").fingerprint == local.fingerprint
    assert hub.asked == []


def test_only_what_a_model_needs_is_fetched_safetensors_before_a_pickle(hub, tmp_path):
    save_published(tmp_path / "m", tokens=27)
    save_published(tmp_path / "m", tokens=27, pickled=True)
    from sedd_cli.data.tokenizers import load_tokenizer

    load_tokenizer("text8").save(tmp_path / "m")
    (tmp_path / "m" / "optimizer.bin").write_bytes(b"large")
    hub.put("someone/small", tmp_path / "m")
    assert load_model("someone/small").tokenizer.spec == "text8"
    (snapshot,) = (tmp_path / "cache").glob("models--someone--small/snapshots/*")
    assert sorted(p.name for p in snapshot.iterdir()) == ["config.json", "model.safetensors", "tokenizer.json"]


def test_a_model_in_shards_is_fetched_whole_with_its_tokenizer(hub, tmp_path):
    folder = save_llada(tmp_path / "m", reference(), shards=3, text=True)
    hub.put("someone/large", folder)
    local = load_model(folder)
    assert load_model("someone/large").fingerprint == local.fingerprint
    assert load_model("someone/large").tokenizer.decode([1, 2]) == "bc"
    hub.asked.clear()
    assert load_model("someone/large").fingerprint == local.fingerprint
    assert hub.asked == []
    (snapshot,) = (tmp_path / "cache").glob("models--someone--large/snapshots/*")
    (snapshot / "model-00002-of-00003.safetensors").unlink()  # as after a download that was interrupted
    assert load_model("someone/large").fingerprint == local.fingerprint


def test_shards_that_the_hub_lacks_are_named_before_the_download(hub, tmp_path):
    hub.put("someone/large", save_llada(tmp_path / "m", reference(), shards=3))
    del hub.models["someone/large"]["model-00002-of-00003.safetensors"]
    with pytest.raises(
        RequestError, match=r"lacks model-00002-of-00003\.safetensors, which its model\.safetensors\.index"
    ):
        load_model("someone/large")
    assert not any("00001" in asked for asked in hub.asked)


def test_what_the_hub_does_not_have_is_said_with_the_offline_way(hub, tmp_path):
    with pytest.raises(RequestError, match="the hub has no model some/one: check the name; a private one .*" + OFFLINE):
        load_model("some/one")
    save_published(tmp_path / "m")
    hub.put("some/gated", tmp_path / "m")
    hub.gated.add("some/gated")
    with pytest.raises(RequestError, match=r"some/gated is gated: ask for access at https://.*" + OFFLINE):
        load_model("some/gated")
    hub.models["some/thing"] = {"config.json": b"{}", "weights.gguf": b""}
    with pytest.raises(
        RequestError, match=r"some/thing on the hub holds no config\.json with model\.safetensors or pytorch_model\.bin"
    ):
        load_model("some/thing")


def test_a_hub_out_of_reach_is_said_with_the_offline_way(hub, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(
        RequestError, match=r"cannot fetch some/one from the Hugging Face hub \(\w*Connect\w*\)" + ".*" + OFFLINE
    ):
        load_model("some/one")


def test_a_disk_too_small_is_said_before_the_download(hub, tmp_path):
    save_published(tmp_path / "m")
    hub.put("some/large", tmp_path / "m")
    hub.sizes["model.safetensors"] = 2**60
    with pytest.raises(WorkError, match=r"some/large takes 1,152,921,504,606\.8 MB, .* MB are free in .*set HF_HOME"):
        load_model("some/large")
    assert not any("resolve" in path for path in hub.asked)


def test_a_disk_that_fills_up_on_the_way_is_said(hub, tmp_path, monkeypatch):
    import huggingface_hub

    def full(*_, **__):
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        except OSError as error:
            raise RuntimeError("the client's own kind") from error

    save_published(tmp_path / "m")
    hub.put("some/one", tmp_path / "m")
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", full)
    with pytest.raises(WorkError, match=r"no space left for some/one in .*set HF_HOME"):
        load_model("some/one")


def test_a_download_that_was_interrupted_is_taken_up_whole(hub, tmp_path, monkeypatch):
    """Weights come last: where they are, the tokenizer is as well."""
    import huggingface_hub

    from sedd_cli.data.tokenizers import load_tokenizer

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    save_published(tmp_path / "m", tokens=27)
    load_tokenizer("text8").save(tmp_path / "m")
    hub.put("some/one", tmp_path / "m")
    with monkeypatch.context() as patch:
        patch.setattr(huggingface_hub, "hf_hub_download", interrupted)
        with pytest.raises(KeyboardInterrupt):
            load_model("some/one")
    assert load_model("some/one").tokenizer.spec == "text8"


def test_all_files_are_of_one_commit(hub, tmp_path, monkeypatch):
    """A push between two of them does not mix them."""
    import huggingface_hub

    genuine = huggingface_hub.hf_hub_download

    def overtaken(name, file, revision):
        old, hub.models[name] = hub.models[name], {**hub.models[name], "config.json": b"{}"}
        assert revision != hub.sha(name)
        hub.models[name] = old  # the commit of before is still to be had by its name
        return genuine(name, file, revision=revision)

    save_published(tmp_path / "m")
    hub.put("some/one", tmp_path / "m")
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", overtaken)
    model = load_model("some/one")
    assert model.fingerprint == load_model(tmp_path / "m").fingerprint
    assert model.facts["commit"] == hub.sha("some/one")[:8]
    assert f"commit {hub.sha('some/one')[:8]}" in model.describe()


@pytest.mark.parametrize("status", [500, 429])
def test_a_hub_that_does_not_answer_in_order_is_quoted(hub, tmp_path, status):
    hub.models["some/one"], hub.broken["some/one"] = {}, status
    with pytest.raises(RequestError, match=rf"from the Hugging Face hub \(it answered {status}\).*" + OFFLINE):
        load_model("some/one")


@pytest.mark.parametrize("name", ["a/b--c", "a/b.git", "a/" + "b" * 100, "a b/c"])
def test_what_can_be_no_hub_id_is_said_to_be_none(hub, name):
    with pytest.raises(RequestError, match="is not a hub id"):
        load_model(name)
    assert hub.asked == []


def test_a_folder_is_pushed_and_comes_back(hub, tmp_path):
    save_published(tmp_path / "m", "uniform")
    address = push(tmp_path / "m", "me/mine", True, "a first one", FILES)
    assert "me/mine/commit/" in address
    assert hub.private == {"me/mine": True}
    assert load_model("me/mine").fingerprint == load_model(tmp_path / "m").fingerprint


def test_what_is_pushed_again_leaves_nothing_of_before(hub, tmp_path):
    hub.models["me/mine"] = {"tokenizer.json": b"old", "pytorch_model.bin": b"old", "NOTES.md": b"mine"}
    save_published(tmp_path / "m")
    push(tmp_path / "m", "me/mine", False, "anew", FILES)
    assert sorted(hub.models["me/mine"]) == ["NOTES.md", "config.json", "model.safetensors"]


def test_what_is_to_be_private_is_not_pushed_where_it_would_be_public(hub, tmp_path):
    hub.models["me/mine"] = {}
    save_published(tmp_path / "m")
    with pytest.raises(RequestError, match="me/mine exists and is public"):
        push(tmp_path / "m", "me/mine", True, "no", FILES)
    assert hub.models["me/mine"] == {}


def test_who_may_not_push_is_told_so(hub, tmp_path, monkeypatch):
    from huggingface_hub import constants

    save_published(tmp_path / "m")
    hub.read_only.add("louaaron/sedd-small")
    with pytest.raises(RequestError, match=r"does not let you write to louaaron/sedd-small \(403\): `hf auth login`"):
        push(tmp_path / "m", "louaaron/sedd-small", False, "no", FILES)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(WorkError, match="cannot upload me/mine: "):
        push(tmp_path / "m", "me/mine", False, "no", FILES)
