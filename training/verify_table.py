"""The table that `streampetr verify` prints of training files."""

from __future__ import annotations

from streampetr_core.verify import TOLERANCE
from streampetr_core.verify_table import cell, comparison_table, verdict, wide_console
from training.verify import TRAINING_TOLERANCE, TrainingReport

_FORWARD = (("logits", "logits"), ("box xyz", "xyz"), ("box other", "other"))
_RELATIVE = (("losses", "loss"), ("modules", "gradient of a module"), ("tensors", "gradient of a tensor"))


def print_training_reports(reports: list[TrainingReport]) -> bool:
    """One table of all frames, then what is beyond tolerance; True where nothing is."""
    columns = (*(title for title, _ in (*_FORWARD, *_RELATIVE)), "matched", "swapped", "noised")
    table = comparison_table("training: largest difference from the reference", columns)
    tolerances = [*(TOLERANCE[name] for _, name in _FORWARD), *(TRAINING_TOLERANCE[n] for _, n in _RELATIVE)]
    table.add_row("tolerance", "", *(f"{value:g}" for value in tolerances), "", "", "", style="dim")
    for index, report in enumerate(reports):
        forward = report.forward
        first = index == 0 or reports[index - 1].forward.golden != forward.golden
        if first:
            table.add_section()
        cells = [cell(forward.differences.get(name), TOLERANCE[name]) for _, name in _FORWARD]
        cells += [
            cell(max(report.parts[name].values(), default=None), TRAINING_TOLERANCE[name]) for _, name in _RELATIVE
        ]
        table.add_row(
            forward.golden.removeprefix("train ") if first else "",
            f"{forward.frame}{' new' if forward.starts else ''}",
            *cells,
            f"{report.matched}/{report.matched_total}",
            str(forward.swapped),
            "same" if report.denoising_wrong == 0 else f"[red]{report.denoising_wrong}[/red]",
            verdict(report.passed),
        )
    console = wide_console()
    console.print(table)
    console.print(
        "losses: relative, by name and layer; modules, tensors: relative, L2 norm of the gradient; matched: boxes "
        "given to the same query; noised: labels, places and mask of the denoising queries",
        style="dim",
        highlight=False,
    )
    for report in reports:
        if not report.passed:
            beyond = report.beyond()
            rest = f" and {len(beyond) - 8} more" if len(beyond) > 8 else ""
            said = ", ".join(beyond[:8]) + rest if beyond else "outputs, matching or denoising queries, see above"
            console.print(f"[red]{report.forward.golden} frame {report.forward.frame}: beyond tolerance: {said}")
    return all(report.passed for report in reports)
