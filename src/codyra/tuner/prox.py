"""The proximal step: after every optimizer step of the sparse phase, w <- T_kappa(w) on every gate.

The threshold rule is in `linear_thresholds`, `official_thresholds` and `stage_thresholds`, the operator in
`soft_threshold` and `official_threshold`; ProximalStep hangs both on an optimizer. kappa is not multiplied by the
learning rate.
"""

import math
import warnings
from collections.abc import Callable
from typing import Any, Literal, get_args

import torch
from accelerate.optimizer import AcceleratedOptimizer
from torch import Tensor, nn

from codyra.tuner.layer import Gate, named_gates

Schedule = Literal["linear", "official", "stages"]
Operator = Literal["soft", "official"]

# The paper's cumulative shrink, last threshold and number of levels.
KAPPA_TOTAL = 0.65
KAPPA_MAX = 0.005
LEVELS = 50


def _num_proximal(total_steps: int, dense_fraction: float) -> int:
    """How many steps t, from 0, are > dense_fraction * total_steps."""
    return total_steps - 1 - math.floor(dense_fraction * total_steps)


def linear_thresholds(total_steps: int, dense_fraction: float, kappa_total: float) -> list[float]:
    """The ramp kappa_top * k / n over the n steps t > dense_fraction * total_steps; sums to kappa_total."""
    num_proximal = _num_proximal(total_steps, dense_fraction)
    kappa_top = 2 * kappa_total / (num_proximal + 1)
    return [kappa_top * k / num_proximal for k in range(1, num_proximal + 1)]


def official_thresholds(
    total_steps: int, dense_fraction: float, kappa_max: float, levels: int
) -> list[float]:
    """Thresholds of the same steps by the released code's staircase of `levels` values from 0 to kappa_max.

    Raises:
        ValueError: fewer sparse steps than levels. The released code then prunes nothing, silently.
    """
    num_dense = dense_fraction * total_steps
    stride = int((total_steps - num_dense) // levels)
    if stride == 0:
        raise ValueError(
            f"schedule='official' needs at least levels={levels} sparse steps, got "
            f"{total_steps - num_dense:g} of total_steps={total_steps}; use schedule='linear', or fewer "
            "levels, or more steps"
        )
    thresholds, level, kappa = [], 0, 0.0
    for step in range(total_steps):
        if step >= num_dense and step % stride == 0:
            level += 1
            kappa = kappa_max * min(levels - 1, level) / (levels - 1)
        if step > num_dense:
            thresholds.append(kappa)
    return thresholds


def stage_thresholds(total_steps: int, dense_fraction: float, kappa_max: float, levels: int) -> list[float]:
    """Thresholds of the same steps in `levels` stages of equal length from 0 to kappa_max (SoRA, arXiv 2311.11696).

    Raises:
        ValueError: fewer sparse steps than levels.
    """
    num_proximal = _num_proximal(total_steps, dense_fraction)
    if num_proximal < levels:
        raise ValueError(
            f"schedule='stages' needs at least levels={levels} sparse steps, got {num_proximal} of "
            f"total_steps={total_steps}; use schedule='linear', or fewer levels, or more steps"
        )
    return [kappa_max * (step * levels // num_proximal) / (levels - 1) for step in range(num_proximal)]


def soft_threshold(gate_R: Tensor, kappa: float) -> Tensor:
    """sign(x) * max(|x| - kappa, 0), elementwise (the paper's operator)."""
    return gate_R - gate_R.clamp(-kappa, kappa)


def official_threshold(gate_R: Tensor, kappa: float) -> Tensor:
    """The released code's three masks in sequence; it also zeroes kappa < |x| < 2 kappa."""
    gate_R = torch.where(gate_R > kappa, gate_R - kappa, gate_R)
    gate_R = torch.where(gate_R < -kappa, gate_R + kappa, gate_R)
    return torch.where(gate_R.abs() < kappa, 0.0, gate_R)


def param_groups(model: nn.Module, lr: float) -> list[dict[str, Any]]:
    """Two optimizer groups, [all else that trains (A and B), gates], with weight_decay 0.0 written into both.

    Raises:
        ValueError: the model has no trainable gate.
    """
    gates = [gate.weight for gate in _trainable_gates(model).values()]
    gate_ids = {id(gate) for gate in gates}
    factors = [weight for weight in model.parameters() if weight.requires_grad and id(weight) not in gate_ids]
    return [
        {"params": factors, "lr": lr, "weight_decay": 0.0},
        {"params": gates, "lr": lr, "weight_decay": 0.0},
    ]


class ProximalStep:
    """Shrinks the gates after every executed optimizer step of the sparse phase; nothing has to be called.

    It is the optimizer's post-step hook, so a step that a gradient scaler skips neither advances nor shrinks.

    Args:
        optimizer: the optimizer of the gates; accelerate's wrapper is unwrapped.
        model: the model with gates, as returned by `get_peft_model` (or wrapped in DDP).
        total_steps: optimizer steps of this task.
        schedule: "linear", a ramp of thresholds that sum to `kappa_total`; "official", the released
            staircase; "stages", equally many steps at each of `levels` thresholds from 0 to kappa_max (SoRA).
        kappa_total: only "linear": sum of all thresholds, in units of w; 0.65 unless given.
        kappa_max, levels: only "official" and "stages": last threshold and number of levels; 0.005 and 50 unless given.
        dense_fraction: share of the steps before the sparse phase, in [0, 1).
        operator: "soft" (the paper) or "official" (the released code).

    Attributes:
        kappa: threshold applied after the last step, 0.0 in the dense phase.
        steps: executed optimizer steps. calls: how many of them were followed by the operator.
        initial_gates: gate weights at construction, {"<module>.lora_gate.<adapter>": (R,) float tensor on the
            CPU}.

    Raises:
        ValueError: no gates, gates that decay, are not in the optimizer or have fewer bits than float32, a
            schedule that never shrinks, options of the other schedule, a second ProximalStep on one
            optimizer; also on a step beyond `total_steps`.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        model: nn.Module,
        *,
        total_steps: int,
        schedule: Schedule = "linear",
        kappa_total: float | None = None,
        kappa_max: float | None = None,
        levels: int | None = None,
        dense_fraction: float = 0.5,
        operator: Operator = "soft",
    ) -> None:
        while isinstance(optimizer, AcceleratedOptimizer):
            optimizer = optimizer.optimizer
        if not isinstance(optimizer, torch.optim.Optimizer):
            raise ValueError(
                f"ProximalStep needs a torch optimizer, got {type(optimizer).__name__}; build the optimizer "
                "in Python from codyra.param_groups(model, lr) and attach ProximalStep to it before it is "
                "wrapped"
            )
        self._optimizer = optimizer
        self._thresholds = _thresholds(total_steps, schedule, kappa_total, kappa_max, levels, dense_fraction)
        self._operator = _operator(operator)
        # What must be equal when a checkpoint is continued.
        self._plan = {"total_steps": total_steps, "operator": operator, "thresholds": self._thresholds}
        self.total_steps = total_steps
        self.steps = 0
        self.calls = 0

        gates = _trainable_gates(model)
        _check_width(gates)
        self._gate_ids = {id(gate.weight) for gate in gates.values()}
        self._groups = optimizer.param_groups
        self._gate_groups = self._find_groups()
        self._check_decay()
        self.initial_gates = {name: gate.weight.detach().cpu().clone() for name, gate in gates.items()}
        if self.total_shrink < 1 and all(bool((gate == 1).all()) for gate in self.initial_gates.values()):
            warnings.warn(
                f"every gate starts at 1 and the thresholds sum to {self.total_shrink:g}: hardly any rank "
                "can be pruned; raise kappa_total above 1 or use gate_init='normal'",
                stacklevel=2,
            )
        hooks = optimizer._optimizer_step_post_hooks.values()
        if any(isinstance(getattr(hook, "__self__", None), ProximalStep) for hook in hooks):
            raise ValueError(
                "this optimizer has a ProximalStep already and would shrink twice; detach() the first one"
            )
        self._handle = optimizer.register_step_post_hook(self._after_step)
        for gate in gates.values():
            gate.proximal = True

    @property
    def kappa(self) -> float:
        """Threshold applied after the last executed step."""
        return self._threshold(self.steps - 1)

    @property
    def total_shrink(self) -> float:
        """Sum of the thresholds of the whole schedule, in units of w."""
        return math.fsum(self._thresholds)

    def check_fired(self) -> None:
        """To be called at task end.

        Raises:
            RuntimeError: the operator was never applied, so that plain LoRA was trained.

        Warns when fewer than `total_steps` steps were executed: the last and largest thresholds are then
        missing.
        """
        if self.calls == 0:
            raise RuntimeError(
                f"the proximal step never fired: {self.steps} of total_steps={self.total_steps} optimizer "
                "steps were executed, none in the sparse phase; give ProximalStep the optimizer that trains "
                "the model, and its true number of steps"
            )
        if self.steps < self.total_steps:
            applied = math.fsum(self._threshold(step) for step in range(self.steps))
            warnings.warn(
                f"only {self.steps} of total_steps={self.total_steps} steps were executed: the gates shrank "
                f"by {applied:.3g} instead of {self.total_shrink:.3g}",
                stacklevel=2,
            )

    def detach(self) -> None:
        """Take the hook off the optimizer; counters and initial gates stay readable."""
        self._handle.remove()

    def state_dict(self) -> dict[str, Any]:
        """Keys steps, calls, plan, initial_gates: numbers, strings, and one (R,) tensor per gate, by name."""
        return {
            "steps": self.steps,
            "calls": self.calls,
            "plan": self._plan,
            "initial_gates": dict(self.initial_gates),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken.

        Raises:
            ValueError: the state belongs to another schedule or to another set of gates.
        """
        for option, here in self._plan.items():
            if state["plan"][option] != here:
                raise ValueError(
                    f"the saved ProximalStep differs in its {option}; continue with the options it began with"
                )
        shapes = {name: gate.shape for name, gate in state["initial_gates"].items()}
        if shapes != {name: gate.shape for name, gate in self.initial_gates.items()}:
            raise ValueError(
                "the saved ProximalStep belongs to other gates; continue with the same model and adapter"
            )
        self.steps, self.calls = int(state["steps"]), int(state["calls"])
        self.initial_gates = dict(state["initial_gates"])

    def _threshold(self, step: int) -> float:
        first = self.total_steps - len(self._thresholds)
        return self._thresholds[step - first] if step >= first else 0.0

    @torch.no_grad()
    def _after_step(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        # To skip a step GradScaler does not call it, except on a fused optimizer: that one skips inside its
        # kernel, and the scaler leaves the reason on the optimizer.
        found_inf = getattr(optimizer, "found_inf", None)
        if found_inf is not None and found_inf.item():
            return
        if len(optimizer.param_groups) == len(self._groups):
            self._groups = optimizer.param_groups  # loading a checkpoint replaces them
        elif not self._shown(optimizer.param_groups):
            return  # DeepSpeed steps group after group: the gates' turn is another
        if self.steps == self.total_steps:
            raise ValueError(
                f"optimizer step {self.steps + 1} is beyond total_steps={self.total_steps}; give "
                "ProximalStep the true number of optimizer steps, or detach() it when the task has ended"
            )
        self._check_decay()
        self.steps += 1
        if self.steps > self.total_steps - len(self._thresholds):
            self.calls += 1
            for gate in self._gates():
                gate.copy_(self._operator(gate, self.kappa))

    def _shown(self, groups: list[dict[str, Any]]) -> bool:
        return any(self._groups[index] is group for index in self._gate_groups for group in groups)

    def _find_groups(self) -> dict[int, bool]:
        """{index of an optimizer group that holds gates: it holds nothing else}.

        Indices, because loading a checkpoint replaces the groups themselves.
        """
        placed: set[int] = set()
        groups = {}
        for index, group in enumerate(self._optimizer.param_groups):
            inside = self._gate_ids & {id(weight) for weight in group["params"]}
            if inside:
                groups[index] = len(inside) == len(group["params"])
            placed |= inside
        if placed != self._gate_ids:
            raise ValueError(
                f"{len(self._gate_ids - placed)} of {len(self._gate_ids)} gates are not in the optimizer; "
                "build it from codyra.param_groups(model, lr)"
            )
        return groups

    def _gates(self) -> list[Tensor]:
        # Looked up at every step: sharding puts other tensors in the place of a group's parameters.
        return [
            weight
            for index, only_gates in self._gate_groups.items()
            for weight in self._groups[index]["params"]
            if only_gates or id(weight) in self._gate_ids
        ]

    def _check_decay(self) -> None:
        for index in self._gate_groups:
            decay = self._groups[index].get("weight_decay", 0)
            if decay != 0:
                raise ValueError(
                    f"gates are in a parameter group with weight_decay={decay}, which would shrink them "
                    "besides kappa; build the optimizer from codyra.param_groups(model, lr) (with a Trainer: "
                    "optimizers=(optimizer, None)) or set weight_decay=0.0"
                )


def _trainable_gates(model: nn.Module) -> dict[str, Gate]:
    gates = {name: gate for name, gate in named_gates(model) if gate.weight.requires_grad}
    if not gates:
        raise ValueError(
            "the model has no trainable gate; wrap it first: get_peft_model(net, CodyraConfig(...))"
        )
    return gates


def _check_width(gates: dict[str, Gate]) -> None:
    for name, gate in gates.items():
        if gate.weight.dtype.itemsize < 4:
            raise ValueError(
                f"{name} is {gate.weight.dtype}, in which a threshold of a thousandth is lost beside a gate "
                "near 1; make what trains float32: for p in model.parameters(): p.data = p.data.float() if "
                "p.requires_grad else p.data"
            )


def _operator(name: Operator) -> Callable[[Tensor, float], Tensor]:
    operators = {"soft": soft_threshold, "official": official_threshold}
    if name not in operators:
        raise ValueError(f"operator={name!r} is unknown; use 'soft' or 'official'")
    return operators[name]


def _thresholds(
    total_steps: int,
    schedule: Schedule,
    kappa_total: float | None,
    kappa_max: float | None,
    levels: int | None,
    dense_fraction: float,
) -> list[float]:
    if schedule not in get_args(Schedule):
        raise ValueError(f"schedule={schedule!r} is unknown; use one of {', '.join(get_args(Schedule))}")
    if kappa_total is not None and kappa_max is not None:
        raise ValueError(
            "kappa_total and kappa_max are two ways to say the same; give kappa_total for schedule='linear'"
        )
    if schedule != "linear" and kappa_total is not None:
        raise ValueError(
            f"schedule={schedule!r} takes kappa_max and levels; use schedule='linear' for kappa_total"
        )
    if schedule == "linear" and (kappa_max is not None or levels is not None):
        raise ValueError(
            "schedule='linear' takes kappa_total; use schedule='official' for kappa_max and levels"
        )
    if type(total_steps) is not int or total_steps < 1:
        raise ValueError(f"total_steps={total_steps} must be a whole number of optimizer steps, at least 1")
    if not 0 <= dense_fraction < 1:
        raise ValueError(f"dense_fraction={dense_fraction} must be at least 0 and below 1")
    kappa_total = KAPPA_TOTAL if kappa_total is None else kappa_total
    kappa_max = KAPPA_MAX if kappa_max is None else kappa_max
    levels = LEVELS if levels is None else levels
    for name, value in (("kappa_total", kappa_total), ("kappa_max", kappa_max)):
        if not 0 < value < math.inf:
            raise ValueError(
                f"{name}={value} must be positive and finite; without shrink plain LoRA is trained"
            )
    if levels < 2:
        raise ValueError(f"levels={levels} must be at least 2: the first level is a threshold of 0")
    if schedule == "linear":
        thresholds = linear_thresholds(total_steps, dense_fraction, kappa_total)
    elif schedule == "stages":
        thresholds = stage_thresholds(total_steps, dense_fraction, kappa_max, levels)
    else:
        thresholds = official_thresholds(total_steps, dense_fraction, kappa_max, levels)
    if not any(thresholds):
        raise ValueError(
            f"no step t in 0..{total_steps - 1} lies beyond dense_fraction * total_steps = "
            f"{dense_fraction * total_steps:g}: nothing would be pruned; train longer or lower dense_fraction"
        )
    return thresholds
