"""`report.html`: the tables of an evaluation and a selection of samples, in one self-contained file."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from jinja2 import Environment, StrictUndefined

from eval.report import settings_table, table, verdict_table
from eval.result import Result
from eval.samples import Sample
from reward_server.printable import printable

SHOWN_PROBLEMS = 50
"""Number of problems shown per benchmark: those with the smallest fraction of correct samples."""

SHOWN_CHARS = 8000
"""Longest text shown, in characters. Of longer ones the middle is omitted, since the answer is at the end."""


@dataclass(frozen=True)
class ShownProblem:
    """A problem on the page, with its first incorrect and its first correct sample, if any."""

    id: str
    num_right: int
    num_samples: int
    prompt: str
    label: str
    samples: list[Sample]


def to_html(
    title: str,
    settings: Mapping[str, object],
    results: Mapping[str, Result],
    samples: Mapping[str, Sequence[Sequence[Sample]]],
) -> str:
    """Render the page. The output is a pure function of the arguments.

    Args:
        title: Heading of the page.
        settings: Settings of the evaluation.
        results: Results by benchmark.
        samples: By benchmark, the samples of each problem (at least one).

    Returns:
        HTML without scripts and links. Text from models and files is escaped, and its control characters spelled out.
    """
    tables = (settings_table(settings), table(results), verdict_table(results))
    problems = {name: shown_problems(groups) for name, groups in samples.items()}
    # Undefined names are errors; rendered as nothing, they would look like an empty response.
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, finalize=_printable
    )
    environment.filters["shorten"] = shorten
    return environment.from_string(PAGE).render(title=title, tables=tables, problems=problems, samples=samples) + "\n"


def shown_problems(groups: Sequence[Sequence[Sample]]) -> list[ShownProblem]:
    """The `SHOWN_PROBLEMS` problems with the smallest fraction of correct samples, in ascending order (stable sort)."""
    problems = []
    for group in groups:
        right = [sample for sample in group if sample.score == 1.0]
        others = [sample for sample in group if sample.score != 1.0]
        first = group[0]
        shown = others[:1] + right[:1]
        problems.append(ShownProblem(first.id, len(right), len(group), first.prompt, first.label, shown))
    return sorted(problems, key=lambda problem: problem.num_right / problem.num_samples)[:SHOWN_PROBLEMS]


def shorten(text: str) -> str:
    """Omit the middle of a text that is longer than `SHOWN_CHARS`, and say how many characters are omitted."""
    if len(text) <= SHOWN_CHARS:
        return text
    half = SHOWN_CHARS // 2
    return f"{text[:half]}\n[... {len(text) - 2 * half} characters, see samples/ ...]\n{text[-half:]}"


def _printable(value: object) -> object:
    return printable(value) if isinstance(value, str) else value


# Browsers drop a line break directly after <pre>. The template adds one, so that the text keeps its own.
PAGE = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title>
<style>
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 0 auto; padding: 1rem; }
.wide { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; }
th, td { padding: .25rem .75rem; border-bottom: 1px solid #8886; text-align: left; }
details { border: 1px solid #8886; border-radius: .5rem; margin: .5rem 0; padding: .5rem .75rem; }
summary { cursor: pointer; overflow-wrap: anywhere; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; background: #8882; border-radius: .5rem; padding: .5rem; }
h4 { margin: 1rem 0 0; }
</style>
</head>
<body>
<h1>{{ title }}</h1>
{% for header, rows in tables %}
<div class="wide"><table>
<tr>{% for cell in header %}<th>{{ cell }}</th>{% endfor %}</tr>
{% for row in rows %}
<tr>{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}
</table></div>
{% endfor %}
{% for name, some in problems.items() %}
<h2>{{ name }}</h2>
<p>{{ some|length }} of {{ samples[name]|length }} problems, those with the fewest correct samples first. For each
problem: the first incorrect and the first correct sample. All samples: samples/{{ name }}.jsonl</p>
{% for problem in some %}
<details>
<summary>{{ problem.id }}: {{ problem.num_right }} of {{ problem.num_samples }} correct</summary>
<h4>prompt</h4>
<pre>
{{ problem.prompt|shorten }}</pre>
<h4>label</h4>
<pre>
{{ problem.label|shorten }}</pre>
{% for sample in problem.samples %}
<h4>sample {{ sample.index }}: {{ sample.verdict }}, {{ sample.num_tokens }} tokens\
{{ ", truncated" if sample.truncated else "" }}</h4>
<pre>
{{ sample.response|shorten }}</pre>
<h4>{{ "no answer found" if sample.extracted is none else "answer found" }}</h4>
{% if sample.extracted is not none %}
<pre>
{{ sample.extracted }}</pre>
{% endif %}
{% if sample.error is not none %}
<pre>
{{ sample.error }}</pre>
{% endif %}
{% endfor %}
</details>
{% endfor %}
{% endfor %}
</body>
</html>"""
