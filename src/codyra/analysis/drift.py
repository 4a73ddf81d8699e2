"""The picture of a run's drift: the size of every update, and how far the model is from where it started."""

from collections.abc import Sequence

from codyra.analysis.svg import INK, SERIES, Frame, marker, number, picture, text
from codyra.report.charts import nice_ticks
from codyra.report.markup import Markup, join, tag
from codyra.report.numbers import MINUS

_WIDTH, _HEIGHT = 640, 400
_LEFT, _RIGHT, _TOP, _BOTTOM = 84, 610, 84, 336
_MAX_TICKS = 20
_NAMES = ("update of the task, |ΔW|", f"distance from the base model, |θₜ {MINUS} θ₀|")


def drift_chart(tasks: Sequence[tuple[int, float, float]]) -> str:
    """The SVG file, from the number of each task, the norm of its update and the drift after it."""
    last = tasks[-1][0]
    step = -(-last // _MAX_TICKS)
    largest = max(max(norm, drift) for _, norm, drift in tasks)
    frame = Frame(_LEFT, _TOP, _RIGHT, _BOTTOM, range(0, last + step, step), nice_ticks(0.0, largest, 5))
    title = "Size of the updates and drift"
    parts = [
        text(title, 16, 22, fill=INK, size=16, bold=True),
        frame.axes("after task", "Frobenius norm"),
    ]
    for style, name in enumerate(_NAMES):
        parts += [marker(style, 24, 46 + 20 * style, 5), text(name, 38, 46 + 20 * style)]
        # Before the first task the model is the base model.
        start = [(0, 0.0)] if style else []
        parts.append(_line(frame, style, [*start, *((task[0], task[1 + style]) for task in tasks)]))
    described = "; ".join(f"task {at}: update {norm:.4g}, drift {drift:.4g}" for at, norm, drift in tasks)
    return picture(_WIDTH, _HEIGHT, *parts, title=title, description=described)


def _line(frame: Frame, style: int, points: Sequence[tuple[int, float]]) -> Markup:
    places = [(frame.x(x), frame.y(y)) for x, y in points]
    joined = " ".join(f"{number(x)},{number(y)}" for x, y in places)
    path = tag("polyline", points=joined, fill="none", stroke=SERIES[style], stroke_width=2)
    dots = [
        marker(style, x, y, 5, f"{_NAMES[style]}: {value:.4g}")
        for (x, y), (_, value) in zip(places, points, strict=True)
    ]
    return join([path, *dots])
