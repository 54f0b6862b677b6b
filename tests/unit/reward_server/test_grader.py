"""Grading with real worker processes: hangs, deaths and limits cost one item, never another."""

import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import psutil
import pytest
from pebble import ProcessExpired

from reward_server.config import ServerConfig
from reward_server.grader import Grader
from reward_server.grading import Outcome
from reward_server.schema import ScoreItem
from reward_server.scoring import GradingResult
from reward_server.tasks import find_task
from reward_server.tasks.task import Comparison
from reward_server.workers import PoolClosed, WorkerPool, compare_symbolically, exceeded_cpu_limit
from tests.unit.reward_server.comparisons import ALLOCATE, BURN, EXIT, SLEEP, misbehave

MATH = find_task("math")
GIB = 2**30
RIGHT = Comparison(r"\begin{vmatrix} 3 & 1 \\ 1 & 2 \end{vmatrix}", "5")
WRONG = Comparison(r"\begin{vmatrix} 3 & 1 \\ 1 & 2 \end{vmatrix}", "7")
HANG = rf"{BURN} 3!"
"""Looks expensive, because of the factorial, and so goes to the worker of low priority."""


def item(name: str, answer: str, gold: str) -> ScoreItem:
    return ScoreItem(id=name, response=rf"\boxed{{{answer}}}", label=gold)


@pytest.fixture(scope="module")
def grader() -> Iterator[Grader]:
    with Grader(ServerConfig(workers=2, worker_seconds=2.0), equal=misbehave) as one:
        yield one


@pytest.fixture
def workers() -> Iterator[WorkerPool[Outcome]]:
    pool = WorkerPool(1, seconds=1.0, memory_bytes=2 * GIB, function=misbehave)
    yield pool
    pool.close()


def environment_of_worker() -> str:
    """Runs in a worker: what its environment was when it began, and is now."""
    return Path("/proc/self/environ").read_text() + repr(dict(os.environ))


def limits_of_worker() -> tuple[int, int, int]:
    """Runs in a worker: address space, core file size, niceness."""
    import resource

    return resource.getrlimit(resource.RLIMIT_AS)[0], resource.getrlimit(resource.RLIMIT_CORE)[0], os.nice(0)


def test_hang_is_killed_and_the_worker_replaced(workers: WorkerPool) -> None:
    """Catches a hang that lasts, or that costs the pool its only worker for good."""
    assert workers.submit(RIGHT).result(60) is True
    for _ in range(2):
        with pytest.raises(ProcessExpired) as death:
            workers.submit(Comparison(BURN, "7")).result(60)
        assert exceeded_cpu_limit(death.value)
        assert workers.submit(RIGHT).result(60) is True
        assert workers.submit(WRONG).result(60) is False


def test_a_comparison_that_sleeps_is_killed() -> None:
    """Catches a limit on CPU time alone, under which a comparison that waits would hold its worker for ever."""
    pool = WorkerPool(1, seconds=0.2, memory_bytes=2 * GIB, function=misbehave)
    with pytest.raises(TimeoutError):
        pool.submit(Comparison(SLEEP, "7")).result(60)
    assert pool.submit(RIGHT).result(60) is True
    pool.close()


def test_a_comparison_that_allocates_or_exits_fails_alone(grader: Grader) -> None:
    """Catches memory or a death of one item that costs another its verdict, or that becomes a wrong answer."""
    items = [item("a", ALLOCATE, "7"), *hard_items(7), item("b", EXIT, "7")]
    (memory, _), *others, (death, _) = grader.grade(MATH, items)
    assert (memory.verdict, memory.reward) == ("error", None)
    assert (death.verdict, death.reward) == ("error", None)
    assert [score.verdict for score, _ in others] == ["wrong", "correct"] * 20


def test_a_comparison_that_a_broken_pool_lost_fails(workers: WorkerPool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a wait until the deadline for a comparison that was submitted while the last worker died."""
    assert workers.wait(workers.submit(RIGHT), 60) is True
    assert workers._pool is not None
    lost: Future[bool] = (
        Future()
    )  # never done, as in the race: pebble has failed all others, and does not know this one
    monkeypatch.setattr(workers._pool, "schedule", lambda *args, **kwargs: lost)
    assert workers.submit(WRONG) is lost
    with pytest.raises(TimeoutError):
        workers.wait(lost, 2.5)  # the pool still works: the comparison may only be slow
    workers._pool.stop()
    with pytest.raises(BrokenProcessPool):
        workers.wait(lost, 60)
    assert workers.wait(workers.submit(WRONG), 60) is False


def test_worker_knows_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a key in the environment of a process that parses what a model wrote, at any time after it started."""
    monkeypatch.setenv("WANDB_API_KEY", "hunter2-in-the-open")
    monkeypatch.setenv("OPENR1_REWARD_TOKEN", "hunter2-in-the-open")
    pool = WorkerPool(1, seconds=5.0, memory_bytes=2 * GIB, function=compare_symbolically)
    assert pool.submit(RIGHT).result(60) is True
    assert pool._pool is not None
    seen = pool._pool.schedule(environment_of_worker).result(60)
    pool.close()
    assert "PATH" in seen
    assert "hunter2" not in seen
    assert os.environ["WANDB_API_KEY"] == "hunter2-in-the-open"


def test_worker_is_limited() -> None:
    """Catches a worker that may take all memory, leave core files, or run before everything else."""
    pool = WorkerPool(1, seconds=5.0, memory_bytes=3 * GIB, function=compare_symbolically, niceness=7)
    assert pool.submit(RIGHT).result(60) is True
    assert pool._pool is not None
    address_space, core, niceness = pool._pool.schedule(limits_of_worker).result(60)
    pool.close()
    assert (address_space, core, niceness - os.nice(0)) == (3 * GIB, 0, 7)


def test_killed_worker_changes_nothing(grader: Grader) -> None:
    """Catches a worker killed from outside that fails its item, or takes others with it; fault row 21."""
    expected = [score for score, _ in grader.grade(MATH, hard_items(0))]
    stop = threading.Event()

    def kill_now_and_then() -> None:
        while not stop.wait(0.05):
            kill_one_worker()

    killer = threading.Thread(target=kill_now_and_then)
    with Grader(ServerConfig(workers=2, worker_seconds=10.0)) as attacked:
        assert attacked.self_test() is None
        assert kill_one_worker()
        killer.start()
        try:
            # A killed comparison is asked once more; killed twice it fails, and is never graded wrong.
            scores = [score for score, _ in attacked.grade(MATH, hard_items(0))]
        finally:
            stop.set()
            killer.join()
        again = [score for score, _ in attacked.grade(MATH, hard_items(0))]
    for score, right in zip(scores, expected, strict=True):
        # On a busy machine the repetition may come too late: then the response is not graded, never graded wrongly.
        assert score.verdict in (right.verdict, "error", "timeout")
    assert again == expected


def kill_one_worker() -> bool:
    """SIGKILL for one of this process's workers, which are the children of its fork server; False if there is none."""
    for server in psutil.Process().children():
        if "forkserver" in " ".join(server.cmdline()):
            for worker in server.children():
                os.kill(worker.pid, signal.SIGKILL)
                return True
    return False


def hard_items(seed: int) -> list[ScoreItem]:
    """Forty items that need a parser, half of them right."""
    rng = random.Random(seed)
    items = []
    for number in range(40):
        a, b = rng.randint(2, 99), rng.randint(2, 99)
        gold = a * b - 1 if number % 2 else a * b + 1
        items.append(item(str(number), rf"\begin{{vmatrix}} {a} & 1 \\ 1 & {b} \end{{vmatrix}}", str(gold)))
    return items


def test_hang_delays_no_other_item(grader: Grader) -> None:
    """Catches one item's hang that holds up the batch's other items, or other batches."""
    grader.grade(MATH, hard_items(1))  # the workers have started
    with_hang = [item("hang", HANG, "7"), *hard_items(2)]
    with ThreadPoolExecutor(1) as thread:
        slow = thread.submit(grader.grade, MATH, with_hang)
        quick = grader.grade(MATH, hard_items(3))
        assert not slow.done()
        (hang, hang_seconds), *others = slow.result(60)
    assert [score.verdict for score, _ in quick] == ["wrong", "correct"] * 20
    assert hang.verdict == "timeout"
    assert (hang.reward, hang.score) == (None, None)
    assert [score.verdict for score, _ in others] == ["wrong", "correct"] * 20
    assert max(seconds for _, seconds in others) < hang_seconds


def test_deadline_bounds_a_batch(grader: Grader) -> None:
    """Catches a batch that runs past its deadline, and items that become wrong answers because of it."""
    grader.grade(MATH, hard_items(1))
    start = time.monotonic()
    graded = grader.grade(MATH, [item(str(n), rf"{HANG}+{n}", "7") for n in range(20)], seconds=1.0)
    assert time.monotonic() - start < 30
    assert {score.verdict for score, _ in graded} == {"timeout"}


def test_grading_does_not_depend_on_load(grader: Grader) -> None:
    """Catches answers that change with order, repetition or what else is being graded."""
    items = [*hard_items(4), *(item(f"n{n}", str(n), str(n // 2 * 2)) for n in range(20))]
    alone = {one.id: score for one, (score, _) in zip(items, grader.grade(MATH, items), strict=True)}

    def shuffled(seed: int) -> dict[str, GradingResult]:
        order = random.Random(seed).sample(items, len(items))
        return {one.id: score for one, (score, _) in zip(order, fresh.grade(MATH, order), strict=True)}

    with Grader(ServerConfig(workers=2, worker_seconds=30.0)) as fresh, ThreadPoolExecutor(8) as threads:
        for result in threads.map(shuffled, range(8)):
            assert result == alone


def test_unreadable_gold_is_no_wrong_answer(grader: Grader) -> None:
    """Catches a gold that the parser cannot read and that makes every answer wrong."""
    for gold in ("$$", "}", r"\boxed{", "  ", "proof", "x = ", "(1,2", r"4 \heartsuit"):
        ((score, _),) = grader.grade(MATH, [item("a", "4", gold)])
        assert (score.verdict, score.reward, score.score) == ("gold_unparseable", None, None)
        assert score.error is not None


def test_self_test_notices_dead_workers(grader: Grader) -> None:
    """Catches a server that says it is ready while its workers answer nothing."""
    assert grader.self_test() is None
    with Grader(ServerConfig(workers=1, worker_memory_bytes=2**20)) as starved:
        fault = starved.self_test()
    assert fault is not None
    assert fault.startswith("self-test: ")


def test_script_without_main_guard_is_not_run_again(tmp_path: Path) -> None:
    """Catches workers that begin by running the caller's script, which for a training script means training again."""
    import subprocess
    import sys

    script = tmp_path / "train.py"
    script.write_text(
        "print('training starts', flush=True)\n"
        "from reward_server.workers import WorkerPool, compare_symbolically\n"
        "from reward_server.tasks.task import Comparison\n"
        "workers = WorkerPool(2, 20.0, 2 * 2**30, compare_symbolically)\n"
        "print(workers.submit(Comparison('x+1', '1+x')).result(60))\n"
        "workers.close()\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout == "training starts\nTrue\n", done.stderr


@pytest.mark.parametrize(
    ("answer", "gold", "same"),
    [
        (r"15\text{ cm}^2", "15", True),
        (r"36^\circ", "36", True),
        ("10 weeks", "10", False),
        (r"10\%", "10", True),
        ("0.1", r"10\%", True),
        ("10", r"10\%", True),
        ("0.1", "10", False),
        (r"\$5", "5", True),
        ("1,2", "2,1", True),
        ("(1,2)", "(2,1)", False),
        ("(4/3,-1/3)", "(-1/3,4/3)", False),
        (r"\{1,3\}", "(1,3)", True),
        (r"\{3,1\}", "(1,3)", False),
        (r"\{7\}", "7", True),
        ("[1,2)", "(1,2)", False),
        ("[-2,7]", r"-2 \le x \le 7", True),
        ("x = 4", "4", True),
        ("3 = 7", "7", False),
        ("x = 2 = 4", "4", False),
        ("1 + 3 = 4", "4", True),
        ("2/4", "1/2", True),
        ("0.333333", "1/3", True),
        ("0.33333", "1/3", False),
        ("1/5120", "1/28800", False),
        (r"\frac{1}{2004!}", r"\frac{1}{2006!}", False),
        (r"\frac{1}{2^{98}}", r"\frac{1}{2^{99}}", False),
        ("1:2:3", "1:2:3", True),
        ("1:4:9", "1:2:3", False),
        (r"1,3,5,\ldots", r"1,2,3,\ldots", False),
        (r"7 \text{ or } 3", "7", False),
        ("x = 7, x = 3", "7", False),
        (r"5 \pm 2", "7", False),
        (r"\infty", r"-\infty", False),
        ("C", "C", True),
        ("C", "D", False),
        ("2\\pi", "2", False),
        (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", "2", False),
        ("50", "0.5", False),
        ("(x^2+y^2)^2", "x^4+2x^2y^2+y^4", True),
        ("(2^3)^2", "64", True),
        (r"\frac{10!}{(5!)^2}", "252", True),
        (", ".join(map(str, range(1, 50))), ",".join(map(str, range(1, 50))), True),
        ("12", "1,2", False),
        ("10000", "10001", False),
        (r"7 \lor 8", "8", False),
        (r"7 \mid 8", "8", False),
        (r"7 \\ 8", "8", False),
        (r"7 \to 8", "8", False),
        (r"7 \cup 8", "8", False),
        ("7 | 8", "8", False),
        ("eight, 8", "8", True),
        (r"\sum_{k=1}^{n} k", r"\frac{n(n+1)}{2}", True),
        (r"\sum_{k=1}^{r} R_k", r"\sum_{k=1}^{R} r_k", False),
        (r"\int_0^1 2x dx", "1", True),
        (r"2 \pmod 3", "2", False),
        (r"4 \heartsuit", "4", False),
        (r"\le 3", "3", False),
        ("3!!", "720", False),
        (r"70\,000", "0", False),
        ("45'", r"45^\circ", False),
        ("2 3", "6", False),
    ],
)
def test_policy(answer: str, gold: str, same: bool, grader: Grader) -> None:
    """Catches a grader that does not do what docs/grading.md says, and known false verdicts of other graders."""
    ((score, _),) = grader.grade(MATH, [item("a", answer, gold)])
    assert score.verdict == ("correct" if same else "wrong")


def test_closing_ends_what_waits() -> None:
    """Catches an end that waits for ever for the pool's threads, or for comparisons that nobody will answer."""
    pool = WorkerPool(2, seconds=3.0, memory_bytes=2 * GIB, function=compare_symbolically)
    answers = [rf"\begin{{vmatrix}} {n} & 1 \\ 1 & 2 \end{{vmatrix}}" for n in range(2000)]
    futures = [pool.submit(Comparison(answer, r"\sqrt{5}")) for answer in answers]
    assert futures[0].result(60) is False
    closing = threading.Thread(target=pool.close)
    closing.start()
    closing.join(60)
    assert not closing.is_alive()
    assert all(future.done() for future in futures)
    with pytest.raises(PoolClosed):
        pool.submit(RIGHT)


def test_answers_in_time_are_kept_when_another_is_late(grader: Grader) -> None:
    """Catches a deadline that takes back what was answered before it."""
    items = [item("hang", HANG, "7"), *hard_items(5)]
    with Grader(ServerConfig(workers=2, worker_seconds=30.0), equal=misbehave) as patient:
        patient.grade(MATH, hard_items(1))
        scores = [score for score, _ in patient.grade(MATH, items, seconds=10.0)]
    assert scores[0].verdict == "timeout"
    assert [score.verdict for score in scores[1:]] == ["wrong", "correct"] * 20


def test_one_slow_comparison_makes_no_other_too_late(grader: Grader) -> None:
    """Catches a pool that takes the age of one comparison for the pace of all."""
    with Grader(ServerConfig(workers=1, worker_seconds=5.0), equal=misbehave) as one, ThreadPoolExecutor(1) as thread:
        assert one.self_test() is None
        slow = thread.submit(one.grade, MATH, [item("slow", BURN, "x")])
        time.sleep(1.0)
        graded = one.grade(MATH, hard_items(6))
        slow.result(120)
    assert [score.verdict for score, _ in graded] == ["wrong", "correct"] * 20


def test_dead_idle_workers_are_replaced_and_not_piled_up() -> None:
    """Catches a pool that fails its next comparisons after its idle workers died, or leaves the old ones behind."""

    def count_workers() -> int:
        servers = [one for one in psutil.Process().children() if "forkserver" in " ".join(one.cmdline())]
        return sum(len(server.children()) for server in servers)

    with Grader(ServerConfig(workers=2)) as one:
        assert one.self_test() is None
        before = count_workers()
        for seed in range(3):
            assert kill_one_worker()
            assert [score.verdict for score, _ in one.grade(MATH, hard_items(10 + seed))] == ["wrong", "correct"] * 20
        assert count_workers() <= before + 1
