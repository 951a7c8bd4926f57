"""What a person sees while a sweep runs: a bar with the stage and the time left, and a line per cell."""

from __future__ import annotations

import sys
from statistics import median
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from dlas.values import Row

PIPE_COLUMNS = 160


class Progress:
    """A bar on a terminal; without one, only the lines. Use it as a context manager."""

    def __init__(self, console: Console | None = None) -> None:
        # rich takes a pipe for a terminal of 80 columns, and cuts tables to that.
        width = None if sys.stdout.isatty() else PIPE_COLUMNS
        self.console = console or Console(highlight=False, soft_wrap=True, width=width)
        columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.description}"))
        self._bar = Bar(*columns, console=self.console, transient=True, disable=not self.console.is_terminal)
        self._task = self._bar.add_task("", total=None, visible=False)
        self._cell = self._stage = ""

    def __enter__(self) -> Progress:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def say(self, line: str) -> None:
        # Devices and compilers said parts of it: nothing of that may drive the terminal.
        self.console.print("".join(c if c.isprintable() or c == "\n" else " " for c in line), markup=False)

    def start(self, cells: int) -> None:
        """So many cells are to run; those that were cached do not count towards the time left."""
        self._bar.update(self._task, total=cells, visible=cells > 0)

    def stage(self, cell: str, stage: str) -> None:
        self._cell, self._stage = cell, stage
        self.note("")

    def note(self, text: str) -> None:
        """How far the stage is."""
        far = f" ({text})" if text else ""
        self._bar.update(self._task, description=f"{self._stage}{far} {self._cell}")

    def finish(self, cell: str, row: Row) -> None:
        """A cell has its row: say so in one line."""
        outcome = row.status
        if row.status == "measured":
            outcome += f", median {median(row.samples_ns) / 1e6:.3f} ms of {len(row.samples_ns)}"
            if row.top1_fraction is not None:
                outcome += f", top-1 {row.top1_fraction:.1%} of {row.top1_n}"
        elif row.status == "emulated":
            outcome += f", max error {row.max_error_over_scale:.1e}"
        elif row.reason:
            outcome += f": {row.reason}"
        self.done(cell, outcome)

    def done(self, cell: str, outcome: str) -> None:
        self.say(f"{cell}: {outcome}")
        self._bar.advance(self._task)
