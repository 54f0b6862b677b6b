"""What works on this machine's GPUs, row by row: `bash scripts/gpu_check.sh`. Nothing is downloaded.

    python -m benchmarks.gpu_check [--only machine,head] [--output FILE]

Every row is a process of its own with a deadline, so that a crash or a hang ends one row. A row is ok, failed (with the
last line of its error) or not run (with what is missing). The results go to benchmarks/results/gpu/. Exit code 1 if a
row failed.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu_rows import ROWS, NotRun
from benchmarks.machine import ROOT, write_result

RESULTS = ROOT / "benchmarks/results/gpu"
END_SECONDS = 20
"""How long a row that is late may take to end its run."""


def run_row(name: str) -> dict[str, Any]:
    """Run a row in a process of its own; its status, seconds, and what it measured or why it did not."""
    start = time.monotonic()
    command = [sys.executable, "-m", "benchmarks.gpu_check", "--row", name]
    result = run_command(command, ROWS[name].seconds)
    return {"seconds": round(time.monotonic() - start, 1), **result}


def run_command(command: list[str], limit: int) -> dict[str, Any]:
    """The object on the last line that a command prints, or why there is none; its children end with it."""
    # A session of its own, so that a run which the row has started can be ended with it.
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        try:
            stdout, stderr = process.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                process.communicate(timeout=END_SECONDS)
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            return {"status": "failed", "error": f"not done in {limit} s"}
    lines = stdout.strip().splitlines()
    if process.returncode != 0 or not lines:
        error = (stderr.strip().splitlines() or [f"exit code {process.returncode}"])[-1]
        return {"status": "failed", "error": error}
    answer: dict[str, Any] = json.loads(lines[-1])
    return answer


def print_row(name: str) -> None:
    """The work of a row's process: one JSON object on the last line."""
    try:
        print(json.dumps({"status": "ok", "found": ROWS[name].run()}))
    except NotRun as reason:
        print(json.dumps({"status": "not run", "reason": str(reason)}))


def describe(row: dict[str, Any]) -> str:
    """A row's result in one line."""
    found = row.get("found", {})
    shown = ", ".join(f"{key} {value}" for key, value in found.items())
    return row.get("error") or row.get("reason") or shown


def main(argv: list[str] | None = None) -> int:
    """Run the rows; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_check", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--only", help=f"rows, separated by commas: {', '.join(ROWS)}")
    parser.add_argument("--row", choices=ROWS, help="run only this row, in this process, and print its result")
    parser.add_argument("--output", type=Path, help="result file (default: benchmarks/results/gpu/GPU-TIME.json)")
    args = parser.parse_args(argv)
    if args.row:
        print_row(args.row)
        return 0
    names = list(ROWS) if args.only is None else args.only.split(",")
    unknown = [name for name in names if name not in ROWS]
    if unknown:
        parser.error(f"--only {unknown[0]}: no such row; there are {', '.join(ROWS)}")
    results: dict[str, dict[str, Any]] = {}
    for name in names:
        results[name] = run_row(name)
        shown = f"{name:10} {results[name]['status']:8} {results[name]['seconds']:6.1f} s  {describe(results[name])}"
        print(shown, flush=True)
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no_gpu"
    name = "".join(letter if letter.isalnum() else "_" for letter in gpu.lower())
    output = args.output or RESULTS / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}.json"
    output.parent.mkdir(parents=True, exist_ok=True)
    write_result(output, {"rows": results})
    return int(any(row["status"] == "failed" for row in results.values()))


if __name__ == "__main__":
    raise SystemExit(main())
