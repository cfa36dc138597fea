"""The table of tasks, and the lookup of one by its name."""

import functools
import sys

from prefix_jax import plugins
from prefix_jax.errors import UserError, did_you_mean
from prefix_jax.tasks import (
    chat,
    classification,
    cnn_dm,
    dart,
    e2e,
    glue,
    gsm8k,
    lighthouse,
    lighthouse_chat,
    lighthouse_visitors,
    multiple_choice,
    perplexity,
    squad,
    text,
    translation,
    webnlg,
    xsum,
)
from prefix_jax.tasks.task import Task

_MODULES = (
    e2e, webnlg, dart, xsum, cnn_dm, translation, classification, multiple_choice, squad, gsm8k, glue, lighthouse,
    lighthouse_visitors, lighthouse_chat, perplexity, chat, text,
)  # fmt: skip
# A module has a `TASK`, or the `TASKS` of a family.
TASKS: dict[str, Task] = {
    task.name: task for module in _MODULES for task in getattr(module, "TASKS", None) or (module.TASK,)
}
# The task of rows with a source and a target, whatever they are about.
ANY_ROWS = text.TASK.name
# The task of conversations.
CHAT = chat.TASK.name
_FORMER = {task.former_name: name for name, task in TASKS.items() if task.former_name}


def find(name: str, option: str = "--config.data.task") -> Task:
    """Returns the task of a name; a module path (`mypackage.mytask`) names a module with a `TASK`.

    Args:
      name: the name or the path; an earlier name is read, with a line on stderr.
      option: the option that holds it, for messages.

    Raises:
      UserError: the task is unknown.
    """
    name = current_name(name)
    if name in TASKS:
        return TASKS[name]
    if not plugins.is_path(name):
        raise UserError(f'"{name}" is not a task ({option}){did_you_mean(name, list(TASKS))}')
    found = plugins.load(name, "TASK", option)
    if not isinstance(found, Task):
        raise UserError(f'{option} is "{name}", which is not a prefix_jax.tasks.Task; correct it')
    return found


def current_name(name: str) -> str:
    """Returns a task's name of today; of an earlier one, a line on stderr says so."""
    return _renamed(name) if name in _FORMER else name


@functools.cache
def _renamed(name: str) -> str:
    print(f'The task "{name}" is now called "{_FORMER[name]}" (--config.data.task={_FORMER[name]}).', file=sys.stderr)
    return _FORMER[name]
