"""Reward functions for frameworks that call a Python function instead of a URL: TRL, verl and OpenRLHF.

They grade exactly as the server does. All share one grader per process, which starts with the first grading and stops
when the process exits. Its workers are separate processes, so a script should do its work under
`if __name__ == "__main__":`. The workers themselves do not import the main script, unless another library has started
Python's fork server before them. A daemonic process cannot start workers, and neither can a process forked from one
that has already graded; grading then raises the exception that Python raises.
"""

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from multiprocessing import util
from typing import Any

from reward_server.compat.openrlhf import PromptIndex, RewardRequest, grade_texts, to_label, to_reply
from reward_server.components.tags import opened_thought
from reward_server.config import ServerConfig
from reward_server.grader import Grader
from reward_server.schema import ScoreItem
from reward_server.scoring import GradingResult
from reward_server.tasks import BUILT_IN, AnyTask, find_task

LABEL_COLUMNS = ("label", "answer", "solution")
"""Columns of a TRL dataset that may hold the label, in order of precedence."""

TASK_VARIABLE = "OPENR1_REWARD_TASK"
"""Environment variable with the task of `reward_func`, which OpenRLHF has no way to pass. Read on import."""

_openrlhf_task = find_task(os.environ.get(TASK_VARIABLE, "math"), BUILT_IN)
_no_prompts = PromptIndex([])
_grader: Grader | None = None
_grader_lock = threading.Lock()


def trl_reward(task: str) -> Callable[..., list[float | None]]:
    """A reward function for `reward_funcs` of TRL's trainers, which log it as `<task>_reward`.

    The function takes prompts, completions and the dataset's columns, one of which must hold the labels (see
    `LABEL_COLUMNS`), as text or as any JSON value. A completion is text, or a list of chat messages, of which the last
    assistant message is graded. A `<think>` at the end of a prompt is graded with the response. The function returns
    the reward of each completion, or None for one that cannot be graded, which makes TRL ignore the sample. It raises
    ValueError if no column holds labels, or if their number differs from that of the completions.

    Args:
        task: Name of a built-in task.

    Raises:
        UnknownTask: No built-in task has this name.
    """
    found = find_task(task, BUILT_IN)

    def reward(prompts: Sequence[Any], completions: Sequence[Any], **columns: Any) -> list[float | None]:
        labels = next((columns[name] for name in LABEL_COLUMNS if name in columns), None)
        if labels is None:
            raise ValueError(f"{task}_reward needs the label in one of the columns {', '.join(LABEL_COLUMNS)}")
        texts = [_to_text(completion) for completion in completions]
        return [result.reward for result in _grade(found, texts, labels, [_prefix(prompt) for prompt in prompts])]

    reward.__name__ = f"{task}_reward"
    return reward


def compute_score(
    data_source: str, solution_str: str, ground_truth: Any, extra_info: Any = None, **kwargs: Any
) -> dict[str, float]:
    """Reward of one response, for verl's `custom_reward_function`.

    Args:
        data_source: Name of a built-in task. verl requires all samples of a batch to have the same keys, so a batch
            should contain a single task.
        solution_str: The response.
        ground_truth: The label, as text or as any JSON value.
        extra_info: Ignored.
        kwargs: Ignored.

    Returns:
        The reward as "score", each component under its name, and "failed": 1 for a response that could not be graded.
        verl does not accept null, so such a response gets the task's `failed_reward`.

    Raises:
        UnknownTask: No built-in task is called `data_source`.
    """
    task = find_task(data_source, BUILT_IN)
    (result,) = _grade(task, [solution_str], [ground_truth], [""])
    return {
        "score": task.failed_reward if result.reward is None else result.reward,
        **{name: result.components.get(name, 0.0) for name in task.components},
        "failed": float(result.reward is None),
    }


def reward_func(queries: Sequence[str], prompts: Sequence[str], labels: Sequence[Any]) -> dict[str, Any]:
    """Rewards of whole texts, for OpenRLHF's `--reward.remote_url FILE.py`. `TASK_VARIABLE` selects the task.

    FILE.py may be this file, or one that imports this function.

    Args:
        queries: Prompt and response of each sample in one text.
        prompts: The prompt of each sample.
        labels: The label of each sample, as text or as any JSON value.

    Returns:
        "rewards", "scores" and the lists of "extra_logs", as `/get_reward` returns them: one float for each sample.
        OpenRLHF converts them to tensors.
    """
    request = RewardRequest(query=list(queries), prompts=list(prompts), labels=list(labels))
    reply = to_reply(_openrlhf_task, grade_texts(_get_grader(), _openrlhf_task, request, _no_prompts))
    return reply.model_dump(include={"rewards", "scores", "extra_logs"})


def _grade(
    task: AnyTask, responses: Sequence[str], labels: Sequence[Any], prefixes: Sequence[str]
) -> list[GradingResult]:
    items = [
        ScoreItem(id=str(number), response=response, label=to_label(label), prefix=prefix)
        for number, (response, label, prefix) in enumerate(zip(responses, labels, prefixes, strict=True))
    ]
    return [result for result, _ in _get_grader().grade(task, items)]


def _prefix(prompt: str | Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> str:
    """The thought that a prompt opens: at its end or, of a chat, at the end of an assistant message that comes last."""
    if isinstance(prompt, str):
        return opened_thought(prompt)
    messages = [prompt] if isinstance(prompt, Mapping) else prompt
    return opened_thought(_to_text(messages[-1:]))


def _to_text(completion: str | Sequence[Mapping[str, Any]]) -> str:
    """The text of a completion: of a chat, its last assistant message, or "" if there is none. Parts are joined."""
    if isinstance(completion, str):
        return completion
    contents = [message.get("content") for message in completion if message["role"] == "assistant"]
    content = (contents[-1] if contents else None) or ""
    return content if isinstance(content, str) else "".join(part.get("text") or "" for part in content)


def _get_grader() -> Grader:
    """The grader of this process, created on first use."""
    global _grader
    with _grader_lock:
        if _grader is None:
            _grader = Grader(ServerConfig())
            # multiprocessing's own exit hook instead of atexit: a child process of `multiprocessing` joins its own
            # children, here the workers, before it would run atexit handlers, and so would wait forever.
            util.Finalize(None, _grader.close, exitpriority=1)
        return _grader
