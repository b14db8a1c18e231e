"""``python -m benchmarks.publish FILE``: ``docs/performance.md`` and its pictures, of a run's JSON.

The text around the figures is ``benchmarks/performance.md``. A test keeps the page and the pictures
equal to what is made of ``docs/performance.json``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from benchmarks.charts import chart, file_name
from benchmarks.claims import Verdict, verdicts

__all__ = ["pages", "publish"]

DOCS = Path(__file__).parents[1] / "docs"
_PICTURES = "images"


@click.command(help=__doc__)
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
def main(file: Path) -> None:
    measured = json.loads(file.read_text())
    publish(measured, DOCS)
    for verdict in verdicts(measured["comparisons"]):
        click.echo(
            f"{'kept ' if verdict.kept else 'SHORT'}  {verdict.claim.work}: {_figure(verdict)}"
        )


def publish(measured: Mapping[str, Any], docs: Path) -> None:
    """Write the page, its pictures and the figures; pictures of other runs are removed."""
    for old in (docs / _PICTURES).glob("bench-*.svg"):
        old.unlink()
    for path, text in pages(measured).items():
        (docs / path).parent.mkdir(exist_ok=True)
        (docs / path).write_text(text)


def pages(measured: Mapping[str, Any]) -> dict[str, str]:
    """What is published, by its path below ``docs``."""
    return {
        "performance.md": _page(measured),
        "performance.json": json.dumps(measured, indent=1) + "\n",
        **{
            f"{_PICTURES}/{file_name(comparison['title'])}": chart(comparison)
            for comparison in measured["comparisons"]
        },
    }


def _page(measured: Mapping[str, Any]) -> str:
    lines = Path(__file__).with_name("performance.md").read_text().splitlines()
    return "\n".join(_filled(line, measured) for line in lines) + "\n"


def _filled(line: str, measured: Mapping[str, Any]) -> str:
    fill: dict[str, Callable[[], Iterator[str]]] = {
        "@machine": lambda: _machine(measured),
        "@claims": lambda: _claims(measured["comparisons"]),
    }
    if line in fill:
        return "\n".join(fill[line]())
    if line.startswith("@subject "):
        subject = line.removeprefix("@subject ")
        of = (each for each in measured["comparisons"] if each["subject"] == subject)
        return "\n\n".join("\n".join(_comparison(each)) for each in of)
    return line


def _machine(measured: Mapping[str, Any]) -> Iterator[str]:
    machine, pace = measured["machine"], measured["pace"]
    libraries = ", ".join(f"{name} {version}" for name, version in machine["libraries"].items())
    yield "| | |"
    yield "|---|---|"
    yield f"| when | {machine['at']}, load {machine['load']} at the start |"
    cores = f"{machine['cores']} cores of {machine['processor']}"
    yield f"| machine | {cores}, {machine['memory_gib']} GiB, {machine['system']} |"
    yield "| servers | PostgreSQL {version}, fsync {fsync} |".format(**measured["postgresql"])
    if measured["redis"]:
        yield "| | Redis {version}, persistence {persistence} |".format(**measured["redis"])
    yield f"| clients | Python {machine['python']}, {libraries} |"
    flags = " --full" if pace["full"] else ""
    yield f"| command | `python -m benchmarks{flags} --rounds {pace['rounds']} --json` |"
    for missing in measured["missing"]:
        yield f"| missing | {missing} |"
    if pace["share"] != 1:
        yield f"| **not a measurement** | {pace['share']:g} of the usual work |"


def _claims(comparisons: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    found = list(verdicts(comparisons))
    yield "| work | beside | aim | measured | |"
    yield "|---|---|---|---|---|"
    for verdict in found:
        kept = "kept" if verdict.kept else "**short**"
        cells = (verdict.claim.work, verdict.beside, _aim(verdict), _figure(verdict), kept)
        yield f"| {' | '.join(cells)} |"
    if short := [each for each in found if not each.kept and each.claim.why]:
        yield ""
        yield "Where it is short:"
        yield ""
        for verdict in short:
            yield f"- {verdict.claim.work}. {verdict.claim.why}"


def _aim(verdict: Verdict) -> str:
    if verdict.claim.milliseconds:
        return f"{verdict.claim.aim:g} ms"
    return (
        f"{verdict.claim.aim:g} times" if verdict.beside else f"{verdict.claim.aim:,.0f} a second"
    )


def _figure(verdict: Verdict) -> str:
    if verdict.claim.milliseconds:
        return f"{verdict.figure:.2f} ms"
    return f"{verdict.figure:.2f} times" if verdict.beside else f"{verdict.figure:,.0f} a second"


def _comparison(comparison: Mapping[str, Any]) -> Iterator[str]:
    title, results = comparison["title"], comparison["results"]
    yield f"![{title}]({_PICTURES}/{file_name(title)})"
    yield ""
    milliseconds = [name for name in ("p50_ms", "p99_ms") if name in results[0]["extras"]]
    heads = [name.replace("_ms", ", ms") for name in milliseconds]
    yield "| " + " | ".join((title, "a second", "quartiles", "ratio", *heads)) + " |"
    yield "|---" * (4 + len(heads)) + "|"
    for result in results:
        figures = [
            f"{result['median']:,.0f}",
            f"{result['lower']:,.0f} to {result['upper']:,.0f}",
            f"{result['ratio']:.2f}",
            *(f"{result['extras'][name]:.2f}" for name in milliseconds),
        ]
        yield "| " + " | ".join((result["name"], *figures)) + " |"


if __name__ == "__main__":
    main()
