"""Strict YAML: what is read, and the three-line rejection of everything else."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ine_jax import config
from ine_jax.cli.evaluate import Evaluate
from ine_jax.cli.generate import Generate
from ine_jax.cli.parsing import parse
from ine_jax.config import (
    DemoConfig,
    DetectorConfig,
    EsdConfig,
    EvaluateConfig,
    GenerateConfig,
    GuardConfig,
    GuidanceConfig,
    InversionConfig,
    InvertConfig,
    MetricConfig,
    ModelConfig,
    NegativeConfig,
    PromptsConfig,
    yaml_file,
)
from ine_jax.config.guards import SafeDenoiserConfig, SldConfig
from ine_jax.errors import InputError
from tests.support.paths import ROOT

KINDS = {
    "attack": config.AttackConfig,
    "invert": config.InvertConfig,
    "evaluate": config.EvaluateConfig,
    "unlearn": config.UnlearnConfig,
    "generate": config.GenerateConfig,
}


def write(folder: Path, text: str | bytes) -> Path:
    path = folder / "c.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def rejection(folder: Path, text: str | bytes, cls: type = InvertConfig) -> list[str]:
    path = write(folder, text)
    with pytest.raises(InputError) as caught:
        yaml_file.load(path, cls)
    lines = str(caught.value).splitlines()
    assert 1 <= len(lines) <= 3
    assert str(path) in lines[0]
    assert caught.value.exit_code == 2
    return lines


def test_reads_every_kind_of_field(tmp_path: Path) -> None:
    text = """
model: tiny
images: folder
inversion:
  concept: weapon
  vectors: 4
  learning_rate: 1
  norm: null
  templates: ["a photo of {}", "a sketch of {}"]
"""
    read = yaml_file.load(write(tmp_path, text), InvertConfig)
    expected = InversionConfig(
        concept="weapon", vectors=4, learning_rate=1.0, templates=("a photo of {}", "a sketch of {}")
    )
    assert read == InvertConfig(model="tiny", images="folder", inversion=expected)
    assert isinstance(read.inversion.learning_rate, float)


def test_words_that_older_yaml_reads_as_values_are_text(tmp_path: Path) -> None:
    read = yaml_file.load(write(tmp_path, "words: [no, yes, on, off, 2020-01-02]"), NegativeConfig)
    assert read.words == ("no", "yes", "on", "off", "2020-01-02")
    assert yaml_file.load(write(tmp_path, "full: true"), DemoConfig).full


def test_reads_lists_of_records(tmp_path: Path) -> None:
    text = """
models: [tiny, tiny-unlearned-0]
guards:
  - name: s=4.5
    guidance: {scale: 3, negative_scale: 4.5, interval: [0, 0.6]}
  - name: sld
    guidance: {scale: 3, method: sld, sld: {preset: strong, threshold: 0.1}}
negatives:
  - {}
  - words: a knife
  - {name: phrases, words: [knife, gun]}
  - {name: found, embedding: [a.safetensors, tiny-unlearned-0], template: "a {}"}
  - {words: knife, embedding: tiny-unlearned-0, blend: 1}
"""
    read = yaml_file.load(write(tmp_path, text), EvaluateConfig)
    assert [guard.name for guard in read.guards] == ["s=4.5", "sld"]
    assert read.guards[0].guidance == GuidanceConfig(3.0, 4.5, interval=(0.0, 0.6))
    assert read.guards[1].guidance.sld.overrides() == {"threshold": 0.1}
    assert [negative.kind for negative in read.negatives] == ["none", "explicit", "explicit", "implicit", "blend"]
    assert [negative.words for negative in read.negatives[1:3]] == ["a knife", ("knife", "gun")]
    assert read.negatives[3].embedding == ("a.safetensors", "tiny-unlearned-0")
    assert read.negatives[4].blend == 1.0
    assert read.models == (ModelConfig("tiny"), ModelConfig("tiny-unlearned-0"))


@pytest.mark.parametrize(
    ("text", "first", "last"),
    [
        ("inversion: {stepz: 3}", "unknown field inversion.stepz", "did you mean steps?"),
        ("modle: tiny", "unknown field modle", "did you mean model?"),
        ("zzz: 1", "unknown field zzz", "remove it"),
        ("inversion: {learning_rate: 5e-3}", "inversion.learning_rate is the text '5e-3'", "write 0.005"),
        ("inversion: {steps: '30'}", "inversion.steps is the text '30'", "write 30"),
        ("inversion: {steps: 2.5}", "inversion.steps is 2.5", "change inversion.steps"),
        ("inversion: {steps: true}", "inversion.steps is True", "change inversion.steps"),
        ("inversion: {steps: 0}", "inversion.steps: 0", "change steps"),
        ("inversion: {space: pixel}", "inversion.space is the text 'pixel'", "change inversion.space"),
        ("inversion: {learning_rate: .nan}", "inversion.learning_rate is nan", "change inversion.learning_rate"),
        ("inversion: {norm: .inf}", "inversion.norm is inf", "change inversion.norm"),
        ("inversion: {templates: [no slot]}", "inversion.templates", "change templates"),
        ("inversion: {templates: []}", "inversion.templates", "change templates"),
        ("inversion: 3", "inversion is 3", "write each on an indented line below it"),
        ("inversion:", "inversion is empty", "write each on an indented line below it"),
        ("model: 010", "model is 8", "put it in quotes"),
        ("model: 3", "model is 3", 'put it in quotes: "3"'),
        ("model: ''", "model: ''", "change model"),
        ("model: [a]", "model is a list", "change model"),
        ("model: tiny\nmodel: other", "key 'model' given twice", "correct that line"),
        ("inversion: {steps: 3, steps: 4}", "key 'steps' given twice", "correct that line"),
        ("? [a]\n: b", "a key that is not text", "correct that line"),
        ("model: [", "line 1", "correct that line"),
        ("\tmodel: tiny", "line 1, column 1: a tab", "replace the tabs of the file by spaces"),
        ("- a\n- b", "is a list", "see configs/"),
        ("just text", "is the text 'just text'", "see configs/"),
        ("", "is empty", "see configs/"),
        ("model: !!python/object/apply:os.system ['true']", "could not determine a constructor", "correct that line"),
        ("model: &a tiny\nimages: *b", "undefined alias", "correct that line"),
        ("[" * 40 + "]" * 40, "levels", "correct that line"),
        ("a: &a [1]\nb: [" + "*a, " * 20 + "]", "aliases", "correct that line"),
        ("model: one\n---\nmodel: two", "another document", "correct that line"),
    ],
)
def test_rejects_in_three_lines(tmp_path: Path, text: str, first: str, last: str) -> None:
    lines = rejection(tmp_path, text)
    assert first in lines[0]
    assert last in lines[-1]


def test_rejects_bytes_that_are_not_text(tmp_path: Path) -> None:
    rejection(tmp_path, b"\xff\xfe\x00model")
    rejection(tmp_path, b"model: \x00")
    assert "KiB" in rejection(tmp_path, b"#" * (yaml_file.MAX_BYTES + 1))[0]


def test_rejects_missing_file_and_folder(tmp_path: Path) -> None:
    for path in (tmp_path / "absent.yaml", tmp_path):
        with pytest.raises(InputError, match=r"no such file|a folder, not a file"):
            yaml_file.load(path, InvertConfig)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.one_of(st.binary(max_size=200), st.text(max_size=200).map(lambda text: text.encode("utf-8", "ignore"))))
def test_any_bytes_give_a_record_or_one_rejection(tmp_path: Path, data: bytes) -> None:
    path = write(tmp_path, data)
    try:
        assert isinstance(yaml_file.load(path, DemoConfig), DemoConfig)
    except InputError as error:
        assert len(str(error).splitlines()) <= 3


keys = st.sampled_from(["model", "images", "out", "inversion", "steps", "concept", "templates", "batch", "x"])
values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(keys, inner, max_size=4)),
    max_leaves=12,
)


@settings(max_examples=300, deadline=None)
@given(data=st.dictionaries(keys, values, max_size=5))
def test_any_mapping_gives_a_record_or_one_rejection(data: dict[str, Any]) -> None:
    try:
        assert isinstance(yaml_file.build(InvertConfig, data, "c.yaml"), InvertConfig)
    except InputError as error:
        lines = str(error).splitlines()
        assert len(lines) <= 3
        assert "c.yaml" in lines[0]


def test_shipped_configs_load_and_open_with_their_comment() -> None:
    paths = sorted((ROOT / "configs").rglob("*.yaml"))
    assert {path.relative_to(ROOT / "configs").as_posix() for path in paths} >= {
        "invert/paper.yaml",
        "invert/tiny.yaml",
        "evaluate/tiny.yaml",
        "unlearn/tiny-esd.yaml",
        "sd/nudity-evaluate.yaml",
        "sd/violence-evaluate.yaml",
    }
    for path in paths:
        # below sd/ a word of the name is the command
        kind = next(word for word in (path.parent.name, *path.stem.split("-")) if word in KINDS)
        assert yaml_file.load(path, KINDS[kind])
        head = path.read_text("utf-8").splitlines()[:12]
        for word in ("command:", "hardware:", "time:", "expected:"):
            assert any(line.startswith("#") and word in line for line in head), f"{path}: no {word}"
        assert any(f"configs/{path.parent.name}/{path.name}" in line for line in head)


def test_the_papers_setting() -> None:
    paper = yaml_file.load(ROOT / "configs/invert/paper.yaml", InvertConfig).inversion
    assert (paper.learning_rate, paper.batch, paper.steps, paper.vectors) == (5e-3, 1, 3000, 1)
    assert paper.space == "token"


def test_records_that_contradict_themselves_are_rejected() -> None:
    with pytest.raises(InputError, match="names differ"):
        EvaluateConfig(guards=(GuardConfig(), GuardConfig()))
    with pytest.raises(InputError, match="preserve"):
        EsdConfig(erase=("a knife",), preserve_weight=1.0)
    with pytest.raises(InputError, match="learning_rate"):
        InversionConfig(learning_rate=float("nan"))


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"words": " "}, "words"),
        ({"words": ("knife", "")}, "words"),
        ({"embedding": ("e.safetensors", " ")}, "embedding"),
        ({"words": "knife", "embedding": "e.safetensors"}, "blend"),
        ({"words": "knife", "blend": 0.5}, "blend"),
        ({"embedding": "e.safetensors", "blend": 0.5}, "blend"),
        ({"blend": 0.0}, "blend"),
        ({"words": "knife", "embedding": "e.safetensors", "blend": 1.5}, "blend"),
        ({"words": "knife", "embedding": "e.safetensors", "blend": float("nan")}, "blend"),
        ({"template": "a {}"}, "template"),
    ],
)
def test_negatives_that_contradict_themselves_are_rejected(fields: dict, named: str) -> None:
    with pytest.raises(InputError, match=rf"^{named}: "):
        NegativeConfig(**fields)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"scale": -1.0}, "scale"),
        ({"negative_scale": float("inf")}, "negative_scale"),
        ({"interval": (0.5, 0.5)}, "interval"),
        ({"interval": (0.0, 1.1)}, "interval"),
        ({"interval": (0.2,)}, "interval"),
        ({"inner": "sld"}, "inner"),
        ({"method": "sld", "inner": "negative"}, "inner"),
        ({"method": "casg", "inner": "cfg"}, "inner"),
        ({"method": "casg", "inner": "dng"}, "inner"),
        ({"method": "sld", "negative_scale": 4.0}, "negative_scale"),
        ({"method": "dng", "negative_scale": 4.0}, "negative_scale"),
        ({"method": "safree", "negative_scale": 4.0}, "negative_scale"),
        ({"method": "casg", "inner": "sld", "negative_scale": 4.0}, "negative_scale"),
    ],
)
def test_guidance_that_contradicts_itself_is_rejected(fields: dict, named: str) -> None:
    with pytest.raises(InputError, match=rf"^{named}: "):
        GuidanceConfig(**fields)


def test_settings_are_those_that_the_method_reads() -> None:
    common = {"method", "inner", "scale", "negative_scale", "interval"}
    assert set(GuidanceConfig().settings()) == set(GuidanceConfig(method="casg").settings()) == common
    assert set(GuidanceConfig(method="safree", inner="sld").settings()) == common | {"safree", "sld"}
    preset: Any = GuidanceConfig(2.0, preset="ine-balanced").settings()
    assert (preset["method"], preset["scale"], preset["sld"]["preset"]) == ("sld", 2.0, "max")
    assert set(preset) == common | {"sld"}
    with pytest.raises(InputError, match=r"^preset: "):
        GuidanceConfig(preset="ine-balanced", sld=SldConfig("weak"))


def test_ranges_of_the_guards_own_settings() -> None:
    wrong: Any
    for wrong in ({"momentum_scale": -0.1}, {"warmup": float("nan")}, {"safety_scale": -1.0}):
        with pytest.raises(InputError, match=min(wrong)):
            SldConfig(**wrong)
    for wrong in ({"sigma": 0.0}, {"strength": -1.0}):
        with pytest.raises(InputError, match=min(wrong)):
            SafeDenoiserConfig(**wrong)
    with pytest.raises(InputError, match="name"):
        GuardConfig(" ")


def test_flags_of_a_negative(tmp_path: Path) -> None:
    def negative(*words: str) -> NegativeConfig:
        command = parse(["generate", "--prompts", "a", *words])
        assert isinstance(command, Generate)
        return command.config.negative

    assert negative() == NegativeConfig() == GenerateConfig().negative
    assert config.guards.phrases(negative("--negative.words", "a knife").words) == ("a knife",)
    assert negative("--negative.words", "knife", "gun").words == ("knife", "gun")
    found = negative("--negative.embedding", "e.safetensors", "--negative.template", "a {}")
    assert (found.kind, found.template) == ("implicit", "a {}")
    both = ("--negative.words", "knife", "--negative.embedding", "e.safetensors")
    assert negative(*both, "--negative.blend", "0.5").kind == "blend"
    with pytest.raises(InputError, match="blend"):
        negative(*both)


def evaluate_config(*words: str) -> EvaluateConfig:
    command = parse(["evaluate", *words])
    assert isinstance(command, Evaluate)
    return command.config


def test_a_string_stands_for_a_record_with_its_first_field(tmp_path: Path) -> None:
    path = tmp_path / "e.yaml"
    path.write_text("models: [tiny, {model: a, unlearned: [b.safetensors], name: c}]\nprompts: [attack]\n")
    found = yaml_file.load(path, EvaluateConfig)
    assert found.models == (ModelConfig("tiny"), ModelConfig("a", unlearned=("b.safetensors",), name="c"))
    assert found.prompts == (PromptsConfig("attack"),)
    words = ["--models", "tiny", "tiny-unlearned-0", "--detectors", "nudenet"]
    flags = evaluate_config(str(path), *words)
    assert [model.label for model in flags.models] == ["tiny", "tiny-unlearned-0"]
    assert (flags.prompts, flags.detectors) == (found.prompts, (DetectorConfig("nudenet"),))
    assert evaluate_config(str(path)).models == found.models  # what a flag cannot say survives where no flag is given
    for wrong in (["--detectors", "wrong"], ["--detectors", "clip"], ["--metrics", "lpips"]):
        with pytest.raises(InputError):
            evaluate_config(*wrong)


@pytest.mark.parametrize(
    ("record", "named"),
    [
        (lambda: ModelConfig("tiny", unlearned=("a",)), "name"),
        (lambda: DetectorConfig("q16", "w"), "prompts"),
        (lambda: DetectorConfig("clip", "w"), "phrases"),
        (lambda: DetectorConfig("nudenet", phrases=("gun",)), "phrases"),
        (lambda: MetricConfig("lpips"), "weights"),
        (lambda: EvaluateConfig(models=(ModelConfig("a"), ModelConfig("a"))), "models"),
        (lambda: EvaluateConfig(reference="b"), "reference"),
    ],
)
def test_sources_that_contradict_themselves_are_rejected(record: Any, named: str) -> None:
    with pytest.raises(InputError, match=rf"^{named}: "):
        record()
