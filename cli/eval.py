"""`eval`: accuracy of a model on benchmarks."""

import argparse
from pathlib import Path

from cli.options import json_object, positive


def run(argv: list[str]) -> int:
    """Parse the flags and evaluate; returns the exit code: 0, or 1 if --check finds a label that fails."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    if arguments.model is None and not arguments.check:
        parser.error("give --model, or --check")

    from eval.benchmarks import load_benchmark

    benchmarks = [load_benchmark(spec, arguments.data) for spec in arguments.benchmarks.split(",")]
    if arguments.check:
        from eval.evaluate import check_labels

        return 1 if check_labels(benchmarks) else 0

    from eval.evaluate import EvalSettings, Machine, evaluate
    from openr1.data.hub import local_model
    from openr1.runtime.interrupts import INTERRUPTS

    temperature = arguments.temperature
    if temperature is None:
        temperature = 0.0 if arguments.n == 1 else 0.7
    settings = EvalSettings(
        model=str(local_model(arguments.model)),
        n_samples_per_prompt=arguments.n,
        temperature=temperature,
        top_p=arguments.top_p,
        generate_max_len=arguments.max_tokens,
        seed=arguments.seed,
        dtype=arguments.dtype,
        chat_template=arguments.chat_template,
        chat_template_kwargs=arguments.chat_template_kwargs,
    )
    machine = Machine(
        num_engines=arguments.num_engines,
        tensor_parallel_size=arguments.tensor_parallel_size,
        max_num_seqs=arguments.max_num_seqs,
        kv_cache_gib=arguments.kv_cache_gib,
        threads=arguments.threads,
        timeout_seconds=arguments.timeout_seconds,
    )
    with INTERRUPTS.installed():
        evaluate(benchmarks, settings, machine, arguments.output or Path("runs/eval") / arguments.model.resolve().name)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m cli eval",
        description="Sample a model on benchmarks with vLLM and grade the responses as in training. Started again with "
        "the same flags, a stopped evaluation resumes.",
    )
    parser.add_argument(
        "--model", type=Path, help="folder in Hugging Face format, or the name of a downloaded model, OWNER/NAME"
    )
    parser.add_argument(
        "--benchmarks",
        required=True,
        help="comma-separated: gsm8k, math500, amc23, olympiadbench, or .jsonl files (schema: data/README.md)",
    )
    parser.add_argument(
        "--data", type=Path, default=Path("data/benchmarks"), help="folder of named benchmarks (default: %(default)s)"
    )
    parser.add_argument("--n", type=positive, default=1, help="samples per problem (default: %(default)s)")
    parser.add_argument("--temperature", type=float, help="default: 0 if --n is 1, else 0.7")
    parser.add_argument("--top-p", type=float, default=1.0, help="default: %(default)s")
    parser.add_argument(
        "--max-tokens", type=positive, default=2048, help="maximum response length (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument("--output", type=Path, help="output folder (default: runs/eval/<model's folder name>)")
    parser.add_argument("--dtype", choices=["bfloat16", "float32"], default="bfloat16", help="default: %(default)s")
    parser.add_argument(
        "--chat-template", help="plain, r1_zero or a Jinja file, as data.chat_template (default: that of the model)"
    )
    parser.add_argument(
        "--chat-template-kwargs",
        type=json_object,
        metavar="JSON",
        help="""values of variables that the chat template reads, such as '{"enable_thinking": false}'""",
    )
    parser.add_argument("--num-engines", type=positive, help="default: one per GPU, or one on the CPU")
    parser.add_argument(
        "--tensor-parallel-size", type=positive, default=1, help="GPUs per engine (default: %(default)s)"
    )
    parser.add_argument(
        "--max-num-seqs", type=positive, default=256, help="sequences per engine (default: %(default)s)"
    )
    parser.add_argument("--kv-cache-gib", type=float, help="KV cache per engine (default: 1 on the CPU, 0.9 of a GPU)")
    parser.add_argument(
        "--threads", type=positive, default=2, help="threads per engine on the CPU (default: %(default)s)"
    )
    parser.add_argument(
        "--timeout-seconds",
        type=float,
        default=1800.0,
        help="longest time without a finished problem (default: %(default)s)",
    )
    parser.add_argument("--check", action="store_true", help="only grade every label against itself; needs no model")
    return parser
