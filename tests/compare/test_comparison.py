"""A whole comparison: what it leaves, that it goes on, what fails; and once with real processes and Ctrl-C."""

import csv
import io
import json
import re
import shutil
import signal
import statistics
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from codyra.compare import runs
from codyra.compare.compare import Results, compare
from codyra.compare.plan import plan_comparison
from codyra.engine.folder_reader import ReferenceInfo
from codyra.engine.progress import Narrator
from codyra.engine.run import run
from codyra.errors import UserError
from conftest import colour_tasks
from families.tiny_lms import save_llama

QUIET = Narrator(quiet=True)
METHODS = "lora:r=1,zero_shot,lora:r=2:train.lr=1e-4"
TARGETS = ["layers.0.self_attn.q_proj"]


@pytest.fixture(scope="module")
def stream(pictures, tmp_path_factory) -> str:
    """Two tiny tasks as a file."""
    file = tmp_path_factory.mktemp("compare") / "stream.yaml"
    config = {
        "model": {"name": "builtin:tiny-clip"},
        "method": {"name": "lora", "targets": TARGETS},
        "train": {"steps": 4, "batch_size": 4, "lr": 1e-3},
        "stream": {"tasks": colour_tasks(pictures)[:2]},
    }
    file.write_text(yaml.safe_dump(config))
    return str(file)


class Done:
    """A process that has ended already, because the run was made in this one."""

    def __init__(self, job, at_once, place):
        self.code = 0
        try:
            run(job.file, job.folder, narrator=QUIET)
        except UserError as error:
            job.log.write_text(f"something before\ncodyra: {error}\n")
            self.code = 2

    def poll(self):
        return self.code

    def terminate(self):
        raise AssertionError("has ended")

    wait = terminate


@pytest.fixture(scope="module", autouse=True)
def in_this_process():
    """Runs are made here, where a process of their own would load torch for seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "_start", Done)
        patch.setattr(runs, "_POLL_SECONDS", 0)
        yield


@pytest.fixture(scope="module")
def finished(stream, tmp_path_factory) -> Path:
    """Three methods with two seeds; not to be written into."""
    out = tmp_path_factory.mktemp("finished") / "out"
    results, failed = compare(stream, METHODS, [1, 2], out, reference="zero_shot", narrator=QUIET)
    assert (failed, results.missing) == ({}, [])
    return out


def cells(folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO((folder / "table.csv").read_text())))


def cell(folder: Path, method: str, metric: str, minus: bool = False) -> dict[str, str]:
    """The first line of this metric, of the method itself or of its difference from the reference."""
    return next(
        line
        for line in cells(folder)
        if (line["method"], line["metric"], "Minus" in line["block"]) == (method, metric, minus)
    )


def test_the_table_is_what_the_run_folders_say(finished):
    found = {
        (method, seed): json.loads(
            (finished / method.replace(":", "-") / f"seed-{seed}" / "metrics.json").read_text()
        )
        for method in METHODS.split(",")
        for seed in (1, 2)
    }
    for metric in ("transfer", "last", "forgetting_max", "learning_accuracy"):
        values = [found["lora:r=1", seed][metric] for seed in (1, 2)]
        line = cell(finished, "lora:r=1", metric)
        assert float(line["value"]) == pytest.approx(statistics.mean(values))
        assert float(line["std"]) == pytest.approx(statistics.stdev(values))
        assert line["n"] == "2"
        minus = [found["lora:r=1", seed][metric] - found["zero_shot", seed][metric] for seed in (1, 2)]
        line = cell(finished, "lora:r=1", metric, minus=True)
        assert float(line["value"]) == pytest.approx(statistics.mean(minus))
        assert float(line["standard_error"]) == pytest.approx(statistics.stdev(minus) / 2**0.5)
    for metric in ("average", "last", "forgetting_max", "learning_accuracy"):
        values = [found["lora:r=1", seed]["own_label_space"][metric] for seed in (1, 2)]
        line = cell(finished, "lora:r=1", f"own_{metric}")
        assert float(line["value"]) == pytest.approx(statistics.mean(values))
    for task, scores in found["lora:r=1", 1]["per_task"].items():
        values = [scores["last"]["score"], found["lora:r=1", 2]["per_task"][task]["last"]["score"]]
        (line,) = (
            line
            for line in cells(finished)
            if (line["method"], line["metric"], line["data_set"]) == ("lora:r=1", "last", task)
        )
        assert float(line["value"]) == pytest.approx(statistics.mean(values))
    assert float(cell(finished, "lora:r=1", "drift")["value"]) == pytest.approx(
        statistics.mean(found["lora:r=1", seed]["drift"][-1] for seed in (1, 2))
    )


def test_budgets_and_promises_are_in_the_table(finished):
    shown = {method: cell(finished, method, "examples")["value"] for method in METHODS.split(",")}
    assert shown == {"lora:r=1": "16", "zero_shot": "0", "lora:r=2:train.lr=1e-4": "16"}
    assert cell(finished, "lora:r=2:train.lr=1e-4", "lr")["value"] == "0.0001"
    assert cell(finished, "zero_shot", "steps")["note"].startswith("takes no gradient steps")
    assert cell(finished, "lora:r=1", "steps")["note"] == ""
    assert cell(finished, "lora:r=1", "stores")["value"] == "none"
    assert cell(finished, "zero_shot", "seconds_per_step")["value"] == ""
    for metric in ("ms_per_example", "seconds", "peak_mib"):
        assert float(cell(finished, "zero_shot", metric)["value"]) > 0


def test_the_page_loads_nothing_and_names_every_method(finished):
    page = (finished / "compare.html").read_text()
    assert re.findall(r"(?:src|href)=\"(?!#)[^\"]*", page) == []
    assert page.count("<svg") >= 2
    for method in METHODS.split(","):
        assert page.count(f">{method}<") >= 4
    assert "Not the same for all rows that train: learning rate." in page


def test_a_finished_comparison_runs_nothing_and_writes_the_same(finished, stream, monkeypatch):
    monkeypatch.setattr(runs, "_start", None)
    before = {
        name: (finished / name).read_bytes()
        for name in ("table.csv", "table.md", "compare.html", "compare.yaml")
    }
    compare(stream, "zero_shot", [2], finished, narrator=QUIET)
    assert before == {name: (finished / name).read_bytes() for name in before}


def test_a_run_of_its_own_is_an_ordinary_run(finished, command):
    code, out, err = command("verify", finished / "lora-r=1" / "seed-1")
    assert code == 0, out + err


def test_dry_run_checks_every_method_and_writes_nothing(stream, tmp_path, command):
    code, out, _ = command(
        "compare", stream, "--methods", "lora,zero_shot", "--out", tmp_path / "out", "--dry-run"
    )
    assert code == 0
    assert "2 methods x 3 seeds: 6 runs to do" in out
    assert not (tmp_path / "out").exists()


def test_all_methods_that_cannot_run_are_one_line_before_anything_runs(stream, tmp_path, command):
    methods = "lora:targets=[nothing_like_it],zero_shot,zscl,energy:targets=[nothing_like_it]"
    code, out, err = command("compare", stream, "--methods", methods, "--out", tmp_path / "out")
    assert code == 2
    assert err.startswith(
        "codyra: --methods lora:targets=[nothing_like_it],energy:targets=[nothing_like_it]: "
    )
    assert "; --methods zscl: " in err
    assert len(err.splitlines()) == 1
    assert "started" not in out
    assert not (tmp_path / "out").exists()


def test_a_run_that_fails_does_not_lose_the_others(stream, tmp_path, command):
    arguments = (
        "compare",
        stream,
        "--methods",
        "lora:train.lr=1e30,zero_shot",
        "--seeds",
        "4",
        "--out",
        tmp_path / "out",
    )
    code, out, err = command(*arguments)
    assert code == 2
    assert "lora:train.lr=1e30, seed 4: failed: the loss became nan" in out
    assert err.startswith("codyra: 1 of 2 runs failed (lora:train.lr=1e30, seed 4)")
    assert (
        f"continue with: codyra compare {stream} --methods lora:train.lr=1e30,zero_shot --seeds 4 --out"
        in err
    )
    assert "Not finished: lora:train.lr=1e30, seed 4." in out
    assert [
        line["method"]
        for line in cells(tmp_path / "out")
        if (line["metric"], line["data_set"]) == ("last", "")
    ] == ["zero_shot"]
    assert "One seed: no figure here has an error" in (tmp_path / "out" / "compare.html").read_text()
    code, _, _ = command(*arguments)
    assert code == 2, "the one that failed is tried again"


def test_answers_have_op_and_backward_transfer(tmp_path):
    save_llama(tmp_path / "llama")
    for name, answer in (("animals", "dog"), ("colours", "blue")):
        for split in ("train", "test"):
            records = [
                {"prompt": f"{name} {split} {number}? Answer:", "answer": answer} for number in range(4)
            ]
            (tmp_path / name).mkdir(exist_ok=True)
            (tmp_path / name / f"{split}.jsonl").write_text("\n".join(map(json.dumps, records)))
    config = {
        "model": {"name": "llama"},
        "method": {"name": "lora", "r": 2},
        "train": {"epochs": 1.5, "batch_size": 4},
        "stream": {
            "max_answer_tokens": 2,
            "tasks": [{"name": name, "data": f"json:{name}"} for name in ("animals", "colours")],
        },
    }
    (tmp_path / "stream.yaml").write_text(yaml.safe_dump(config))
    out = tmp_path / "out"
    _, failed = compare(
        str(tmp_path / "stream.yaml"), "lora,full", [0], out, reference="lora", narrator=QUIET
    )
    assert failed == {}
    metrics = {line["metric"] for line in cells(out) if not line["data_set"]}
    assert {"overall_performance", "bwt", "bwt_trace", "bwt_clipped"} <= metrics
    assert not {"transfer", "average", "last"} & metrics
    assert (cell(out, "lora", "steps")["value"], cell(out, "lora", "examples")["value"]) == ("2", "6")
    minus = cell(out, "full", "overall_performance", minus=True)
    assert (minus["n"], minus["standard_error"]) == ("1", "")
    assert minus["note"] == "one seed in common: a difference without an error"


@pytest.mark.parametrize("seeds", ["", "a", "1,1", "-1", "1,"])
def test_seeds_are_numbers(stream, command, seeds):
    code, _, err = command("compare", stream, "--methods", "lora", f"--seeds={seeds}")
    assert code == 2
    assert "--seeds" in err


@pytest.mark.parametrize(
    ("what", "words"),
    [
        (lambda manifest: manifest["data"][0].update(fingerprint="0" * 64), "learnt other data than"),
        (lambda manifest: manifest["base"].update(sha256="0" * 64), "started from another base model than"),
    ],
)
def test_what_changed_between_runs_is_not_averaged(stream, tmp_path, finished, what, words):
    out = tmp_path / "out"
    shutil.copytree(finished, out)
    manifest = out / "lora-r=1" / "seed-2" / "manifest.json"
    content = json.loads(manifest.read_text())
    what(content)
    manifest.write_text(json.dumps(content))
    with pytest.raises(UserError, match=words):
        compare(stream, "zero_shot", [1], out, narrator=QUIET)


def test_a_comparison_goes_on_without_being_told_its_methods_and_seeds(
    stream, tmp_path, finished, monkeypatch
):
    out = tmp_path / "out"
    shutil.copytree(finished, out)
    shutil.rmtree(out / "lora-r=1" / "seed-2")
    started = []
    monkeypatch.setattr(runs, "_start", lambda job, *rest: started.append(job.name) or Done(job, *rest))
    results, failed = compare(stream, out=out, narrator=QUIET)
    assert not failed
    assert started == ["lora:r=1, seed 2"]
    assert results.comparison.stored.seeds == (1, 2)
    with pytest.raises(UserError, match="new holds no comparison yet; name its methods"):
        compare(stream, out=tmp_path / "new", narrator=QUIET)


def test_runs_at_once_share_cores_and_devices(monkeypatch):
    monkeypatch.setattr(runs, "_num_cores", lambda: 9)
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert runs._share(2, 1) == {"OMP_NUM_THREADS": "4"}
    assert runs._share(20, 1) == {"OMP_NUM_THREADS": "1"}
    monkeypatch.setattr(runs.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(runs.torch.cuda, "device_count", lambda: 2)
    assert [runs._share(3, place).get("CUDA_VISIBLE_DEVICES") for place in range(3)] == ["0", "1", "0"]
    assert "CUDA_VISIBLE_DEVICES" not in runs._share(1, 0)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7")
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert runs._share(2, 1) == {"OMP_NUM_THREADS": "3", "CUDA_VISIBLE_DEVICES": "7"}


@pytest.mark.parametrize(("threads", "at_once", "count"), [(8, 4, 1), (2, 3, 3), (2, 9, 4)])
def test_runs_that_share_all_cores_take_no_less_time(monkeypatch, threads, at_once, count):
    monkeypatch.setattr(runs, "_num_cores", lambda: 8)
    monkeypatch.setattr(runs.torch, "get_num_threads", lambda: threads)
    assert runs._independent(at_once) == count


@pytest.mark.slow
def test_real_processes_interrupted_and_continued(stream, tmp_path):
    out = tmp_path / "out"
    command = [
        sys.executable,
        "-m",
        "codyra",
        "compare",
        stream,
        "--methods",
        "lora,zero_shot",
        "--seeds",
        "1,2",
    ]
    command += ["--out", str(out), "--jobs", "2", "--set", "train.steps=60"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        while not list(out.glob("lora/seed-1/tasks/*")):
            assert process.poll() is None
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "continue with: codyra compare" in said
    locks = [json.loads(lock.read_text())["pid"] for lock in out.rglob("lock.json")]
    assert not any(Path(f"/proc/{pid}").exists() for pid in locks), "no run goes on alone"
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(list(out.rglob("metrics.json"))) == 4
    peaks = {
        method: json.loads((out / method / "seed-1" / "manifest.json").read_text())["peak_memory_bytes"]
        for method in ("lora", "zero_shot")
    }
    assert all(peak > 0 for peak in peaks.values())


def test_a_signal_that_is_ignored_stays_ignored():
    """nohup has a program ignore that the terminal closes."""
    former = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with runs._ended_when_told():
            signal.raise_signal(signal.SIGHUP)
            with pytest.raises(SystemExit):
                signal.raise_signal(signal.SIGTERM)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, former)


def test_runs_on_other_reference_data_are_not_averaged(stream, finished):
    plan = plan_comparison(stream, None, out=finished)
    results = Results(plan)
    first = next(iter(results._measured.values()))

    def given(texts):
        manifest = replace(first.run.view.manifest, reference={"texts": ReferenceInfo(texts)})
        return replace(first, run=replace(first.run, view=replace(first.run.view, manifest=manifest)))

    results._check_same(plan.jobs[0], given("a"), given("a"))
    results._check_same(plan.jobs[0], first, given("a"))
    with pytest.raises(UserError, match="was given other reference data"):
        results._check_same(plan.jobs[0], given("a"), given("b"))
