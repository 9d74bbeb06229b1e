"""The table that `streampetr verify` prints."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from streampetr_core.verify import TOLERANCE, FrameReport

LEAST_WITHIN_ONE = 0.999
"""Share of pixels that must lie within one grey level of the stored ones."""

_COLUMNS = (
    ("logits", "logits"),
    ("box xyz", "xyz"),
    ("box other", "other"),
    ("memory", "memory embedding"),
    ("mem. xyz", "memory xyz"),
)


def print_reports(reports: list[FrameReport], pixels: dict[str, tuple[float, int]]) -> bool:
    """One table of all frames, then the pixels by input file; True where all is within tolerance."""
    columns = (*(title for title, _ in _COLUMNS), "decoded", "swapped", "alone")
    table = comparison_table("largest absolute difference from the reference", columns)
    table.add_row("tolerance", "", *(f"{TOLERANCE[name]:g}" for _, name in _COLUMNS), "", "", "100 %", style="dim")
    for index, report in enumerate(reports):
        first = index == 0 or reports[index - 1].golden != report.golden
        if first:
            table.add_section()
        cells = [cell(report.differences.get(name), TOLERANCE[name]) for _, name in _COLUMNS]
        agree = f"{report.boxes_agree}/{report.boxes_total}" if report.boxes_total else "-"
        alone = "-" if report.alone is None else f"{report.alone:.1%}"
        name, number = report.golden if first else "", f"{report.frame}{' new' if report.starts else ''}"
        table.add_row(name, number, *cells, agree, str(report.swapped), alone, verdict(report.passed))
    console = wide_console()
    console.print(table)
    console.print(
        "frame: new = fresh memory; decoded: boxes that agree; swapped: near-equal rows in exchanged places; "
        "alone: largest difference from the stored state of the frame before, in parts of the tolerance",
        style="dim",
        highlight=False,
    )
    _print_rest(console, reports)
    passed = all(report.passed for report in reports)
    for name, (within, largest) in pixels.items():
        good = within >= LEAST_WITHIN_ONE
        passed &= good
        console.print(
            f"preprocessing, {name}: {within:.4%} of the pixels within one grey level, at most {largest} apart "
            + verdict(good),
            highlight=False,
        )
    return passed


def _print_rest(console: Console, reports: list[FrameReport]) -> None:
    """What has no column: comparisons that few files hold, excesses, and notes; each once."""
    shown = {name for _, name in _COLUMNS}
    for name in TOLERANCE:
        values = [report.differences[name] for report in reports if name in report.differences]
        if name not in shown and values:
            console.print(
                f"{name}: {max(values):.1e} (<= {TOLERANCE[name]:g}, {len(values)} frames)", highlight=False
            )
    for note in dict.fromkeys(f"{report.golden}: {note}" for report in reports for note in report.notes):
        console.print(note, highlight=False)
    for report in reports:
        if not report.passed:
            beyond = [f"{k} {v:.1e}" for k, v in report.differences.items() if not v <= TOLERANCE[k]]
            if report.boxes_wrong:
                beyond.append(f"{report.boxes_wrong} decoded boxes")
            if report.alone is not None and not report.alone <= 1:
                beyond.append("from the stored state")
            console.print(f"[red]{report.golden} frame {report.frame}: beyond tolerance: {', '.join(beyond)}")


def comparison_table(title: str, columns: tuple[str, ...]) -> Table:
    """An empty table with a name, a frame, the columns and a verdict."""
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 0))
    table.add_column("", no_wrap=True)
    table.add_column("frame", no_wrap=True)
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    return table


def cell(value: float | None, tolerance: float) -> str:
    """A difference, red beyond its tolerance; a dash where there is none."""
    if value is None:
        return "-"
    text = f"{value:.1e}"
    return text if value <= tolerance else f"[red]{text}[/red]"


def verdict(passed: bool) -> str:
    """The last cell of a row."""
    return "[green]ok" if passed else "[bold red]FAILED"


def wide_console() -> Console:
    """Standard output, at least as wide as the tables are."""
    console = Console()
    console.width = max(console.width, 100)
    return console
