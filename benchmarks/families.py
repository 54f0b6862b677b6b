"""Whether openr1 trains a family of models correctly: engine against trainer, group of parameters by group.

    python -m benchmarks.families [--only NAME ...] [--output benchmarks/results/families.json] [--page]

Each family is a random float32 model of two layers with a real engine and a real policy rank. Log-probs of sampled
tokens are compared: before any change; after a change of one group of parameters alone (the same parameter of all
layers), which must be visible to the policy and arrive with the next push; after a change of LoRA adapters; in packed
rows; and after export and loading by transformers. Numbers are the largest differences in nats. `--page` writes the
table of docs/models.md from the stored results.
"""

import argparse
import json
import re
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import ray
import torch
from ray.actor import ActorHandle

from benchmarks.changing_worker import ChangingWorker
from benchmarks.machine import ROOT, write_result
from benchmarks.markdown import fill_table
from benchmarks.model_families import FAMILIES, MAX_POSITIONS, Family, write_family
from openr1.actors.engines import start_engines, train_engine_settings, transport_of, wait_for_engines
from openr1.actors.rl import train_demand
from openr1.actors.workers import group_settings, learner_settings, start_workers
from openr1.algorithms.batch import TrainBatch
from openr1.config.sections import LoraConfig, ModelConfig
from openr1.config.train import TrainConfig
from openr1.placement.group import Places
from openr1.rollout.engine import EngineActor
from openr1.rollout.pool import RolloutPool
from openr1.runtime.files import write_whole
from openr1.runtime.ray_calls import last_line
from openr1.runtime.ray_cluster import running_ray, shared_memory_folder
from openr1.types import Prompt, SamplingParams
from openr1.weight_sync.backends import SenderFactory
from openr1.workers.group import PolicyGroup
from openr1.workers.model import LogProbModel, load_causal_lm

BOUND = 1e-4
"""Nats that rounding in float32 does not exceed."""
VISIBLE = 20 * BOUND
"""A change of the weights that moves no log-prob by this much would prove nothing by arriving."""
RESULTS, PAGE = ROOT / "benchmarks/results/families.json", ROOT / "docs/models.md"
LORA = LoraConfig(rank=4, alpha=8.0)
PROMPT_LENGTHS = (1, 2, 5, 17, 40, 90, 100, 128)
"""Tokens of the prompts: from one, whose position cannot matter, to more than the sliding windows of 64."""
NUM_TOKENS = 16
TIMEOUT_SECONDS = 240.0


@dataclass
class Conformance:
    """What was found for one model. Numbers are the largest differences in nats.

    Attributes:
        first_token: Engine against policy, in the first token after a prompt of one token.
        before: Engine against policy, in all tokens.
        moved: By group of parameters: policy after its change against the engine before the push.
        arrived: By group of parameters: engine against policy after the push.
        lora: Engine against policy after adapters were changed and pushed.
        packed: Packed against padded rows.
        exported: The exported model in transformers against the policy.
        error: What ended the examination; empty if it is complete.
    """

    family: str
    tied: bool
    first_token: float = float("nan")
    before: float = float("nan")
    moved: dict[str, float] = field(default_factory=dict)
    arrived: dict[str, float] = field(default_factory=dict)
    lora: float = float("nan")
    packed: float = float("nan")
    exported: float = float("nan")
    error: str = ""
    seconds: float = 0.0

    def faults(self) -> list[str]:
        """What is wrong, attributed to a group of parameters or to positions; empty if nothing is."""
        if self.error:
            return [self.error]
        if not self.before < BOUND:
            # At the first position nothing is rotated and no window ends, whatever the settings say.
            return ["positions" if self.first_token < BOUND else "before any change"]
        found = [name for name, nats in self.arrived.items() if not nats < BOUND]
        found += [f"{name}: no effect" for name, nats in self.moved.items() if not nats > VISIBLE]
        others = {"lora": self.lora, "packed rows": self.packed, "export": self.exported}
        return found + [name for name, nats in others.items() if not nats < BOUND]


@dataclass
class Pair:
    """One engine, and one policy rank that is connected to it."""

    policy: PolicyGroup
    worker: ActorHandle
    engine: ActorHandle
    version: int = 0

    def push(self) -> None:
        """Push as the next version."""
        self.version += 1
        self.policy.push_weights(self.version)

    def sampled(self) -> TrainBatch:
        """Responses of the engine to prompts of random tokens."""
        sampling = SamplingParams(2, NUM_TOKENS, 1.0, 1.0, seed=self.version, seed_stream="families")
        return TrainBatch.from_groups(list(RolloutPool([self.engine], TIMEOUT_SECONDS).generate(prompts(), sampling)))

    def difference(self) -> float:
        """Largest difference between engine and policy."""
        return self.differences()[1]

    def differences(self) -> tuple[float, float]:
        """Largest difference in the first token after a prompt of one token, and in all."""
        batch = self.sampled()
        nats = (self.policy.log_probs(batch) - batch.rollout_log_probs).abs()
        shortest = batch.attention_mask.sum(1) - batch.response_mask.sum(1) == 1
        first = nats[shortest, 1]
        return float(first.max()), float(nats[batch.response_mask].max())


def prompts() -> list[Prompt]:
    """Prompts of random tokens."""
    generator = torch.Generator().manual_seed(0)
    ids = [tuple(torch.randint(100, 500, (length,), generator=generator).tolist()) for length in PROMPT_LENGTHS]
    return [Prompt(f"p{len(one)}", "", one, "", "math") for one in ids]


def make_config(model: ModelConfig, folder: Path) -> TrainConfig:
    """Settings of the smallest engine and policy."""
    rollout = {"generate_max_len": NUM_TOKENS, "kv_cache_gib": 0.1, "max_num_seqs": 32, "num_engines": 1}
    return TrainConfig.model_validate(
        {
            "run": {"name": "families", "output_dir": folder},
            "model": model,
            "data": {"train": folder / "none.jsonl", "prompt_max_len": MAX_POSITIONS // 2},
            "rollout": rollout
            | {"rollout_batch_size": 2, "n_samples_per_prompt": 2, "timeout_seconds": TIMEOUT_SECONDS},
            "algorithm": {"init_kl_coef": 0.0},
            "policy": {"train_batch_size": 4, "zero_stage": 1, "timeout_seconds": TIMEOUT_SECONDS},
            "num_steps": 1,
        }
    )


@contextmanager
def started(model: ModelConfig, folder: Path, kind: type[EngineActor] = EngineActor) -> Iterator[Pair]:
    """An engine and a policy rank of a model."""
    config = make_config(model, folder)
    places = Places.on_cpu(train_demand(config))
    with shared_memory_folder() as shared:
        engines = start_engines(train_engine_settings(config, places), 1, places.engines, kind=kind)
        workers: list[ActorHandle] = []
        try:
            learner = learner_settings(config.model, config.optimizer, config.policy, 1)
            workers = start_workers(learner, config.policy, places.policy, folder / "logs", ChangingWorker)
            policy = PolicyGroup(workers, group_settings(learner, config.policy))
            wait_for_engines(engines, TIMEOUT_SECONDS)
            policy.connect_engines(SenderFactory(transport_of(config, places), engines, str(shared), TIMEOUT_SECONDS))
            yield Pair(policy, workers[0], engines[0])
        finally:
            for actor in (*workers, *engines):
                ray.kill(actor)


def examine(one: Family, tied: bool, folder: Path, kind: type[EngineActor] = EngineActor) -> Conformance:
    """Examine one model; `kind` may be an engine with a fault (tests). Needs a running Ray."""
    found = Conformance(one.name, tied)
    start = time.monotonic()
    path = folder / "model"
    write_family(one, tied, path)
    model = ModelConfig(path=path, dtype="float32")
    try:
        with started(model, folder, kind) as pair:
            examine_groups(pair, found)
            examine_trainer(pair, model, folder, found)
        with started(
            model.model_copy(update={"lora": ModelConfig.model_validate({"path": path, "lora": LORA}).lora}),
            folder,
            kind,
        ) as pair:
            ray.get(pair.worker.change.remote("lora_"))
            pair.push()
            found.lora = pair.difference()
    except Exception as error:  # noqa: BLE001 (a family that fails must not end the others)
        found.error = last_line(error)
    found.seconds = time.monotonic() - start
    return found


def examine_groups(pair: Pair, found: Conformance) -> None:
    """Compare before any change, and after a change of each group of parameters."""
    pair.push()
    found.first_token, found.before = pair.differences()
    for group in group_names(ray.get(pair.worker.parameter_names.remote())):
        pattern = "^" + re.escape(group).replace(r"\*", r"\d+") + "$"
        assert ray.get(pair.worker.change.remote(pattern)) > 0
        found.moved[group] = pair.difference()
        pair.push()
        found.arrived[group] = pair.difference()
        ray.get(pair.worker.undo.remote())


def group_names(names: Sequence[str]) -> list[str]:
    """Names with the number of the layer as `*`, each once, in order."""
    return list(dict.fromkeys(re.sub(r"\.\d+\.", ".*.", name) for name in names))


def examine_trainer(pair: Pair, model: ModelConfig, folder: Path, found: Conformance) -> None:
    """Compare the exported model in this process with the policy: with padding, and packed."""
    ray.get(pair.worker.change.remote(""))
    pair.push()
    batch = pair.sampled()
    expected = pair.policy.log_probs(batch)[batch.response_mask]
    pair.policy.export(folder / "export")
    while not pair.policy.is_written():
        time.sleep(0.1)
    padded, packed = (
        exported_log_probs(model.model_copy(update={"path": folder / "export", "packing": packing}), batch)
        for packing in (False, True)
    )
    found.exported = float((padded - expected).abs().max())
    found.packed = float((packed - padded).abs().max())


@torch.no_grad()
def exported_log_probs(model: ModelConfig, batch: TrainBatch) -> torch.Tensor:
    """Log-probs of all response tokens under the model of a folder, in this process."""
    lm = LogProbModel(load_causal_lm(model), temperature=1.0)
    log_probs: torch.Tensor = lm(*batch.inputs).log_probs
    return log_probs[batch.response_mask]


def table(results: Sequence[dict[str, Any]]) -> list[list[str]]:
    """Rows of the table in docs/models.md."""
    rows = [["family", "head", "engine vs trainer", "groups that arrive", "LoRA", "packed", "exported", "faults"]]
    for result in results:
        one = Conformance(**result)
        arrived = [nats for nats in one.arrived.values() if nats < BOUND]
        numbers = [f"{one.before:.0e}", f"{len(arrived)} of {len(one.arrived)}"]
        numbers += [f"{nats:.0e}" for nats in (one.lora, one.packed, one.exported)]
        rows.append([one.family, "tied" if one.tied else "own", *numbers, "; ".join(one.faults()) or "none"])
    return rows


def main() -> None:
    """Examine all families and write the result."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.families", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--only", nargs="+", choices=[one.name for one in FAMILIES], help="examine these alone")
    parser.add_argument("--output", type=Path, default=RESULTS, metavar="FILE")
    parser.add_argument("--page", action="store_true", help="write the table of docs/models.md from stored results")
    args = parser.parse_args()
    if args.page:
        write_whole(PAGE, fill_table(PAGE.read_text(), "families", table(json.loads(RESULTS.read_text())["models"])))
        return
    chosen = [(one, tied) for one in FAMILIES for tied in one.ties if not args.only or one.name in args.only]
    found: list[Conformance] = []
    with running_ray():
        for one, tied in chosen:
            with tempfile.TemporaryDirectory() as folder:
                found.append(examine(one, tied, Path(folder)))
            faults = "; ".join(found[-1].faults()) or "nothing wrong"
            print(f"{one.name}, {'tied' if tied else 'own head'}: {faults}", file=sys.stderr, flush=True)
            # Each time: all of them take long, and what is known should not be lost.
            write_result(args.output, {"bound": BOUND, "models": [asdict(one) for one in found]})


if __name__ == "__main__":
    main()
