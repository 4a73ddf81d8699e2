"""Three tasks of prompts and answers."""

import json
from pathlib import Path

TASKS = {"animals": "dog", "colours": "blue", "numbers": "7"}
"""Every prompt of a task has the same answer, which a tiny model can learn, and forgets over the next one."""
TRAIN, TEST = 12, 5


def write_task(folder: Path, name: str, answer: str) -> Path:
    """FOLDER/{train,test}.jsonl of prompts that name their task."""
    folder.mkdir(parents=True)
    for split, count in (("train", TRAIN), ("test", TEST)):
        records = [
            {"prompt": f"{name}: which one, {split} {number}? Answer:", "answer": answer}
            for number in range(count)
        ]
        (folder / f"{split}.jsonl").write_text("\n".join(map(json.dumps, records)))
    return folder
