"""The data: grammar, source by source: what is read, in which order, and what is refused in which words."""

import json
from collections.abc import Callable
from pathlib import Path

import datasets
import pyarrow
import pytest
from PIL import Image
from pyarrow import compute, parquet

from codyra.errors import UserError
from codyra.streams import Task, check_images

Build = Callable[..., list[Task]]
PETS = {"name": "pets", "data": "imagefolder:pets"}
SAVED = {"name": "set", "data": "hf:saved"}
MAIL = {"name": "mail", "data": "csv:mail"}
ROWS = [("hello, you", "greeting"), ('two\nlines "quoted"', "request"), ("bye\u2028now", "greeting")]


def labelled(task: Task, split: str) -> list[tuple[str, str]]:
    """(text, or last two parts of an image's path; class name) of every example."""
    part = task.train if split == "train" else task.test
    inputs = [item if isinstance(item, str) else "/".join(Path(item.name).parts[-2:]) for item in part.inputs]
    return list(zip(inputs, [task.class_names[label] for label in part.labels], strict=True))


class TestImageFolder:
    def test_classes_and_files_are_in_the_order_of_their_names(self, pets: Path, build: Build) -> None:
        (task,) = build(PETS)
        assert (task.modality, task.class_names) == ("image", ("cat", "dog", "red_fox"))
        counts = {"cat": 4, "dog": 5, "red_fox": 6}
        expected = [(f"{name}/{n}.png", name) for name, count in counts.items() for n in range(count)]
        assert labelled(task, "train") == expected
        assert len(task.test.inputs) == 6

    def test_what_is_not_an_image_is_ignored_and_subfolders_are_not(self, pets: Path, build: Build) -> None:
        plain = build(PETS)[0]
        for name in ("notes.txt", "Thumbs.db", ".hidden.png", "README"):
            (pets / "train/cat" / name).write_text("x")
        (pets / "train/.cache").mkdir()
        (pets / "train/list.csv").write_text("x")
        assert build(PETS)[0] == plain
        (pets / "train/cat/more").mkdir()
        Image.new("RGB", (2, 2)).save(pets / "train/cat/more/A.JPG", "JPEG")
        assert ("more/A.JPG", "cat") in labelled(build(PETS)[0], "train")

    def test_an_empty_class_is_named(self, pets: Path, build: Build) -> None:
        (pets / "train/ferret").mkdir()
        with pytest.raises(UserError, match=r"task 'pets': class 'ferret' has no example in .*train"):
            build(PETS)
        for image in (pets / "test/cat").iterdir():
            image.unlink()
        with pytest.raises(UserError, match=r"class 'cat' has no example in .*test"):
            build(PETS | {"classes": ["dog", "cat"]})
        assert build(PETS | {"classes": ["dog"]})[0].class_names == ("dog",)

    @pytest.mark.parametrize("target", ["folder", "class", "file"])
    def test_no_link_leads_out_of_the_split(
        self, pets: Path, tmp_path: Path, build: Build, target: str
    ) -> None:
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir()
        Image.new("RGB", (2, 2)).save(elsewhere / "a.png")
        link, to = {
            "folder": (pets / "train/cat/more", elsewhere),
            "class": (pets / "train/cow", elsewhere),
            "file": (pets / "train/cat/link.png", elsewhere / "a.png"),
        }[target]
        link.symlink_to(to)
        with pytest.raises(UserError, match=f"{link} links to {to}"):
            build(PETS)

    def test_the_split_itself_and_files_of_it_may_be_links(self, pets: Path, build: Build) -> None:
        (pets / "train").rename(pets.parent / "moved")
        (pets / "train").symlink_to(pets.parent / "moved")
        (pets / "train/cat/again.png").symlink_to("0.png")
        assert ("cat/again.png", "cat") in labelled(build(PETS)[0], "train")

    def test_missing_folders_are_named(self, pets: Path, tmp_path: Path, build: Build) -> None:
        with pytest.raises(UserError, match=f"task 'pets': no folder {tmp_path / 'pest'}"):
            build(PETS | {"data": "imagefolder:pest"})
        with pytest.raises(UserError, match=f"no folder {pets / 'eval'}"):
            build(PETS | {"splits": {"test": "eval"}})
        (pets / "flat").mkdir()
        with pytest.raises(UserError, match="flat has no class folders"):
            build(PETS | {"splits": {"train": "flat"}})


class TestTables:
    @pytest.mark.parametrize(
        ("source", "extension"), [("csv", "csv"), ("json", "json"), ("json", "jsonl"), ("parquet", "parquet")]
    )
    def test_every_format_reads_the_same(
        self, table: Callable[..., Path], build: Build, source: str, extension: str
    ) -> None:
        table(ROWS, ROWS[:2], extension)
        (task,) = build(MAIL | {"data": f"{source}:mail"})
        assert (task.modality, task.class_names) == ("text", ("greeting", "request"))
        assert labelled(task, "train") == ROWS
        assert labelled(task, "test") == ROWS[:2]
        assert check_images([task.train]) is None

    def test_numbers_sort_as_numbers(self, table: Callable[..., Path], build: Build) -> None:
        table([("a", "10"), ("b", "9"), ("c", "-1")], [("a", "9"), ("b", "10"), ("c", "-1")])
        assert build(MAIL)[0].class_names == ("-1", "9", "10")
        table([("a", 10), ("b", 9)], [("a", 9), ("b", 10)], "json")
        assert build(MAIL | {"data": "json:mail"})[0].class_names == ("9", "10")
        table([("a", "10"), ("b", "9"), ("c", "x")], [("a", "9"), ("b", "10"), ("c", "x")])
        assert build(MAIL)[0].class_names == ("10", "9", "x")

    def test_columns_and_splits_are_mapped(self, tmp_path: Path, build: Build) -> None:
        content = '\ufeffcategory,note,body\nspam,"x, y",buy\n\nham,,hello\n'
        for name in ("learn", "exam"):
            (tmp_path / f"{name}.csv").write_text(content, "utf-8")
        spec = MAIL | {"data": "csv:.", "splits": {"train": "learn", "test": "exam"}}
        (task,) = build(spec | {"columns": {"text": "body", "label": "category"}})
        assert labelled(task, "train") == [("buy", "spam"), ("hello", "ham")]
        with pytest.raises(UserError, match="no column 'categry', did you mean 'category'"):
            build(spec | {"columns": {"text": "body", "label": "categry"}})
        with pytest.raises(UserError, match=r"has no train\.csv"):
            build(spec | {"splits": {}})

    def test_class_names_written_by_datasets_are_used(self, tmp_path: Path, build: Build) -> None:
        features = datasets.Features(
            {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["z", "a"])}
        )
        data = datasets.Dataset.from_dict({"text": ["one", "two"], "label": [1, 0]}, features=features)
        for split in ("train", "test"):
            data.to_parquet(tmp_path / f"{split}.parquet")
        (task,) = build(MAIL | {"data": "parquet:."})
        assert task.class_names == ("z", "a")
        assert labelled(task, "train") == [("one", "a"), ("two", "z")]

    @pytest.mark.parametrize(
        ("name", "content", "message"),
        [
            ("train.csv", b"text,label\nhi\n", r"train\.csv, line 2: 1 fields under a header of 2"),
            ("train.csv", b"text,label\na,b,c\n", r"line 2: 3 fields"),
            ("train.csv", b'text,label\n"open,b\n', r"train\.csv, line 2: unexpected end of data"),
            ("train.csv", b"text,label\n" + b"x" * 200_000 + b",a\n", "field larger than field limit"),
            ("train.csv", b"text,label\n\xff,b\n", r"train\.csv is not UTF-8"),
            ("train.csv", b"", "no column 'text'"),
            ("train.csv", b"text,label,text\na,b,c\n", "two columns 'text'"),
            ("train.csv", b"text,label\n", r"train\.csv is empty"),
            ("train.csv", b"text,label\nhi,\n", "record 1: the label is empty"),
            ("train.csv", b"text,label\n a,b\n  ,b\n", "record 2: the text is empty"),
            ("train.json", b"[1]", "record 1: expected an object, got int"),
            ("train.json", b'{"text": "a"}', "must hold a JSON list"),
            ("train.json", b"[{", "is not JSON"),
            ("train.json", b'[{"text": "a", "lable": "b"}]', "no field 'label', did you mean 'lable'"),
            ("train.json", b'[{"text": "a", "label": null}]', "the label is missing"),
            ("train.json", b'[{"text": ["a"], "label": "b"}]', "the text is of type list"),
            ("train.json", b'[{"text": "a", "label": 0.5}]', "the label is of type float"),
            ("train.jsonl", b'{"text": "a", "label": "b"}\n{"text"\n', r"train\.jsonl, line 2, is not JSON"),
            ("train.parquet", b"PAR1 nonsense", r"cannot read .*train\.parquet"),
        ],
    )
    def test_a_damaged_file_is_one_line(
        self, tmp_path: Path, build: Build, name: str, content: bytes, message: str
    ) -> None:
        for split in ("train", "test"):
            (tmp_path / name.replace("train", split)).write_bytes(content)
        kind = name.partition(".")[2].replace("jsonl", "json")
        with pytest.raises(UserError, match=message) as caught:
            build(MAIL | {"data": f"{kind}:."})
        assert "\n" not in str(caught.value)

    def test_texts_in_parquet_that_are_not_utf8_are_one_line(self, tmp_path: Path, build: Build) -> None:
        damaged = compute.cast(
            pyarrow.array([b"\xe5a"]), options=compute.CastOptions(pyarrow.string(), allow_invalid_utf8=True)
        )
        for split in ("train", "test"):
            parquet.write_table(
                pyarrow.table({"text": damaged, "label": ["a"]}), tmp_path / f"{split}.parquet"
            )
        with pytest.raises(UserError, match=r"cannot read .*train\.parquet: 'utf-8' codec"):
            build(MAIL | {"data": "parquet:."})

    def test_two_candidates_are_ambiguous(self, table: Callable[..., Path], build: Build) -> None:
        table(ROWS, ROWS, "json")
        table(ROWS, ROWS, "jsonl")
        with pytest.raises(UserError, match=r"both train\.json and train\.jsonl"):
            build(MAIL | {"data": "json:mail"})

    def test_labels_only_in_test_are_named(self, table: Callable[..., Path], build: Build) -> None:
        table(ROWS, [*ROWS, ("what", "question")])
        with pytest.raises(UserError, match=r"test\.csv has the label 'question', which .*train\.csv lacks"):
            build(MAIL)
        assert build(MAIL | {"classes": ["request"]})[0].test.labels == (0,)
        table([*ROWS, ("what", "question")], ROWS)
        with pytest.raises(UserError, match=r"class 'question' has no example in .*test\.csv"):
            build(MAIL)


class TestHuggingFace:
    def save(self, folder: Path, **columns: list) -> None:
        names = datasets.ClassLabel(names=["zebra", "ant"])
        data = datasets.Dataset.from_dict(columns).cast_column("label", names)
        datasets.DatasetDict(train=data, test=data, validation=data).save_to_disk(folder)

    def test_images_from_disk(self, tmp_path: Path, build: Build) -> None:
        pictures = [Image.new("RGB", (2, 3), (n, 0, 0)) for n in range(4)]
        data = datasets.Dataset.from_dict({"photo": pictures, "label": [0, 1, 1, 0]}).cast_column(
            "photo", datasets.Image()
        )
        data = data.cast_column("label", datasets.ClassLabel(names=["zebra", "ant"]))
        datasets.DatasetDict(train=data, test=data).save_to_disk(tmp_path / "saved")
        (task,) = build(SAVED | {"columns": {"image": "photo"}, "classes": ["ant"]})
        assert (task.modality, task.class_names, task.train.labels) == ("image", ("ant",), (0, 0))
        assert [image.open().getpixel((0, 0)) for image in task.train.inputs] == [(1, 0, 0), (2, 0, 0)]
        assert [image.name for image in task.train.inputs] == [
            f"{tmp_path / 'saved'} [train], row {n}" for n in (1, 2)
        ]
        check_images([task.train])
        with pytest.raises(UserError, match="say with columns"):
            build(SAVED)
        with pytest.raises(UserError, match="column 'label' does not hold images"):
            build(SAVED | {"columns": {"image": "label"}})

    def test_a_row_without_image_is_named(self, tmp_path: Path, build: Build) -> None:
        features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("string")})
        data = datasets.Dataset.from_dict(
            {"image": [{"bytes": b"no", "path": None}, None], "label": ["a", "b"]}, features
        )
        datasets.DatasetDict(train=data.select([0]), test=data.select([0])).save_to_disk(tmp_path / "saved")
        with pytest.raises(UserError, match=r"\[train\], row 0: in no known format"):
            check_images([task.train for task in build(SAVED)])
        datasets.DatasetDict(train=data, test=data).save_to_disk(tmp_path / "hole")
        with pytest.raises(UserError, match=r"\[train\], row 1: the row has no image"):
            build(SAVED | {"data": "hf:hole"})

    def test_text_from_disk(self, tmp_path: Path, build: Build) -> None:
        self.save(tmp_path / "saved", text=["x", "y", "z"], label=[1, 0, 1])
        (task,) = build(SAVED)
        assert labelled(task, "train") == [("x", "ant"), ("y", "zebra"), ("z", "ant")]
        assert task.class_names == ("zebra", "ant")
        assert len(build(SAVED, stream={"score_split": "val"})[0].test.inputs) == 3
        with pytest.raises(UserError, match="no split 'tests', did you mean 'test'"):
            build(SAVED | {"splits": {"test": "tests"}})
        with pytest.raises(UserError, match="no column 'lable', did you mean 'label'"):
            build(SAVED | {"columns": {"label": "lable"}})

    def test_a_remembered_tensor_format_does_not_matter(self, tmp_path: Path, build: Build) -> None:
        data = datasets.Dataset.from_dict({"text": ["x", "y"], "label": [3, 12]}).with_format("numpy")
        datasets.DatasetDict(train=data, test=data).save_to_disk(tmp_path / "saved")
        assert build(SAVED)[0].class_names == ("3", "12")

    def test_unlabelled_rows_and_single_splits_are_refused(self, tmp_path: Path, build: Build) -> None:
        self.save(tmp_path / "saved", text=["x", "y"], label=[1, -1])
        with pytest.raises(UserError, match=r"\[train\], record 2: the label is missing"):
            build(SAVED)
        datasets.Dataset.from_dict({"text": ["x"]}).save_to_disk(tmp_path / "single")
        with pytest.raises(UserError, match="holds a single split"):
            build(SAVED | {"data": "hf:single"})

    def test_a_folder_that_load_dataset_understands(
        self, tmp_path: Path, build: Build, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
        (tmp_path / "saved").mkdir()
        for split in ("train", "test"):
            (tmp_path / f"saved/{split}.jsonl").write_text(json.dumps({"text": "x", "label": "a"}), "utf-8")
        assert labelled(build(SAVED)[0], "train") == [("x", "a")]
        with pytest.raises(UserError, match="cannot load the data set"):
            build(SAVED | {"splits": {"test": "exam"}})

    @pytest.mark.parametrize("location", ["org/name", "org/name@", "@main"])
    def test_the_hub_needs_a_revision(self, tmp_path: Path, build: Build, location: str) -> None:
        with pytest.raises(UserError, match="needs a revision: hf:org/name@revision"):
            build(SAVED | {"data": f"hf:{location}"})

    def test_revision_and_splits_reach_the_hub(self, build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
        asked = []

        def load(name: str, **options: object) -> list[datasets.Dataset]:
            asked.append((name, options))
            if name == "org/gone":
                raise datasets.exceptions.DatasetNotFoundError("Dataset 'org/gone' doesn't exist\nmore")
            return [datasets.Dataset.from_dict({"text": ["x"], "label": ["a"]})] * 2

        monkeypatch.setattr(datasets, "load_dataset", load)
        (task,) = build(SAVED | {"data": "hf:org/name@v1", "splits": {"train": "train[:5%]"}})
        assert asked == [("org/name", {"split": ["train[:5%]", "test"], "revision": "v1"})]
        assert labelled(task, "test") == [("x", "a")]
        with pytest.raises(
            UserError, match=r"cannot load the data set org/gone: Dataset 'org/gone' doesn't exist$"
        ):
            build(SAVED | {"data": "hf:org/gone@v1"})


def test_data_dir_is_replaced_or_asked_for(pets: Path, tmp_path: Path, build: Build) -> None:
    spec = PETS | {"data": "imagefolder:${data_dir}/pets"}
    assert build(spec, data_dir=tmp_path, root=Path("/nowhere"))[0].source == spec["data"]
    with pytest.raises(UserError, match=r"--set data_dir=\.\.\."):
        build(spec)
    with pytest.raises(UserError, match=r"unknown variable \$\{home\}"):
        build(PETS | {"data": "imagefolder:${home}/pets"})


def test_home_is_understood(
    pets: Path, tmp_path: Path, build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert build(PETS | {"data": "imagefolder:~/pets"}, root=Path("/nowhere"))[0].class_names[0] == "cat"
    with pytest.raises(UserError, match=r"no folder .*~no-such-user"):
        build(PETS | {"data": "imagefolder:~no-such-user/pets"})
    with pytest.raises(UserError, match=r"cannot read .*too long"):
        build(PETS | {"data": "imagefolder:" + "x" * 5000})
