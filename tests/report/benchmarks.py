"""What tests of benchmark tables share: the data sets of X-TAIL, MTIL and TRACE, and manifests that claim them."""

from typing import Any

VIT_B16 = 149_620_737
XTAIL = (
    "aircraft", "caltech101", "dtd", "eurosat", "oxford_flowers", "food101", "mnist", "oxford_pets",
    "stanford_cars", "sun397",
)  # fmt: skip
MTIL = (
    "Aircraft", "Caltech101", "CIFAR100", "DTD", "EuroSAT", "Flowers", "Food", "MNIST", "OxfordPet",
    "StanfordCars", "SUN397",
)  # fmt: skip
TRACE = {
    "C-STANCE": "accuracy", "FOMC": "accuracy", "MeetingBank": "rouge_l", "Py150": "similarity",
    "ScienceQA": "letter_accuracy", "NumGLUE-cm": "accuracy", "NumGLUE-ds": "accuracy", "20Minuten": "sari",
}  # fmt: skip
ORDER_2 = (9, 6, 7, 8, 5, 10, 0, 1, 3, 4, 2)


def xtail(**changed: Any) -> dict[str, Any]:
    """The benchmark entry of the manifest of an X-TAIL run."""
    entry = {"name": "xtail", "title": "X-TAIL", "order": 1, "shots": 16, "prompts": "default"}
    return {**entry, "label_space": "all", "tasks": list(XTAIL), "marks": [], **changed}


def mtil(order: int = 1, shots: int | None = None, **changed: Any) -> dict[str, Any]:
    """The benchmark entry of the manifest of an MTIL run."""
    tasks = list(MTIL) if order == 1 else [MTIL[index] for index in ORDER_2]
    entry = {"name": "mtil", "title": "MTIL", "order": order, "shots": shots, "prompts": "ensemble"}
    return {**entry, "label_space": "task", "tasks": tasks, "marks": [], **changed}


def trace(**changed: Any) -> dict[str, Any]:
    """The benchmark entry of the manifest of a TRACE run."""
    entry = {
        "name": "trace",
        "title": "TRACE",
        "order": 1,
        "shots": None,
        "variant": 500,
        "prompts": "default",
    }
    entry |= {"label_space": "task", "tasks": list(TRACE), "model": "gemma-2b-it", "marks": []}
    return {**entry, **changed}
