"""The tasks, by name. `plain` is not in the table: `plain.task` makes it from the user's loss_fn."""

from __future__ import annotations

from typing import get_args

from hf_llc.config import Task as TaskName
from hf_llc.errors import InputError
from hf_llc.loading.tasks import (
    fill_mask,
    image_classification,
    text2text_generation,
    text_classification,
    text_generation,
    token_classification,
)
from hf_llc.loading.tasks.task import Task
from hf_llc.setting_checks import add_choice

TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        text_generation.TASK,
        fill_mask.TASK,
        text2text_generation.TASK,
        text_classification.TASK,
        token_classification.TASK,
        image_classification.TASK,
    )
}


def register(task: Task) -> None:
    """Add a task, for this process, to the choices of `LoadConfig.task`.

    A name that was registered before is given to the new task.

    Raises:
        InputError: a task of the library has that name.
    """
    if task.name in get_args(TaskName):
        raise InputError("the name of a new task is taken", value=task.name, remedy="choose another name")
    if task.name not in TASKS:
        add_choice("task", task.name)
    TASKS[task.name] = task
