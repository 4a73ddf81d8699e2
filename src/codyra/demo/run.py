"""`codyra demo`: the built-in tiny CLIP learns five tasks, once with CoDyRA and once with plain LoRA."""

from pathlib import Path

import torch

from codyra import files
from codyra.demo.stream import write_stream
from codyra.engine.config import load_config
from codyra.engine.folder import RunFolder
from codyra.engine.folder_reader import read_run
from codyra.engine.progress import Narrator
from codyra.engine.run import Run, run
from codyra.errors import UserError
from codyra.report import render

METHODS = ("codyra", "lora")


def run_demo(out: Path, seed: int, narrator: Narrator) -> dict[str, Run]:
    """Draw the pictures into out/data, run both methods into out/codyra and out/lora, write out/report.html.

    Both runs share stream, order, shots, batches, steps and learning rate; a finished demo is shown again.

    Raises:
        UserError: `out` holds something else.
    """
    data = out / "data"
    configs = {
        method: load_config("demo", [f"method.name={method}", f"seed={seed}", f"data_dir={data}"])
        for method in METHODS
    }
    if RunFolder(out).exists():
        raise UserError(f"{out}: is a run folder itself; choose another --out")
    for method, config in configs.items():
        # Before anything is drawn: the pictures of another seed would replace those of the runs that are there.
        RunFolder(out / method).check_config(config)
    narrator.say("drawing the pictures; all of this is tiny and drawn: read the trends, not the percentages")
    write_stream(data, seed)
    # One thread: on a model this small a second one gains little, and where other programs run it can cost a
    # hundredfold, because the threads wait for each other by spinning.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        runs = {method: run(config, out / method, narrator=narrator) for method, config in configs.items()}
    finally:
        torch.set_num_threads(threads)
    report = render(
        [read_run(out / method) for method in METHODS], title="codyra demo: drawn pictures, a tiny model"
    )
    files.write_text(out / "report.html", report)
    return runs
