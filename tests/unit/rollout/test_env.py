"""Environments of several turns: what the engine samples for them, what it refuses, and what trains and counts."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from openr1.algorithms.batch import TrainBatch
from openr1.errors import ConfigError, EngineError
from openr1.interfaces import Env, Generate
from openr1.rollout import engine
from openr1.rollout.engine import EngineActor, EngineSettings
from openr1.rollout.env import SingleTurn, build_env
from openr1.rollout.responses import checked_response
from openr1.training.evaluation import evaluate
from openr1.types import Group, Prompt, Response, SamplingParams
from tests.fakes import FakeCritic, FakePolicy, FakeRewards, FakeRollout, make_config, make_prompt, make_response
from tests.unit.training.test_trainer import make_step

TOOL = (50, 51)
"""What the tool answers, whatever it is asked."""
SAMPLING = SamplingParams(
    n_samples_per_prompt=2, generate_max_len=6, temperature=1.0, top_p=1.0, seed=7, seed_stream="train/0"
)


class NeedsNoTokenizer:
    """What the environments here have in common."""

    def __init__(self, tokenizer: Any = None) -> None:
        """As the engine makes them."""


class ToolEnv(NeedsNoTokenizer):
    """Two turns: the tool's answer is inserted between them."""

    async def run(self, prompt: Prompt, generate: Generate) -> Response:
        """Sample, insert, sample on."""
        first = await generate(prompt.token_ids)
        second = await generate((*prompt.token_ids, *first.token_ids, *TOOL))
        return replace(
            second,
            text=f"{first.text} 50 51 {second.text}",
            token_ids=(*first.token_ids, *TOOL, *second.token_ids),
            log_probs=(*first.log_probs, *[0.0] * len(TOOL), *second.log_probs),
            loss_mask=(*first.loss_mask, *[False] * len(TOOL), *second.loss_mask),
            weight_version=first.weight_version,
        )


class PatientEnv(NeedsNoTokenizer):
    """Turn after turn, as long as there is room; its text says how much there was."""

    async def run(self, prompt: Prompt, generate: Generate) -> Response:
        """Sample until the response is full."""
        context, rooms = prompt.token_ids, []
        while room := generate.room(context):
            rooms.append(str(room))
            turn = await generate(context)
            context = (*context, *turn.token_ids)
        tokens = context[len(prompt.token_ids) :]
        count = len(tokens)
        return replace(
            turn, text=" ".join(rooms), token_ids=tokens, log_probs=(-1.0,) * count, loss_mask=(True,) * count
        )


class BrokenEnv(NeedsNoTokenizer):
    """One turn; its response has no loss mask."""

    async def run(self, prompt: Prompt, generate: Generate) -> Response:
        """Sample, and lose the mask."""
        return replace(await generate(prompt.token_ids), loss_mask=())


class EndlessEnv(NeedsNoTokenizer):
    """Asks for one turn after the other."""

    async def run(self, prompt: Prompt, generate: Generate) -> Response:
        """Never returns."""
        context = list(prompt.token_ids)
        while True:
            context += (await generate(context)).token_ids


@dataclass
class Turns:
    """A policy that says these turns, one after the other; see `interfaces.Generate`."""

    turns: Sequence[Response]
    contexts: list[list[int]] = field(default_factory=list)
    """What it was given."""

    async def __call__(self, token_ids: Sequence[int]) -> Response:
        """The next turn."""
        self.contexts.append(list(token_ids))
        return self.turns[len(self.contexts) - 1]

    def room(self, token_ids: Sequence[int]) -> int:
        """Always enough."""
        return 100


def run_with(env: Env, *turns: Response) -> tuple[Response, list[list[int]]]:
    """The response of an environment whose policy says these turns, and the contexts that it was given."""
    generate = Turns(turns)
    return asyncio.run(env.run(make_prompt(), generate)), generate.contexts


# The environment


def test_one_turn_is_the_response() -> None:
    """Catches a default environment that changes what was sampled, or leaves the prompt out of the context."""
    turn = make_response(1, 2, truncated=True)
    assert run_with(SingleTurn(), turn) == (turn, [[10]])
    assert isinstance(build_env("single_turn", None), SingleTurn)


def test_two_turns_by_hand() -> None:
    """Catches a second turn that does not see the tool's answer, and one that trains on it or counts it.

    Sampled are 1, 2 and 3: of five tokens three train.
    """
    response, contexts = run_with(ToolEnv(), make_response(1, 2, log_prob=-0.5), make_response(3, log_prob=-2.0))
    assert contexts == [[10], [10, 1, 2, 50, 51]]
    group = Group(make_prompt(), (checked_response(make_prompt(), response, 5), make_response(4)))
    assert (response.num_tokens, group.num_response_tokens, group.num_tokens) == (3, 4, 2 + 5 + 1)
    batch = TrainBatch.from_groups([group])
    assert batch.input_ids.tolist() == [[10, 1, 2, 50, 51, 3], [10, 4, 0, 0, 0, 0]]
    assert batch.attention_mask.int().tolist() == [[1, 1, 1, 1, 1, 1], [1, 1, 0, 0, 0, 0]]
    assert batch.response_mask.int().tolist() == [[0, 1, 1, 0, 0, 1], [0, 1, 0, 0, 0, 0]]
    assert batch.rollout_log_probs.tolist() == [[0, -0.5, -0.5, 0, 0, -2], [0, -1, 0, 0, 0, 0]]


def test_log_probs_of_inserted_tokens_are_not_read() -> None:
    """Catches numbers that an environment left at inserted tokens and that end up in the batch."""
    response = replace(make_response(1, 2, inserted=[1]), log_probs=(-0.5, -7.0))
    assert TrainBatch.from_groups([Group(make_prompt(), (response,))]).rollout_log_probs.tolist() == [[0, -0.5, 0]]


@pytest.mark.parametrize(
    "fields",
    [
        {"log_probs": (-1.0,)},
        {"loss_mask": (True,)},
        {"loss_mask": (True, False, True)},
        {"loss_mask": (False, False)},
        {"token_ids": (), "log_probs": (), "loss_mask": ()},
        {"token_ids": (1,) * 6, "log_probs": (-1.0,) * 6, "loss_mask": (True,) * 6},
    ],
    ids=["log_probs", "short_mask", "long_mask", "nothing_sampled", "empty", "too_long"],
)
def test_what_an_environment_got_wrong_is_refused(fields: dict[str, Any]) -> None:
    """Catches a response that trains nothing, the wrong tokens, or more tokens than there is memory for."""
    response = replace(make_response(1, 2), **fields)
    with pytest.raises(EngineError, match=r"prompt p0: the environment returned .*rollout\.generate_max_len 5") as told:
        checked_response(make_prompt(), response, 5)
    assert "\n" not in str(told.value)


def test_the_longest_response_is_accepted() -> None:
    """Catches a limit that is off by one, and one on sampled tokens alone."""
    response = make_response(1, 2, 3, 4, 5, inserted=[1, 2])
    assert checked_response(make_prompt(), response, 5) is response
    with pytest.raises(EngineError, match=r"5 tokens \(3 of them sampled\)"):
        checked_response(make_prompt(), response, 4)


def test_environment_that_cannot_be_imported(tmp_path: Path) -> None:
    """Catches an engine that goes on with one turn where another environment was named."""
    with pytest.raises(ConfigError, match="no file"):
        build_env(f"{tmp_path}/missing.py:Env", None)


# In the engine


@dataclass
class FakeLLM:
    """Stands for vLLM: answers each request at the next step with token 1, of -1 nats."""

    requests: list[Any] = field(default_factory=list)
    """Context, seed and most tokens of each request."""
    waiting: list[str] = field(default_factory=list)

    @property
    def llm_engine(self) -> "FakeLLM":
        """Both in one."""
        return self

    def add_request(self, request_id: str, prompt: dict[str, list[int]], sampling: Any, lora_request: None) -> None:
        """Only recorded."""
        self.requests.append((tuple(prompt["prompt_token_ids"]), sampling.seed, sampling.max_tokens))
        self.waiting.append(request_id)

    def step(self) -> list[Any]:
        """Finish every request that waits."""
        done, self.waiting = self.waiting, []
        completion = SimpleNamespace(
            token_ids=[1],
            logprobs=SimpleNamespace(logprobs=[-1.0]),
            weight_versions=[SimpleNamespace(version="0")],
            finish_reason="stop",
        )
        return [SimpleNamespace(request_id=request_id, outputs=[completion]) for request_id in done]


TOKENIZER = SimpleNamespace(
    apply_chat_template=lambda *arguments, **options: "",
    encode=lambda *arguments, **options: [],
    decode=lambda tokens, **options: "a" * len(tokens),
    added_tokens_decoder={},
    eos_token_id=0,
)
"""As little as finding the end tokens and decoding need."""


def generate_with(
    monkeypatch: pytest.MonkeyPatch,
    folder: Path,
    env: str,
    prompts: Sequence[Prompt],
    sampling: SamplingParams = SAMPLING,
) -> tuple[list[Group], FakeLLM]:
    """All groups of an engine actor over a fake LLM, by their prompts."""
    llm = FakeLLM()
    monkeypatch.setattr(engine, "build_llm", lambda settings: llm)
    monkeypatch.setattr(engine, "load_tokenizer", lambda path, template: TOKENIZER)
    monkeypatch.setattr(engine, "log_to", lambda path: None)
    monkeypatch.setattr(
        engine, "to_vllm", lambda sampling, seed, most, ends: SimpleNamespace(seed=seed, max_tokens=most)
    )
    settings = EngineSettings(
        model_path=folder,
        dtype="float32",
        max_model_len=64,
        max_num_seqs=8,
        kv_cache_bytes=1,
        gpu_memory_utilization=0.9,
        tensor_parallel_size=1,
        visible_devices="",
        interface="lo",
        config_overrides={},
        on_gpu=False,
        weight_transfer_backend="none",
        log_path=folder / "engine.log",
        env=env,
    )
    actor = EngineActor(settings)

    async def collect() -> list[Group]:
        return [group async for group in actor.generate(list(prompts), sampling)]

    return sorted(asyncio.run(collect()), key=lambda group: group.prompt.id), llm


def test_the_engine_runs_the_environment_once_a_response(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Catches turns of different responses that are mixed up, a turn's seed that is another turn's or response's, and
    a later turn that may be longer than what is left of the response.

    Of 6 tokens a first turn may have all; it has 1, the tool 2: 3 are left for the second.
    """
    prompts = [make_prompt(0), make_prompt(1)]
    groups, llm = generate_with(monkeypatch, tmp_path, f"{__name__}:ToolEnv", prompts)
    assert [group.prompt for group in groups] == prompts
    for group in groups:
        assert [list(response.token_ids) for response in group.responses] == [[1, 50, 51, 1]] * 2
        assert [list(response.loss_mask) for response in group.responses] == [[True, False, False, True]] * 2
    expected = [
        request
        for prompt in prompts
        for index in range(2)
        for request in [
            (prompt.token_ids, SAMPLING.seed_of(prompt, index), 6),
            ((*prompt.token_ids, 1, *TOOL), SAMPLING.seed_of(prompt, index, 3), 3),
        ]
    ]
    assert sorted(llm.requests) == sorted(expected)
    assert len({seed for _, seed, _ in llm.requests}) == 8


def test_an_environment_can_fill_its_response(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Catches a room that counts the prompt, or not what was inserted or sampled before."""
    prompts = [make_prompt(token_ids=(10, 11, 12))]
    ((group,), _) = generate_with(monkeypatch, tmp_path, f"{__name__}:PatientEnv", prompts)
    assert [(response.text, response.num_tokens) for response in group.responses] == [("6 5 4 3 2 1", 6)] * 2


def test_checks_of_the_weights_need_no_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Catches a check of the weights that calls a user's tools, or fails at an environment's answers."""
    ((group,), llm) = generate_with(
        monkeypatch, tmp_path, f"{__name__}:ToolEnv", [make_prompt()], replace(SAMPLING, single_turn=True)
    )
    assert [list(response.token_ids) for response in group.responses] == [[1], [1]]
    assert len(llm.requests) == 2


@pytest.mark.parametrize(
    ("env", "message"),
    [
        ("EndlessEnv", r"prompt p0: the environment asked for more than rollout\.generate_max_len 6 tokens"),
        ("BrokenEnv", "prompt p0: the environment returned 1 tokens .* loss_mask of 0"),
    ],
)
def test_the_engine_tells_what_an_environment_got_wrong(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, env: str, message: str
) -> None:
    """Catches an environment that runs for ever, and responses that reach the trainer unchecked."""
    with pytest.raises(EngineError, match=message):
        generate_with(monkeypatch, tmp_path, f"{__name__}:{env}", [make_prompt()])


# In a step


def tool_group(prompt: Prompt) -> Group:
    """Of the first response two of four tokens are inserted, between the others; the second one is a single token."""
    return Group(prompt, (make_response(1, 2, 3, 4, inserted=[1, 2]), make_response(5)))


@pytest.mark.parametrize(
    ("aggregation", "long", "short"),
    # Of six sampled tokens, four responses, at most 8 tokens.
    [("token", 1 / 6, 1 / 6), ("sequence", 1 / 8, 1 / 4), ("constant", 1 / 32, 1 / 32)],
)
def test_a_step_counts_sampled_tokens(tmp_path: Path, aggregation: str, long: float, short: float) -> None:
    """Catches inserted tokens in lengths, in what divides the loss, or with an advantage or a reference of their own;
    and a throughput that leaves out what the model reads.

    The fake reference says -x / 1000 of token x.
    """
    policy = FakePolicy()
    config = make_config(tmp_path, algorithm={"loss_aggregation": aggregation})
    result = make_step(config, rollout=FakeRollout(make=tool_group), policy=policy)
    assert result.metrics["rollout/response_length_mean"] == 1.5
    # Twice a prompt of one token, for two responses, and five tokens.
    read = result.metrics["throughput/tokens_per_second"] * result.metrics["time/step_seconds"]
    assert read == pytest.approx(2 * (2 + 5))
    (batch,) = policy.updates
    assert batch.advantages is not None
    assert batch.loss_weights is not None
    assert batch.ref_log_probs is not None
    assert batch.response_mask.int().tolist() == [[0, 1, 0, 0, 1], [0, 1, 0, 0, 0]] * 2
    assert (batch.advantages != 0).tolist() == batch.response_mask.tolist()
    torch.testing.assert_close(batch.loss_weights, torch.tensor([[0, long, 0, 0, long], [0, short, 0, 0, 0]] * 2))
    torch.testing.assert_close(batch.ref_log_probs, torch.tensor([[0, -0.001, 0, 0, -0.004], [0, -0.005, 0, 0, 0]] * 2))


def test_values_pass_over_inserted_tokens(tmp_path: Path) -> None:
    """Catches an estimate that discounts, or reads a value, at tokens that the policy did not choose.

    gamma = lambda = 1/2, values 1/4, reward 1 at the last token: its return is 1; that of the first, sampled just
    before it, is V + delta + A / 4 = 1/4 + (1/8 - 1/4) + 3/16 = 5/16.
    """
    critic = FakeCritic()
    algorithm = {"advantage_estimator": "gae", "init_kl_coef": 0.0, "gamma": 0.5, "lambd": 0.5}
    result = make_step(make_config(tmp_path, algorithm=algorithm), rollout=FakeRollout(make=tool_group), critic=critic)
    returns = result.experience.batch.returns
    assert returns is not None
    assert returns.tolist() == [[0, 5 / 16, 0, 0, 1], [0, 0, 0, 0, 0]] * 2


def test_distance_of_inserted_tokens_costs_nothing(tmp_path: Path) -> None:
    """Catches KL that is taken off the reward for what the tool said.

    k1 of token x is x / 1000 - 1, for the sampled tokens 1 and 4, and 5.
    """
    algorithm = {"advantage_estimator": "rloo", "kl_in": "reward", "kl_estimator": "k1", "init_kl_coef": 0.5}
    result = make_step(make_config(tmp_path, algorithm=algorithm), rollout=FakeRollout(make=tool_group))
    expected = [1 - 0.5 * (0.005 - 2), 0 - 0.5 * (0.005 - 1)]
    for penalized in result.experience.shaped_rewards.tolist():
        assert penalized == pytest.approx(expected, rel=1e-5)


def test_held_out_lengths_are_of_sampled_tokens() -> None:
    """Catches evaluations whose response lengths are not comparable with those of training."""
    assert evaluate([make_prompt()], FakeRollout(make=tool_group), FakeRewards(), SAMPLING).response_length == 1.5
