"""X-TAIL: its files in both folder spellings, class names, prompts, label space and few-shot choice.

Figures and prompts are copied from the published description of the benchmark, not from the code.
"""

import json
import random
from itertools import accumulate

import pytest

from codyra.engine.config import load_config
from codyra.errors import UserError
from codyra.streams import StreamSpec, build_stream
from codyra.streams.benchmarks import BENCHMARKS
from codyra.streams.benchmarks.xtail import car_name, sun_name
from miniatures import XTAIL_NAMES, write_coop
from streams.benchmarks.listings import items

XTAIL = BENCHMARKS["xtail"]
# classes, offset in the pooled label space, train / val / test images as published
PUBLISHED = {
    "aircraft": (100, 0, {"train": 3334, "val": 3333, "test": 3333}),
    "caltech101": (100, 100, {"train": 4128, "val": 1649, "test": 2465}),
    "dtd": (47, 200, {"train": 2820, "val": 1128, "test": 1692}),
    "eurosat": (10, 247, {"train": 13500, "val": 5400, "test": 8100}),
    "oxford_flowers": (102, 257, {"train": 4093, "val": 1633, "test": 2463}),
    "food101": (101, 359, {"train": 50500, "val": 20200, "test": 30300}),
    "mnist": (10, 460, {"train": 60000, "test": 10000}),
    "oxford_pets": (37, 470, {"train": 2944, "val": 736, "test": 3669}),
    "stanford_cars": (196, 507, {"train": 6509, "val": 1635, "test": 8041}),
    "sun397": (397, 703, {"train": 15880, "val": 3970, "test": 19850}),
}
EUROSAT = [
    "Annual Crop Land satellite location",
    "Forest satellite location",
    "Herbaceous Vegetation Land satellite location",
    "Highway or Road satellite location",
    "Industrial Buildings satellite location",
    "Pasture Land satellite location",
    "Permanent Crop Land satellite location",
    "Residential Buildings satellite location",
    "River satellite location",
    "Sea or Lake satellite location",
]
MNIST = [
    *("0 - zero", "1 - one", "2 - two", "3 - three", "4 - four"),
    *("5 - five", "6 - six", "7 - seven", "8 - eight", "9 - nine"),
]
# class name, then its prompt in the modes default, codyra and generic
GOLDEN_PROMPTS = {
    "aircraft": (
        "707-320",
        "a photo of a 707-320, a type of aircraft.",
        "a photo of a 707-320, a type of aircraft.",
        "a photo of a 707-320.",
    ),
    "caltech101": (
        "windsor_chair",
        "a photo of a windsor chair.",
        "a photo of a windsor_chair.",
        "a photo of a windsor chair.",
    ),
    "dtd": ("banded", "banded texture.", "banded texture.", "a photo of a banded."),
    "eurosat": (
        "Annual Crop Land satellite location",
        "a centered satellite photo of Annual Crop Land satellite location.",
        "a centered satellite photo of Annual Crop Land satellite location.",
        "a photo of a Annual Crop Land satellite location.",
    ),
    "oxford_flowers": (
        "pink primrose",
        "a photo of a pink primrose, a type of flower.",
        "a photo of a pink primrose, a type of flower.",
        "a photo of a pink primrose.",
    ),
    "food101": (
        "apple_pie",
        "a photo of apple pie, a type of food.",
        "a photo of apple_pie, a type of food.",
        "a photo of a apple pie.",
    ),
    "mnist": (
        "0 - zero",
        'a photo of the number: "0 - zero".',
        'a photo of the number: "number: "0 - zero"".',
        'a photo of a number: "0 - zero".',
    ),
    "oxford_pets": (
        "american_bulldog",
        "a photo of a american bulldog, a type of pet.",
        "a photo of a american_bulldog, a type of pet.",
        "a photo of a american bulldog.",
    ),
    "stanford_cars": (
        "2000 AM General Hummer SUV",
        "a photo of a 2000 AM General Hummer SUV.",
        "a photo of a 2000 AM General Hummer SUV.",
        "a photo of a 2000 AM General Hummer SUV.",
    ),
    "sun397": (
        "indoor apse",
        "a photo of a indoor apse.",
        "a photo of a indoor apse.",
        "a photo of a indoor apse.",
    ),
}


@pytest.fixture(scope="module")
def other_tree(tmp_path_factory):
    folder = tmp_path_factory.mktemp("other")
    return folder, write_coop(folder, train=1, spelling="other")


def names_of(key: str) -> list[str]:
    suffix = " satellite location" if key == "eurosat" else ""
    return [name + suffix for name in XTAIL_NAMES[key]]


def streams(tree, **section):
    spec = StreamSpec.model_validate({"benchmark": "xtail", **section})
    return build_stream(spec, seed=8, default_prompt="?", data_dir=tree[0])


def test_one_order_of_ten_data_sets_and_1100_classes():
    assert XTAIL.orders == {1: tuple(PUBLISHED)}
    assert {key: (ds.num_classes, dict(ds.sizes)) for key, ds in XTAIL.data_sets.items()} == {
        key: (classes, sizes) for key, (classes, _, sizes) in PUBLISHED.items()
    }
    assert sum(sizes["test"] for _, _, sizes in PUBLISHED.values()) == 89_913


@pytest.mark.parametrize("key", PUBLISHED)
@pytest.mark.parametrize("spelling", ["coop", "other"])
def test_what_a_tree_holds_is_what_is_read(spelling, key, coop_tree, other_tree):
    folder, truth = coop_tree if spelling == "coop" else other_tree
    listing = XTAIL.data_sets[key].list(folder)
    assert items(listing, folder) == truth[key]
    assert list(listing.class_names) == names_of(key)
    assert listing.absent == {}
    assert listing.marks == ()


def test_pooled_label_space(coop_tree):
    tasks = streams(coop_tree)
    counts = [len(task.class_names) for task in tasks]
    assert [task.name for task in tasks] == list(PUBLISHED)
    assert counts == [classes for classes, _, _ in PUBLISHED.values()]
    offsets = [0, *accumulate(counts)]
    assert offsets == [offset for _, offset, _ in PUBLISHED.values()] + [1100]
    assert [task.class_names for task in tasks if task.name == "eurosat"] == [tuple(EUROSAT)]
    assert [task.class_names for task in tasks if task.name == "mnist"] == [tuple(MNIST)]


@pytest.mark.parametrize(("mode", "column"), [("default", 1), ("codyra", 2), ("generic", 3)])
def test_golden_prompts(coop_tree, mode, column):
    for task in streams(coop_tree, prompts=mode):
        golden = GOLDEN_PROMPTS[task.name]
        assert task.prompts[task.class_names.index(golden[0])] == golden[column]
        assert task.scored_prompts == tuple((prompt,) for prompt in task.prompts)
        assert ("_" in "".join(task.prompts)) == (mode == "codyra" and "_" in "".join(task.class_names))


@pytest.mark.parametrize("file_has_suffix", [True, False])
def test_names_of_eurosat_get_their_suffix_once_whatever_the_file_has(tmp_path, file_has_suffix):
    write_coop(tmp_path, train=1, only=["eurosat"])
    file = tmp_path / "eurosat/split_zhou_EuroSAT.json"
    if file_has_suffix:
        file.write_text(file.read_text().replace("Annual Crop Land", "Annual Crop Land satellite location"))
    else:  # folder names, as in a split that somebody made without CoOp's table
        file.write_text(file.read_text().replace('"Annual Crop Land"', '"AnnualCrop"'))
    assert list(XTAIL.data_sets["eurosat"].list(tmp_path).class_names) == EUROSAT


@pytest.mark.parametrize(
    ("key", "original", "name"),
    [
        ("caltech101", "airplanes", "airplane"),
        ("caltech101", "Faces", "face"),
        ("caltech101", "windsor_chair", "windsor_chair"),
        ("eurosat", "SeaLake", "Sea or Lake satellite location"),
        ("mnist", "7", "7 - seven"),
        ("oxford_pets", "Abyssinian", "abyssinian"),
        ("stanford_cars", "AM General Hummer SUV 2000", "2000 AM General Hummer SUV"),
        ("stanford_cars", "2000 AM General Hummer SUV", "2000 AM General Hummer SUV"),
        ("sun397", "/a/apse/indoor", "indoor apse"),
        ("food101", "apple_pie", "apple_pie"),
    ],
)
def test_names_of_a_foreign_source(key, original, name):
    assert XTAIL.data_sets[key].rename(original) == name


def test_names_that_have_no_year_or_no_letter_folder():
    assert car_name("Ram C/V Cargo Van Minivan 2012") == "2012 Ram C/V Cargo Van Minivan"
    assert car_name("a car") == "a car"
    assert sun_name("b/basilica") == "basilica"
    assert sun_name("/o/outdoor/hotel_pool/x") == "x hotel_pool outdoor"


@pytest.mark.parametrize("seed", [8, 42])
def test_shots_are_the_documented_draw(coop_tree, seed):
    """random.Random("seed/key/shots"), class by class in label order, from positions in file order."""
    spec = StreamSpec.model_validate({"benchmark": "xtail", "shots": 1})
    before = random.getstate()
    for task in build_stream(spec, seed=seed, default_prompt="?", data_dir=coop_tree[0]):
        truth = coop_tree[1][task.name]["train"]
        generator = random.Random(f"{seed}/{task.name}/1")
        expected = []
        for label in range(len(task.class_names)):
            positions = [position for position, (_, of) in enumerate(truth) if of == label]
            expected += generator.sample(positions, 1)
        assert task.shots["positions"] == expected
        assert task.train.labels == tuple(truth[position][1] for position in expected)
    assert random.getstate() == before


def test_a_class_of_fewer_images_than_shots_gives_each_once(coop_tree):
    for task in streams(coop_tree, only=["dtd", "mnist"]):
        truth = coop_tree[1][task.name]["train"]
        assert sorted(task.shots["positions"]) == list(range(len(truth)))


def test_the_validation_part_can_be_scored_where_there_is_one(coop_tree):
    (dtd,) = streams(coop_tree, only=["dtd"], score_split="val")
    names = [image.key for image in dtd.test.inputs]
    assert names == [path.removeprefix("dtd/images/") for path, _ in coop_tree[1]["dtd"]["val"]]
    with pytest.raises(UserError, match="mnist of X-TAIL has no val part"):
        streams(coop_tree, only=["mnist"], score_split="val")


def test_an_image_whose_extension_is_in_the_other_case_is_found(tmp_path):
    truth = write_coop(tmp_path, train=1, only=["oxford_pets"])["oxford_pets"]
    renamed = tmp_path / truth["train"][0][0]
    renamed.rename(renamed.with_suffix(".JPG"))
    listing = XTAIL.data_sets["oxford_pets"].list(tmp_path)
    assert listing.absent == {}
    assert listing.splits["train"].inputs[0].name == str(renamed.with_suffix(".JPG"))


def test_a_split_file_of_the_real_size_is_read(tmp_path):
    """Food-101's has 101,000 entries, indented; nothing that reads it may refuse it for its size."""
    name = "a_class_of_food_with_a_long_name"

    def rows(first, count):
        numbers = range(first, first + count)
        return [
            [f"{name}/{label:03d}{n:04d}.jpg", label, f"{name}_{label}"]
            for n in numbers
            for label in range(101)
        ]

    content = {"train": rows(0, 500), "val": rows(500, 200), "test": rows(700, 300)}
    folder = tmp_path / "food-101"
    (folder / "images").mkdir(parents=True)
    file = folder / "split_zhou_Food101.json"
    file.write_text(json.dumps(content, indent=4, separators=(",", ": ")))
    listing = XTAIL.data_sets["food101"].list(tmp_path)
    assert {split: len(part.inputs) for split, part in listing.splits.items()} == PUBLISHED["food101"][2]
    assert len(listing.absent) == 101_000
    assert listing.faults == ()


def test_only_one_order_and_three_modes_of_prompts():
    for override, message in (
        ("stream.order=2", "X-TAIL has order 1, not 2"),
        ("stream.prompts=ensemble", "X-TAIL has default, codyra, generic, not ensemble"),
        ("stream.only=[dtds]", "no task 'dtds', did you mean 'dtd'?"),
    ):
        with pytest.raises(UserError) as refused:
            load_config("xtail-vit-b16", [override])
        assert message in str(refused.value)


def test_a_missing_validation_part_is_missed_by_nobody_but_who_asks_for_it(tmp_path):
    write_coop(tmp_path, only=["dtd", "aircraft"])
    file = tmp_path / "dtd/split_zhou_DescribableTextures.json"
    content = json.loads(file.read_text())
    del content["val"]
    file.write_text(json.dumps(content))
    (tmp_path / "fgvc_aircraft/images_variant_val.txt").unlink()
    for key in ("dtd", "aircraft"):
        task = {"name": key, "data": f"xtail:{tmp_path}/{key}"}
        (built,) = build_stream(StreamSpec(tasks=[task]), seed=8, default_prompt="{}")
        assert len(built.train.labels) == 2 * XTAIL.data_sets[key].num_classes
        with pytest.raises(UserError, match="has no val part"):
            build_stream(StreamSpec(tasks=[task], score_split="val"), seed=8, default_prompt="{}")


def test_an_image_in_two_parts_is_named_and_marks_the_run(tmp_path):
    write_coop(tmp_path, only=["dtd"])
    file = tmp_path / "dtd/split_zhou_DescribableTextures.json"
    content = json.loads(file.read_text())
    content["test"][0] = content["train"][0]
    content["train"][3] = content["train"][2]
    file.write_text(json.dumps(content))
    listing = XTAIL.data_sets["dtd"].list(tmp_path)
    leaked, doubled = content["train"][0][0], content["train"][2][0]
    assert listing.faults[0] == f"images listed twice in train: 1, such as {doubled}"
    assert listing.faults[1] == f"images in both train and test: 1, such as {leaked}"
    task = {"name": "dtd", "data": f"xtail:{tmp_path}/dtd"}
    (built,) = build_stream(StreamSpec(tasks=[task]), seed=8, default_prompt="{}")
    assert set(listing.faults) <= set(built.marks)


def test_a_class_without_a_training_image_is_a_fault(tmp_path):
    write_coop(tmp_path, only=["dtd"])
    file = tmp_path / "dtd/split_zhou_DescribableTextures.json"
    content = json.loads(file.read_text())
    name = content["test"][0][2]
    content["train"] = [entry for entry in content["train"] if entry[2] != name]
    file.write_text(json.dumps(content))
    listing = XTAIL.data_sets["dtd"].list(tmp_path)
    assert listing.faults == (f"classes without an image in train: 1, such as {name!r}",)


def test_split_file_and_images_may_lie_in_either_spelling_of_the_folder(tmp_path):
    write_coop(tmp_path, only=["sun397"], spelling="other")
    expected = XTAIL.data_sets["sun397"].list(tmp_path)
    (tmp_path / "sun397").mkdir()
    (tmp_path / "SUN397/split_zhou_SUN397.json").rename(tmp_path / "sun397/split_zhou_SUN397.json")
    listing = XTAIL.data_sets["sun397"].list(tmp_path)
    assert listing.class_names == expected.class_names
    assert listing.absent == {}


def test_eurosat_may_be_unpacked_as_its_archive_is_called_today(tmp_path):
    write_coop(tmp_path, only=["eurosat"])
    (tmp_path / "eurosat/2750").rename(tmp_path / "eurosat/EuroSAT_RGB")
    assert XTAIL.data_sets["eurosat"].list(tmp_path).absent == {}


def test_a_rebuilt_split_keeps_its_mark_under_another_name(tmp_path):
    write_coop(tmp_path, only=["dtd"])
    file = tmp_path / "dtd/split_zhou_DescribableTextures.json"
    file.write_text(json.dumps({"seed": 3, **json.loads(file.read_text())}))
    assert XTAIL.data_sets["dtd"].list(tmp_path).marks == ("rebuilt split, seed 3",)


@pytest.mark.parametrize("name", ["", " ", "a\nb"])
def test_a_class_without_a_name_is_refused(name, tmp_path):
    write_coop(tmp_path, only=["dtd"])
    file = tmp_path / "dtd/split_zhou_DescribableTextures.json"
    content = json.loads(file.read_text())
    old = content["train"][0][2]
    for part in content.values():
        for entry in part:
            entry[2] = name if entry[2] == old else entry[2]
    file.write_text(json.dumps(content))
    with pytest.raises(UserError, match="which is no class name; mend the file"):
        XTAIL.data_sets["dtd"].list(tmp_path)


def test_a_missing_validation_image_stops_nobody(tmp_path):
    write_coop(tmp_path, only=["dtd"])
    listing = XTAIL.data_sets["dtd"].list(tmp_path)
    gone = listing.splits["val"].inputs[0].name
    (tmp_path / gone).unlink()
    task = {"name": "dtd", "data": f"xtail:{tmp_path}/dtd"}
    build_stream(StreamSpec(tasks=[task]), seed=8, default_prompt="{}")
    assert list(XTAIL.data_sets["dtd"].list(tmp_path).absent) == [gone]
