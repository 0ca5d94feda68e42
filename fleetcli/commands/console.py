"""What people see: answers on standard output, everything else on standard error, progress only on a terminal."""

import json
import sys
from collections.abc import Container, Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any

import typer
from google.protobuf.duration_pb2 import Duration
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from fleetcli.client.errors import ClientError

_WIDTH_WITHOUT_TERMINAL = 120
"""Columns of a table in a file or a pipe."""

_WIDTH_MAX = 1_000
"""Wider than any table here."""

out = Console(highlight=False, width=None if sys.stdout.isatty() else _WIDTH_WITHOUT_TERMINAL)
err = Console(highlight=False, width=None if sys.stderr.isatty() else _WIDTH_WITHOUT_TERMINAL, stderr=True)

VERDICT_STYLES = {
    "OK": "green",
    "LOW_EFFICIENCY": "bold red",
    "IMPLAUSIBLE": "bold magenta",
    "INSUFFICIENT_DATA": "yellow",
    "NO_METER": "yellow",
}


def say(line: str, style: str = "") -> None:
    """A line of the answer, as it is: brackets are no markup, and only a terminal breaks lines, between words."""
    out.print(Text(line, style), soft_wrap=not out.is_terminal)


def note(line: str, style: str = "") -> None:
    err.print(Text(line, style), soft_wrap=not err.is_terminal)


def say_rows(lines: Sequence[str], most: int, none: str) -> None:
    """The first lines of a list, with a note where there are more; `none` where there is no line."""
    for line in lines[:most]:
        say(line)
    if not lines:
        say(none)
    if len(lines) > most:
        note(f"There are more than these {most}: see --rows.")


def complain(line: str) -> None:
    note(line, "red")


def warn_similar(kind: str, device_id: str, similar_ids: Iterable[str]) -> None:
    """Warns of known devices whose ids differ from one only in case."""
    for similar_id in similar_ids:
        note(f"A {kind} {similar_id} is known: only case tells it from {device_id}.", "yellow")


def note_wait(failure: ClientError, wait_s: float) -> None:
    note(f"{failure}. Trying again in {wait_s:.1f} s; nothing is lost and nothing is counted twice.", "yellow")


def verdict_text(verdict: str) -> Text:
    return Text(verdict, VERDICT_STYLES.get(verdict, ""))


def measured(message: Any, field: str, form: str) -> str:
    """A measurement for people; what is absent is no 0."""
    return form.format(getattr(message, field)) if message.HasField(field) else "-"


def compared(answer: Any, field: str, form: str) -> str:
    """Likewise, of what the verdict of a vehicle or a meter goes by."""
    return form.format(getattr(answer.comparison, field)) if answer.HasField("comparison") else "-"


def age_text(age: Duration, past: str = " ago", ahead: str = " ahead of the server's clock") -> str:
    """How long ago something was, in whole seconds; negative: a clock is ahead."""
    rounded = timedelta(seconds=abs(age.seconds))
    return f"{rounded}{ahead if age.seconds < 0 else past}"


def fitting_table(
    title: str, columns: Mapping[str, Sequence[Any]], numbers: Container[str], left_out: Sequence[str]
) -> Table:
    """All columns, or those for which a terminal has room: some can be left out, one after the other. The first one
    is folded where there is still too little."""
    left = dict(columns)
    for name in ("", *left_out):
        left.pop(name, None)
        table = Table(title=Text(title), title_justify="left")
        for each in left:
            table.add_column(each, justify="right" if each in numbers else "left", no_wrap=True)
        for row in zip(*left.values(), strict=True):
            table.add_row(*row)
        if out.measure(table, options=out.options.update(max_width=_WIDTH_MAX)).maximum <= out.width:
            break
    table.columns[0].no_wrap, table.columns[0].overflow = False, "fold"
    return table


def facts_table(title: str) -> Table:
    """A table of names and values, to be filled with `add_row(name, value)`."""
    width = min(len(title), out.width)  # or a long title is broken where the table ends
    table = Table(title=Text(title), show_header=False, title_justify="left", min_width=width)
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    return table


def progress_bar() -> Progress:
    """A bar that is there while something takes time, and only on a terminal."""
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=err,
        transient=True,
        disable=not err.is_terminal,
    )


def print_json(pages: Message) -> None:
    """The answer of a list, whose pages were put together."""
    plain = MessageToDict(pages, always_print_fields_with_no_presence=True)
    del plain["nextPageToken"]
    typer.echo(json.dumps(plain, indent=2))
