"""X-TAIL and MTIL through the real command, on miniatures: what is learnt, scored, stored and said of the run."""

import csv
import json
import random
import sys

import datasets
import pytest
import torch
import yaml
from transformers import AutoTokenizer, CLIPModel

from codyra.cli import main
from codyra.engine.config import load_config
from codyra.errors import UserError
from codyra.families import ModelSpec, load_family
from codyra.history.predict import predict
from codyra.streams import StreamSpec, build_stream
from miniature_names import CALTECH_FOLDERS

XTAIL_CLASSES = {
    "aircraft": 100,
    "caltech101": 100,
    "dtd": 47,
    "eurosat": 10,
    "oxford_flowers": 102,
    "food101": 101,
    "mnist": 10,
    "oxford_pets": 37,
    "stanford_cars": 196,
    "sun397": 397,
}
QUICK = ["train.steps=3", "train.batch_size=8", "method.r=2"]


def run(preset, out, *overrides):
    """The real command, for fixtures that live longer than `command`."""
    with pytest.MonkeyPatch.context() as patch:
        options = [word for override in (*QUICK, *overrides) for word in ("--set", override)]
        patch.setattr(sys, "argv", ["codyra", "run", preset, "--out", str(out), *options])
        with pytest.raises(SystemExit) as stopped:
            main()
    assert stopped.value.code in (0, None)
    return out


def read(run_folder, name):
    return json.loads((run_folder / name).read_text())


def matrix(run_folder, name="accuracy.csv"):
    with (run_folder / name).open(newline="") as file:
        header, *rows = csv.reader(file)
    return header, {row[0]: row[1:] for row in rows}


def about(run_folder):
    return read(run_folder, "manifest.json")["benchmark"]


@pytest.fixture(scope="module")
def xtail_run(coop_tree, tiny_clip, tmp_path_factory):
    """All ten domains, learnt and scored."""
    out = tmp_path_factory.mktemp("xtail") / "run"
    return run("xtail-vit-b16", out, f"data_dir={coop_tree[0]}", f"model.name={tiny_clip}")


@pytest.fixture(scope="module")
def mtil_run(torchvision_tree, tmp_path_factory):
    """Two data sets of MTIL with the model that the package carries, which gets some of them right."""
    out = tmp_path_factory.mktemp("mtil") / "run"
    overrides = ["model.name=builtin:tiny-clip", "stream.only=[EuroSAT,Flowers]", "train.lr=0.003"]
    return run("mtil-5shot-vit-b16", out, f"data_dir={torchvision_tree[0]}", "train.steps=12", *overrides)


# --- X-TAIL as a whole


def test_every_domain_is_scored_after_every_task(xtail_run):
    header, rows = matrix(xtail_run)
    assert header == ["after", *XTAIL_CLASSES]
    assert list(rows) == ["zero-shot", *XTAIL_CLASSES]
    for cells in rows.values():
        for cell, num_classes in zip(cells, XTAIL_CLASSES.values(), strict=True):
            right = float(cell) / 100 * num_classes  # one test image per class
            assert right == pytest.approx(round(right), abs=1e-9)
    assert matrix(xtail_run, "accuracy_task.csv")[0] == header
    metrics = read(xtail_run, "metrics.json")
    for name in ("transfer", "average", "last", "forgetting_max", "forgetting_diag"):
        assert metrics[name] is not None
    assert [len(metrics[name]) for name in ("update_norm", "drift", "mean_rank")] == [10, 10, 10]


def test_the_label_space_is_that_of_all_domains(xtail_run):
    labels = read(xtail_run, "labels.json")
    assert labels["scored_in"] == "all"
    assert {task["name"]: len(task["classes"]) for task in labels["tasks"]} == XTAIL_CLASSES
    assert sum(len(task["classes"]) for task in labels["tasks"]) == 1100
    assert read(xtail_run, "metrics.json")["label_space"] == "all"
    for task in read(xtail_run, "tasks/10-sun397/scores.json")["tasks"]:
        assert task["correct"] <= task["correct_task"]


def test_shots_of_a_run_are_the_documented_draw(xtail_run, coop_tree):
    for number, (key, num_classes) in enumerate(XTAIL_CLASSES.items(), start=1):
        stored = read(xtail_run, f"tasks/{number:02d}-{key}/shots.json")
        generator, expected = random.Random(f"8/{key}/16"), []
        labels = [label for _, label in coop_tree[1][key]["train"]]
        for label in range(num_classes):
            positions = [position for position, of in enumerate(labels) if of == label]
            expected += generator.sample(positions, min(16, len(positions)))
        assert stored == {"seed": 8, "dataset": key, "shots": 16, "positions": expected}


def test_a_run_says_that_a_miniature_is_not_the_benchmark(xtail_run, tiny_clip):
    said = about(xtail_run)
    marks = said.pop("marks")
    assert said == {
        "name": "xtail",
        "title": "X-TAIL",
        "order": 1,
        "shots": 16,
        "prompts": "default",
        "label_space": "all",
        "tasks": list(XTAIL_CLASSES),
        "model": None,
    }
    assert "mnist: train 20 of 60,000 images, test 10 of 10,000 images" in marks
    assert marks[0] == f"{tiny_clip} is not the published model, openai/clip-vit-base-patch16"
    assert [mark.partition(":")[0] for mark in marks[1:]] == list(XTAIL_CLASSES)


def test_the_config_of_a_run_is_the_whole_benchmark_and_reads_back(xtail_run):
    stored = yaml.safe_load((xtail_run / "config.yaml").read_text())
    assert stored["stream"]["benchmark"] == "xtail"
    assert [task["name"] for task in stored["stream"]["tasks"]] == list(XTAIL_CLASSES)
    assert load_config(xtail_run / "config.yaml").stream == load_config("xtail-vit-b16").stream


def test_an_unreadable_image_stops_a_run_before_it_begins(command, tmp_path, tiny_clip):
    from miniatures import write_coop

    truth = write_coop(tmp_path / "data", train=1, only=["dtd"])["dtd"]
    broken = tmp_path / "data" / truth["test"][3][0]
    for content in (b"no picture", b""):
        broken.write_bytes(content)
        options = [f"data_dir={tmp_path / 'data'}", f"model.name={tiny_clip}", "stream.only=[dtd]", *QUICK]
        words = [word for option in options for word in ("--set", option)]
        code, out, err = command("run", "xtail-vit-b16", "--out", tmp_path / "run", *words)
        assert code == 2
        assert "Traceback" not in out + err
        assert len(err.strip().splitlines()) == 1
        assert str(broken) in err
        assert not (tmp_path / "run/tasks").exists()


@pytest.mark.slow
def test_all_of_xtail_with_the_model_that_the_package_carries(coop_tree, tmp_path):
    overrides = ["model.name=builtin:tiny-clip", "train.steps=20", "train.lr=0.002", "method.r=8"]
    done = run(
        "xtail-vit-b16-official", tmp_path / "run", f"data_dir={coop_tree[0]}", *overrides, "method.levels=5"
    )
    _, rows = matrix(done, "accuracy_task.csv")
    assert about(done)["prompts"] == "codyra"
    learnt = sum(float(cell) for cell in rows["sun397"])
    assert learnt > sum(float(cell) for cell in rows["zero-shot"])


# --- parts and variants


def test_a_partial_stream_says_so_and_is_scored_among_its_own_classes(coop_tree, tiny_clip, tmp_path):
    only = "stream.only=[mnist,eurosat]"
    done = run("xtail-vit-b16", tmp_path / "run", f"data_dir={coop_tree[0]}", f"model.name={tiny_clip}", only)
    header, _ = matrix(done)
    assert header == ["after", "eurosat", "mnist"]  # the order of the benchmark
    assert sum(len(task["classes"]) for task in read(done, "labels.json")["tasks"]) == 20
    assert about(done)["marks"][1] == "partial: 2 of 10 data sets"
    assert about(done)["tasks"] == list(XTAIL_CLASSES)


@pytest.mark.parametrize(
    ("override", "mark"),
    [
        ("stream.shots=4", "shots 4, published is 16"),
        ("stream.shots=null", "shots all, published is 16"),
        ("stream.label_space=task", "label_space task, published is all"),
        ("stream.score_split=val", "scored on the val part"),
        ("stream.tasks.0.prompt='{} thing.'", "dtd: prompt is not the benchmark's"),
        ("stream.tasks.0.shots=2", "dtd: shots is not the benchmark's"),
        ("stream.tasks.0.classes=[banded]", "dtd: classes is not the benchmark's"),
    ],
)
def test_whatever_is_not_the_protocol_is_a_mark(coop_tree, tmp_path, override, mark):
    from codyra.streams import describe_benchmark

    file = tmp_path / "config.yaml"
    file.write_text(load_config("xtail-vit-b16", [f"data_dir={coop_tree[0]}"]).to_yaml())
    config = load_config(file)
    stream = config.stream.model_dump()
    stream["tasks"] = [task for task in stream["tasks"] if task["name"] == "dtd"]
    file.write_text(yaml.safe_dump({**config.model_dump(mode="json"), "stream": stream}))
    config = load_config(file, [override])
    tasks = build_stream(config.stream, seed=8, default_prompt="?", data_dir=coop_tree[0])
    marks = describe_benchmark(config.stream, tasks)["marks"]
    assert marks[0] == "partial: 1 of 10 data sets"
    assert mark in marks


def test_another_order_is_a_mark(coop_tree):
    from codyra.streams import describe_benchmark

    config = load_config("xtail-vit-b16", ["stream.only=[dtd,mnist]"])
    stream = config.stream.model_copy(update={"tasks": config.stream.tasks[::-1]})
    tasks = build_stream(stream, seed=8, default_prompt="?", data_dir=coop_tree[0])
    assert "learnt in another order than order 1" in describe_benchmark(stream, tasks)["marks"]


def test_a_guard_can_be_a_data_set_of_the_benchmark(coop_tree, tiny_clip, tmp_path):
    guard = "guard={data: 'xtail:${data_dir}/dtd', prompt: '{} texture.', tolerance: 100}"
    settings = [f"data_dir={coop_tree[0]}", f"model.name={tiny_clip}", "stream.only=[eurosat]", guard]
    done = run("xtail-vit-b16", tmp_path / "run", *settings)
    assert read(done, "tasks/01-eurosat/guard.json")["accepted"]


# --- MTIL


def test_mtil_is_scored_in_each_data_sets_own_label_space(mtil_run):
    assert read(mtil_run, "labels.json")["scored_in"] == "task"
    assert read(mtil_run, "metrics.json")["label_space"] == "task"
    scores = read(mtil_run, "tasks/01-EuroSAT/scores.json")["tasks"]
    own = [100 * task["correct_task"] / task["examples"] for task in scores]
    for table in ("accuracy.csv", "accuracy_task.csv"):
        assert [float(cell) for cell in matrix(mtil_run, table)[1]["EuroSAT"]] == pytest.approx(own)
    said = about(mtil_run)
    assert (said["name"], said["order"], said["shots"], said["prompts"]) == ("mtil", 1, 5, "ensemble")
    assert said["marks"][1] == "partial: 2 of 11 data sets"


def test_a_checkout_predicts_what_the_run_scored(mtil_run, torchvision_tree, command, tmp_path):
    """With the ensembles of the run, so that the winner is the same one."""
    directory = tmp_path / "checkout"
    assert command("checkout", mtil_run, "--out", directory)[0] == 0
    config = load_config(mtil_run / "config.yaml")
    tasks = build_stream(config.stream, seed=8, default_prompt="?", data_dir=torchvision_tree[0])
    eurosat = next(task for task in tasks if task.name == "EuroSAT")
    scores = read(mtil_run, "tasks/02-Flowers/scores.json")["tasks"]
    score = next(score for score in scores if score["name"] == "EuroSAT")
    guesses = predict(directory, [image.name for image in eurosat.test.inputs], "EuroSAT")
    winners = [first.classes[0][1] for first, *_ in guesses]
    right = [eurosat.class_names[label] for label in eurosat.test.labels]
    assert sum(map(str.__eq__, winners, right)) == score["correct_task"] > 0
    code, out, _ = command(
        "predict", directory, eurosat.test.inputs[0].name, "--label-space", "EuroSAT", "--json"
    )
    assert code == 0
    assert json.loads(out)[0]["guesses"][0]["classes"][0]["class"] == winners[0]


def test_an_ensemble_is_the_normalised_mean_of_unit_length_features(torchvision_tree, tiny_clip):
    ensembles, singles = (
        build_stream(
            load_config("mtil-5shot-vit-b16", [f"stream.prompts={mode}", "stream.only=[DTD,SUN397]"]).stream,
            seed=8,
            default_prompt="?",
            data_dir=torchvision_tree[0],
        )
        for mode in ("ensemble", "single")
    )
    family = load_family(ModelSpec(name=str(tiny_clip)))
    net, tokenizer = CLIPModel.from_pretrained(tiny_clip).eval(), AutoTokenizer.from_pretrained(tiny_clip)

    @torch.no_grad()
    def features(prompts):
        tokens = tokenizer(list(prompts), padding="max_length", max_length=77, return_tensors="pt")
        pooled = net.text_model(input_ids=tokens["input_ids"]).pooler_output
        return torch.nn.functional.normalize(net.text_projection(pooled), dim=-1)

    with torch.no_grad():
        for ensemble, single in zip(ensembles, singles, strict=True):
            of_ensemble = family.class_features(ensemble.scored_prompts)
            for row in (0, 1, 46):
                mean = features(ensemble.scored_prompts[row]).mean(dim=0)
                torch.testing.assert_close(of_ensemble[row], mean / mean.norm(), atol=1e-5, rtol=0)
            of_single = family.class_features(single.scored_prompts)
            torch.testing.assert_close(of_single[:3], features(single.prompts[:3]), atol=1e-5, rtol=0)
            assert (of_single - of_ensemble).abs().max() > 1e-3


# --- data sets from elsewhere


def save_hf(folder, names, train=2, test=1):
    """A saved Hugging Face data set of plain pictures with class labels called `names`."""
    from PIL import Image

    features = datasets.Features({"img": datasets.Image(), "kind": datasets.ClassLabel(names=names)})

    def split(count):
        labels = [label for label in range(len(names)) for _ in range(count)]
        images = [Image.new("RGB", (9, 7), (20 * label % 255, 80, 7)) for label in labels]
        return datasets.Dataset.from_dict({"img": images, "kind": labels}, features=features)

    datasets.DatasetDict({"fit": split(train), "check": split(test)}).save_to_disk(folder)
    return folder


@pytest.mark.parametrize(
    ("preset", "key", "first", "last"),
    [
        ("xtail-vit-b16", "eurosat", "Annual Crop Land satellite location", "Sea or Lake satellite location"),
        ("mtil-5shot-vit-b16", "EuroSAT", "annual crop land", "lake or sea"),
    ],
)
def test_a_saved_data_set_takes_the_place_of_the_files(preset, key, first, last, tiny_clip, tmp_path):
    names = [
        *("AnnualCrop", "Forest", "HerbaceousVegetation", "Highway", "Industrial"),
        *("Pasture", "PermanentCrop", "Residential", "River", "SeaLake"),
    ]
    folder = save_hf(tmp_path / "saved", names)
    source = (
        f"{{data: 'hf:{folder}', columns: {{image: img, label: kind}}, splits: {{train: fit, test: check}}}}"
    )
    overrides = [f"stream.sources.{key}={source}", f"stream.only=[{key}]", f"model.name={tiny_clip}"]
    done = run(preset, tmp_path / "run", *overrides)
    (task,) = read(done, "labels.json")["tasks"]
    assert (task["classes"][0], task["classes"][-1], len(task["classes"])) == (first, last, 10)
    marks = about(done)["marks"]
    assert f"{key}: read from hf:{folder}, not from the benchmark's files and splits" in marks
    assert read(done, f"tasks/01-{key}/shots.json")["dataset"] == key


def test_classes_that_the_benchmark_has_not_are_left_out_of_a_source(tmp_path):
    names = [*CALTECH_FOLDERS, "BACKGROUND_Google"]
    folder = save_hf(tmp_path / "saved", names, train=1)
    for benchmark, key, count in (("xtail", "caltech101", 100), ("mtil", "Caltech101", 101)):
        task = {
            "name": key,
            "data": f"hf:{folder}",
            "columns": {"image": "img", "label": "kind"},
            "splits": {"train": "fit", "test": "check"},
            "naming": f"{benchmark}/{key}",
        }
        (built,) = build_stream(StreamSpec(tasks=[task]), seed=8, default_prompt="{}")
        assert len(built.class_names) == len(built.train.labels) == len(built.test.labels) == count
        assert "BACKGROUND_Google" not in built.class_names


def test_a_source_with_other_classes_is_refused(command, tmp_path, tiny_clip):
    folder = save_hf(tmp_path / "saved", ["AnnualCrop", "Forest"])
    source = (
        f"{{data: 'hf:{folder}', columns: {{image: img, label: kind}}, splits: {{train: fit, test: check}}}}"
    )
    words = ["--set", f"stream.sources.eurosat={source}", "--set", "stream.only=[eurosat]"]
    code, _, err = command("run", "xtail-vit-b16", "--dry-run", *words, "--set", f"model.name={tiny_clip}")
    assert code == 2
    assert "has 2 classes, xtail/eurosat has 10" in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (
            "{data: 'hf:x/y@1', colums: {}}",
            "sources.dtd.colums: there is no such key, did you mean 'columns'?",
        ),
        ("{}", "sources.dtd.data: Field required"),
        ("{data: 'csv:x'}", "must begin with hf:"),
    ],
)
def test_a_mistake_in_a_source_is_named_with_its_place(source, words):
    with pytest.raises(UserError, match=words.replace("?", r"\?").replace("'", ".")):
        load_config("xtail-vit-b16", [f"stream.sources.dtd={source}"])
