import signal

import pytest

from codyra.cli.console import Interrupted, continue_with
from codyra.errors import UserError


def swallowing_interrupt():
    """What a library in C does that is interrupted while it calls Python: it reports an error of its own."""
    try:
        signal.raise_signal(signal.SIGINT)
    except KeyboardInterrupt:
        raise UserError("a.safetensors is damaged") from None


def test_an_interrupt_that_came_out_as_another_error_is_one():
    with (
        pytest.raises(Interrupted, match=r"tasks are kept; continue with: codyra run 'a b'$"),
        continue_with("codyra", "run", "a b"),
    ):
        swallowing_interrupt()


def test_the_innermost_words_are_said():
    with pytest.raises(Interrupted, match=r"inner$"), continue_with("outer"), continue_with("inner"):
        swallowing_interrupt()


def test_other_errors_are_left_alone():
    with pytest.raises(UserError, match="mine"), continue_with("codyra"):
        raise UserError("mine")


@pytest.mark.parametrize("handler", [signal.default_int_handler, signal.SIG_IGN])
def test_the_handler_is_given_back(handler):
    before = signal.signal(signal.SIGINT, handler)
    try:
        with continue_with("codyra"):
            if handler is signal.SIG_IGN:
                signal.raise_signal(signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is handler
    finally:
        signal.signal(signal.SIGINT, before)
