"""The end of a task for users of transformers' Trainer and of TRL."""

import inspect
from typing import TYPE_CHECKING

from torch import nn

from codyra.errors import UserError
from codyra.tuner import CodyraCallback
from codyra.update.merge import consolidate
from codyra.update.task_update import TaskUpdate

if TYPE_CHECKING:
    from transformers import Trainer


def finish_task(trainer: "Trainer") -> tuple[TaskUpdate, nn.Module]:
    """The pruned update of the task that `trainer` has trained, and the plain network with it merged in.

    The network is the very object that was wrapped, in evaluation mode, ready for the next trainer; this
    trainer is spent.

    Args:
        trainer: a Trainer, or one of TRL's, with a CodyraCallback; `trainer.train()` has returned.

    Raises:
        UserError: no CodyraCallback, nothing trained yet, or no adapter left in the trainer's model.
        RuntimeError: the proximal step never fired.

    Warns when fewer steps were taken than the schedule has.
    """
    # Asked of the trainer: one that restores callbacks from a checkpoint has replaced what the user holds.
    callbacks = [hook for hook in trainer.callback_handler.callbacks if isinstance(hook, CodyraCallback)]
    if not callbacks:
        raise UserError(
            "this trainer has no CodyraCallback, so no rank was pruned; give it callbacks=[CodyraCallback()] "
            "and train again"
        )
    prox = callbacks[0].prox
    if prox is None:
        raise UserError("this trainer has not trained yet; call trainer.train() before finish_task(trainer)")
    update = TaskUpdate.from_model(trainer.model, prox=prox)
    net = consolidate(trainer.model, prox=prox)
    _take_off_trl(net)
    return update, net.eval()


def _take_off_trl(net: nn.Module) -> None:
    # TRL leaves a forward of its own on the network. It holds on to this very object, so that a deepcopy of the
    # network would compute with the weights of the original. accelerate's hooks lie below it: leave these alone.
    forward = net.__dict__.get("forward")
    if inspect.ismethod(forward) and not hasattr(net, "_hf_hook"):
        defined_in: str = forward.__func__.__globals__["__name__"]
        if defined_in.startswith("trl."):
            del net.forward
