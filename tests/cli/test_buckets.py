"""Addresses in a bucket as arguments of the commands."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from ine_jax import assets
from ine_jax.cli import buckets
from ine_jax.cli.evaluate import Evaluate
from ine_jax.cli.generate import Generate
from ine_jax.cli.main import main
from ine_jax.config import EvaluateConfig, GenerateConfig, ModelConfig
from ine_jax.storage.bucket import client
from ine_jax.storage.bucket.address import parse
from tests.support import stores


@pytest.fixture(scope="module")
def server() -> Iterator[stores.Store]:
    with stores.s3() as store:
        yield store


@pytest.fixture
def store(server: stores.Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[stores.Store]:
    stores.use(server, monkeypatch, tmp_path / "cache")
    yield server
    server.refuse = None


def put(store: stores.Store, name: str, source: Path) -> str:
    client.upload(parse(f"{store.root}/{name}"), source)
    return f"{store.root}/{name}"


def embedding() -> Path:
    return assets.embedding(assets.embeddings()[0])


def test_convert_from_a_bucket_into_one(store: stores.Store, capsys: pytest.CaptureFixture[str]) -> None:
    source, target = put(store, "in/word.safetensors", embedding()), f"{store.root}/out/word.npz"
    assert main(["convert", source, target, "--to", "npz", "--json"]) == 0
    printed = capsys.readouterr().out
    assert json.loads(printed.splitlines()[-1])["path"] == target
    assert source in printed and "cache" not in printed
    assert client.read(parse(target)) and client.read(parse(f"{store.root}/out/DONE/word.npz"))
    assert main(["convert", source, target, "--to", "npz"]) == 2  # it exists
    assert f"{target} exists" in capsys.readouterr().err
    assert main(["inspect", target]) == 0


def test_a_config_file_and_its_inputs_may_be_in_a_bucket(
    store: stores.Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for i, image in enumerate(sorted(assets.concept_images().glob("*.png"))[:2]):
        put(store, f"in/shapes/{i}.png", image)
    out = f"{store.root}/planned"
    (tmp_path / "run.yaml").write_text(f"images: {store.root}/in/shapes\nout: {out}\n")
    config = put(store, "in/run.yaml", tmp_path / "run.yaml")
    assert main(["invert", config, "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert f"writes: {out} (new)" in printed and f"images: {store.root}/in/shapes" in printed
    assert not client.find(parse(out))  # nothing is written


def test_names_and_texts_stay_as_they_are(store: stores.Store) -> None:
    put(store, "in/model/model_index.json", assets.folder() / "model_index.json")
    models = (ModelConfig(f"{store.root}/in/model"), ModelConfig("tiny"))
    with buckets.resolved(Evaluate(config=EvaluateConfig(models=models))) as (local, _):
        assert isinstance(local, Evaluate)
        first, second = local.config.models
        assert Path(first.model).is_dir() and first.label == models[0].model  # what records call it
        assert second == models[1]
    asked = Generate(config=GenerateConfig(prompts=("s3://a painting",)))
    with buckets.resolved(asked) as (local, _):
        assert local == asked


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["inspect", "s3://results/nothing"], "no such object"),
        (["inspect", "s3://no-such-bucket/run"], "no such bucket"),
        (["report", "s3://results/nothing"], "s3://results/nothing holds no run.json"),
        (["verify", "s3://results/a//b"], "no address"),
        (["generate", "--prompts", "x", "--out", "s3://no-such-bucket/run"], "no such bucket"),
    ],
)
def test_wrong_addresses_are_input_errors(
    store: stores.Store, words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    error = capsys.readouterr().err
    assert said in error and len(error.splitlines()) <= 3 and not store.objects().keys() & {"run.json"}


def test_no_permission_is_an_input_error(store: stores.Store, capsys: pytest.CaptureFixture[str]) -> None:
    store.refuse = lambda method, path: True
    assert main(["inspect", f"{store.root}/in"]) == 2
    assert "permission" in capsys.readouterr().err


def test_a_missing_client_names_the_extra(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    import fsspec

    def missing(*_: object, **__: object) -> None:
        raise ImportError("Install gcsfs to access GCS")

    monkeypatch.setattr(fsspec, "filesystem", missing)
    client._client.cache_clear()
    assert main(["inspect", "gs://bucket/run"]) == 2
    assert "pip install 'ine_jax[gcs]'" in capsys.readouterr().err


def test_a_store_that_cannot_be_reached_is_a_failing_disk(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    import fsspec

    class Dead:
        def invalidate_cache(self) -> None: ...

        def info(self, path: str) -> None:
            raise ConnectionRefusedError(111, "Connection refused")

        find = ls = info

    monkeypatch.setattr(fsspec, "filesystem", lambda *_, **__: Dead())
    client._client.cache_clear()
    assert main(["report", "s3://bucket/run"]) == 74
    error = capsys.readouterr().err
    assert "s3://bucket/run" in error and "same command continues" in error
    client._client.cache_clear()
