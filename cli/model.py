"""`model`: download models."""

import argparse
from pathlib import Path


def run(argv: list[str]) -> int:
    """Run `download`; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m cli model", description="Get models.", allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True)
    download = commands.add_parser("download", help="download a model's configuration, tokenizer and weights")
    download.add_argument("id", metavar="ID", help="name of the model, OWNER/NAME, such as Qwen/Qwen2.5-0.5B-Instruct")
    download.add_argument(
        "--source", choices=["hf", "modelscope"], default="hf", help="where from (default: the Hugging Face Hub)"
    )
    download.add_argument(
        "--output",
        type=Path,
        metavar="DIR",
        help="output folder (default: hf: the hub's cache, in which --model.path ID finds it; modelscope: models/NAME)",
    )
    arguments = parser.parse_args(argv)

    # Imported late, so that --help is fast.
    from data.prepare.model_download import default_output, download_from_hub, download_from_modelscope

    if arguments.source == "hf":
        download_from_hub(arguments.id, arguments.output)
    else:
        download_from_modelscope(arguments.id, arguments.output or default_output(arguments.id))
    return 0
