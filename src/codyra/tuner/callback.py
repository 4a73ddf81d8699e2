"""CodyraCallback: the proximal step for users of transformers' Trainer and of TRL."""

from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState

from codyra.tuner.prox import Operator, ProximalStep, Schedule


class CodyraCallback(TrainerCallback, ExportableState):
    """Hangs a ProximalStep on the Trainer's own optimizer, for as many steps as the Trainer will take.

        trainer = SFTTrainer(net, peft_config=CodyraConfig(), callbacks=[CodyraCallback(kappa_total=0.65)], ...)
        trainer.train()
        update, net = codyra.finish_task(trainer)

    Takes the options of `ProximalStep` except `total_steps`. The state travels in the Trainer's checkpoints
    (trainer_state.json), so a resumed run continues the schedule.

    Attributes:
        prox: the ProximalStep once training has begun. A Trainer that restores callbacks from a checkpoint
            puts another CodyraCallback in this one's place.

    Raises:
        ValueError: at the start of training, whatever ProximalStep refuses, gates that would decay among it;
            load_best_model_at_end, which brings back gates that the schedule had not finished with.
        RuntimeError: at the end of training, when the proximal step never fired.
    """

    def __init__(
        self,
        *,
        schedule: Schedule = "linear",
        kappa_total: float | None = None,
        kappa_max: float | None = None,
        levels: int | None = None,
        dense_fraction: float = 0.5,
        operator: Operator = "soft",
    ) -> None:
        self.options: dict[str, Any] = {
            "schedule": schedule,
            "kappa_total": kappa_total,
            "kappa_max": kappa_max,
            "levels": levels,
            "dense_fraction": dense_fraction,
            "operator": operator,
        }
        self.prox: ProximalStep | None = None

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        **kwargs: Any,
    ) -> None:
        if args.load_best_model_at_end:
            raise ValueError(
                "load_best_model_at_end=True would put back gates from before the last and largest thresholds; "
                "set it to False: the adapter of a task is the one at the end of its schedule"
            )
        if self.prox is not None:  # train() was called again
            self.prox.detach()
        self.prox = ProximalStep(optimizer, model, total_steps=state.max_steps, **self.options)
        if state.global_step > 0:
            self._resume(state)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        assert self.prox is not None
        self.prox.detach()
        self.prox.check_fired()

    def state(self) -> dict[str, Any]:
        """What the Trainer writes into trainer_state.json: JSON values only."""
        saved = None
        if self.prox is not None:
            saved = self.prox.state_dict()
            saved["initial_gates"] = {name: gate.tolist() for name, gate in saved["initial_gates"].items()}
        return {"args": self.options, "attributes": {"saved": saved}}

    def _resume(self, state: TrainerState) -> None:
        assert self.prox is not None
        entry = (state.stateful_callbacks or {}).get(type(self).__name__)
        saved = entry["attributes"]["saved"] if isinstance(entry, dict) else None
        if saved is None:
            raise ValueError(
                f"the checkpoint at step {state.global_step} was written without CodyraCallback, so its "
                "place in the schedule is unknown; train again from the first step with the callback"
            )
        initial = {
            name: torch.tensor(saved["initial_gates"][name], dtype=gate.dtype)
            for name, gate in self.prox.initial_gates.items()
            if name in saved["initial_gates"]
        }
        self.prox.load_state_dict({**saved, "initial_gates": initial})
