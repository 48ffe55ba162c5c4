"""The comparison of recovery and gain: what is read from a summary, and the rank correlation with its interval."""

import numpy as np
import pytest

from scripts.recovery import Gain, correlation, gains, table
from tests.support import samples


def test_gains_are_of_own_embeddings_against_words_on_attack_prompts() -> None:
    summary = samples.summary()
    other, kept = dict(summary["paired"][0]), dict(summary["paired"][0])
    other |= {"embedding_from": "another", "guard": "x"}
    kept |= {"list": "benign", "guard": "y"}
    summary["paired"] += [other, kept, {**other, "embedding_from": other["model"], "a": "none"}]
    found = gains(summary)
    assert set(found) == set(samples.GUARDS)
    assert found["negative"] == {model: Gain(9, 1, 20) for model in ("model-0", "model-1")}
    assert found["negative"]["model-0"].value == pytest.approx(0.4)


def test_correlation_is_spearmans_and_its_interval_covers_the_noise_of_few_images() -> None:
    recovered = {"a": 10, "b": 40, "c": 90, "not evaluated": 3}
    rising = {"a": Gain(3, 0, 300), "b": Gain(60, 0, 300), "c": Gain(240, 0, 300)}
    falling = dict(zip(rising, reversed(rising.values()), strict=True))
    assert correlation(recovered, 100, rising) == (1.0, 1.0, 1.0)
    assert correlation(recovered, 100, falling) == (-1.0, -1.0, -1.0)
    equal = {name: Gain(5, 5, 20) for name in rising}
    rho, low, high = correlation(dict.fromkeys(rising, 50), 100, equal)
    assert np.isnan(rho) or rho == 0
    assert low < -0.5 < 0.5 < high


def test_table_names_every_model_and_guard() -> None:
    own = {"a": Gain(3, 0, 300), "b": Gain(60, 3, 300)}
    lines = table({"a": 10, "b": 40}, 100, {"sld": own, "casg": {"a": own["a"]}})
    assert lines[0] == "| model | recovery | sld | casg |"
    assert lines[3].startswith("| b | 0.40 [0.31, 0.50] | +0.190 (n 300) | - |")
    assert lines[4] == "sld: Spearman's rho +1.00 [+1.00, +1.00] over 2 models"
