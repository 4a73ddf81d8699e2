"""`codyra data`: what verify finds and leaves alone, and the splits that rebuild-splits makes."""

import dataclasses
import json
import shutil
from collections import Counter
from pathlib import Path

import pytest

from codyra.engine.config import load_config
from codyra.streams import build_stream, describe_benchmark
from codyra.streams.benchmarks import BENCHMARKS
from codyra.streams.benchmarks.rebuild import RECIPES, rebuild_split
from codyra.streams.benchmarks.survey import survey
from miniatures import XTAIL_NAMES, write_coop
from streams.benchmarks.listings import items

XTAIL = BENCHMARKS["xtail"]
SPLITS = {key: split_file for key, (split_file, _) in RECIPES.items()}


def of_size(benchmark, truth):
    """The benchmark as if it were published with the sizes of a miniature."""
    data_sets = {
        key: dataclasses.replace(
            benchmark.data_sets[key], sizes={split: len(part) for split, part in truth[key].items() if part}
        )
        for key in truth
    }
    return dataclasses.replace(benchmark, data_sets={**benchmark.data_sets, **data_sets})


def snapshot(root: Path) -> dict[Path, tuple]:
    paths = sorted(root.rglob("*"))
    return {path: (path.stat().st_mtime_ns, path.stat().st_size, path.is_dir()) for path in (root, *paths)}


def verify(command, root, *options, preset="xtail-vit-b16"):
    return command("data", "verify", preset, "--data-dir", root, *options)


# --- verify


def test_what_is_complete_is_present_and_exit_0(command, coop_tree, monkeypatch):
    root, truth = coop_tree
    monkeypatch.setitem(BENCHMARKS, "xtail", of_size(XTAIL, truth))
    before = snapshot(root)
    code, out, err = verify(command, root)
    assert code == 0
    assert err == ""
    rows = [line.split() for line in out.splitlines() if " present " in line]
    assert [row[0] for row in rows] == list(truth)
    for key, _, train, val, test in rows:
        sizes = [len(truth[key].get(split, ())) for split in ("train", "val", "test")]
        assert [train, val, test] == [str(size) if size else "-" for size in sizes]
    assert "all 10 data sets of X-TAIL are complete" in out
    assert snapshot(root) == before


def test_decoding_everything_leaves_no_trace_either(command, torchvision_tree):
    root, _ = torchvision_tree
    before = snapshot(root)
    only = ["--set", "stream.only=[MNIST,CIFAR100,Flowers]"]
    code, out, _ = verify(command, root, "--decode", *only, preset="mtil-5shot-vit-b16")
    assert code == 2  # for the published sizes
    assert not [line for line in out.splitlines() if line.startswith(("MNIST:", "CIFAR100:", "Flowers:"))]
    assert snapshot(root) == before


def test_counts_stand_against_the_published_ones(command, coop_tree):
    code, out, err = verify(command, coop_tree[0])
    assert code == 2
    assert "0 of 10 data sets of X-TAIL are complete" in err
    table = {line.split()[0]: line for line in out.splitlines() if " partial " in line}
    assert list(table) == list(XTAIL.data_sets)
    assert "794 of 15,880" in table["sun397"]
    assert "397 of 3,970" in table["sun397"]
    assert "20 of 60,000" in table["mnist"]
    assert "10 of 10,000" in table["mnist"]


def test_what_is_missing_says_where_to_get_it(command, tmp_path):
    code, out, err = verify(command, tmp_path)
    assert code == 2
    assert "0 of 10" in err
    for key, data_set in XTAIL.data_sets.items():
        (line,) = [line for line in out.splitlines() if line.startswith(f"{key}: ")]
        assert data_set.download in line
        assert " or ".join(data_set.folders) in line
        assert "http" not in line
    assert len([line for line in out.splitlines() if " missing " in line]) == 10
    assert list(tmp_path.iterdir()) == []


def test_only_the_chosen_data_sets_are_looked_at(command, tmp_path, monkeypatch):
    truth = write_coop(tmp_path, train=1, only=["dtd", "mnist"])
    monkeypatch.setitem(BENCHMARKS, "xtail", of_size(XTAIL, truth))
    code, out, _ = verify(command, tmp_path, "--set", "stream.only=[dtd,mnist]")
    assert code == 0
    assert "all 2 data sets" in out
    assert "aircraft" not in out


def test_files_at_fault_are_named_a_few_or_all(command, tmp_path):
    truth = write_coop(tmp_path, train=1, only=["dtd"])["dtd"]
    gone = [tmp_path / path for path, _ in truth["train"][:7]]
    for path in gone:
        path.unlink()
    (tmp_path / truth["test"][0][0]).write_bytes(b"")
    (tmp_path / truth["test"][1][0]).write_bytes(b"no picture")
    only = ["--set", "stream.only=[dtd]"]
    _, out, _ = verify(command, tmp_path, *only)
    assert "dtd: and 3 more; --all lists them" in out
    assert sum(str(path) in out for path in gone) == 5
    _, out, _ = verify(command, tmp_path, *only, "--all")
    assert all(str(path) in out for path in gone)
    assert f"{tmp_path / truth['test'][0][0]} is empty" in out
    assert truth["test"][1][0] not in out
    _, out, _ = verify(command, tmp_path, *only, "--all", "--decode")
    assert f"cannot read image {tmp_path / truth['test'][1][0]}" in out


def test_findings_of_a_survey(tmp_path):
    truth = write_coop(tmp_path, train=1, only=["dtd", "eurosat", "mnist"])
    small = of_size(XTAIL, truth)
    (tmp_path / truth["eurosat"]["val"][0][0]).unlink()
    (tmp_path / "MNIST/raw/t10k-labels-idx1-ubyte").write_bytes(b"")
    told = []
    found = survey(small, ["aircraft", "dtd", "eurosat", "mnist"], tmp_path, progress=told.append)
    assert told == ["aircraft", "dtd", "eurosat", "mnist"]
    assert [finding.state for finding in found] == ["missing", "present", "partial", "partial"]
    assert [len(finding.faults) for finding in found] == [1, 0, 1, 1]
    assert found[1].counts == found[1].expected == {"train": 47, "val": 47, "test": 47}


def test_a_stream_of_ones_own_has_nothing_to_verify(command, config, tmp_path):
    import yaml

    path = tmp_path / "stream.yaml"
    path.write_text(yaml.safe_dump(config))
    code, _, err = verify(command, tmp_path, preset=path)
    assert code == 2
    assert "is no benchmark" in err
    assert "--dry-run" in err


def test_a_data_set_from_elsewhere_is_not_looked_at(command, tmp_path, monkeypatch):
    truth = write_coop(tmp_path, train=1, only=["dtd"])
    monkeypatch.setitem(BENCHMARKS, "xtail", of_size(XTAIL, truth))
    source = "stream.sources.eurosat.data='hf:someone/eurosat@abc'"
    code, out, _ = verify(command, tmp_path, "--set", source, "--set", "stream.only=[dtd,eurosat]")
    assert code == 0
    assert "eurosat: read from hf:someone/eurosat@abc, not looked at" in out


# --- rebuild-splits


@pytest.fixture
def without_splits(coop_tree, tmp_path):
    """Ten images per class of four data sets, none of which has its split file."""
    root = tmp_path / "data"
    write_coop(root, train=5, val=3, test=2, only=["eurosat", "dtd", "oxford_pets", "oxford_flowers"])
    for file in root.glob("*/split_zhou_*.json"):
        file.rename(tmp_path / file.name)
    return root


def rebuild(command, root, seed, *options):
    return command("data", "rebuild-splits", "xtail-vit-b16", "--data-dir", root, "--seed", seed, *options)


def test_missing_splits_are_rebuilt_by_coops_rules(command, without_splits):
    code, out, _ = rebuild(command, without_splits, 1)
    assert code == 0
    assert out.count("wrote") == 4
    for key in ("eurosat", "dtd", "oxford_pets", "oxford_flowers"):
        listing = XTAIL.data_sets[key].list(without_splits)
        suffix = " satellite location" if key == "eurosat" else ""
        assert list(listing.class_names) == [name + suffix for name in XTAIL_NAMES[key]]
        assert listing.absent == {}
        assert listing.marks == ("rebuilt split, seed 1",)
        found = items(listing, without_splits)
        # 50/20/30 of all ten, or 80/20 of the eight official training images: round(1.6) = 2
        expected = (
            {"train": 6, "val": 2, "test": 2} if key == "oxford_pets" else {"train": 5, "val": 2, "test": 3}
        )
        for split, count in expected.items():
            per_class = Counter(label for _, label in found[split])
            assert per_class == dict.fromkeys(range(len(listing.class_names)), count)
        everything = [path for part in found.values() for path, _ in part]
        assert len(everything) == len(set(everything))


def test_the_official_test_part_stays_the_test_part(command, without_splits):
    rebuild(command, without_splits, 3, "--only", "oxford_pets")
    lines = (without_splits / "oxford_pets/annotations/test.txt").read_text().split("\n")
    official = [f"oxford_pets/images/{line.split()[0]}.jpg" for line in lines if line]
    found = items(XTAIL.data_sets["oxford_pets"].list(without_splits), without_splits)
    assert [path for path, _ in found["test"]] == official


def test_a_seed_is_a_split(command, without_splits):
    file = without_splits / "dtd/split_codyra_DescribableTextures.json"
    contents = []
    for seed in (1, 1, 2):
        assert rebuild(command, without_splits, seed, "--only", "dtd")[0] == 0
        contents.append(file.read_bytes())
    assert contents[0] == contents[1]
    assert json.loads(contents[2])["seed"] == 2
    assert json.loads(contents[2])["train"] != json.loads(contents[0])["train"]


def test_an_official_split_is_never_replaced_and_wins_when_it_comes(command, without_splits):
    name = SPLITS["dtd"]
    rebuild(command, without_splits, 1, "--only", "dtd")
    shutil.copy(without_splits.parent / name, without_splits / "dtd" / name)
    assert XTAIL.data_sets["dtd"].list(without_splits).marks == ()
    code, _, err = rebuild(command, without_splits, 1, "--only", "dtd")
    assert code == 2
    assert f"dtd/{name} is there and is the benchmark's" in err
    code, out, _ = rebuild(command, without_splits, 1)  # the others
    assert code == 0
    assert "dtd:" not in out
    for split_file in without_splits.parent.glob("split_zhou_*.json"):
        (folder,) = [without_splits / key for key, file in SPLITS.items() if file == split_file.name]
        shutil.copy(split_file, folder)
    assert "nothing to do" in rebuild(command, without_splits, 1)[1]


@pytest.mark.parametrize("key", RECIPES)
def test_every_recipe_keeps_labels_and_names(key, coop_tree, tmp_path):
    if key == "sun397":  # the largest; its miniature is copied by links
        (tmp_path / "sun397").mkdir()
        for entry in (coop_tree[0] / "sun397").iterdir():
            if entry.name != SPLITS[key]:
                (tmp_path / "sun397" / entry.name).symlink_to(entry)
        truth = {key: coop_tree[1][key]}
    else:
        truth = write_coop(tmp_path, train=2, only=[key])
        (file,) = tmp_path.glob(f"*/{SPLITS[key]}")
        file.unlink()
    rebuild_split(key, tmp_path, seed=7)
    listing = XTAIL.data_sets[key].list(tmp_path)
    suffix = " satellite location" if key == "eurosat" else ""
    assert list(listing.class_names) == [name + suffix for name in XTAIL_NAMES[key]]
    found = items(listing, tmp_path)
    assert sorted(item for part in found.values() for item in part) == sorted(
        item for part in truth[key].values() for item in part
    )


def test_a_run_on_a_rebuilt_split_is_marked(command, without_splits):
    rebuild(command, without_splits, 5, "--only", "dtd")
    config = load_config("xtail-vit-b16", ["stream.only=[dtd]"])
    tasks = build_stream(config.stream, seed=8, default_prompt="?", data_dir=without_splits)
    assert "dtd: rebuilt split, seed 5" in describe_benchmark(config.stream, tasks)["marks"]
    assert "dtd: rebuilt split, seed 5" in verify(command, without_splits, "--set", "stream.only=[dtd]")[1]


@pytest.mark.parametrize(
    ("preset", "options", "message"),
    [
        ("mtil-full-vit-b16", [], "only X-TAIL has split files"),
        ("demo", [], "is no benchmark"),
        ("xtail-vit-b16", ["--only", "dtds"], "no such data set, did you mean 'dtd'"),
        ("xtail-vit-b16", ["--only", "mnist"], "mnist has official splits"),
        ("xtail-vit-b16", ["--only", "sun397"], "has no sun397 or SUN397"),
    ],
)
def test_what_cannot_be_rebuilt(command, tmp_path, preset, options, message):
    code, out, err = command("data", "rebuild-splits", preset, "--data-dir", tmp_path, "--seed", 1, *options)
    assert code == 2
    assert message in err
    assert "Traceback" not in out + err
    assert list(tmp_path.iterdir()) == []


def test_a_seed_must_be_given_and_an_incomplete_data_set_is_refused(command, without_splits):
    code, _, err = command("data", "rebuild-splits", "xtail-vit-b16", "--data-dir", without_splits)
    assert code == 2
    assert "--seed" in err
    shutil.rmtree(without_splits / "dtd/images/banded")
    code, _, err = rebuild(command, without_splits, 1, "--only", "dtd")
    assert code == 2
    assert "dtd/images has 46 class folders, dtd has 47" in err
    assert not list(without_splits.glob("dtd/split_*.json"))
