"""One process where accelerate launch was asked for several: it becomes as many, or says why not."""

import os
import subprocess
import sys

import pytest

from codyra.cli import launched
from codyra.errors import UserError


@pytest.fixture
def started(monkeypatch):
    """What was started in the place of this process; the environment is the one that accelerate launch leaves."""
    for name in launched.RANKS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ACCELERATE_USE_CPU", "True")
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setattr(sys, "argv", ["codyra", "run", "stream.yaml"])
    commands = []
    monkeypatch.setattr(os, "execv", lambda program, words: commands.append(words))
    return commands


@pytest.mark.parametrize("option", ["--num_processes 3", "--num_processes=3", "--num-processes 3"])
def test_one_process_becomes_as_many_as_were_asked_for(started, monkeypatch, tmp_path, option):
    code = "import os; from codyra.cli import launched; print(launched._asked_for())"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {code!r}], check=True)"
    words = [sys.executable, "-c", parent, *option.split(), "-m", "codyra"]
    assert subprocess.run(words, capture_output=True, text=True, check=True).stdout == "3\n"
    monkeypatch.setattr(launched, "_asked_for", lambda: 3)
    launched.start_all_processes()
    ((program, *rest),) = started
    assert program == sys.executable
    assert rest[-5:] == ["3", "-m", "codyra", "run", "stream.yaml"]


@pytest.mark.parametrize("variable", [*launched.RANKS, "ACCELERATE_USE_CPU", "MASTER_ADDR"])
def test_processes_that_are_several_already_or_should_be_one_go_on(started, monkeypatch, variable):
    if variable in launched.RANKS:
        monkeypatch.setenv(variable, "2")
    else:
        monkeypatch.delenv(variable)
    launched.start_all_processes()
    assert not started


def test_a_number_that_cannot_be_seen_is_an_error(started, monkeypatch):
    monkeypatch.setattr(launched, "_asked_for", lambda: None)
    with pytest.raises(UserError, match="torchrun --standalone --nproc_per_node N -m codyra run"):
        launched.start_all_processes()
    assert not started


def test_several_processes_do_not_share_one_gpu(started, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "False")
    monkeypatch.setattr("torch.accelerator.is_available", lambda: True)
    with pytest.raises(UserError, match="there is one GPU; launch with --num_processes 1"):
        launched.start_all_processes()
    assert not started
