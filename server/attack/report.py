"""The report of an attack: counts and case ids, no text of a request, an answer or a phrase."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from server.attack.runner import Outcome, Result

_AXES = ("kind", "encoding", "shape")


def figures(
    target: str, results: Sequence[Result], control: Sequence[Result] | None
) -> dict[str, Any]:
    """What is reported. `control` is the same cases against a server without the guard."""
    counts = {f"num_{o.value}": sum(r.outcome is o for r in results) for o in Outcome}
    report: dict[str, Any] = {"target": target, "num_cases": len(results), **counts}
    report["emitted_cases"] = [
        {"case": r.case.id, "surfaces": list(r.surfaces)}
        for r in results
        if r.outcome is Outcome.EMITTED
    ]
    report["touched_cases"] = [r.case.id for r in results if r.outcome is Outcome.TOUCHED]
    report["failed_cases"] = [
        {"case": r.case.id, "status": r.status} for r in results if r.outcome is Outcome.FAILED
    ]
    if control is not None:
        report["num_emitted_by_control"] = sum(r.outcome is Outcome.EMITTED for r in control)
        report["control_emitted_cases"] = [
            r.case.id for r in control if r.outcome is Outcome.EMITTED
        ]
    for axis in _AXES:
        report[f"by_{axis}"] = _by(axis, results, control)
    return report


def write_html(path: Path, report: Mapping[str, Any]) -> None:
    """A page that an operator can keep, complete in itself."""
    rows = [
        f"<tr><td>{escape(axis)}<td>{escape(name)}<td>{c['cases']}<td>{c['emitted']}"
        f"<td>{c.get('control_emitted', '')}</tr>"
        for axis in _AXES
        for name, c in report[f"by_{axis}"].items()
    ]
    leaks = [
        f"<li><code>{escape(c['case'])}</code> ({escape(', '.join(c['surfaces']))})"
        for c in report["emitted_cases"]
    ]
    facts = [
        f"<tr><td>{escape(key.replace('num_', '').replace('_', ' '))}<td>{value}</tr>"
        for key, value in report.items()
        if key.startswith("num_")
    ]
    page = f"""<!doctype html><html lang="en"><meta charset="utf-8">
<title>Attack on {escape(report["target"])}</title>
<style>body{{font:16px sans-serif;max-width:50em;margin:2em auto}}td,th{{padding:.2em 1em;
text-align:left;border-bottom:1px solid #ccc}}table{{border-collapse:collapse}}</style>
<h1>Attack on {escape(report["target"])}</h1><table>{"".join(facts)}</table>
<h2>Emissions</h2><ul>{"".join(leaks) or "<li>none"}</ul>
<h2>Cases</h2><table><tr><th>axis<th>value<th>cases<th>emitted<th>emitted without the guard</tr>
{"".join(rows)}</table></html>
"""
    path.write_text(page, encoding="utf-8")


def _by(
    axis: str, results: Sequence[Result], control: Sequence[Result] | None
) -> dict[str, dict[str, int]]:
    table: dict[str, dict[str, int]] = {}
    for place, result in enumerate(results):
        row = table.setdefault(getattr(result.case, axis), {"cases": 0, "emitted": 0})
        row["cases"] += 1
        row["emitted"] += result.outcome is Outcome.EMITTED
        if control is not None:
            leaked = control[place].outcome is Outcome.EMITTED
            row["control_emitted"] = row.get("control_emitted", 0) + leaked
    return table
