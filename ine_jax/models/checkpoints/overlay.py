"""Checkpoints on top of a base model: tensors put in place, low-rank changes added, and what changed, said."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from ine_jax.errors import InputError
from ine_jax.models.checkpoints import compvis, configs, lora, names
from ine_jax.models.checkpoints.names import ModelConfig, WeightMismatch
from ine_jax.models.checkpoints.recognize import Checkpoint, summarize_layers
from ine_jax.models.checkpoints.tensors import State, Tensor

# Fields that say nothing about the weights' meaning: the usual image size, and an end token that old files misstate.
_FREE = ("sample_size", "reference", "eos_token_id")


def apply_checkpoints(
    part: str, base: State, config: ModelConfig, checkpoints: Sequence[Checkpoint], keep_dtype: bool = False
) -> tuple[State, tuple[str, ...]]:
    """Tensors of one part of the model with every checkpoint applied in turn, and one line for each that changed it.

    A LoRA's product is computed in float32 and added to what is there, when the tensor is read; with `keep_dtype` the
    sum is rounded to the tensor's own dtype. Raises `names.WeightMismatch` with every unexpected or misshapen
    key, and every missing one where the checkpoint says to be whole; `InputError` for another `config.json`.
    """
    changes: list[str] = []
    state = dict(base)
    expected = names.torch_shapes(config)
    touched = [one for one in checkpoints if part in one.parts or any(where[0] == part for where in one.factors)]
    if touched:
        state = _named(f"the base's {part}", base, config)
    for one in touched:
        if part in one.parts:
            _check_config(part, config, one)
            given = _named(f"{one.path}, {part}", one.parts[part], config)
            _check(f"{one.path}, {part}", given, expected, one.whole)
            state |= given
            held = "all" if len(given) == len(expected) else f"{len(given)} of"
            which = "" if len(given) == len(expected) else f" ({summarize_layers(given)})"
            changes.append(f"{one.path.name}: {held} {len(expected)} tensors of {part} replaced{which}")
        else:
            merged = _merged(f"{one.path}, {part}", part, one, state, config, keep_dtype)
            state |= merged
            often = "" if one.times == 1 else f"{one.times:g} times "
            what = f"{len(merged)} tensors of {part} ({summarize_layers(merged)})"
            changes.append(f"{one.path.name}: LoRA added {often}to {what}")
    return state, tuple(changes)


def changed_tensors(base: State, config: ModelConfig, state: State) -> list[str]:
    """Names of the tensors of a part that differ from the base's in the base's precision, one at a time in memory."""
    ours = _named("the base", base, config)
    return [
        name
        for name, tensor in ours.items()
        if state[name] is not tensor
        and not np.array_equal(np.asarray(tensor), np.asarray(state[name]).reshape(tensor.shape).astype(tensor.dtype))
    ]


def _named(what: str, state: State, config: ModelConfig) -> dict[str, Tensor]:
    """Tensors under today's names of diffusers; WeightMismatch where two have one name."""
    found: dict[str, Tensor] = {}
    twice: list[str] = []
    for key, tensor in compvis.translate(state, config).items():
        name = names.canonical_name(config, key)
        if name in found:
            twice.append(key)
        elif name is not None:
            found[name] = tensor
    if twice:
        raise WeightMismatch(what, [], twice, [])
    return found


def _check(what: str, given: State, expected: dict[str, names.Shape], whole: bool) -> None:
    unexpected = [key for key in given if key not in expected]
    missing = [key for key in expected if key not in given] if whole else []
    known = [(key, tensor.shape, expected[key]) for key, tensor in given.items() if key in expected]
    misshapen = [f"{key} {found} not {shape}" for key, found, shape in known if not names.same_shape(found, shape)]
    if unexpected or missing or misshapen:
        raise WeightMismatch(what, missing, unexpected, misshapen)


def _check_config(part: str, config: ModelConfig, checkpoint: Checkpoint) -> None:
    if part not in checkpoint.configs:
        return
    given, source = checkpoint.configs[part], f"{checkpoint.path.name}: {part}"
    theirs: ModelConfig = configs.parse_config(type(config), given, source)  # type: ignore[type-var]
    for field in dataclasses.fields(config):
        ours, found = getattr(config, field.name), getattr(theirs, field.name)
        if field.name not in _FREE and ours != found:
            what = f"{checkpoint.path}: {part} has {field.name} {found!r}, the base {ours!r}"
            raise InputError(what, "a checkpoint of the base's own family", "take the base that it was made from")


def _merged(
    what: str, part: str, checkpoint: Checkpoint, state: State, config: ModelConfig, keep_dtype: bool
) -> dict[str, Tensor]:
    """The base's tensors with a LoRA's products added; its modules carry diffusers' or CompVis' names."""
    shapes = {name: shape for name, shape in names.torch_shapes(config).items() if len(shape) > 1}
    targets = {name.removesuffix(".weight").replace(".", "_"): name for name in shapes}
    if part != "text_encoder":  # OpenCLIP keeps three projections in one matrix
        originals = {compvis.original_name(name, config): name for name in shapes}
        targets |= {old.removesuffix(".weight").replace(".", "_"): name for old, name in originals.items()}
    if part == "text_encoder":
        targets |= {key.removeprefix("text_model_"): name for key, name in list(targets.items())}
    found: dict[str, Tensor] = {}
    unexpected: list[str] = []
    misshapen: list[str] = []
    for (owner, module), factors in checkpoint.factors.items():
        name = targets.get(module)
        if owner != part:
            continue
        if name is None or name not in state or name in found:
            unexpected.append(module)
        elif not factors.fits(shapes[name]):
            misshapen.append(f"{module} {factors.up.shape} x {factors.down.shape} not {shapes[name]}")
        else:
            found[name] = _sum(state[name], factors, keep_dtype)
    if unexpected or misshapen:
        raise WeightMismatch(what, [], unexpected, misshapen)
    return found


def _sum(base: Tensor, factors: lora.Factors, keep_dtype: bool) -> Tensor:
    dtype = base.dtype if keep_dtype else "float32"

    def read() -> np.ndarray:
        total: np.ndarray = np.asarray(base).astype(np.float32) + factors.product(base.shape)
        return total.astype(dtype)

    return Tensor(base.shape, dtype, read)
