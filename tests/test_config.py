"""Configuration: presets, changes, the round trip, and errors that name the key."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from licm.config import Config, from_yaml, load_config, make_config, parse_overrides, to_yaml
from licm.presets import PRESETS


@pytest.mark.parametrize("preset", PRESETS)
def test_yaml_round_trip(preset):
    config = make_config(
        preset, overrides={"mechanisms": ["invert", "shift(dx=4)"], "experts.dilations": [1, 2, 1, 1, 1]}
    )
    assert from_yaml(to_yaml(config)) == config
    assert config.preset == preset


def test_the_paper_preset_is_the_slides_recipe():
    paper = make_config("paper")
    assert (paper.experts.width, paper.experts.normalization, paper.experts.activation) == (32, "batch", "elu")
    assert (paper.competition.objective, paper.competition.loser_samples) == ("all_experts", None)
    assert paper.competition.r1_gamma == 0
    assert not paper.revival.enabled
    assert not paper.training.decay
    assert (paper.identity.start, paper.identity.tolerance, paper.identity.max_steps) == ("trained", 0.002, 500)
    assert (paper.data.image_size, paper.training.batch_size, paper.training.learning_rate) == (32, 32, 1e-3)


def test_short_keys():
    config = make_config(overrides={"num_experts": 4, "steps": 9, "batch_size": 8})
    assert (config.num_experts, config.training.steps, config.training.batch_size) == (4, 9, 8)


def test_file_then_overrides(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("preset: paper\ntraining: {steps: 10}\nexperts: {width: 8}\n")
    config = load_config(path, overrides={"experts.width": 4})
    assert (config.preset, config.training.steps, config.experts.width) == ("paper", 10, 4)
    assert config.data.image_size == 32


def test_a_config_is_frozen():
    with pytest.raises(ValueError, match="frozen"):
        make_config().seed = 3


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"experts.widht": 3}, r"unknown configuration key 'experts.widht': did you mean 'experts.width'\?"),
        ({"width": 3}, r"unknown configuration key 'width': did you mean 'experts.width'\?"),
        ({"sed": 3}, r"unknown configuration key 'sed': did you mean 'seed'\?"),
        ({"experts.width": 0}, "configuration key 'experts.width': input should be greater than or equal to 1, got 0"),
        ({"experts.width": "a"}, "configuration key 'experts.width': input should be a valid integer"),
        ({"experts.head": "x"}, "configuration key 'experts.head': input should be 'sigmoid' or 'residual', got 'x'"),
        ({"mechanisms": ["inver"]}, "unknown mechanism 'inver': did you mean 'invert'"),
        ({"experts.dilations": [1, 2]}, "section 'experts': .*dilations: expected 5 numbers, one per convolution"),
        ({"experts.dilations": [0, 1, 1, 1, 1]}, "input should be greater than or equal to 1, got 0"),
        ({"discriminator.widths": [-1]}, "input should be greater than or equal to 1, got -1"),
        ({"training.betas": [2, 0.9]}, "input should be less than 1, got 2"),
        ({"identity.start": "analytic"}, "identity.start 'analytic' needs experts.head 'residual'"),
        (
            {"experts.architecture": "convolution"},
            "architecture 'convolution': did you mean 'convolutional'",
        ),
        ({"preset": "paper"}, "preset: choose it by itself"),
        ({"mechanisms": []}, "at least one mechanism is needed"),
        ({"training.learning_rate": float("nan")}, "'training.learning_rate': input should be"),
        ({"experts": 3}, "configuration key 'experts'"),
        ({"seed.a": 3}, "configuration key 'seed': input should be a valid integer, got {'a': 3}"),
        ({"data.source": {}}, "configuration key 'data.source': input should be a valid string, got {}"),
        ({"data.canonical": ""}, "'data.canonical': string should have at least 1 character, got ''"),
        ({"mechanisms": -1}, "key 'mechanisms': expected a set's name, or a list such as .*, got -1$"),
        ({"mechanisms": [0]}, r"expected a set's name, or a list such as .*, got \[0\]$"),
        ({"mechanisms": ["rotat"]}, "unknown mechanism 'rotat': did you mean 'rotate'.*thin$"),
        ({"discriminator.widths": 3}, "'discriminator.widths': input should be a list, as \\[1, 2\\], got 3"),
        ({"num_experts": "Auto"}, "'num_experts': input should be a whole number or 'auto', .*, got 'Auto'"),
        ({"num_experts": 10**12}, "'num_experts': input should be less than or equal to 1000, got 1000000000000"),
        ({"training.steps": 10**30}, f"'training.steps': input should be less than or equal to {2**53}, got {10**30}"),
        ({"stepz": 3}, r"unknown configuration key 'stepz': did you mean 'steps'\?"),
    ],
)
def test_bad_keys_and_values(overrides, message):
    with pytest.raises(ValueError, match=message) as error:
        make_config(overrides=overrides)
    assert "\n" not in str(error.value)


def test_unknown_preset():
    with pytest.raises(ValueError, match="unknown preset 'papr': did you mean 'paper'"):
        make_config("papr")


@pytest.mark.parametrize("setting", ["steps", "=3", ""])
def test_settings_need_a_key_and_a_value(setting):
    with pytest.raises(ValueError, match="expected KEY=VALUE"):
        parse_overrides([setting])


@pytest.mark.parametrize("value", ["{", "2020-13-45", "[" * 3000])
def test_settings_need_yaml(value):
    with pytest.raises(ValueError, match="the value is not valid YAML"):
        parse_overrides([f"seed={value}"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- a", "expected sections with keys, got list"),
        ("{", "c.yaml': not valid YAML: line 1, column 2: expected"),
        ("[" * 3000, "c.yaml': not valid YAML: nested too deeply"),
        ("expert: {}", "c.yaml': unknown configuration key 'expert': did you mean 'experts'"),
        ("1: 2", "expected sections"),
        ("preset: [a]", "unknown preset"),
    ],
)
def test_bad_files(tmp_path, text, message):
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        load_config(path)


def test_missing_and_binary_files(tmp_path):
    with pytest.raises(ValueError, match="cannot be read"):
        load_config(tmp_path / "none.yaml")
    (tmp_path / "b.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="cannot be read"):
        load_config(tmp_path / "b.yaml")


@given(st.text(max_size=60))
def test_any_text_is_a_config_or_refused(text):
    try:
        result: Config | str = from_yaml(text)
    except ValueError as error:
        result = str(error)
    assert isinstance(result, Config) or "\n" not in result
