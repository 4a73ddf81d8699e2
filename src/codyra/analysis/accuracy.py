"""What the network, as it is at the moment, scores on every task."""

from codyra.engine import results
from codyra.engine.plan import Plan
from codyra.engine.progress import Narrator


def accuracy(plan: Plan, narrator: Narrator, label: str) -> dict[str, float]:
    """Percent by task, in the label space of the stream; `label` says what is being scored."""
    stream = plan.config.stream
    with narrator.work(label, sum(len(task.test) for task in plan.tasks)) as tell:
        row = plan.family.score(plan.tasks, plan.config.train.eval_batch_size, stream.ties, tell)
    cells = results.cells(row, stream.label_space)
    return {name: cell for name, cell in zip(plan.task_names, cells, strict=True) if cell is not None}
