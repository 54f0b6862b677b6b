"""Will a run fit on a machine, and how long will its steps take: memory of every process, seconds of every phase."""

from dataclasses import dataclass
from itertools import islice

from openr1.actors.rl import train_demand
from openr1.config.train import TrainConfig
from openr1.data.chat import PromptFormat, render
from openr1.data.columns import prompt_schema
from openr1.data.rows import read_rows
from openr1.data.template import run_template
from openr1.data.tokenizer import load_tokenizer
from openr1.placement.layouts import Machine, Placement, place
from openr1.plan import hardware
from openr1.plan.disk import checkpoint_bytes, count_checkpoints
from openr1.plan.hardware import GIB
from openr1.plan.machine import PlannedMachine
from openr1.plan.processes import Process, engine_processes, training_processes
from openr1.plan.step import StepTimes
from openr1.plan.times import StepSeconds, Workload
from openr1.plan.traces import Traces

SAMPLED_PROMPTS = 256
"""Rows of the training data whose prompts are counted for their mean length."""


@dataclass(frozen=True)
class MemoryPlan:
    """What a run occupies.

    Attributes:
        machine: The machine in question.
        placement: Which GPUs the actors share.
        processes: By role.
        shared_memory_bytes: In /dev/shm, during a push.
        disk_bytes: Of all checkpoints that exist at one time.
    """

    machine: PlannedMachine
    placement: Placement
    processes: list[Process]
    shared_memory_bytes: int
    disk_bytes: int

    def gpu_bytes(self, gpu: int) -> int:
        """What all processes of a GPU take together, at the turn that needs most of it (`placement.sleep`)."""
        return max(self._gpu_bytes(gpu, generating) for generating in (True, False))

    def _gpu_bytes(self, gpu: int, generating: bool) -> int:
        total = 0
        for process in self.processes:
            rests = process.resting_bytes is not None and (process.role == "engine") != generating
            num_bytes = process.resting_bytes if rests else process.memory.device_bytes
            total += (num_bytes or 0) * sum(gpus.count(gpu) for gpus in process.gpus)
        return total

    def problems(self) -> list[str]:
        """Why the run does not fit, one line each; empty if it does."""
        lines = [
            f"{process.role}s have room for {max(0.0, process.sequences):.1f} sequences of the greatest length, and "
            "need it for 1 at least"
            for process in self.processes
            if process.sequences is not None and process.sequences < 1
        ]
        used = [self.gpu_bytes(gpu) for gpu in range(self.placement.num_gpus)]
        if used and max(used) > self.usable_bytes:
            gpu = used.index(max(used))
            lines.append(
                f"GPU {gpu} would need {used[gpu] / GIB:.1f} GiB, and {self.usable_bytes / GIB:.1f} are usable"
            )
        host = self.machine.host_bytes
        if host is not None and self.host_bytes > host:
            lines.append(f"host memory would need {self.host_bytes / GIB:.1f} of {host / GIB:.1f} GiB")
        return lines

    @property
    def excess_bytes(self) -> int:
        """By how much the fullest GPU or the host is too full, or a KV cache too small for a sequence; 0 if it fits."""
        missing = [int((1 - one.sequences) * one.sequence_bytes) for one in self.processes if one.sequences is not None]
        over = [self.gpu_bytes(gpu) - self.usable_bytes for gpu in range(self.placement.num_gpus)]
        host = 0 if self.machine.host_bytes is None else self.host_bytes - self.machine.host_bytes
        return max(0, host, *missing, *over)

    @property
    def usable_bytes(self) -> int:
        """Of each GPU."""
        return 0 if self.machine.gpu is None else int(hardware.GPU_USABLE_FRACTION * self.machine.gpu.memory_gib * GIB)

    @property
    def host_bytes(self) -> int:
        """Host memory of all processes."""
        total = hardware.DRIVER_PROCESS_BYTES
        for process in self.processes:
            own = hardware.ENGINE_PROCESS_BYTES
            if process.role != "engine":
                own = hardware.WORKER_PROCESS_BYTES + hardware.WORKER_FIRST_STEP_BYTES
            on_host = process.memory.host_bytes + (0 if any(process.gpus) else process.memory.device_bytes)
            total += len(process.gpus) * (own + on_host)
        return total + self.shared_memory_bytes


class Planner:
    """Plans variants of a config for one machine. Passes are traced once for all of them."""

    def __init__(self, machine: PlannedMachine, response_length: float | None = None) -> None:
        """`response_length` is the mean in tokens; None: half of `rollout.generate_max_len`."""
        self.machine = machine
        self._response_length = response_length
        self._gpu_traces = Traces(None if machine.gpu is None else int(machine.gpu.memory_gib * GIB))
        self._cpu_traces = Traces(None)
        self._prompt_length: float | None = None

    def memory(self, config: TrainConfig) -> MemoryPlan:
        """What a run occupies.

        Raises:
            MissingError: Nothing is known of the model's shape.
            ConfigError: The layout does not fit on this number of GPUs.
        """
        placement, gpu = self._place(config), self.machine.gpu
        traces = self._traces(placement)
        return MemoryPlan(
            self.machine,
            placement,
            [*training_processes(config, placement, traces), *engine_processes(config, placement, traces, gpu)],
            shared_memory_bytes=traces.pushed_bytes(config.model) if placement.engines else 0,
            disk_bytes=checkpoint_bytes(config, traces) * count_checkpoints(config, config.num_steps),
        )

    def seconds(self, config: TrainConfig) -> StepSeconds:
        """Of a step of `workload(config)`; errors as those of `memory`."""
        placement = self._place(config)
        traces, work = self._traces(placement), self.workload(config)
        return StepTimes(config, placement, self.machine.gpu, traces, work).estimate()

    def workload(self, config: TrainConfig) -> Workload:
        """The step whose time is estimated. Prompts are the same for all variants."""
        if self._prompt_length is None:
            self._prompt_length = mean_prompt_length(config)
        rollout = config.rollout
        mean = rollout.generate_max_len / 2 if self._response_length is None else self._response_length
        prompts = rollout.rollout_batch_size
        responses = prompts * rollout.n_samples_per_prompt
        return Workload(responses, prompts, self._prompt_length, mean, rollout.generate_max_len)

    def _place(self, config: TrainConfig) -> Placement:
        count = self.machine.num_gpus
        machine = Machine(count, engines_on_cpu=count == 0, description=f"{count} GPU(s)")
        return place(config.placement.layout, train_demand(config), machine)

    def _traces(self, placement: Placement) -> Traces:
        return self._gpu_traces if placement.on_gpu else self._cpu_traces


def mean_prompt_length(config: TrainConfig) -> float:
    """In tokens, of the first rows of the first training file; half of `data.prompt_max_len` if it cannot be read."""
    data = config.data
    source = data.sources[0]
    if not source.path.is_file() or not (config.model.path / "tokenizer.json").is_file():
        return data.prompt_max_len / 2
    tokenizer = load_tokenizer(config.model.path, run_template(config))
    prompt_format = PromptFormat(data.system_prompt, data.assistant_prefix)
    rows = islice(read_rows(source.path, prompt_schema(source)), SAMPLED_PROMPTS)
    texts = [render(row, tokenizer, prompt_format)[0] for _, row in rows]
    return sum(len(tokenizer.encode(text, add_special_tokens=False)) for text in texts) / len(texts)
