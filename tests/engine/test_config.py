"""The schema of a run: what is refused, with which words, and that a resolved config reads back as itself."""

import pytest
import yaml

from codyra.engine.config import load_config, preset_names
from codyra.errors import UserError
from codyra.methods import SHARED_OPTIONS, method_names

BASE = {
    "model": {"name": "somewhere"},
    "method": {"name": "codyra"},
    "stream": {"tasks": [{"name": "a", "data": "imagefolder:a"}]},
}


def test_defaults_are_those_of_the_paper():
    config = load_config(BASE)
    assert (config.method.r, config.method.kappa_total, config.method.dense_fraction) == (16, 0.65, 0.5)
    assert (config.method.schedule, config.method.operator, config.method.gate_init) == (
        "linear",
        "soft",
        "normal",
    )
    assert (config.train.steps, config.train.batch_size, config.train.lr) == (500, 64, 5e-4)
    assert (config.train.betas, config.train.eps, config.train.schedule) == ((0.9, 0.9999), 1e-8, "cosine")
    assert config.seed == 8


@pytest.mark.parametrize("method", ["codyra", "lora", "full", "zero_shot"])
@pytest.mark.parametrize(
    "overrides", [[], ["train.steps=null", "train.epochs=3"], ["seed=3", "train.clip=1.0"]]
)
def test_a_resolved_config_reads_back_as_itself(method, overrides):
    config = load_config(BASE, [f"method.name={method}", *overrides])
    assert load_config(yaml.safe_load(config.to_yaml())) == config


def test_the_callers_mapping_is_not_modified():
    before = yaml.safe_dump(BASE)
    load_config(BASE, ["method.r=3", "stream.tasks.0.shots=2"])
    assert yaml.safe_dump(BASE) == before


def test_changing_the_method_drops_options_that_only_the_old_one_has():
    config = load_config(BASE, ["method.kappa_total=0.3", "method.r=4", "method.name=lora"])
    assert (config.method.name, config.method.r) == ("lora", 4)
    assert not hasattr(config.method, "kappa_total")


def test_options_of_another_method_are_not_meant_for_this_one():
    """Of the same name: CoDyRA's ramp would make SoRA another method."""
    set_for_codyra = ["method.r=4", "method.dense_fraction=0.1", "method.schedule=official"]
    config = load_config(BASE, [*set_for_codyra, "method.name=sora"])
    assert (
        config.method.model_dump()
        == load_config(BASE, ["method.name=sora", "method.r=4"]).method.model_dump()
    )
    kept = load_config(BASE, [*set_for_codyra, "method.name=codyra"])
    assert (kept.method.r, kept.method.dense_fraction, kept.method.schedule) == (4, 0.1, "official")


@pytest.mark.parametrize("preset", preset_names())
def test_every_preset_goes_with_every_method(preset):
    for method in method_names():
        own = load_config({**BASE, "method": {"name": method}}).method.model_dump(exclude=set(SHARED_OPTIONS))
        assert load_config(preset, [f"method.name={method}"]).method.model_dump(
            exclude=set(SHARED_OPTIONS)
        ) == own or (method == load_config(preset).method.name)


def test_schedules_bring_their_own_thresholds():
    official = load_config(BASE, ["method.schedule=official"]).method
    assert (official.kappa_total, official.kappa_max, official.levels) == (None, 0.005, 50)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.stepz=3", "train.stepz: there is no such key; did you mean steps?"),
        ("metod.r=3", "metod: there is no such key; did you mean method?"),
        ("method.kapa_total=1", "method.kapa_total: there is no such key; did you mean kappa_total?"),
        ("stream.tasks.0.promt=x", "stream.tasks.0.promt: there is no such key; did you mean prompt?"),
        ("stream.labelspace=task", "did you mean label_space?"),
        ("method.name=lorra", "there is no method 'lorra'; did you mean lora?"),
        ("method.levels=10", "levels belongs to schedule: official"),
        ("method.r=0", "method.r: Input should be greater than or equal to 1, got 0"),
        ("train.steps=0", "train.steps: Input should be greater than or equal to 1, got 0"),
        ("train.lr=fast", "train.lr: "),
        ("stream.tasks.0.prompt=hello", "exactly one {}"),
        ("stream.tasks.1.prompt={}", "1 is no position in a list of 1"),
        ("seed.x=1", "seed is a single value"),
        ("seed", "write key=value"),
        ("seed=a: b: c", "is not YAML"),
    ],
)
def test_a_mistake_is_one_line_that_says_where_and_what(override, message):
    raw = {**BASE, "seed": 1}
    with pytest.raises(UserError) as caught:
        load_config(raw, [override])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_steps_and_epochs_exclude_each_other():
    with pytest.raises(UserError, match="steps or epochs"):
        load_config({**BASE, "train": {"steps": 3, "epochs": 2}})
    assert load_config({**BASE, "train": {"epochs": 2.5, "batch_size": 4}}).num_steps("warm", 10) == 7
    config = load_config({**BASE, "train": {"epochs": 2.2, "batch_size": 10}})
    assert config.num_steps("warm", 50) == 11, "in binary floats it is a little more than 11"


def test_an_unknown_preset_names_the_nearest():
    with pytest.raises(UserError, match=r"did you mean demo\?"):
        load_config("demp")
    with pytest.raises(UserError, match="there is no such file"):
        load_config("nowhere.yaml")


@pytest.mark.parametrize("preset", preset_names())
def test_every_preset_is_valid(preset):
    assert load_config(preset).name == preset


@pytest.mark.parametrize("text", ["a: [", "- just\n- a list", "", "{a: 1}", "method: codyra"])
def test_a_file_that_is_no_config(tmp_path, text):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        load_config(path)
    assert "bad.yaml" in str(caught.value)
