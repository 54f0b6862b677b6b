"""Layouts: which GPU hosts which actors. Pure arithmetic; `group` reserves the GPUs in Ray.

A GPU is a number from 0, among those that the run may use. Every layout answers with a `Placement` or with a
`ConfigError` that says what exists and which layouts would fit.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from openr1.errors import ConfigError

Layout = Literal["separate", "colocated", "half", "cpu"]


@dataclass(frozen=True)
class Demand:
    """What a run wants to place.

    Attributes:
        ranks: Policy ranks; None leaves the number to the layout, 0 is an evaluation.
        engines: vLLM engines; None leaves the number to the layout, 0 is a run without engines.
        gpus_per_engine: GPUs over which one engine is split (tensor parallel size).
        critic: Whether a critic is trained; it has as many ranks as the policy.
        reference: Whether a reference model of its own is loaded.
        max_ranks: Most policy ranks that have work (rows of an optimizer step).
        max_engines: Most engines that have work (prompts of a step).
        sleep: Whether engines and training take turns in the memory of GPUs, which they must share then.
    """

    ranks: int | None
    engines: int | None
    gpus_per_engine: int = 1
    critic: bool = False
    reference: bool = False
    max_ranks: int = 2**31
    max_engines: int = 2**31
    sleep: bool = False


@dataclass(frozen=True)
class Machine:
    """Where a run is placed.

    Attributes:
        num_gpus: GPUs that it may use.
        engines_on_cpu: Whether the installed vLLM runs on the CPU. A build for GPUs does not.
        description: The machine in words, for messages: "this machine has 2 GPU(s)".
    """

    num_gpus: int
    engines_on_cpu: bool = True
    description: str = "this machine"


@dataclass(frozen=True)
class Placement:
    """The GPUs of every actor, by rank or engine; on the CPU empty tuples of GPUs.

    Attributes:
        layout: Where it comes from.
        policy: GPU of each policy rank; None on the CPU.
        critic: GPU of each critic rank, as many as of the policy, or none.
        reference: GPU of each copy of the reference model, or none.
        engines: GPUs of each engine.
    """

    layout: Layout
    policy: tuple[int | None, ...]
    critic: tuple[int | None, ...]
    reference: tuple[int | None, ...]
    engines: tuple[tuple[int, ...], ...]

    @property
    def on_gpu(self) -> bool:
        """Whether actors run on GPUs: all of them do, or none."""
        return self.layout != "cpu"

    @cached_property
    def actors_per_gpu(self) -> Counter[int]:
        """How many actors share each GPU."""
        single = [gpu for gpu in (*self.policy, *self.critic, *self.reference) if gpu is not None]
        return Counter([*single, *(gpu for engine in self.engines for gpu in engine)])

    @property
    def num_gpus(self) -> int:
        """GPUs in use: those numbered below this."""
        return max(self.actors_per_gpu, default=-1) + 1

    def shares_gpus(self, engine: int) -> bool:
        """Whether an engine shares a GPU with another actor."""
        return any(self.actors_per_gpu[gpu] > 1 for gpu in self.engines[engine])

    def describe(self) -> str:
        """The actors in words, as in `2 policy rank(s) on GPUs 0-1, 1 engine(s) on GPU 2`; the first GPU is 0."""
        engines = tuple(gpu for engine in self.engines for gpu in engine)
        roles = [
            (len(self.policy), "policy rank(s)", self.policy),
            (len(self.critic), "critic rank(s)", self.critic),
            (len(self.reference), "reference(s)", self.reference),
            (len(self.engines), "engine(s)", engines),
        ]
        return ", ".join(f"{count} {role}{_on(gpus)}" for count, role, gpus in roles if count)


def place(layout: Literal["auto"] | Layout, demand: Demand, machine: Machine) -> Placement:
    """Place a run's actors.

    `auto` is cpu without GPUs; separate if both `policy.num_ranks` and `rollout.num_engines` are given and there are
    enough GPUs for one each; else colocated.

    Raises:
        ConfigError: The layout does not fit; the message says what it needs and which layouts fit. Or engines would
            have GPUs of their own, and are to release their memory.
    """
    layouts = _auto_layouts(demand, machine) if layout == "auto" else [layout]
    reasons = []
    for name in layouts:
        try:
            placement = LAYOUTS[name](demand, machine)
        except _DoesNotFit as reason:
            reasons.append(f"layout {name} {reason}")
            continue
        if demand.sleep and name in ("separate", "half"):
            raise ConfigError(
                f"placement.sleep is for layout colocated, and layout {layout} is {name} here "
                f"({placement.describe()}): set placement.layout colocated, or leave placement.sleep out"
            )
        return placement
    fits = _describe_fits(demand, machine) or "none"
    raise ConfigError(f"{'; '.join(reasons)}; {machine.description}. Layouts that fit: {fits}")


class _DoesNotFit(Exception):
    """Why a layout cannot place a demand, as the end of a sentence that begins with the layout's name."""


def _auto_layouts(demand: Demand, machine: Machine) -> list[Layout]:
    """The layouts that `auto` tries, in order."""
    if machine.num_gpus == 0:
        return ["cpu"]
    given = demand.ranks is not None and demand.engines is not None
    return ["separate", "colocated"] if given and machine.num_gpus > 1 else ["colocated"]


def place_on_cpu(demand: Demand, machine: Machine) -> Placement:
    """No GPU, whatever there is: one rank and one engine unless the config says otherwise."""
    ranks = 1 if demand.ranks is None else demand.ranks
    engines = 1 if demand.engines is None else demand.engines
    if engines and not machine.engines_on_cpu:
        raise _DoesNotFit("needs the CPU stack, whose vLLM runs without GPUs: OPENR1_STACK=cpu bash scripts/setup.sh")
    critic, reference = (None,) * ranks * demand.critic, (None,) * demand.reference
    return Placement("cpu", (None,) * ranks, critic, reference, ((),) * engines)


def _place_separate(demand: Demand, machine: Machine) -> Placement:
    """Every actor has GPUs of its own: policy, critic, reference, engines, in this order.

    By default half of the GPUs are for the policy (and its critic), if one engine and one reference fit beside it; of
    the others one half is for the reference, of which there are no more than policy ranks, and the rest for engines.
    """
    num_gpus, models, size = machine.num_gpus, 1 + demand.critic, demand.gpus_per_engine
    least = size * (1 if demand.engines is None else demand.engines)
    ranks = demand.ranks
    if ranks is None:
        half, room = num_gpus // 2, num_gpus - least - demand.reference
        ranks = max(1, min(half // models, room // models, demand.max_ranks))
    rest = num_gpus - models * ranks
    share = rest - least if demand.engines is not None else min(rest // 2, rest - least)
    copies = min(ranks, max(1, share)) * demand.reference
    engines = demand.engines
    if engines is None:
        engines = max(1, min((rest - copies) // size, demand.max_engines))
    sizes = (ranks, ranks * demand.critic, copies, engines * size)
    if sum(sizes) > num_gpus:
        names = ("policy", "critic", "reference", "engines")
        parts = ", ".join(f"{size} {name}" for size, name in zip(sizes, names, strict=True) if size)
        raise _DoesNotFit(f"needs {sum(sizes)} GPUs ({parts})")
    gpus = iter(range(num_gpus))
    policy, critic, reference, rollout = (tuple(next(gpus) for _ in range(count)) for count in sizes)
    return Placement("separate", policy, critic, reference, _cut(rollout, size))


def _place_colocated(demand: Demand, machine: Machine) -> Placement:
    """Every GPU hosts a policy rank, a critic rank, a copy of the reference and (a part of) an engine.

    With fewer of them than GPUs, ranks take the first ones and engines the last ones, so that they share as few as
    possible.
    """
    num_gpus = machine.num_gpus
    ranks = _count(demand.ranks, num_gpus, demand.max_ranks)
    rollout = _count_engines(demand, num_gpus) * demand.gpus_per_engine
    gpus = tuple(range(num_gpus - rollout, num_gpus))
    return Placement("colocated", *_training(tuple(range(ranks)), demand), _cut(gpus, demand.gpus_per_engine))


def _place_half(demand: Demand, machine: Machine) -> Placement:
    """Policy, critic and reference share one half of the GPUs, engines have the other half."""
    if demand.engines == 0:
        raise _DoesNotFit("is for runs with engines")
    num_gpus = machine.num_gpus
    if num_gpus < 2:
        raise _DoesNotFit("needs at least 2 GPUs")
    half = max(num_gpus // 2, demand.gpus_per_engine)
    engines = _count_engines(demand, half)
    rollout = engines * demand.gpus_per_engine
    ranks = _count(demand.ranks, num_gpus - rollout, demand.max_ranks)
    gpus = tuple(range(ranks))
    return Placement(
        "half", *_training(gpus, demand), _cut(tuple(range(ranks, ranks + rollout)), demand.gpus_per_engine)
    )


def _training(gpus: tuple[int, ...], demand: Demand) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """GPUs of policy, critic and reference where all three share them."""
    return gpus, gpus * demand.critic, gpus * demand.reference


def _count(given: int | None, available: int, useful: int) -> int:
    """A number of ranks: as given, else as many as there are GPUs and work for."""
    count = min(available, useful) if given is None else given
    if count > available:
        # NCCL refuses two ranks of one group on one GPU.
        raise _DoesNotFit(f"has {available} GPU(s) for policy ranks, one each, and policy.num_ranks is {count}")
    if count < 1 and given is None:
        raise _DoesNotFit("leaves no GPU for the policy")
    return count


def _count_engines(demand: Demand, available: int) -> int:
    fit = available // demand.gpus_per_engine
    count = min(fit, demand.max_engines) if demand.engines is None else demand.engines
    if count > fit or (count < 1 and demand.engines is None):
        raise _DoesNotFit(
            f"has {available} GPU(s) for engines, and {max(count, 1)} engine(s) with a tensor parallel size of "
            f"{demand.gpus_per_engine} need more"
        )
    return count


def _cut(gpus: tuple[int, ...], size: int) -> tuple[tuple[int, ...], ...]:
    return tuple(gpus[start : start + size] for start in range(0, len(gpus), size))


def _describe_fits(demand: Demand, machine: Machine) -> str:
    """The layouts that fit, each with its actors."""
    fits = []
    for build in LAYOUTS.values():
        try:
            placement = build(demand, machine)
        except _DoesNotFit:
            continue
        fits.append(f"{placement.layout} ({placement.describe()})")
    return "; ".join(fits)


def _on(gpus: tuple[int | None, ...]) -> str:
    numbers = [gpu for gpu in gpus if gpu is not None]
    if not numbers:
        return ""
    first, last = min(numbers), max(numbers)
    return f" on GPU {first}" if first == last else f" on GPUs {first}-{last}"


LAYOUTS: dict[Layout, Callable[[Demand, Machine], Placement]] = {
    "separate": _place_separate,
    "colocated": _place_colocated,
    "half": _place_half,
    "cpu": place_on_cpu,
}
