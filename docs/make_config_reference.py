"""Generate the key tables of docs/config.md from the configuration models.

    python docs/make_config_reference.py [--check]

Only the text between the two marker comments is replaced. `--check` writes nothing, and exits with 1 if the page is
stale: different from what openr1/config/ declares.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from openr1.config.dpo import DpoConfig
from openr1.config.load import section_of
from openr1.config.sft import SftConfig
from openr1.config.train import TrainConfig

PAGE = Path(__file__).resolve().parent / "config.md"
BEGIN = "<!-- keys: written by docs/make_config_reference.py -->"
END = "<!-- keys: end -->"
TABLES: tuple[tuple[str, type[BaseModel]], ...] = (
    ("Keys of `train`", TrainConfig),
    ("Keys of `sft`", SftConfig),
    ("Keys of `dpo`", DpoConfig),
)
KINDS = {int: "integer", float: "number", bool: "true or false", str: "text", Path: "path", type(None): "null"}


def describe_kind(annotation: Any) -> str:
    """Describe a type: `integer`, `path or null`, `[number, number]`; for a Literal, its choices."""
    if annotation in KINDS:
        return KINDS[annotation]
    if section_of(annotation) is annotation:
        return "section"
    arguments = get_args(annotation)
    if get_origin(annotation) is Literal:
        return ", ".join(f"`{choice}`" for choice in arguments)
    if get_origin(annotation) is tuple:
        return f"[{', '.join(map(describe_kind, arguments))}]"
    if get_origin(annotation) is dict:
        return "mapping"
    if get_origin(annotation) is list:
        if (section := section_of(annotation)) is not None:
            return f"list of {{{', '.join(section.model_fields)}}}"
        return f"list of {describe_kind(arguments[0])}"
    if get_origin(annotation) is dict:
        return "mapping"
    if get_origin(annotation) is Annotated:
        return describe_kind(arguments[0])
    return " or ".join(map(describe_kind, arguments))


def describe_bounds(field: FieldInfo) -> str:
    """Describe the range of a value, with a leading space; empty if it is unbounded."""
    bounds = []
    for rule in field.metadata:
        match rule:
            case Gt():
                bounds.append(f"> {rule.gt}")
            case Ge():
                bounds.append(f">= {rule.ge}")
            case Lt():
                bounds.append(f"< {rule.lt}")
            case Le():
                bounds.append(f"<= {rule.le}")
    return " " + ", ".join(bounds) if bounds else ""


def describe_default(field: FieldInfo) -> str:
    """Describe the default as it would be written in a config file, or that the key is required."""
    if field.is_required():
        return "required"
    return f"`{json.dumps(field.default, default=str).strip(chr(34))}`"


def key_rows(kind: type[BaseModel], prefix: str = "") -> list[str]:
    """One table row per dotted key, in the order of the models."""
    rows = []
    for name, field in kind.model_fields.items():
        section = section_of(field.annotation)
        if section is not field.annotation:
            values = describe_kind(field.annotation) + describe_bounds(field)
            cells = [f"`{prefix}{name}`", values, describe_default(field), field.description or ""]
            rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
        if section is not None:
            rows += key_rows(section, f"{prefix}{name}.")
    return rows


def render() -> str:
    """Render all tables, each under its heading."""
    header = ["| key | value | default | meaning |", "|---|---|---|---|"]
    return "\n\n".join("\n".join([f"## {title}", "", *header, *key_rows(kind)]) for title, kind in TABLES)


def main(argv: list[str] | None = None, page: Path = PAGE) -> int:
    """Rewrite or check the page; return the exit code."""
    purpose = (__doc__ or "").split("\n")[0]
    parser = argparse.ArgumentParser(prog="python docs/make_config_reference.py", description=purpose)
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if the page is stale")
    args = parser.parse_args(argv)
    text = page.read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        sys.stderr.write(f"{page}: needs the comments {BEGIN!r} and {END!r}, in this order\n")
        return 1
    wanted = f"{before}{BEGIN}\n\n{render()}\n\n{END}{after}"
    if args.check and wanted != text:
        sys.stderr.write(f"{page}: stale; run python docs/make_config_reference.py\n")
        return 1
    if not args.check:
        page.write_text(wanted, encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
