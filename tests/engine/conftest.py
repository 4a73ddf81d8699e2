import pytest

from engine.answer_tasks import TASKS, write_task
from families.tiny_lms import save_llama


@pytest.fixture(scope="session")
def place(tmp_path_factory):
    """A tiny Llama and the data of TASKS; not to be written into."""
    folder = tmp_path_factory.mktemp("answers")
    save_llama(folder / "llama")
    for name, text in TASKS.items():
        write_task(folder / name, name, text)
    return folder
