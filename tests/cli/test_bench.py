"""`ine bench`: turns, the share of the matmul rate, what is missing, and wrong calls; one small run per mode."""

import dataclasses
import json
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from ine_jax.cli import benching, main
from ine_jax.cli.bench import Bench
from ine_jax.cli.parsing import parse
from ine_jax.config import BenchConfig, InversionConfig, SamplerConfig, yaml_file
from ine_jax.errors import InputError
from ine_jax.evaluation import bench as evaluation
from ine_jax.inversion import bench as inversion
from ine_jax.pipeline.bench import cold_start, guards, in_torch, model, sampling, turns
from ine_jax.pipeline.bench.records import Setting
from ine_jax.pipeline.pipeline import Pipeline, load
from ine_jax.reporting import speed
from tests.support.paths import ROOT

SETTING: Setting = {
    "schema": 2,
    "what": "",
    "model": "tiny",
    "batch": 2,
    "steps": 2,
    "latents": [8, 8, 4],
    "repeats": 3,
    "dtype": "float32",
    "device": "cpu x 1",
    "machine": "x86_64, 2 CPUs",
    "versions": {},
}
SAMPLER = SamplerConfig(steps=2, batch=2)
LEARNED = InversionConfig(steps=2, batch=2)


@pytest.fixture(autouse=True)
def small_products(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(turns, "PRODUCTS", {"cpu": (64, 2)})
    yield


@pytest.fixture(scope="module")
def pipe(tiny_folder: Path) -> Pipeline:
    return load(tiny_folder, batch_size=2, dtype="float32", scheduler="ddim")


def without_torch(*_: Any) -> Any:
    raise ImportError("No module named 'torch'")


def rows(result: Any) -> dict[str, Any]:
    return {row["implementation"]: row for row in result["rows"]}


def test_turns_are_taken_by_all_in_alternating_order() -> None:
    order: list[str] = []
    runs = {name: lambda name=name: order.append(name) for name in ("a", "b", "c")}
    times = turns.take_turns(runs, 4)  # type: ignore[arg-type]
    assert "".join(order) == "abccbaabccba"
    assert all(len(each) == 4 for each in (*times.seconds.values(), *times.processor.values()))


def test_flops_are_those_of_the_arithmetic() -> None:
    a, b = jax.ShapeDtypeStruct((8, 16), jnp.float32), jax.ShapeDtypeStruct((16, 4), jnp.float32)
    assert turns.flops(lambda x, y: x @ y, a, b) == 2 * 8 * 16 * 4


def test_rates_ratios_and_shares_follow_from_the_seconds(pipe: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = {"ine_jax": [1.0, 2.0, 4.0], "torch": [2.0, 2.0, 12.0], "matmul": [1.0, 1.0, 1.0]}
    monkeypatch.setattr(turns, "take_turns", lambda runs, repeats: turns.Times(seconds, seconds))
    slow = turns.Contender(lambda: None, lambda: np.array([1.5]))
    ours = turns.Contender(lambda: None, lambda: np.array([1.0]), lambda: 7)
    config = BenchConfig(baselines=("torch", "diffusers-flax"))

    def absent() -> turns.Contender:
        raise InputError("no such library", "one that is installed", "install it")

    others: turns.Makers = {"torch": lambda: slow, "diffusers-flax": absent}
    result = turns.compare(pipe, config, ours, others, "images", 8, 1000.0)
    work = 2.0 * 64**3 * 2
    assert result["matmul"]["flops_per_second"] == work
    assert result["missing"] == {"diffusers-flax": "no such library"}
    torch = rows(result)["torch"]
    assert (torch["per_second"], torch["lowest"], torch["highest"]) == (4.0, pytest.approx(8 / 12), 4.0)
    assert (torch["speed_of_ine_jax"], torch["speed_lowest"], torch["speed_highest"]) == (2.0, 1.0, 3.0)
    assert torch["flops_per_second"] == 4000.0 and torch["share_of_matmul"] == pytest.approx(4000 / work)
    assert (torch["difference"], torch["compiles"], rows(result)["ine_jax"]["compiles"]) == (0.5, None, 7)


def test_sampling(pipe: Pipeline, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(in_torch, "unet", without_torch)
    sampler = SamplerConfig(steps=11, batch=2)  # programs are shared: a shape that no other test compiles
    config = BenchConfig(sampler=sampler, baselines=("torch",), out=str(tmp_path / "bench.json"))
    monkeypatch.setattr(sampling, "pipeline", lambda config, scheduler: pipe)
    lines, result = benching.measured("sampling", config)
    (row,) = rows(result).values()
    assert row["lowest"] <= row["per_second"] <= row["highest"]
    assert (row["implementation"], row["compiles"], row["speed_of_ine_jax"], row["difference"]) == ("ine_jax", 1, 1, 0)
    assert result["flops_per_unit"] == pytest.approx(22 * turns.network_flops(pipe))
    assert lines[-1].startswith("torch not measured")
    assert json.loads(Path(config.out).read_text()) == json.loads(json.dumps(result))
    assert Image.open(tmp_path / "bench.png").size[0] > 500


@pytest.mark.thorough
def test_inversion(pipe: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(in_torch, "unet", without_torch)
    result = inversion.measure(pipe, BenchConfig(inversion=LEARNED, baselines=("torch",)))
    assert (result["what"], result["unit"], result["amount"]) == ("inversion", "steps", 2)
    assert list(rows(result)) == ["ine_jax"] and list(result["missing"]) == ["torch"]
    # two rows, forward and backward but for the weights; the text encoder and the first convolution change little
    assert 1.5 < result["flops_per_unit"] / (2 * turns.network_flops(pipe)) < 3.5


@pytest.mark.thorough
def test_every_guard_has_its_ratio(pipe: Pipeline) -> None:
    names = ("cfg", "sld-max", "casg")
    result = guards.measure(pipe, BenchConfig(sampler=SamplerConfig(steps=4, batch=2), guards=names))
    assert tuple(row["guard"] for row in result["rows"]) == names
    for row in result["rows"]:
        assert row["compiles"] == 0
        assert 0 < row["lowest"] <= row["highest"] and row["processor"] > 0 and row["share_of_matmul"] > 0
        assert row["ratio"] == pytest.approx(row["implicit_images_per_second"] / row["explicit_images_per_second"])
    # of 4 steps: two rows, three rows, and prompt, empty prompt and one row per choice
    assert [row["network_rows_per_image"] for row in result["rows"]] == [8, 12, 24]
    assert len(speed.lines(speed.speeds(result))) == 3 + len(names)
    json.dumps(result)


@pytest.mark.thorough
def test_evaluation(pipe: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(in_torch, "unet", without_torch)
    config = BenchConfig(sampler=SAMPLER, items=5, block=2, baselines=("torch",))
    result = evaluation.measure(pipe, config)
    (row,) = rows(result).values()
    assert row["implementation"] == "ine_jax" and list(result["missing"]) == ["torch"]
    assert (result["what"], result["amount"], row["difference"]) == ("evaluation", 5, 0.0)
    assert result["device_busy"] is not None and 0 < result["device_busy"] <= 1
    assert any(line.startswith("device busy") for line in speed.lines(speed.speeds(result)))


def test_what_spans_cover() -> None:
    assert evaluation.covered([(0.0, 2.0), (1.0, 1.5), (1.0, 3.0), (5.0, 6.0)]) == 4.0


def test_cold_starts_share_a_cache_in_a_turn_and_not_between_turns(tmp_path: Path) -> None:
    seen: list[tuple[str, Path]] = []

    def start(name: str, config: BenchConfig, cache: Path) -> cold_start.Start:
        if name == cold_start.TORCH:
            raise ImportError("No module named 'torch'")
        seen.append((name, cache))
        seconds = [1.0, 2.0, 2.0 * len(seen), 0.5]
        return {"seconds": seconds, "processor": [0.5] * 4, "setting": SETTING}

    config = BenchConfig(repeats=3, out=str(tmp_path / "bench.json"))
    result = cold_start.measure(config, start)
    assert [name for name, _ in seen] == [cold_start.EMPTY, cold_start.FULL] * 3
    assert [seen[0][1] == seen[1][1], seen[1][1] == seen[2][1]] == [True, False]
    first, second = result["rows"]
    assert (first["first_image"], first["lowest"], first["highest"]) == (3.0 + 2 * 3, 3.0 + 2 * 1, 3.0 + 2 * 5)
    assert second["parts"] == {"imports": 1.0, "load": 2.0, "first": 8.0, "second": 0.5}
    assert (first["processor_seconds"], result["missing"]) == (1.5, {"torch": "No module named 'torch'"})
    assert len(speed.lines(speed.speeds(result))) == 2 + 2 + 1


@pytest.mark.thorough
def test_a_cold_start_reports_its_parts_or_its_error(tiny_folder: Path) -> None:
    config = BenchConfig(model=str(tiny_folder), dtype="float32", sampler=SAMPLER)
    found: Any = cold_start.child(config, "", time.monotonic())
    assert len(found["seconds"]) == len(found["processor"]) == len(cold_start.PARTS)
    assert all(seconds > 0 for seconds in found["seconds"]) and found["setting"]["dtype"] == "float32"
    wrong: Any = cold_start.child(dataclasses.replace(config, device="tpu"), "", time.monotonic())
    assert wrong["error"][0] == "device tpu: not found" and len(wrong["error"]) == 3
    with pytest.raises(InputError, match="unlearned weights"):
        cold_start.launch(cold_start.TORCH, BenchConfig(model="tiny-unlearned-0"), tiny_folder)


@pytest.mark.thorough
def test_random_weights_keep_the_size_of_values(pipe: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = pipe.parts
    monkeypatch.setattr(model, "RANDOM", {"random-small": (parts.text_config, parts.unet_config, parts.vae_config)})
    config = BenchConfig(model="random-small", dtype="bfloat16", device="cpu", sampler=SAMPLER)
    made = model.pipeline(config)
    assert jax.tree.map(jnp.shape, made.parts.unet_params) == jax.tree.map(jnp.shape, parts.unet_params)
    assert {leaf.dtype for leaf in jax.tree.leaves(made.parts.unet_params)} == {jnp.dtype(jnp.bfloat16)}
    kernel = np.asarray(made.parts.unet_params["conv_in"]["kernel"], np.float32)
    assert kernel.std() == pytest.approx(kernel[..., 0].size ** -0.5, rel=0.1)
    latents = made(["a cat"], steps=2, output="latents").latents
    assert np.isfinite(latents).all() and 0.1 < latents.std() < 10
    for wrong in ({"unlearned": ("a.pt",)}, {"revision": "abc"}):
        with pytest.raises(InputError, match="random-small with"):
            model.pipeline(dataclasses.replace(config, **wrong))  # type: ignore[arg-type]


def test_full_size_is_stable_diffusion() -> None:
    text, unet, vae = model.RANDOM["random-sd1"]
    assert (text.hidden_size, unet.block_out_channels, unet.sample_size, vae.downscale) == (
        768,
        (320, 640, 1280, 1280),
        64,
        8,
    )


@pytest.mark.parametrize(
    "words",
    [
        ["--dtype", "float8"],
        ["--device", "tpu"],
        ["--device", "fpga"],
        ["--model", "random-sd1", "--unlearned", "a.pt"],
        ["guards", "--guards", "none"],
        ["inversion", "--inversion.method", "rece"],
        ["--out", "runs/bench.png"],
    ],
    ids=" ".join,
)
def test_wrong_calls(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main.main(["bench", *words]) == 2
    assert 1 <= len(capsys.readouterr().err.splitlines()) <= 3
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("fake_types")
def test_torch_needs_the_device() -> None:
    pytest.importorskip("torch")
    mesh = SimpleNamespace(devices=np.array([SimpleNamespace(platform="tpu")]))
    with pytest.raises(InputError, match="without tpu"):
        in_torch.place(SimpleNamespace(programs=SimpleNamespace(mesh=mesh)))  # type: ignore[arg-type]


@pytest.mark.parametrize(("platform", "name"), [("gpu", "random-sd1"), ("cpu", "tiny")])
def test_the_script_for_gpus_asks_for_every_mode(platform: str, name: str, tmp_path: Path) -> None:
    fake = tmp_path / "python"
    fake.write_text(f'#!/bin/sh\nif [ "$1" = -c ]; then echo {platform}; else cat > /dev/null; echo "$4	$5"; fi\n')
    fake.chmod(0o755)
    command = ["bash", str(ROOT / "benchmarks" / "gpu.sh"), str(tmp_path / "out")]
    environment = {**os.environ, "PYTHON": str(fake)}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    asked = dict(line.split("\t") for line in done.stdout.splitlines() if "\t" in line)
    assert tuple(asked) == ("sampling", "inversion", "guards", "evaluation", "cold-start")
    assert set(asked) == set(get_args(benching.What))
    for what, text in asked.items():
        config = yaml_file.loads(text, BenchConfig)
        assert (config.model, config.out) == (name, f"{tmp_path}/out/{what}.json")
        assert guards.chosen(config)


def test_what_is_timed_is_a_word_and_a_config_is_still_a_file(tmp_path: Path) -> None:
    path = tmp_path / "bench.yaml"
    path.write_text("repeats: 7\n")
    both = parse(["bench", "guards", str(path)])
    assert isinstance(both, Bench)
    assert (both.what, both.config.repeats) == ("guards", 7)
    assert parse(["bench"]) == Bench(what="sampling")
    without = parse(["bench", "--baselines"])
    assert isinstance(without, Bench) and without.config.baselines == ()


@pytest.mark.oracle
def test_the_baselines_compute_the_same(pipe: Pipeline) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("diffusers.models.unets.unet_2d_condition_flax")
    config = BenchConfig(sampler=SAMPLER, inversion=LEARNED, baselines=("torch", "diffusers-flax"))
    latents, learned = sampling.measure(pipe, config), inversion.measure(pipe, config)
    images = evaluation.measure(pipe, dataclasses.replace(config, items=3, baselines=("torch",)))
    assert not latents["missing"] and not learned["missing"] and not images["missing"]
    assert rows(images)["torch"]["difference"] <= 1  # levels of 255
    assert rows(latents)["torch"]["difference"] < 1e-3
    # tanh instead of exact GELU, 1e-5 instead of 1e-6 in one norm
    assert rows(latents)["diffusers-flax"]["difference"] < 0.5
    rate = LEARNED.learning_rate
    assert rows(learned)["torch"]["difference"] < 0.02 * rate
    assert rows(learned)["diffusers-flax"]["difference"] < rate
