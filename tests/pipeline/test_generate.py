"""Generation into a folder: numbered names, a continued run equal to an uninterrupted one, hostile prompt files."""

import json
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from PIL import Image

from ine_jax.config import GenerateConfig, NegativeConfig, SamplerConfig
from ine_jax.errors import InputError, Interrupted
from ine_jax.guidance import Cfg
from ine_jax.guidance.from_config import concept
from ine_jax.pipeline.generation import METADATA, SETTINGS, generate, wanted_items, write_images
from ine_jax.pipeline.packed import PackedSampler, Row
from ine_jax.pipeline.pipeline import load
from ine_jax.progress import Progress
from ine_jax.prompts.items import Item, named
from ine_jax.storage.images import complete, png, read_image
from tests.support.locks import elsewhere_locked
from tests.support.tiny_pipeline import SIDE

SAMPLER = SamplerConfig(steps=2, batch=2)
KNIFE = NegativeConfig(words="knife")
HOSTILE = ("../../x", "a\nb", "<script>", "CON", "/etc/passwd", "a" * 500)


def config(folder: Path, out: Path | str, **more: object) -> GenerateConfig:
    settings = {"model": str(folder), "prompts": ("a cat", "a dog", "knife"), "sampler": SAMPLER, "seed": 5}
    return GenerateConfig(**{**settings, "out": str(out), **more})  # type: ignore[arg-type]


def numbered(*prompts: str) -> dict[str, Item]:
    return named([Item(str(i), prompt, i) for i, prompt in enumerate(prompts)])


def rows_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / METADATA).read_text("utf-8").splitlines()]


def png_bytes(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.png"))}


def test_images_and_metadata_in_one_private_folder(tiny_folder: Path, tmp_path: Path) -> None:
    done = generate(config(tiny_folder, tmp_path / "out", per_prompt=2))
    out = tmp_path / "out"
    assert (done.made, done.found, done.truncated) == (6, 0, 0)
    names = [f"{i:06d}_{k:02d}.png" for i in range(3) for k in range(2)]
    assert sorted(p.name for p in out.iterdir() if not p.name.startswith(".")) == [*names, METADATA]
    rows = rows_of(out)
    assert [row["file_name"] for row in rows] == names
    assert [row["seed"] for row in rows] == [5, 6, 7, 8, 9, 10]
    assert rows[2] | {"prompt": "a dog", "id": "1", "truncated": False, "constant": False} == rows[2]
    assert stat.S_IMODE(out.stat().st_mode) == 0o700
    assert stat.S_IMODE((out / names[0]).stat().st_mode) == 0o600
    with Image.open(out / names[0]) as image:
        assert (image.size, image.mode) == ((SIDE, SIDE), "RGB")
        expected = load(tiny_folder, batch_size=2)("a cat", seeds=5, steps=2).arrays[0]
        np.testing.assert_array_equal(np.asarray(image), expected)


def test_a_continued_run_equals_an_uninterrupted_one(tiny_folder: Path, tmp_path: Path) -> None:
    generate(config(tiny_folder, tmp_path / "whole", per_prompt=2))
    generate(config(tiny_folder, tmp_path / "cut", per_prompt=2))
    cut = tmp_path / "cut"
    (cut / "000000_01.png").unlink()
    (cut / "000002_00.png").write_bytes((cut / "000002_00.png").read_bytes()[:200])
    (cut / METADATA).unlink()
    kept = (cut / "000001_00.png").stat().st_mtime_ns
    again = generate(config(tiny_folder, cut, per_prompt=2))
    assert (again.made, again.found) == (2, 4)
    assert (cut / "000001_00.png").stat().st_mtime_ns == kept
    assert png_bytes(cut) == png_bytes(tmp_path / "whole")
    assert (cut / METADATA).read_bytes() == (tmp_path / "whole" / METADATA).read_bytes()
    assert generate(config(tiny_folder, cut, per_prompt=2)).made == 0


@pytest.mark.parametrize("change", [{"seed": 6}, {"negative": KNIFE}, {"prompts": ("a cat", "a dog")}])
def test_a_folder_belongs_to_one_setting(tiny_folder: Path, tmp_path: Path, change: dict) -> None:
    pipe = load(tiny_folder, batch_size=2)
    first, second = config(tiny_folder, tmp_path / "out"), config(tiny_folder, tmp_path / "out", **change)
    options = {"guidance": Cfg(3.0), "size": {"steps": 2}}
    write_images(pipe, wanted_items(first), first.out, **options)  # type: ignore[arg-type]
    before = png_bytes(tmp_path / "out")
    with pytest.raises(InputError, match="started with other settings"):
        write_images(pipe, wanted_items(second), second.out, concept=concept(second.negative), **options)  # type: ignore[arg-type]
    assert png_bytes(tmp_path / "out") == before


def test_a_request_to_stop_keeps_what_is_done(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe = load(tiny_folder, batch_size=2)
    monkeypatch.setattr("ine_jax.pipeline.packing.GRACE", 0.0)  # no time for a further batch
    wanted = numbered("a cat", "a dog", "knife", "apple", "cat", "dog", "red")
    options = {"guidance": Cfg(3.0), "size": {"steps": 2}}

    class Stopper(Progress):
        def update(self, step: int, metrics: object = None) -> None:
            if step == 2:
                os.kill(os.getpid(), 15)

    with pytest.raises(Interrupted):
        write_images(pipe, wanted, tmp_path / "out", progress=Stopper(len(wanted)), **options)  # type: ignore[arg-type]
    # the first two, after which the stop was asked for, and the two that were on the device
    assert [row["file_name"] for row in rows_of(tmp_path / "out")] == [f"{i:06d}_00.png" for i in range(4)]
    done = write_images(pipe, wanted, tmp_path / "out", **options)  # type: ignore[arg-type]
    assert (done.made, done.found) == (3, 4)
    assert len(rows_of(tmp_path / "out")) == 7


@pytest.mark.parametrize("most", [4, 2])
def test_scales_share_full_batches_which_are_halved_where_they_do_not_fit(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    """Eight images at two guidance scales in two batches of four, or four of two, as in single calls."""
    pipe, sizes, dispatch = load(tiny_folder, batch_size=4), list[int](), PackedSampler._dispatch

    def limited(self: PackedSampler, rows: Sequence[Row], places: Sequence[int], size: int) -> Any:
        if size > most:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")
        sizes.append(len(rows))
        return dispatch(self, rows, places, size)

    monkeypatch.setattr(PackedSampler, "_dispatch", limited)
    scales = (None, 5.0, 5.0, None, None, None, 5.0, None)
    wanted = named([Item(str(i), "a cat", i, guidance=scale) for i, scale in enumerate(scales)])
    write_images(pipe, wanted, tmp_path / "out", guidance=Cfg(3.0), size={"steps": 2}, scaled=Cfg)
    assert sizes == [most] * (8 // most)
    for name, item in wanted.items():
        alone = pipe(item.prompt, guidance=Cfg(item.guidance or 3.0), seeds=item.seed, steps=2)
        # the decoder of this toy rounds by the place in a batch
        assert np.abs(read_image(tmp_path / "out" / name).astype(int) - alone.arrays[0]).max() <= 1


def test_nothing_in_a_prompt_reaches_a_file_name() -> None:
    made = named([Item(prompt, prompt, 0) for prompt in HOSTILE])
    assert list(made) == [f"{i:06d}_00.png" for i in range(len(HOSTILE))]


def test_seeds_of_rows_and_of_lists(tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_text('{"prompt": "a"}\n{"prompt": "b", "seed": 100}\n{"prompt": "c"}\n')
    made = wanted_items(GenerateConfig(prompts_file=str(tmp_path / "p.jsonl"), seed=10, per_prompt=2))
    assert [item.seed for item in made.values()] == [10, 11, 100, 101, 14, 15]
    made = wanted_items(GenerateConfig(prompts=("a", "b"), seed=10, per_prompt=2))
    assert [(item.id, item.seed) for item in made.values()] == [("0", 10), ("0", 11), ("1", 12), ("1", 13)]
    with pytest.raises(InputError, match="seed 4294967296"):
        named([Item("0", "a", 2**32 - 1)], per_prompt=2)


def test_wrong_folders_are_refused_and_left_alone(tiny_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("x")
    for out, reason in (("file", "is a file"), ("full", "holds other files")):
        with pytest.raises(InputError, match=reason):
            generate(config(tiny_folder, tmp_path / out))
    assert [p.name for p in (tmp_path / "full").iterdir()] == ["mine.txt"]
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / SETTINGS).write_text("{")
    with pytest.raises(InputError, match="damaged"):
        generate(config(tiny_folder, tmp_path / "damaged"))
    with pytest.raises(InputError, match="no prompts"):
        generate(config(tiny_folder, tmp_path / "new", prompts=()))
    with pytest.raises(InputError, match="embedding file"):
        absent = NegativeConfig(embedding=str(tmp_path / "none.safetensors"))
        generate(config(tiny_folder, tmp_path / "new", negative=absent))
    assert not (tmp_path / "new").exists()


def test_the_default_folder_is_that_of_the_same_settings_or_a_fresh_one(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    default = GenerateConfig.out
    first, second = (config(tiny_folder, default, prompts=(prompt,)) for prompt in ("a cat", "a dog"))
    assert [generate(each).out for each in (first, second)] == ["runs/generate", "runs/generate-2"]
    again = generate(second)
    assert (again.out, again.made, again.found) == ("runs/generate-2", 0, 1)
    assert generate(first).made == 0
    with pytest.raises(InputError, match="was started with other settings: items"):
        generate(config(tiny_folder, tmp_path / "runs" / "generate", prompts=("a dog",)))


def test_two_processes_cannot_write_one_folder(tiny_folder: Path, tmp_path: Path) -> None:
    with elsewhere_locked(tmp_path / "out"), pytest.raises(InputError, match="another process"):
        generate(config(tiny_folder, tmp_path / "out"))


def test_a_file_that_is_no_whole_png_is_not_complete(tmp_path: Path) -> None:
    whole = png(np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8))
    (tmp_path / "a.png").write_bytes(whole)
    assert complete(tmp_path / "a.png")
    for data in (b"", whole[: len(whole) // 2], b"GIF89a" + whole):
        (tmp_path / "b.png").write_bytes(data)
        assert not complete(tmp_path / "b.png")
    assert not complete(tmp_path / "c.png")


def test_a_constant_image_is_flagged(tiny_folder: Path, tmp_path: Path) -> None:
    pipe = load(tiny_folder, batch_size=2)
    wanted = numbered("a cat", "a dog")
    options = {"guidance": Cfg(3.0), "size": {"steps": 2}}
    write_images(pipe, wanted, tmp_path / "out", **options)  # type: ignore[arg-type]
    (tmp_path / "out" / "000001_00.png").write_bytes(png(np.zeros((SIDE, SIDE, 3), np.uint8)))
    write_images(pipe, wanted, tmp_path / "out", **options)  # type: ignore[arg-type]
    assert [row["constant"] for row in rows_of(tmp_path / "out")] == [False, True]
