"""Reward functions for frameworks that take a Python function instead of an address: TRL, verl, and OpenRLHF.

They grade as the server does, with one grader for the process; it starts with the first grading and ends with the
process. Its workers are processes of their own. Put what your main script does under `if __name__ == "__main__":`:
workers leave that script alone, but not where another library has started Python's fork server before them. A daemonic
process, and a fork of one that has graded, cannot start workers, and grading there raises what Python says about it.
"""

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from multiprocessing import util
from typing import Any

from reward_server.compat.openrlhf import PromptIndex, RewardRequest, grade_texts, to_label, to_reply
from reward_server.config import ServerConfig
from reward_server.grader import Grader
from reward_server.schema import ScoreItem
from reward_server.scoring import GradingResult
from reward_server.tasks import find_task
from reward_server.tasks.task import Task

LABEL_COLUMNS = ("label", "answer", "solution")
"""Columns of a TRL dataset that may hold the label; the first that is there counts."""

TASK_VARIABLE = "OPENR1_REWARD_TASK"
"""Environment variable with the task of `reward_func`, which OpenRLHF cannot tell it; read when this file is loaded."""

_openrlhf_task = find_task(os.environ.get(TASK_VARIABLE, "math"))
_no_prompts = PromptIndex([])
_grader: Grader | None = None
_lock = threading.Lock()


def trl_reward(task: str) -> Callable[..., list[float | None]]:
    """A function for `reward_funcs` of TRL's trainers, logged as `<task>_reward`.

    It takes prompts, completions and dataset columns, of which one must hold the labels, see `LABEL_COLUMNS`: as text,
    or as any JSON. A completion is text, or a list of chat messages, of which the last of the assistant's counts. It
    returns the reward of each completion, and None where it cannot be graded, so that TRL leaves the sample out; and
    raises ValueError where no column holds labels, or one of another length.

    Args:
        task: Name of a task of the server.

    Raises:
        UnknownTask: There is no such task.
    """
    found = find_task(task)

    def reward(prompts: Sequence[Any], completions: Sequence[Any], **columns: Any) -> list[float | None]:
        labels = next((columns[name] for name in LABEL_COLUMNS if name in columns), None)
        if labels is None:
            raise ValueError(f"{task}_reward needs the label in one of the columns {', '.join(LABEL_COLUMNS)}")
        return [score.reward for score in _grade(found, [_to_text(completion) for completion in completions], labels)]

    reward.__name__ = f"{task}_reward"
    return reward


def compute_score(
    data_source: str, solution_str: str, ground_truth: Any, extra_info: Any = None, **kwargs: Any
) -> dict[str, float]:
    """Reward of one response, for verl's `custom_reward_function`.

    Args:
        data_source: Name of a task of the server. verl asks for equal keys in a batch, so it should hold one task only.
        solution_str: The response.
        ground_truth: The label, as text or as any JSON.
        extra_info: Not looked at.
        kwargs: Not looked at.

    Returns:
        The reward as "score", each component, and "failed": 1 for a response that could not be graded. verl takes no
        null, so that one has the task's `failed_reward`.

    Raises:
        UnknownTask: There is no task of the name `data_source`.
    """
    task = find_task(data_source)
    (score,) = _grade(task, [solution_str], [ground_truth])
    return {
        "score": task.failed_reward if score.reward is None else score.reward,
        **{name: score.components.get(name, 0.0) for name in task.components},
        "failed": float(score.reward is None),
    }


def reward_func(queries: Sequence[str], prompts: Sequence[str], labels: Sequence[Any]) -> dict[str, Any]:
    """Rewards of whole texts, for OpenRLHF's `--reward.remote_url FILE.py`; the task is that of `TASK_VARIABLE`.

    FILE.py may be this file, or one that imports this function.

    Args:
        queries: Prompt and response of each sample in one text.
        prompts: The prompts by themselves.
        labels: As text, or as any JSON.

    Returns:
        "rewards", "scores" and the lists in "extra_logs": one float a sample each, as in the answers of `/get_reward`.
        OpenRLHF makes tensors of them.
    """
    request = RewardRequest(query=list(queries), prompts=list(prompts), labels=list(labels))
    reply = to_reply(_openrlhf_task, grade_texts(_get_grader(), _openrlhf_task, request, _no_prompts))
    return reply.model_dump(include={"rewards", "scores", "extra_logs"})


def _grade(task: Task[Any], responses: Sequence[str], labels: Sequence[Any]) -> list[GradingResult]:
    items = [
        ScoreItem(id=str(number), response=response, label=to_label(label))
        for number, (response, label) in enumerate(zip(responses, labels, strict=True))
    ]
    return [score for score, _ in _get_grader().grade(task, items)]


def _to_text(completion: str | Sequence[Mapping[str, Any]]) -> str:
    """What the assistant said last; nothing where it said nothing. Content in parts is joined."""
    if isinstance(completion, str):
        return completion
    contents = [message.get("content") for message in completion if message["role"] == "assistant"]
    content = (contents[-1] if contents else None) or ""
    return content if isinstance(content, str) else "".join(part.get("text") or "" for part in content)


def _get_grader() -> Grader:
    global _grader
    with _lock:
        if _grader is None:
            _grader = Grader(ServerConfig())
            # Not by atexit: a process of `multiprocessing` would wait for its children, and never come to that.
            util.Finalize(None, _grader.close, exitpriority=1)
        return _grader
