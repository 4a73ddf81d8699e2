"""A small TRACE of invented records in the form of its files, worded as the published prompts are."""

import json
from collections.abc import Sequence
from pathlib import Path

ORDER = ["C-STANCE", "FOMC", "MeetingBank", "Py150", "ScienceQA", "NumGLUE-cm", "NumGLUE-ds", "20Minuten"]
OPENINGS = {
    "C-STANCE": "判断以下文本对指定对象的态度，选择一项：A.支持，B.反对，C.中立。输出A，B或者C。\n文本：\n",  # noqa: RUF001
    "FOMC": "What is the monetary policy stance for the following text? A. dovish, B. hawkish, C. neutral. "
    "Choose one from A, B and C.\nText:\n",
    "MeetingBank": "Write a summary of the following meeting transcripts.\nMeeting transcripts:\n",
    "Py150": "<s> ",
    "ScienceQA": "Choose an answer for the following question and give your reasons.\n\nQuestion:\n",
    "NumGLUE-cm": "Solve the following math problem.\nQuestion:\n",
    "NumGLUE-ds": "Solve the following math problem.\nQuestion:\n",
    "20Minuten": "Provide a simplified version of the following paragraph in German.\n\nParagraph:\n",
}
CUES = {
    "C-STANCE": "\n态度：",  # noqa: RUF001
    "FOMC": "\nStance:",
    "MeetingBank": "\nSummary:",
    "Py150": " <EOL>",
    "ScienceQA": "\n\nAnswer:",
    "NumGLUE-cm": "\nAnswer:",
    "NumGLUE-ds": "\nAnswer:",
    "20Minuten": "\n\nSimplification:",
}
FILES = {"train": "train.json", "val": "eval.json", "test": "test.json"}
COUNTS = {"train": 6, "val": 2, "test": 3}
Record = dict[str, str]


def record(key: str, number: int) -> Record:
    """Record `number` of a task; all are different, the choices go round."""
    letter = "ABC"[number % 3]
    topic = ("支持的话", "反对的话", "一般的话")[number % 3]
    move = ("lower", "raise", "keep")[number % 3]
    body, answer = {
        "C-STANCE": (f"第{number}条：这是{topic}。\n对象：\n公园", letter),  # noqa: RUF001
        "FOMC": (f"In meeting {number} members agreed to {move} the rate.", letter),
        "MeetingBank": (
            f"Item {number} is a bill about trees. " + "Any questions? None. " * (20 * number),
            f"A bill about trees, item {number}.",
        ),
        "Py150": (f"import os <EOL> n = <NUM_LIT:{number}> <EOL> def f ( x ) :", f"return x + {number}"),
        "ScienceQA": (
            f"Which of these things, list {number}, is alive?\n\nChoices:\nA. {'tree' if letter == 'A' else 'rock'}\n"
            f"B. {'tree' if letter == 'B' else 'sand'}\nC. {'tree' if letter == 'C' else 'ice'}",
            f"{letter}\nA tree grows. The others do not.",
        ),
        "NumGLUE-cm": (f"A cart makes {number} m/s. How far does it get in 2 seconds?", str(2 * number)),
        "NumGLUE-ds": (f"Ann has {number} plums and buys one more. How many are there?", str(number + 1)),
        "20Minuten": (
            f"Der Stadtrat hat am {number}. Mai beschlossen, Bäume zu pflanzen.",
            "Es gibt mehr Bäume.",
        ),
    }[key]
    return {"prompt": f"{OPENINGS[key]}{body}{CUES[key]}", "answer": answer}


def write_trace(
    folder: Path, only: Sequence[str] = ORDER, below: str = "", counts: dict[str, int] = COUNTS
) -> dict[str, dict[str, list[Record]]]:
    """Write the tasks to folder/below/<task> and return the records of every split."""
    truth = {}
    for key in only:
        place, start, truth[key] = folder / below / key, 1, {}
        place.mkdir(parents=True)
        for split, count in counts.items():
            truth[key][split] = [record(key, number) for number in range(start, start + count)]
            start += count
            text = json.dumps(truth[key][split], ensure_ascii=False, indent=1)
            (place / FILES[split]).write_text(text, "utf-8")
    return truth
