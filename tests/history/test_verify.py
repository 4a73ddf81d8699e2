"""verify: a whole run passes, and whatever changed since is named."""

import json
import random
import shutil

import pytest
import safetensors.torch

from codyra.engine import checksums
from codyra.history import verify as room
from codyra.history.verify import verify
from engine.faults import reseal


def faults(folder):
    return [finding.text for finding in verify(folder) if finding.ok is False]


def lines(folder):
    return [finding.text for finding in verify(folder) if finding.ok]


@pytest.fixture
def codyra_run(runs):
    return runs["codyra"]


@pytest.fixture
def copied(codyra_run, tmp_path):
    return shutil.copytree(codyra_run, tmp_path / "run")


def test_a_whole_run_passes(codyra_run):
    assert not faults(codyra_run)
    found = lines(codyra_run)
    assert found[0].startswith("checksums: manifest.json and ")
    assert "merge: 3 states merged anew, bit-identical to what was scored" in found
    assert "adapters: stock peft loads 3, with the updates of their tasks" in found


@pytest.mark.parametrize("method", ["cumulative", "full", "bf16", "zero_shot", "text"])
def test_runs_of_every_kind_pass(runs, method):
    assert not faults(runs[method])


def test_the_command(codyra_run, copied, command):
    code, out, err = command("verify", codyra_run)
    assert (code, err) == (0, "")
    assert all(line.startswith("ok  ") for line in out.splitlines())
    (copied / "zero_shot.json").unlink()
    (copied / "notes.txt").touch()
    code, out, err = command("verify", copied)
    assert code == 2
    assert "FAIL  zero_shot.json: missing" in out
    assert "note  notes.txt: not a file of the run" in out
    assert err.count("\n") == 1


def test_a_flipped_byte_anywhere_is_named(copied, monkeypatch):
    """In every file, at its first, its last and some byte between."""
    monkeypatch.setattr(room, "_models", lambda *_: iter(()))  # checksums alone must find all of it
    rng = random.Random(0)
    tried = 0
    for file in sorted(path for path in copied.rglob("*") if path.is_file()):
        content = file.read_bytes()
        for position in {0, len(content) - 1, rng.randrange(len(content))}:
            changed = bytearray(content)
            changed[position] ^= 1 << rng.randrange(8)
            file.write_bytes(changed)
            found = faults_or_error(copied)
            assert str(file.relative_to(copied)) in found, (file, position)
            tried += 1
        file.write_bytes(content)
    assert tried > 80
    assert not faults(copied)


def faults_or_error(folder):
    try:
        return "\n".join(faults(folder))
    except ValueError as error:
        return str(error)


def test_a_file_that_is_missing_or_new_is_named(copied):
    (copied / "tasks/02-cool/adapter_model.safetensors").unlink()
    shutil.copy(
        copied / "tasks/01-warm/adapter_model.safetensors", copied / "tasks/01-warm/update.safetensors"
    )
    found = faults(copied)
    assert "tasks/02-cool/adapter_model.safetensors: missing" in found
    assert "tasks/01-warm/update.safetensors: not in manifest.json" in found


def test_another_adapter_under_good_checksums_is_found_by_merging(copied):
    file = copied / "tasks/02-cool/adapter_model.safetensors"
    tensors = safetensors.torch.load_file(file)
    safetensors.torch.save_file({name: tensor * 1.001 for name, tensor in tensors.items()}, file)
    reseal(copied)
    found = "\n".join(faults(copied))
    assert (
        "tasks/02-cool/scores.json: base and updates merged anew are not the weights that were scored"
        in found
    )
    assert "tasks/03-plain/scores.json" in found
    assert "tasks/01-warm/scores.json" not in found


def test_other_figures_under_good_checksums_are_found(copied):
    table = copied / "accuracy.csv"
    *rows, last = table.read_text().splitlines()
    table.write_text("\n".join([*rows, last.replace(last.split(",")[1], "99.0")]) + "\n")
    metrics = json.loads((copied / "metrics.json").read_text())
    (copied / "metrics.json").write_text(json.dumps({**metrics, "last": 99.0}))
    reseal(copied)
    found = "\n".join(faults(copied))
    assert "accuracy.csv: does not match the scores of the tasks" in found
    assert "metrics.json: does not match" in found


def test_on_another_machine_the_merge_is_compared_to_rounding(copied, monkeypatch):
    for scores in copied.glob("tasks/*/scores.json"):
        content = json.loads(scores.read_text())
        content["weights_sha256"] = "0" * 64
        scores.write_text(json.dumps(content))
    reseal(copied)
    assert len(faults(copied)) == 3
    monkeypatch.setattr(room, "machine", lambda: "another machine")
    assert not faults(copied)
    assert any("to rounding" in line for line in lines(copied))


def test_another_base_model_is_named(copied, monkeypatch):
    manifest = json.loads((copied / "manifest.json").read_text())
    manifest["base"]["sha256"] = "0" * 64
    (copied / "manifest.json").write_text(checksums.seal(manifest))
    assert any("has other weights than when run" in fault for fault in faults(copied))


def test_the_seal_covers_every_byte():
    text = checksums.seal({"format": 1, "base": {"sha256": "0" * 64}, "text": "ä"})
    assert checksums.is_sealed(text)
    data = text.encode()
    for position in range(len(data)):
        changed = data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :]
        assert not checksums.is_sealed(changed.decode("utf-8", "replace")), position
    assert not checksums.is_sealed(text + "\n")
    assert not checksums.is_sealed(text.replace("\n}", "}"))


def test_no_command_makes_damage_the_truth(copied, command):
    """report writes the manifest anew, but not the checksums of what it did not write."""
    labels = copied / "labels.json"
    labels.write_text(labels.read_text().replace('"red"', '"rad"'))
    (copied / "tasks/01-warm/train.jsonl").unlink()
    assert command("report", copied)[0] == 0
    assert faults(copied)[:2] == [
        "labels.json: changed since the run wrote it",
        "tasks/01-warm/train.jsonl: missing",
    ]
    code, _, err = command("revert", copied, "--to", 1)
    assert code == 2
    assert "labels.json is damaged" in err


def test_what_is_archived_keeps_its_checksum(copied, command):
    adapter = copied / "tasks/03-plain/adapter_model.safetensors"
    adapter.write_bytes(adapter.read_bytes()[:-1] + b"x")
    assert command("revert", copied, "--to", 2)[0] == 0
    assert faults(copied) == [
        "archive/01/tasks/03-plain/adapter_model.safetensors: changed since the run wrote it"
    ]


def test_another_processor_is_another_base_model(runs, tmp_path, monkeypatch):
    from codyra.families import loading

    monkeypatch.setattr(loading, "SETUP_FILES", ("config.json",))
    assert any("is not what it was when run" in fault for fault in faults(runs["codyra"]))
