"""Class names of the miniature data sets: the real ones where they are public knowledge, invented ones elsewhere.

An invented list has the real number of names and the real spelling (underscores, slashes, years, capitals),
and in it the few real names that the documented prompts are built from.
"""

import random

_CALTECH = """
    Faces Faces_easy Leopards Motorbikes accordion airplanes anchor ant barrel bass beaver binocular
    bonsai brain brontosaurus buddha butterfly camera cannon car_side ceiling_fan cellphone chair
    chandelier cougar_body cougar_face crab crayfish crocodile crocodile_head cup dalmatian dollar_bill
    dolphin dragonfly electric_guitar elephant emu euphonium ewer ferry flamingo flamingo_head garfield
    gerenuk gramophone grand_piano hawksbill headphone hedgehog helicopter ibis inline_skate joshua_tree
    kangaroo ketch lamp laptop llama lobster lotus mandolin mayfly menorah metronome minaret nautilus
    octopus okapi pagoda panda pigeon pizza platypus pyramid revolver rhino rooster saxophone schooner
    scissors scorpion sea_horse snoopy soccer_ball stapler starfish stegosaurus stop_sign strawberry
    sunflower tick trilobite umbrella watch water_lilly wheelchair wild_cat windsor_chair wrench
    yin_yang
"""
CALTECH_FOLDERS = _CALTECH.split()
"""The folders of 101_ObjectCategories without BACKGROUND_Google, in byte order; X-TAIL also drops Faces_easy."""

CALTECH_RENAMED = {
    "airplanes": "airplane",
    "Faces": "face",
    "Leopards": "leopard",
    "Motorbikes": "motorbike",
}

_FLOWERS = """
    pink primrose, hard-leaved pocket orchid, canterbury bells, sweet pea, english marigold, tiger lily,
    moon orchid, bird of paradise, monkshood, globe thistle, snapdragon, colt's foot, king protea, spear
    thistle, yellow iris, globe-flower, purple coneflower, peruvian lily, balloon flower, giant white
    arum lily, fire lily, pincushion flower, fritillary, red ginger, grape hyacinth, corn poppy, prince
    of wales feathers, stemless gentian, artichoke, sweet william, carnation, garden phlox, love in the
    mist, mexican aster, alpine sea holly, ruby-lipped cattleya, cape flower, great masterwort, siam
    tulip, lenten rose, barbeton daisy, daffodil, sword lily, poinsettia, bolero deep blue, wallflower,
    marigold, buttercup, oxeye daisy, common dandelion, petunia, wild pansy, primula, sunflower,
    pelargonium, bishop of llandaff, gaura, geranium, orange dahlia, pink-yellow dahlia, cautleya
    spicata, japanese anemone, black-eyed susan, silverbush, californian poppy, osteospermum, spring
    crocus, bearded iris, windflower, tree poppy, gazania, azalea, water lily, rose, thorn apple,
    morning glory, passion flower, lotus, toad lily, anthurium, frangipani, clematis, hibiscus,
    columbine, desert-rose, tree mallow, magnolia, cyclamen, watercress, canna lily, hippeastrum, bee
    balm, ball moss, foxglove, bougainvillea, camellia, mallow, mexican petunia, bromelia, blanket
    flower, trumpet creeper, blackberry lily
"""
FLOWERS = [" ".join(name.split()) for name in _FLOWERS.split(",")]
"""In label order, as cat_to_name.json numbers them from 1."""

EUROSAT = {
    "AnnualCrop": "Annual Crop Land",
    "Forest": "Forest",
    "HerbaceousVegetation": "Herbaceous Vegetation Land",
    "Highway": "Highway or Road",
    "Industrial": "Industrial Buildings",
    "Pasture": "Pasture Land",
    "PermanentCrop": "Permanent Crop Land",
    "Residential": "Residential Buildings",
    "River": "River",
    "SeaLake": "Sea or Lake",
}
"""Folder -> name in split_zhou_EuroSAT.json."""

_DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
MNIST = [f"{digit} - {word}" for digit, word in enumerate(_DIGITS)]


def _words(seed: str, count: int) -> list[str]:
    """Different pronounceable words, none of which begins with a, b or a vowel."""
    rng = random.Random(seed)
    words: set[str] = set()
    while len(words) < count:
        words.add(
            "".join(rng.choice("cdfghjklmnprstvz") + rng.choice("aeiou") for _ in range(rng.choice((2, 3))))
        )
    return sorted(words)


def _mixed(seed: str, count: int, forms: list[str]) -> list[str]:
    """Invented names: a word put into each form in turn, {} being the word and {n} a number."""
    words = _words(seed, count)
    return [forms[i % len(forms)].format(word, n=10 * i + 3) for i, word in enumerate(words)]


AIRCRAFT = sorted(
    ["707-320", "747-100", "An-12", "F-16A/B", "F/A-18", "Model B200", "Spitfire"]
    + [
        name[0].upper() + name[1:]
        for name in _mixed("aircraft", 93, ["{}", "{} {n}", "{}-{n}", "{} {n} EX", "{}-{n}A/B"])
    ]
)
"""Lines of variants.txt."""

DTD = sorted(["banded", "polka-dotted", *_mixed("dtd", 45, ["{}ed", "{}y"])])
FOOD = sorted(["apple_pie", *_mixed("food101", 100, ["{}", "{}_soup", "{}_and_{n}_chips"])])

_CATS = ["Abyssinian", *(name[0].upper() + name[1:] for name in _mixed("cats", 11, ["{}", "{}_Shorthair"]))]
_DOGS = ["american_bulldog", *_mixed("dogs", 24, ["{}", "{}_terrier", "{}_wire_haired_hound"])]
PETS = sorted(_CATS + _DOGS, key=str.lower)
"""Image stems without their number, in label order: cats are capitalised, dogs are not."""

CARS = ["AM General Hummer SUV 2000", "Acura TL Type-S 2008", "Ram C/V Cargo Van Minivan 2012"]
CARS += [
    f"{name} {1990 + i % 23}"
    for i, name in enumerate(_mixed("cars", 193, ["{} {n} Sedan", "{} C/V Van", "{} SUV"]))
]
"""Names of cars_meta.mat, in label order, the year last."""

CIFAR100 = sorted(["apple", *_mixed("cifar100", 99, ["{}", "{}_tree"])])

_SUN_REAL = [
    "abbey",
    "apse/indoor",
    "ball_pit",
    "ballroom",
    "bow_window/indoor",
    "bow_window/outdoor",
    "pagoda",
    "theater/indoor_procenium",
]
SUN = [
    f"{name[0]}/{name}"
    for name in sorted(
        _SUN_REAL + _mixed("sun397", 389, ["{}", "{}_room", "{}/indoor", "{}/outdoor", "{}_{n}/shop_floor"])
    )
]
SUN[4], SUN[5] = SUN[5], SUN[4]
"""Lines of ClassName.txt without their first slash, in label order; two are exchanged, so that sorting is not enough.
`pagoda` is a class of Caltech101 too."""
