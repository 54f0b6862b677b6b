"""Weight pushes: each transfer that runs without a GPU, and a file written by `safetensors.torch.save_file`.

    python -m benchmarks.weight_push [--rounds 5] [--output benchmarks/results/weight_push.json]

Random weights of a model with 135 million parameters in bfloat16, as a provider yields them: each a copy of its own, as
under LoRA or ZeRO 3. Sender and receiver are a process each, with the two ends of the transfer as policy rank 0 and an
engine have them; the receiver's model copies each tensor into place, which vLLM's layers do with more work. `save_file`
is shm with the library's writer, which takes all tensors at once. Every measurement has two new processes and two
pushes. The first gives the peaks: resident sets above those before it; the receiver's contains the file that it maps,
the sender's does not contain the file that it writes. After it the receiver must hold what was sent. The second is
timed; it would show a peak that depends on how much of the first one's memory the allocator happened to keep.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from safetensors.torch import save_file

from benchmarks.machine import ROOT, spread, write_result
from openr1.runtime.ray_cluster import SHARED_MEMORY

LAYERS, HIDDEN, INTERMEDIATE, VOCAB = 30, 576, 1536, 49_152
WAYS = ("save_file", "shm", "gloo")
LOOPBACK = "127.0.0.1"
TIMEOUT_SECONDS = 60.0


def make_weights() -> dict[str, torch.Tensor]:
    """The shape of SmolLM2-135M, with random values."""
    shapes = {"embed": (VOCAB, HIDDEN)}
    for layer in range(LAYERS):
        shapes |= {f"{layer}.{name}": (HIDDEN, HIDDEN) for name in ("q", "o")}
        shapes |= {f"{layer}.{name}": (HIDDEN // 3, HIDDEN) for name in ("k", "v")}
        shapes |= {f"{layer}.{name}": (INTERMEDIATE, HIDDEN) for name in ("gate", "up", "down")}
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(shape, generator=generator).bfloat16() for name, shape in shapes.items()}


def sum_of(weights: dict[str, torch.Tensor]) -> int:
    """A number that changes with any bit."""
    return sum(int(weight.view(torch.int16).long().sum()) for weight in weights.values())


class Model:
    """Takes weights as vLLM's models do, and copies each into place."""

    def __init__(self) -> None:
        self.weights = {name: torch.zeros_like(weight) for name, weight in make_weights().items()}

    def load_weights(self, pairs: Iterator[tuple[str, torch.Tensor]]) -> None:
        """Copy tensors."""
        for name, tensor in pairs:
            self.weights[name].copy_(tensor)


def receive(way: str, pipe: Connection) -> None:
    """The receiving process: answers calls until the pipe is closed."""
    from openr1.weight_sync import gloo, shm

    torch.set_num_threads(1)
    gloo.register()
    model = Model()
    config = SimpleNamespace(parallel_config=SimpleNamespace(rank=0), model_config=None)
    kind = gloo.GlooWeightTransferEngine if way == "gloo" else shm.ShmWeightTransferEngine
    end = kind(None, config, torch.device("cpu"), model)
    methods = {
        "init": lambda info: end.init_transfer_engine(end.parse_init_info(info)),
        "update": end.update_weights,
        "sum": lambda _: sum_of(model.weights),
        "reset": lambda _: reset_peak(),
        "peak": lambda _: status("VmHWM:"),
    }
    pipe.send("ready")
    while True:
        try:
            method, argument = pipe.recv()
        except EOFError:
            return
        pipe.send(methods[method](argument))


class Client:
    """vLLM's four methods over a pipe."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe

    def call(self, method: str, argument: object = None) -> Any:
        """Call and wait."""
        self._pipe.send((method, argument))
        return self._pipe.recv()

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        """Set up the receiving end."""
        self.call("init", init_info)

    def start_weight_update(self) -> None:
        """Nothing steps here."""

    def update_weights(self, update_info: dict[str, Any]) -> None:
        """Load the weights."""
        self.call("update", update_info)

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        """Every weight is in place already."""


def measure(way: str) -> dict[str, float]:
    """Peaks of a first push, seconds of a second one, and their bytes."""
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    own, other = get_context("spawn").Pipe()
    receiver = get_context("spawn").Process(target=receive, args=(way, other), daemon=True)
    receiver.start()
    other.close()
    weights = make_weights()
    assert own.recv() == "ready"
    client = Client(own)
    with tempfile.TemporaryDirectory(dir=SHARED_MEMORY) as folder:
        push = connect(way, client, weights, folder)
        before_receiver, before = client.call("reset"), reset_peak()
        push()
        peaks = {"peak": status("VmHWM:") - before, "receiver_peak": client.call("peak") - before_receiver}
        assert client.call("sum") == sum_of(weights)
        start = time.monotonic()
        push()
        seconds = time.monotonic() - start
    own.close()
    receiver.join()
    return {"seconds": seconds, "bytes": sum(weight.nbytes for weight in weights.values()), **peaks}


class Provider:
    """See `interfaces.WeightProvider`."""

    def __init__(self, weights: dict[str, torch.Tensor]) -> None:
        self._weights = weights

    def weights(self) -> Iterator[tuple[str, torch.Tensor]]:
        """A copy of each weight."""
        return ((name, weight.clone()) for name, weight in self._weights.items())

    def weight_shapes(self) -> list[tuple[str, torch.dtype, tuple[int, ...]]]:
        """Names, types and shapes."""
        return [(name, one.dtype, tuple(one.shape)) for name, one in self._weights.items()]


def connect(way: str, client: Client, weights: dict[str, torch.Tensor], folder: str) -> Callable[[], None]:
    """Connect to the receiver; returns a function that pushes."""
    from openr1.weight_sync import gloo, shm
    from openr1.weight_sync.sender import ProviderSource

    gloo.register()
    source = ProviderSource(Provider(weights))
    if way == "gloo":
        info = gloo.GlooTrainerInitInfo(master_address=LOOPBACK, world_size=2, timeout_seconds=TIMEOUT_SECONDS, rank=0)
        send = gloo.GlooTrainerEngine.trainer_init(info, client=client, source=source).send_weights
    else:
        own = shm.ShmTrainerInitInfo(rank=0, folder=folder)
        send = shm.ShmTrainerEngine.trainer_init(own, client=client, source=source).send_weights

    def push_saved() -> None:
        path = Path(folder) / "push.safetensors"
        save_file(dict(source), path)
        client.update_weights({"path": str(path)})
        path.unlink()

    def push() -> None:
        source.begin()
        (push_saved if way == "save_file" else send)()

    return push


def reset_peak() -> int:
    """Start a new peak of this process; answers the resident bytes that it starts from."""
    Path("/proc/self/clear_refs").write_text("5")
    return status("VmRSS:")


def status(key: str) -> int:
    """Bytes of an entry of /proc/self/status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))


def main() -> None:
    """Measure in rounds and write the result."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.weight_push", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--rounds", type=int, default=5, help="how often each way is measured, in turn")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks/results/weight_push.json", metavar="FILE")
    args = parser.parse_args()
    if args.way:
        print(json.dumps(measure(args.way)))
        return
    found: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    for _ in range(args.rounds):
        for way in WAYS:
            words = [sys.executable, "-m", "benchmarks.weight_push", "--way", way]
            done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True)
            found[way].append(json.loads(done.stdout.splitlines()[-1]))
    result: dict[str, Any] = {"bytes": found["shm"][0]["bytes"], "rounds": args.rounds}
    for way, runs in found.items():
        result[way] = {name: spread([run[name] for run in runs]) for name in ("seconds", "peak", "receiver_peak")}
        result[way]["gb_per_second"] = spread([run["bytes"] / run["seconds"] / 1e9 for run in runs])
        pairs = list(zip(found["save_file"], runs, strict=True))
        result[way]["speedup"] = spread([old["seconds"] / new["seconds"] for old, new in pairs])
        result[way]["peak_ratio"] = spread([new["peak"] / old["peak"] for old, new in pairs])
    write_result(args.output, result)


if __name__ == "__main__":
    main()
