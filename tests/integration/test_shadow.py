"""The shadow grader with a real reward server and reward functions of a user: one is honest, one can be fooled."""

from dataclasses import replace
from pathlib import Path

import pytest

from openr1.config.train import ShadowConfig
from openr1.data.prompts import PromptStream
from openr1.rewards.client import RewardClient
from openr1.rewards.process import running_reward_server
from openr1.rollout.producer import ExperienceProducer
from openr1.tracking.shadow import ShadowGrading, ShadowReport
from openr1.types import Group, Prompt
from tests.fakes import FakeRollout, make_config, make_prompt, make_response, make_stages

SECONDS = 120
LABEL = '{"numbers": [1, 2, 3], "target": 6}'
RIGHT, WRONG = "<think>a</think>\n<answer>1+2+3</answer>", "<think>a</think>\n<answer>6</answer>"
FUNCTIONS = """
def lenient(response):
    return float("<answer>" in response)

def honest(response, label):
    return float("<answer>1+2+3</answer>" in response)
"""


def make(prompt: Prompt) -> Group:
    """Half of the responses hack: an answer in tags that does not solve the puzzle."""
    return Group(prompt, tuple(replace(make_response(7), text=text) for text in (RIGHT, WRONG)))


@pytest.mark.parametrize(("task", "fires"), [("lenient", True), ("honest", False)])
def test_it_fires_on_a_reward_that_can_be_fooled(
    task: str, fires: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches an alarm that stays silent while a wrong answer is paid, and one that an honest grader sets off."""
    (tmp_path / "mine.py").write_text(FUNCTIONS)
    settings = ShadowConfig(task="countdown", share=1.0)
    config = make_config(tmp_path, rollout={"rollout_batch_size": 8}, policy={"train_batch_size": 16})
    with (
        running_reward_server(timeout_seconds=SECONDS, module=str(tmp_path / "mine.py")) as url,
        RewardClient(url, SECONDS, SECONDS) as client,
    ):
        client.wait_until_ready()
        assert {"lenient", "honest", "countdown"} <= (client.tasks() or set())
        shadow = ShadowGrading(client, settings)
        prompts = PromptStream([make_prompt(number, label=LABEL, task=task) for number in range(8)], seed=0)
        interrupts = make_stages(config).interrupts
        producer = ExperienceProducer(config, prompts, FakeRollout(make=make), shadow, None, interrupts)
        metrics = ShadowReport(tmp_path, settings).add(1, shadow.pairs(producer.next(1)))
    assert metrics["shadow/compared"] == 16
    assert metrics["shadow/wrongly_paid"] == (0.5 if fires else 0.0)
    assert ("alarm: step 1" in capsys.readouterr().out) == fires
    assert (tmp_path / "shadow/step_000001.jsonl").exists() == fires
