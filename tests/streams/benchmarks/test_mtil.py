"""MTIL: its files as torchvision leaves them, the seeded 80/20 splits, class names and ensembles of prompts.

Figures are copied from the published description of the benchmark, not from the code.
"""

import hashlib
import random
from collections import Counter

import pytest
from PIL import Image

from codyra.errors import UserError
from codyra.streams import StreamSpec, build_stream
from codyra.streams.benchmarks import BENCHMARKS
from codyra.streams.benchmarks.mtil import train_positions
from miniature_names import CALTECH_FOLDERS, FLOWERS
from miniatures import MTIL_NAMES, write_coop, write_torchvision
from streams.benchmarks.listings import items

MTIL = BENCHMARKS["mtil"]
# classes, training and test images as published, templates
PUBLISHED = {
    "Aircraft": (100, 3334, 3333, 2),
    "Caltech101": (101, 6941, 1736, 34),
    "CIFAR100": (100, 50000, 10000, 18),
    "DTD": (47, 1880, 1880, 8),
    "EuroSAT": (10, 21600, 5400, 3),
    "Flowers": (102, 1020, 6149, 1),
    "Food": (101, 75750, 25250, 1),
    "MNIST": (10, 60000, 10000, 1),
    "OxfordPet": (37, 3680, 3669, 1),
    "StanfordCars": (196, 8144, 8041, 9),
    "SUN397": (397, 87003, 21751, 2),
}
ORDER_2 = [
    *("StanfordCars", "Food", "MNIST", "OxfordPet", "Flowers", "SUN397"),
    *("Aircraft", "Caltech101", "DTD", "EuroSAT", "CIFAR100"),
]
# first template, and SHA-256 (first 16 digits) of all of them, one per line
TEMPLATES = {
    "Aircraft": ("a photo of a {}, a type of aircraft.", "91522de75ad44711"),
    "Caltech101": ("a photo of a {}.", "90561580b7ea5dba"),
    "CIFAR100": ("a photo of a {}.", "9bbf912e1144ca4c"),
    "DTD": ("a photo of a {} texture.", "1f6888d2130f62a4"),
    "EuroSAT": ("a centered satellite photo of {}.", "9bc85d9f1798d03b"),
    "Flowers": ("a photo of a {}, a type of flower.", "bfcd4bbb214d5015"),
    "Food": ("a photo of a {}, a type of food.", "5fe2073735d36f85"),
    "MNIST": ('a photo of the number: "{}".', "c0341e0a1fdfd8fb"),
    "OxfordPet": ("a photo of a {}, a type of pet.", "16a0790f0e45e97e"),
    "StanfordCars": ("a photo of a {}, a type of car.", "f2a81a6f412ddb92"),
    "SUN397": ("a photo of a {}.", "c97a3d1ad5819800"),
}
# SHA-256 (first 16 digits) of the hard-coded class names, one per line
NAMES = {
    "Caltech101": "5c765dd4b151cbf3",
    "Flowers": "0d27092c2140383d",
    "EuroSAT": "ee2e41b9973e7206",
}
EUROSAT = [
    *("annual crop land", "forest", "brushland or shrubland", "highway or road"),
    *("industrial buildings or commercial buildings", "pasture land", "permanent crop land"),
    *("residential buildings or homes or apartments", "river", "lake or sea"),
]
# of 80/20 splits with seed 42: number of images, first training, first test and last test positions
SEEDED = {
    "Caltech101": (
        8677,
        [8512, 5748, 7753, 4345, 5587, 2508, 6996, 1701],
        [6301, 3455, 7205, 1185],
        [5349, 1658],
    ),
    "EuroSAT": (
        27000,
        [4542, 1781, 1366, 19963, 16858, 17590, 13132, 7700],
        [5805, 24544, 2869, 1454],
        [19623, 14456],
    ),
    "SUN397": (
        108754,
        [57128, 82947, 84286, 54173, 36280, 39383, 89662, 67647],
        [8201, 36443, 50546, 49923],
        [80427, 108355],
    ),
}


def digest(lines) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


@pytest.fixture(scope="module")
def listings(torchvision_tree):
    return {key: MTIL.data_sets[key].list(torchvision_tree[0]) for key in PUBLISHED}


def streams(folder, **section):
    spec = StreamSpec.model_validate({"benchmark": "mtil", "shots": 1, **section})
    return build_stream(spec, seed=8, default_prompt="?", data_dir=folder)


def test_eleven_data_sets_in_two_orders_and_1201_classes():
    assert MTIL.orders == {1: tuple(PUBLISHED), 2: tuple(ORDER_2)}
    assert {
        key: (ds.num_classes, ds.sizes["train"], ds.sizes["test"]) for key, ds in MTIL.data_sets.items()
    } == {key: figures[:3] for key, figures in PUBLISHED.items()}
    assert sum(classes for classes, *_ in PUBLISHED.values()) == 1201
    assert all(set(data_set.sizes) == {"train", "test"} for data_set in MTIL.data_sets.values())


@pytest.mark.parametrize("key", [key for key in PUBLISHED if key not in SEEDED])
def test_official_splits(listings, torchvision_tree, key):
    folder, truth = torchvision_tree
    found = items(listings[key], folder)
    assert found == {split: truth[key][split] for split in ("train", "test")}
    assert listings[key].absent == {}


@pytest.mark.parametrize("key", SEEDED)
def test_seeded_splits_refer_to_the_sorted_images(listings, torchvision_tree, key):
    folder, truth = torchvision_tree
    images = truth[key]["all"]
    train, test = train_positions(len(images))
    found = items(listings[key], folder)
    assert found["train"] == [images[position] for position in train]
    assert found["test"] == [images[position] for position in test]


@pytest.mark.parametrize("key", SEEDED)
def test_the_seeded_split_is_the_published_one(key):
    num_images, first_train, first_test, last_test = SEEDED[key]
    train, test = train_positions(num_images)
    assert (len(train), len(test)) == PUBLISHED[key][1:3]
    assert train[: len(first_train)] == first_train
    assert test[: len(first_test)] == first_test
    assert test[-len(last_test) :] == last_test
    assert sorted(train + test) == list(range(num_images))


def test_class_names(listings):
    for key, names in MTIL_NAMES.items():
        assert list(listings[key].class_names) == names, key
    for key, expected in NAMES.items():
        assert digest(listings[key].class_names) == expected
    assert list(listings["Flowers"].class_names) == FLOWERS
    assert len(listings["EuroSAT"].class_names) == 10
    caltech = dict(zip(CALTECH_FOLDERS, listings["Caltech101"].class_names, strict=True))
    assert caltech["Faces"] == "off-center face"
    assert caltech["Faces_easy"] == "centered face"
    assert caltech["water_lilly"] == "water lilly"
    assert caltech["crocodile_head"] == "head of a  crocodile"
    assert caltech["yin_yang"] == "yin and yang symbol"
    assert not any("_" in name for key in PUBLISHED for name in listings[key].class_names)
    assert any("/" in name for name in listings["SUN397"].class_names)


def test_names_of_eurosat(listings):
    assert digest(EUROSAT) == NAMES["EuroSAT"]
    assert list(listings["EuroSAT"].class_names) == EUROSAT


def test_ensembles_of_prompts(torchvision_tree):
    tasks = streams(torchvision_tree[0])
    assert {task.name: len(task.ensemble) for task in tasks} == {
        key: figures[3] for key, figures in PUBLISHED.items()
    }
    for task in tasks:
        assert (task.ensemble[0], digest(task.ensemble)) == TEMPLATES[task.name]
        assert task.prompt == task.ensemble[0]
        for name, prompt, scored in zip(task.class_names, task.prompts, task.scored_prompts, strict=True):
            assert prompt == task.ensemble[0].replace("{}", name)
            assert scored == tuple(template.replace("{}", name) for template in task.ensemble)
    caltech = next(task for task in tasks if task.name == "Caltech101")
    assert "a photo of a head of a  crocodile." in caltech.prompts


def test_single_prompts_are_the_first_of_the_ensemble(torchvision_tree):
    for task in streams(torchvision_tree[0], prompts="single"):
        assert task.prompt == TEMPLATES[task.name][0]
        assert task.ensemble == ()
        assert task.scored_prompts == tuple((prompt,) for prompt in task.prompts)


def test_order_2_is_the_same_tasks_in_another_order(torchvision_tree):
    first = {task.name: task for task in streams(torchvision_tree[0])}
    second = streams(torchvision_tree[0], order=2)
    assert [task.name for task in second] == ORDER_2
    for task in second:
        assert task.shots == first[task.name].shots
        assert task.fingerprint == first[task.name].fingerprint


def test_all_images_are_learnt_without_shots(torchvision_tree, listings):
    (pets,) = streams(torchvision_tree[0], only=["OxfordPet"], shots=None)
    assert len(pets.train.labels) == len(listings["OxfordPet"].splits["train"].inputs)
    assert pets.shots["positions"] is None


def test_shots_are_the_documented_draw(torchvision_tree, listings):
    for task in streams(torchvision_tree[0], shots=2):
        labels = [task.class_names.index(name) for name in listings[task.name].splits["train"].labels]
        generator = random.Random(f"8/{task.name}/2")
        expected = []
        for label in range(len(task.class_names)):
            positions = [position for position, of in enumerate(labels) if of == label]
            expected += generator.sample(positions, min(2, len(positions)))
        assert task.shots["positions"] == expected


def test_both_digits_and_small_pictures_are_decoded_as_their_files_hold_them(torchvision_tree, listings):
    folder = torchvision_tree[0]
    record = (folder / "cifar-100-binary/test.bin").read_bytes()[3074 : 2 * 3074]
    image = listings["CIFAR100"].splits["test"].inputs[1].open()
    planes = [Image.frombytes("L", (32, 32), record[2 + 1024 * plane :][:1024]) for plane in range(3)]
    assert image.tobytes() == Image.merge("RGB", planes).tobytes()
    raw = (folder / "MNIST/raw/train-images-idx3-ubyte").read_bytes()[16:]
    digit = listings["MNIST"].splits["train"].inputs[2].open()
    assert (digit.mode, digit.size) == ("RGB", (28, 28))
    assert digit.tobytes() == Image.frombytes("L", (28, 28), raw[2 * 784 : 3 * 784]).convert("RGB").tobytes()


def test_packed_digits_are_read_as_unpacked_ones(tmp_path):
    write_torchvision(tmp_path, per_class=3, only=["MNIST"])
    before = items(MTIL.data_sets["MNIST"].list(tmp_path), tmp_path)
    for file in (tmp_path / "MNIST/raw").glob("*-ubyte"):
        file.unlink()
    assert items(MTIL.data_sets["MNIST"].list(tmp_path), tmp_path) == before


def test_the_tree_of_coop_serves_mtil_too(tmp_path):
    """CIFAR-100 alone is not in it; CoOp unpacks SUN397's lists beside its images."""
    truth = write_coop(tmp_path, train=1, only=["oxford_flowers", "stanford_cars", "sun397", "oxford_pets"])
    for key in ("Flowers", "StanfordCars", "SUN397", "OxfordPet"):
        listing = MTIL.data_sets[key].list(tmp_path)
        assert listing.absent == {}
    counts = Counter(name for part in listing.splits.values() for name in part.labels)
    assert len(counts) == 37
    assert sum(counts.values()) == sum(len(part) for part in truth["oxford_pets"].values())


@pytest.mark.parametrize(
    ("key", "original", "name"),
    [
        ("Caltech101", "crocodile_head", "head of a  crocodile"),
        ("Caltech101", "head of a  crocodile", "head of a  crocodile"),
        ("EuroSAT", "SeaLake", "lake or sea"),
        ("Flowers", "1", "pink primrose"),
        ("Food", "apple_pie", "apple pie"),
        ("MNIST", "3", "3 - three"),
        ("OxfordPet", "american_bulldog", "American Bulldog"),
        ("StanfordCars", "AM General Hummer SUV 2000", "AM General Hummer SUV 2000"),
        ("SUN397", "/a/apse/indoor", "apse/indoor"),
        ("SUN397", "ball_pit", "ball pit"),
    ],
)
def test_names_of_a_foreign_source(key, original, name):
    assert MTIL.data_sets[key].rename(original) == name


def test_a_foreign_name_that_no_class_has_is_refused():
    with pytest.raises(UserError, match="class 'unicorn' is none of Caltech101"):
        MTIL.data_sets["Caltech101"].rename("unicorn")


def test_what_lies_beside_the_images_is_no_image(tmp_path):
    truth = write_torchvision(tmp_path, per_class=3, only=["EuroSAT", "Caltech101"])
    for folder in ("eurosat/2750/Forest", "caltech101/101_ObjectCategories/Faces"):
        for name in ("notes.txt", ".hidden.jpg", "desktop.ini"):
            (tmp_path / folder / name).write_bytes(b"x")
        (tmp_path / folder / "a_folder.jpg").mkdir()
    for key in ("EuroSAT", "Caltech101"):
        listed = items(MTIL.data_sets[key].list(tmp_path), tmp_path)
        assert sorted(listed["train"] + listed["test"]) == sorted(truth[key]["all"])


def test_there_is_no_validation_part(torchvision_tree):
    for key in ("Aircraft", "DTD"):
        with pytest.raises(UserError, match=f"{key} of MTIL has no val part"):
            streams(torchvision_tree[0], only=[key], score_split="val")


def test_class_folders_of_other_names_count_by_position_and_are_marked(tmp_path):
    write_torchvision(tmp_path, only=["EuroSAT"])
    (tmp_path / "eurosat/2750/Forest").rename(tmp_path / "eurosat/2750/Fir")
    listing = MTIL.data_sets["EuroSAT"].list(tmp_path)
    assert listing.class_names[1] == "forest"
    assert listing.marks == ("class folders other than those handed out: Fir is there, Forest is not",)


def test_a_class_of_sun397_without_images_is_refused(tmp_path):
    write_torchvision(tmp_path, only=["SUN397"])
    folder = next(path for path in sorted((tmp_path / "SUN397/a").iterdir()) if path.is_dir())
    for file in folder.rglob("sun_*.jpg"):
        file.unlink()
    with pytest.raises(UserError, match=r"has the class .*, but .* has no image of it"):
        MTIL.data_sets["SUN397"].list(tmp_path)
