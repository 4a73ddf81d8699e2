"""What a comparison runs: entries, labels, the budget rule, and what a folder that is there allows."""

import re

import pytest
import yaml

from codyra.compare.plan import parse_methods, plan_comparison
from codyra.errors import UserError


@pytest.fixture
def stream(config, tmp_path):
    """The config as a file."""
    file = tmp_path / "stream.yaml"
    file.write_text(yaml.safe_dump(config))
    return str(file)


def plan(stream, methods, seeds=(0, 1), **options):
    return plan_comparison(stream, methods, seeds, **options)


def refusal(call, *args, **options):
    with pytest.raises(UserError) as caught:
        call(*args, **options)
    return str(caught.value)


def test_entries_keep_their_labels_and_lists_stay_whole():
    entries = parse_methods("codyra, lora:r=16 ,lora:targets=[a.b,c]:r=4,full:train.lr=1e-5")
    assert [entry.label for entry in entries] == [
        "codyra", "lora:r=16", "lora:targets=[a.b,c]:r=4", "full:train.lr=1e-5",
    ]  # fmt: skip
    assert entries[2].overrides == ("method.name=lora", "method.targets=[a.b,c]", "method.r=4")
    assert entries[3].overrides == ("method.name=full", "train.lr=1e-5")
    assert all(re.fullmatch(r"[A-Za-z0-9._=+-]+", entry.folder) for entry in entries)


@pytest.mark.parametrize(
    ("methods", "words"),
    [
        ("codyra,lroa", "there is no method 'lroa', did you mean 'lora'?"),
        ("codyra,", "'' is no method"),
        ("lora:rr=4", "lora has no option 'rr', did you mean 'r'?"),
        ("lora:name=full", "lora has no option 'name'"),
        ("lora:r", "'r' is no option; write key=value"),
        ("lora:train.steps=5", "train.steps is the same for every method"),
        ("lora:train.batch_size=5", "--set train.batch_size=5"),
        ("lora:stream.ties=first", "stream.ties is the same for every method"),
        ("lora:seed=3", "lora has no option 'seed'"),
        ("codyra,lora,codyra", "'codyra' stands twice"),
        ("lora:r=1\n2", "is no method"),
    ],
)
def test_a_method_changes_nothing_but_itself(methods, words):
    message = refusal(parse_methods, methods)
    assert words in message
    assert "\n" not in message


def test_configs_differ_in_method_rate_and_seed_alone(stream, tmp_path):
    comparison = plan(stream, "codyra,lora:r=2,full:train.lr=1e-5", out=tmp_path / "out")
    jobs = {(job.label, job.seed): job.config for job in comparison.jobs}
    assert len(jobs) == 6
    assert jobs["lora:r=2", 0].method.r == 2
    assert jobs["codyra", 0].method.r == 4, "an option of the config goes to every method that has it"
    assert jobs["full:train.lr=1e-5", 1].train.lr == 1e-5
    assert {config.seed for config in jobs.values()} == {0, 1}
    same = {
        config.model_copy(
            update={
                "method": jobs["codyra", 0].method,
                "seed": 0,
                "train": config.train.model_copy(update={"lr": 1.0}),
            }
        ).to_yaml()
        for config in jobs.values()
    }
    assert len(same) == 1
    assert comparison.stored.reference == "codyra"
    assert not (tmp_path / "out").exists()


def test_seeds_come_first_so_that_a_part_is_balanced(stream, tmp_path):
    jobs = plan(stream, "codyra,lora", out=tmp_path / "out").jobs
    assert [(job.seed, job.label) for job in jobs] == [(0, "codyra"), (0, "lora"), (1, "codyra"), (1, "lora")]


def test_more_methods_and_seeds_extend_what_is_there(stream, tmp_path):
    out = tmp_path / "out"
    plan(stream, "codyra,lora", (0,), out=out, reference="lora").write()
    grown = plan(stream, "zero_shot,lora", (2, 0), out=out)
    assert grown.labels == ("codyra", "lora", "zero_shot")
    assert grown.stored.seeds == (0, 2)
    assert grown.stored.reference == "lora"
    assert plan(stream, "lora", (0,), out=out, reference="codyra").stored.reference == "codyra"


@pytest.mark.parametrize("override", ["train.steps=13", "stream.ties=first", "method.r=5", "train.lr=2e-3"])
def test_another_config_is_refused(stream, tmp_path, override):
    out = tmp_path / "out"
    plan(stream, "codyra,lora", out=out).write()
    message = refusal(plan, stream, "codyra", out=out, overrides=[override])
    assert "holds a comparison on another config" in message
    assert override.partition("=")[0].split(".")[-1] in message


def test_what_belongs_to_methods_and_seeds_is_not_set_for_all(stream):
    assert "--seeds" in refusal(plan, stream, "lora", overrides=["seed=3"])
    assert "--methods" in refusal(plan, stream, "lora", overrides=["method.name=full"])
    assert "did you mean" in refusal(plan, stream, "lora", overrides=["method.rr=3"])
    assert "none of the methods" in refusal(plan, stream, "lora", reference="codyra")


def test_an_option_set_for_all_reaches_the_methods_that_have_it(stream, tmp_path):
    made = plan(
        stream,
        "ewc,lora:r=3,zero_shot",
        out=tmp_path / "out",
        overrides=["method.r=2", "method.ewc_lambda=7"],
    )
    options = {job.label: job.config.method for job in made.jobs}
    assert (options["ewc"].r, options["ewc"].ewc_lambda) == (2, 7)
    assert options["lora:r=3"].r == 3  # its own word counts


def test_a_label_of_ones_own(stream, tmp_path):
    made = plan(stream, "lora:r=3 as small,full:train.lr=1e-5 as all weights", out=tmp_path / "out")
    assert made.labels == ("small", "all weights")
    assert [job.folder.parent.name for job in made.jobs[:2]] == ["small", "all-weights"]
    made.write()
    more = plan(stream, "lora:r=3 as small,codyra", out=tmp_path / "out", reference="small")
    assert more.labels == ("small", "all weights", "codyra")
    assert "'small' stands twice" in refusal(plan, stream, "lora:r=4 as small", out=tmp_path / "out")
    assert "stands twice" in refusal(plan, stream, "lora as x,full as x")


@pytest.mark.parametrize("label", ["..", ".", "compare.yaml", "Compare.HTML", "table.csv", "lock.json"])
def test_a_label_that_is_no_folder_of_its_own(stream, label):
    assert "use another label" in refusal(plan, stream, f"lora as {label}")


def test_a_plan_that_was_edited_by_halves(stream, tmp_path):
    out = tmp_path / "out"
    plan(stream, "codyra,lora", out=out).write()
    stored = yaml.safe_load((out / "compare.yaml").read_text())
    del stored["own"]["lora"]
    (out / "compare.yaml").write_text(yaml.safe_dump(stored))
    assert "`methods` and `own` do not name the same rows" in refusal(plan, stream, None, out=out)


def test_options_of_the_configs_own_method_stay_with_it(config, tmp_path):
    config["method"] = {"name": "codyra", "r": 2, "schedule": "official", "levels": 3, "targets": "attention"}
    (tmp_path / "stream.yaml").write_text(yaml.safe_dump(config))
    made = plan(str(tmp_path / "stream.yaml"), "codyra,sora,lora", out=tmp_path / "out")
    options = {job.label: job.config.method for job in made.jobs}
    assert (options["codyra"].schedule, options["codyra"].levels) == ("official", 3)
    assert (options["sora"].schedule, options["sora"].levels) == ("stages", 7)
    assert {(of.r, of.targets) for of in options.values()} == {(2, "attention")}


def test_a_reference_that_was_taken_out_is_chosen_anew(stream, tmp_path):
    plan(stream, "full,lora", out=tmp_path / "out", reference="full").write()
    file = tmp_path / "out/compare.yaml"
    content = yaml.safe_load(file.read_text())
    content["methods"].remove("full")
    del content["own"]["full"]
    file.write_text(yaml.safe_dump(content, sort_keys=False))
    assert plan(stream, "lora", out=tmp_path / "out").stored.reference == "lora"


def test_an_option_given_twice_is_refused(stream):
    assert "r is given twice" in refusal(plan, stream, "lora:r=4:r=8")


def test_a_folder_of_something_else_is_left_alone(stream, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    assert "is no comparison" in refusal(plan, stream, "lora", out=tmp_path / "mine")


def test_labels_that_would_share_a_folder_are_refused(stream, tmp_path):
    methods = "lora:targets=[a,b],lora:targets=[a b]"
    assert "would share the folder" in refusal(plan, stream, methods, out=tmp_path / "out")


@pytest.mark.parametrize(
    ("content", "words"),
    [("[", "is damaged"), ("a: 1", "is damaged"), ("7", "is damaged"), ("format: 2\nx: 1", "update codyra")],
)
def test_a_damaged_plan_is_one_line(stream, tmp_path, content, words):
    out = tmp_path / "out"
    out.mkdir()
    (out / "compare.yaml").write_text(content)
    message = refusal(plan, stream, "lora", out=out)
    assert "compare.yaml" in message
    assert words in message
