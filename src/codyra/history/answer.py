"""Answering with a checkout: what the model generates for a prompt, as it does when a run scores it."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from codyra.errors import UserError
from codyra.families import AnswerSettings, ModelSpec, load_family
from codyra.families.causal_lm import CausalLM
from codyra.history.about import read_about
from codyra.naming import did_you_mean


def answer(
    checkout: Path, inputs: Sequence[str], task: str | None = None, max_new_tokens: int | None = None
) -> list[str]:
    """What the model of `checkout` answers to each prompt.

    Args:
        task: the prompts are put into the template of this task and answered as its own are; default: as they are.
        max_new_tokens: longest answer; default what the task, or the run, allowed.

    Raises:
        UserError: no checkout of a language model, a damaged one, no such task, or a prompt that is no text.
    """
    about = read_about(checkout)
    if about.answers is None:
        raise UserError(f"{checkout} holds a model of classes; `codyra predict` gives the nearest")
    for prompt in inputs:
        try:
            prompt.encode()
        except UnicodeEncodeError:  # bytes of the command line that are no text
            raise UserError(f"{prompt!r} is not UTF-8; convert it") from None
    named = {rules.name: rules for rules in about.answers.tasks}
    if task is not None and task not in named:
        raise UserError(f"--label-space {task}: no such task{did_you_mean(task, named)}")
    rules = named[task] if task is not None else None
    settings = AnswerSettings(**asdict(about.answers.settings))
    family = load_family(ModelSpec(name=str(checkout), dtype=about.base.dtype), settings)
    if not isinstance(family, CausalLM):
        raise UserError(
            f"{checkout} holds a {family.model_type} model, which generates nothing; make it anew"
        )
    if rules is None:
        return family.answer(inputs, max_new_tokens or settings.max_answer_tokens)
    prompts = [rules.prompt.replace("{}", prompt) for prompt in inputs]
    return family.answer(prompts, max_new_tokens or rules.max_new_tokens, rules.choices, rules.frame)
