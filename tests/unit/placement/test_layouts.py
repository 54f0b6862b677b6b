"""Layouts: placements by hand, properties of all of them, and refusals that name a way out."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openr1.actors.rl import train_demand
from openr1.config.load import load_config
from openr1.config.train import TrainConfig
from openr1.errors import ConfigError
from openr1.placement.layouts import LAYOUTS, Demand, Machine, Placement, place, place_on_cpu
from tests.running import ROOT

GRPO = Demand(ranks=None, engines=None, reference=True)


def machine(num_gpus: int) -> Machine:
    """A machine with so many GPUs and a vLLM that runs on the CPU, too, so that every layout can be tried."""
    return Machine(num_gpus, description=f"there are {num_gpus}")


def gpus_of(placement: Placement) -> dict[str, Any]:
    """A placement's GPUs by role."""
    engines = [list(engine) for engine in placement.engines]
    roles = (list(placement.policy), list(placement.critic), list(placement.reference), engines)
    return dict(zip(("policy", "critic", "reference", "engines"), roles, strict=True))


@pytest.mark.parametrize(
    ("layout", "num_gpus", "demand", "expected"),
    [
        # As published for 4 GPUs: two ranks, the reference, one engine.
        ("separate", 4, GRPO, ([0, 1], [], [2], [[3]])),
        ("separate", 8, GRPO, ([0, 1, 2, 3], [], [4, 5], [[6], [7]])),
        ("separate", 3, GRPO, ([0], [], [1], [[2]])),
        ("separate", 4, replace(GRPO, critic=True), ([0], [1], [2], [[3]])),
        ("separate", 2, replace(GRPO, reference=False), ([0], [], [], [[1]])),
        ("separate", 8, replace(GRPO, ranks=4, engines=1, gpus_per_engine=2), ([0, 1, 2, 3], [], [4, 5], [[6, 7]])),
        # Half of the GPUs would leave too few for an engine.
        ("separate", 4, replace(GRPO, gpus_per_engine=2), ([0], [], [1], [[2, 3]])),
        ("separate", 8, replace(GRPO, gpus_per_engine=4), ([0, 1, 2], [], [3], [[4, 5, 6, 7]])),
        ("separate", 4, replace(GRPO, reference=False, engines=3), ([0], [], [], [[1], [2], [3]])),
        ("colocated", 1, GRPO, ([0], [], [0], [[0]])),
        ("colocated", 2, replace(GRPO, critic=True), ([0, 1], [0, 1], [0, 1], [[0], [1]])),
        ("colocated", 4, replace(GRPO, gpus_per_engine=2), ([0, 1, 2, 3], [], [0, 1, 2, 3], [[0, 1], [2, 3]])),
        # What is fewer than there are GPUs shares as few as possible.
        ("colocated", 4, replace(GRPO, ranks=2, engines=1), ([0, 1], [], [0, 1], [[3]])),
        # No more ranks than rows, no more engines than prompts.
        ("colocated", 8, replace(GRPO, max_ranks=4, max_engines=2), ([0, 1, 2, 3], [], [0, 1, 2, 3], [[6], [7]])),
        ("half", 4, GRPO, ([0, 1], [], [0, 1], [[2], [3]])),
        ("half", 3, GRPO, ([0, 1], [], [0, 1], [[2]])),
        ("half", 4, replace(GRPO, gpus_per_engine=2, critic=True), ([0, 1], [0, 1], [0, 1], [[2, 3]])),
        # An evaluation and SFT: only engines, only ranks.
        ("auto", 4, Demand(ranks=0, engines=None), ([], [], [], [[0], [1], [2], [3]])),
        ("auto", 4, Demand(ranks=None, engines=0), ([0, 1, 2, 3], [], [], [])),
        ("auto", 4, replace(GRPO, ranks=2, engines=1), ([0, 1], [], [2], [[3]])),
        ("auto", 2, replace(GRPO, ranks=2, engines=1), ([0, 1], [], [0, 1], [[1]])),
        ("auto", 0, GRPO, ([None], [], [None], [[]])),
        ("cpu", 8, replace(GRPO, ranks=2, engines=2), ([None, None], [], [None], [[], []])),
    ],
)
def test_placements_by_hand(layout: Any, num_gpus: int, demand: Demand, expected: tuple[Any, ...]) -> None:
    """Catches roles on the wrong GPUs, GPUs left idle by default, and a number of the config that is not kept."""
    placement = place(layout, demand, machine(num_gpus))
    assert tuple(gpus_of(placement).values()) == expected
    assert placement.on_gpu == (placement.layout != "cpu")


DEMANDS = st.builds(
    Demand,
    ranks=st.none() | st.integers(1, 9),
    engines=st.none() | st.integers(0, 9),
    gpus_per_engine=st.integers(1, 4),
    critic=st.booleans(),
    reference=st.booleans(),
    max_ranks=st.integers(1, 9),
    max_engines=st.integers(1, 9),
)


@given(layout=st.sampled_from(["auto", "separate", "colocated", "half"]), num_gpus=st.integers(0, 16), demand=DEMANDS)
def test_what_holds_for_every_placement(layout: Any, num_gpus: int, demand: Demand) -> None:
    """Catches a GPU that does not exist, two ranks or two engines on one GPU (NCCL and vLLM refuse both), a number of
    the config that is changed, and a refusal that is not a `ConfigError`."""
    try:
        placement = place(layout, demand, machine(num_gpus))
    except ConfigError:
        return
    if not placement.on_gpu:
        return
    roles = [placement.policy, placement.critic, placement.reference, [g for e in placement.engines for g in e]]
    for gpus in roles:
        assert set(gpus) <= set(range(num_gpus))
        assert max(Counter(gpus).values(), default=1) == 1
    assert demand.ranks in (None, len(placement.policy))
    assert demand.engines in (None, len(placement.engines))
    assert {len(engine) for engine in placement.engines} <= {demand.gpus_per_engine}
    assert len(placement.critic) == len(placement.policy) * demand.critic
    assert bool(placement.reference) == demand.reference
    assert placement.num_gpus <= num_gpus
    sharing = max(placement.actors_per_gpu.values())
    if placement.layout == "separate":
        assert sharing == 1
    if placement.layout == "half":
        assert not set(placement.policy) & {gpu for engine in placement.engines for gpu in engine}


@given(num_gpus=st.integers(1, 12), demand=DEMANDS)
def test_separate_refuses_only_what_cannot_fit(num_gpus: int, demand: Demand) -> None:
    """Catches a default of one role that leaves too few GPUs for the others, where other numbers would fit: all
    combinations are tried.
    """
    ranks = [demand.ranks] if demand.ranks is not None else range(1, demand.max_ranks + 1)
    engines = [demand.engines] if demand.engines is not None else range(1, demand.max_engines + 1)
    needed = [
        (1 + demand.critic) * rank + demand.reference + count * demand.gpus_per_engine
        for rank in ranks
        for count in engines
    ]
    try:
        place("separate", demand, machine(num_gpus))
    except ConfigError:
        assert min(needed) > num_gpus
    else:
        assert min(needed) <= num_gpus


@pytest.mark.parametrize(("layout", "num_gpus"), [("cpu", 4), ("auto", 0)])
def test_a_build_of_vllm_for_gpus_has_no_engines_on_the_cpu(layout: Any, num_gpus: int) -> None:
    """Catches a run on the CPU whose engines find a GPU that they were not given, or none at all, after the start."""
    gpu_stack = Machine(num_gpus, engines_on_cpu=False, description="this machine")
    with pytest.raises(ConfigError, match=r"layout cpu needs the CPU stack, .*OPENR1_STACK=cpu") as caught:
        place(layout, GRPO, gpu_stack)
    assert "cpu (" not in str(caught.value)
    assert place(layout, replace(GRPO, engines=0), gpu_stack).layout == "cpu"


@given(num_gpus=st.integers(1, 16), critic=st.booleans(), reference=st.booleans())
def test_the_default_fits_every_machine(num_gpus: int, critic: bool, reference: bool) -> None:
    """Catches a machine with few GPUs, or an odd number, on which nothing starts."""
    placement = place("auto", Demand(None, None, critic=critic, reference=reference), machine(num_gpus))
    assert placement.actors_per_gpu.keys() == set(range(num_gpus))


@pytest.mark.parametrize(
    ("layout", "num_gpus", "demand", "needs"),
    [
        ("separate", 2, GRPO, r"needs 3 GPUs \(1 policy, 1 reference, 1 engines\)"),
        ("separate", 3, replace(GRPO, ranks=2, critic=True), r"needs 6 GPUs \(2 policy, 2 critic, 1 ref.*, 1 eng"),
        (
            "colocated",
            2,
            replace(GRPO, ranks=4),
            r"has 2 GPU\(s\) for policy ranks, .* policy.num_ranks is 4",
        ),
        (
            "colocated",
            1,
            replace(GRPO, gpus_per_engine=2),
            r"has 1 GPU\(s\) for engines, and 1 .* size of 2",
        ),
        ("colocated", 0, GRPO, "leaves no GPU for the policy"),
        ("half", 1, GRPO, "needs at least 2 GPUs"),
        ("half", 4, replace(GRPO, engines=0), "is for runs with engines"),
        ("half", 2, replace(GRPO, gpus_per_engine=2), "leaves no GPU for the policy"),
    ],
)
def test_refusals_say_what_fits(layout: Any, num_gpus: int, demand: Demand, needs: str) -> None:
    """Catches a refusal that does not say what is needed, what exists, or what to do instead."""
    with pytest.raises(ConfigError, match=rf"^layout {layout} {needs}.*; there are {num_gpus}") as caught:
        place(layout, demand, machine(num_gpus))
    fits = str(caught.value).split("Layouts that fit: ")[1]
    for name, build in LAYOUTS.items():
        try:
            described = build(demand, machine(num_gpus)).describe()
        except Exception:  # noqa: BLE001 (whatever the reason: it does not fit)
            assert f"{name} (" not in fits
        else:
            assert f"{name} ({described})" in fits


def test_sleep_needs_shared_gpus() -> None:
    """Catches engines that have GPUs of their own, and would throw away weights and cache for nothing."""
    sleeping = replace(GRPO, ranks=2, engines=1, sleep=True)
    assert place("auto", sleeping, machine(2)).layout == "colocated"
    assert place("auto", sleeping, machine(0)).layout == "cpu"
    refusal = r"sleep is for layout colocated, and layout auto is separate here \(2 policy.*: set placement.layout c"
    with pytest.raises(ConfigError, match=refusal):
        place("auto", sleeping, machine(4))
    assert place("auto", replace(sleeping, sleep=False), machine(4)).layout == "separate"


def test_descriptions() -> None:
    """Catches GPUs that are counted wrongly in what the user reads."""
    assert place("separate", GRPO, machine(4)).describe() == (
        "2 policy rank(s) on GPUs 0-1, 1 reference(s) on GPU 2, 1 engine(s) on GPU 3"
    )
    assert place_on_cpu(GRPO, machine(0)).describe() == "1 policy rank(s), 1 reference(s), 1 engine(s)"


CONFIGS = sorted(path for path in (ROOT / "scripts/configs").glob("grpo_*.yaml"))


@pytest.mark.parametrize("num_gpus", [1, 2, 4])
@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_shipped_config_is_placed_or_refused_with_a_way_out(path: Path, num_gpus: int) -> None:
    """Catches a recipe that starts on no machine of its users: only explicit ranks on too few GPUs are refused."""
    config = load_config(TrainConfig, path, [])
    demand = train_demand(config)
    if demand.ranks is not None and demand.ranks > num_gpus:
        with pytest.raises(ConfigError, match=r"Layouts that fit: .*cpu \("):
            place(config.placement.layout, demand, machine(num_gpus))
    else:
        placement = place(config.placement.layout, demand, machine(num_gpus))
        assert placement.policy
        assert placement.engines
