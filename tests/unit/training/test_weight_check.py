"""What engines hold against what the policy holds: by hand, and with real engines of which one goes stale."""

from collections.abc import Callable
from pathlib import Path

import pytest
import ray
from openr1.training.cluster import Stages, shared_memory_folder

from openr1.data.prompts import PromptFormat, load_prompts, load_tokenizer
from openr1.errors import WeightSyncError
from openr1.training.weight_check import WeightCheck
from openr1.types import Group, Prompt
from tests.fakes import FakePolicy, FakeRollout, make_config, make_prompt, make_response
from tests.integration.test_parity import BOUND, ChangeablePolicyActor, parity_config

PROMPTS = [make_prompt(number) for number in range(10)]


def engine_with(log_probs: dict[str, float]) -> FakeRollout:
    """An engine whose log-prob of every token is -1, which is the policy's too, but for these prompts."""

    def make(prompt: Prompt) -> Group:
        return Group(prompt, (make_response(1, 2, log_prob=log_probs.get(prompt.id, -1.0)),))

    return FakeRollout(make)


def test_each_engine_is_compared_by_itself(tmp_path: Path) -> None:
    """Catches a mean over all engines, a mean with signs, prompts in which a stale engine hides, and a lost engine.

    Engine 1 is off by 0.8 and -0.8 on two of eight prompts: 0.2 nats a token. Ninth and tenth prompts are not asked.
    """
    config = make_config(tmp_path, model={"path": "m", "dtype": "float32"})
    engines = [engine_with({"p8": 5.0}), engine_with({"p1": -0.2, "p3": -1.8}), engine_with({})]
    check = WeightCheck(config, engines, FakePolicy(), PROMPTS)
    assert check.differences() == [0.0, pytest.approx(0.2), 0.0]
    with pytest.raises(WeightSyncError, match=r"step 7, engine 1 and the policy differ by 0.2 nats.*more than 0.004"):
        check.check(7)
    WeightCheck(config, engines[::2], FakePolicy(), PROMPTS).check(7)


def test_numbers_that_are_none_are_out_of_bounds(tmp_path: Path) -> None:
    """Catches a comparison that lets weights which overflowed pass."""
    config = make_config(tmp_path)
    with pytest.raises(WeightSyncError, match="engine 0 and the policy differ by nan"):
        WeightCheck(config, [engine_with({"p0": float("nan")})], FakePolicy(), PROMPTS).check(1)


@pytest.mark.timeout(400)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_stale_engine_is_named(
    ray_cluster: None, tiny_model: Callable[[bool], Path], countdown_files: Path, tmp_path: Path, dtype: str
) -> None:
    """Catches an engine that pushes do not reach while the others are fine, and an alarm about engines in order.

    After a first push to both, only engine 0 gets the next one. top_p below 1 must not look like a fault. Random
    weights that were changed twice make log-probs which bfloat16 rounds more coarsely than those of a real model.
    """
    rounding = BOUND if dtype == "float32" else 0.05
    config = parity_config(tiny_model(True), countdown_files, tmp_path, 0.7)
    rollout = config.rollout.model_copy(update={"num_engines": 2, "top_p": 0.9})
    config = config.model_copy(update={"rollout": rollout, "model": config.model.model_copy(update={"dtype": dtype})})
    prompts = load_prompts(config.data.train, load_tokenizer(config.model.path), 64, PromptFormat())
    with shared_memory_folder() as shared:
        stages = Stages(config, False, shared, policy_kind=ChangeablePolicyActor)
        rank = stages.ranks[0]
        check = WeightCheck(config, stages.single_engines, stages.policy, prompts)
        assert ray.get(rank.change.remote(".")) > 0
        stages.policy.push_weights(1)
        assert max(check.differences()) < rounding
        check.check(1)
        ray.get(rank.connect_engines.remote(stages.engines[:1], str(shared)))
        ray.get(rank.change.remote("."))
        stages.policy.push_weights(2)
        fresh, stale = check.differences()
        assert fresh < rounding
        assert stale > 0.3
        with pytest.raises(WeightSyncError, match=rf"step 2, engine 1 and the policy .* \({dtype}\); suspects: weig"):
            check.check(2)
        for actor in (*stages.ranks, *stages.engines):
            ray.kill(actor)
