"""`codyra methods` lists what exists and shows a card."""

from codyra.methods import method_names
from codyra.methods.card import card


def test_all_of_them(command):
    code, out, _ = command("methods")
    assert code == 0
    assert all(name in out for name in method_names())


def test_one_of_them(command):
    assert command("methods", "lora") == (0, card("lora"), "")


def test_none_of_that_name(command):
    code, _, err = command("methods", "codira")
    assert code == 2
    assert "there is no method 'codira', did you mean 'codyra'?" in err
