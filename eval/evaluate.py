"""Evaluates a model on benchmarks: samples with vLLM, grades as in training, and resumes where it stopped."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from eval.benchmarks import Benchmark, to_prompts
from eval.page import to_html
from eval.report import table, to_markdown
from eval.result import summarize
from eval.samples import Sample, SampleFile
from openr1.actors.engines import engine_settings, start_rollout
from openr1.config.sections import SMALLEST_TEMPERATURE, Dtype, ModelConfig
from openr1.data.model_folder import read_text_config
from openr1.data.template import ChatTemplate, read_template
from openr1.data.weight_files import fingerprint_weights
from openr1.errors import ConfigError
from openr1.inputs.model_check import check_sampled
from openr1.placement.group import Places, reserve
from openr1.placement.layouts import Demand
from openr1.rewards.client import to_items
from openr1.rollout.engine import EngineSettings
from openr1.runtime.console import print_table, progress, say
from openr1.runtime.files import write_whole
from openr1.runtime.ray_cluster import running_ray
from openr1.types import Group, Prompt, SamplingParams
from reward_server.config import ServerConfig
from reward_server.grader import Grader
from reward_server.schema import ScoreItem
from reward_server.tasks import find_task


@dataclass(frozen=True)
class EvalSettings:
    """Settings that determine the samples. A folder contains samples of one such setting only."""

    model: str
    n_samples_per_prompt: int
    temperature: float
    top_p: float
    generate_max_len: int
    seed: int
    dtype: Dtype
    chat_template: str | None = None
    chat_template_kwargs: Mapping[str, Any] | None = None

    @property
    def template(self) -> ChatTemplate:
        """The chat template; that of the model's folder if none is chosen."""
        return read_template(self.chat_template, self.chat_template_kwargs)


@dataclass(frozen=True)
class Machine:
    """Settings of the engines that affect speed but not samples; see the keys of the same names in docs/config.md."""

    num_engines: int | None
    tensor_parallel_size: int
    max_num_seqs: int
    kv_cache_gib: float | None
    threads: int
    timeout_seconds: float


def evaluate(benchmarks: Sequence[Benchmark], settings: EvalSettings, machine: Machine, folder: Path) -> None:
    """Sample and grade what is missing in the folder, then write results.json and the reports and print a table.

    Raises:
        ConfigError: The folder contains an evaluation with other settings, another process is writing to it, or a
            prompt does not fit into the model's context length.
        MissingError: The model is missing or unusable.
    """
    _check_temperature(settings)
    names = [one.name for one in benchmarks]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(f"two benchmarks are called {twice[0]}, as their files are; rename one of the files")
    model = check_sampled(Path(settings.model), settings.template)
    positions = read_text_config(model.path).max_position_embeddings
    prompts = {one.name: to_prompts(one, model.tokenizer, positions, settings.generate_max_len) for one in benchmarks}
    for one in benchmarks:
        model.check_token_ids(one.name, (prompt.token_ids for prompt in prompts[one.name]))
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise ConfigError(f"{folder}: another process is writing to it; choose another --output") from error
    with lock:
        _claim(folder, settings, fingerprint_weights(model.path))
        files = {
            name: SampleFile(folder / "samples" / f"{name}.jsonl", settings.n_samples_per_prompt) for name in prompts
        }
        done = {name: file.complete() for name, file in files.items()}
        for name, some in prompts.items():
            _check_same_problems(folder, name, some, done[name])
        for file in files.values():
            file.forget_incomplete()
        missing = {name: [one for one in prompts[name] if one.id not in done[name]] for name in prompts}
        if any(missing.values()):
            longest = max(len(one.token_ids) for some in missing.values() for one in some) + settings.generate_max_len
            _sample(missing, files, settings, machine, longest, folder / "logs")
        _write_results(folder, settings, prompts, files)


def _check_temperature(settings: EvalSettings) -> None:
    temperature, count = settings.temperature, settings.n_samples_per_prompt
    if temperature == 0 and count > 1:
        raise ConfigError(f"temperature 0 with n {count}: greedy samples are all the same; leave one of them out")
    if temperature != 0 and temperature < SMALLEST_TEMPERATURE:
        raise ConfigError(f"temperature {temperature:g}: give 0 (greedy) or at least {SMALLEST_TEMPERATURE:g}")


def _claim(folder: Path, settings: EvalSettings, weights: str) -> None:
    """Record the settings and the fingerprint of the weights in a new folder, or check that they are those of it."""
    path = folder / "settings.json"
    wanted = asdict(settings) | {"weights": weights}
    if not path.exists():
        write_whole(path, json.dumps(wanted, indent=2) + "\n")
        return
    held = json.loads(path.read_text(encoding="utf-8"))
    changed = [f"{key} {held.get(key)!r}, not {value!r}" for key, value in wanted.items() if held.get(key) != value]
    if changed:
        raise ConfigError(f"{folder}: contains an evaluation with {'; '.join(changed)}; choose another --output")


def _check_same_problems(
    folder: Path, name: str, prompts: Sequence[Prompt], done: Mapping[str, Sequence[Sample]]
) -> None:
    """Refuse samples of another problem or label under the id of one of these."""
    for prompt in prompts:
        for sample in done.get(prompt.id, ()):
            if (sample.prompt, sample.label) != (prompt.text, prompt.label):
                what = "label" if sample.prompt == prompt.text else "prompt"
                raise ConfigError(
                    f"{folder}: has samples of problem {prompt.id!r} of {name} with another {what}; choose another "
                    "--output"
                )


def _engine_settings(
    settings: EvalSettings, machine: Machine, max_model_len: int, logs: Path, places: Places
) -> list[EngineSettings]:
    logs.mkdir(exist_ok=True)
    model = ModelConfig(path=Path(settings.model), dtype=settings.dtype)
    return [
        engine_settings(
            model,
            max_model_len=max_model_len,
            max_num_seqs=machine.max_num_seqs,
            kv_cache_gib=machine.kv_cache_gib,
            log_path=logs / f"engine_{index}.log",
            places=places,
            index=index,
            tensor_parallel_size=machine.tensor_parallel_size,
            template=settings.template,
        )
        for index in range(len(places.engines))
    ]


def _sample(
    missing: dict[str, list[Prompt]],
    files: dict[str, SampleFile],
    settings: EvalSettings,
    machine: Machine,
    max_model_len: int,
    logs: Path,
) -> None:
    """Generate and grade groups as they finish. Each is written to disk before the next is graded."""
    total = sum(map(len, missing.values()))
    demand = Demand(
        ranks=0, engines=machine.num_engines, gpus_per_engine=machine.tensor_parallel_size, max_engines=total
    )
    with (
        running_ray() as cluster,
        reserve("auto", demand, cluster) as places,
        Grader(ServerConfig()) as grader,
        progress("sampling", total) as advance,
    ):
        say(f"{total} problems x {settings.n_samples_per_prompt} samples, {places.placement.describe()}")
        engines = _engine_settings(settings, machine, max_model_len, logs, places)
        rollout = start_rollout(engines, machine.threads, places.engines, machine.timeout_seconds)
        for name, prompts in missing.items():
            sampling = SamplingParams(
                n_samples_per_prompt=settings.n_samples_per_prompt,
                generate_max_len=settings.generate_max_len,
                temperature=settings.temperature,
                top_p=settings.top_p,
                seed=settings.seed,
                seed_stream=f"eval/{name}",
            )
            for group in rollout.generate(prompts, sampling):
                files[name].add(grade(grader, group))
                advance(name)


def grade(grader: Grader, group: Group) -> list[Sample]:
    """Grade the responses of a group."""
    prompt = group.prompt
    scores = [score for score, _ in grader.grade(find_task(prompt.task), to_items(group))]
    return [
        Sample(
            id=prompt.id,
            index=index,
            prompt=prompt.text,
            label=prompt.label,
            response=response.text,
            num_tokens=len(response.token_ids),
            truncated=response.truncated,
            extracted=score.extracted,
            verdict=score.verdict,
            score=score.score,
            error=score.error,
        )
        for index, (response, score) in enumerate(zip(group.responses, scores, strict=True))
    ]


def _write_results(
    folder: Path, settings: EvalSettings, prompts: dict[str, list[Prompt]], files: dict[str, SampleFile]
) -> None:
    """Summarize the samples on disk, in the order of the problems, and write the reports."""
    samples = {}
    for name, some in prompts.items():
        groups = files[name].complete()
        samples[name] = [groups[prompt.id] for prompt in some]
    results = {name: summarize(groups) for name, groups in samples.items()}
    rows = {name: asdict(result) for name, result in results.items()}
    text = json.dumps({"settings": asdict(settings), "results": rows}, indent=2) + "\n"
    write_whole(folder / "results.json", text)
    write_whole(folder / "report.md", to_markdown("Evaluation", asdict(settings), results))
    write_whole(folder / "report.html", to_html("Evaluation", asdict(settings), results, samples))
    print_table("evaluation", *table(results))
    say(f"{folder}: results.json, report.md, report.html, samples/, logs/")


def check_labels(benchmarks: Sequence[Benchmark]) -> int:
    """Grade every math label as an answer to itself and print those that fail; returns their number.

    Raises:
        ConfigError: A benchmark has no math labels, so that nothing would be checked.
    """
    failed = 0
    with Grader(ServerConfig()) as grader:
        for benchmark in benchmarks:
            problems = [problem for problem in benchmark.problems if problem.task == "math"]
            if not problems:
                raise ConfigError(f"{benchmark.name}: no problem of task math, whose labels --check could check")
            items = []
            for problem in problems:
                answer = problem.label.rpartition("####")[2].strip()
                items.append(ScoreItem(id=problem.id, response=rf"\boxed{{{answer}}}", label=problem.label))
            graded = grader.grade(find_task("math"), items)
            for problem, (score, _) in zip(problems, graded, strict=True):
                if score.verdict != "correct":
                    failed += 1
                    say(f"{problem.location}: label {problem.label[:80]!r} is graded {score.verdict} against itself")
            say(f"{benchmark.name}: {len(benchmark.problems)} problems, {len(problems)} labels checked")
    return failed
