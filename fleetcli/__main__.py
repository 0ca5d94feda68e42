"""The command `energyfleet`: puts its subcommands together."""

from collections.abc import Sequence
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperGroup

from fleetcli.console import complain
from fleetcli.errors import CommandError
from shared.errors import StartRefused

FUNCTIONS = {
    "up": "up:up",
    "demo": "demo:demo",
    "simulate": "simulate:simulate",
    "replay": "replay:replay",
    "performance": "ask:performance",
    "fleet": "fleet:fleet",
    "plot": "plot:plot",
    "status": "ask:status",
    "health": "ask:health",
    "migrate": "up:migrate",
    "maintain": "maintain:maintain",
    "verify": "verify:verify",
    "map": "mapping:map_",  # `map` is Python's own
    "unmap": "mapping:unmap",
}
"""Module and function of each command, in the order of `--help`."""


class Commands(TyperGroup):
    """Imports a command when it is asked for: those that talk to a service need none of PostgreSQL's modules."""

    def __init__(self, **settings: Any) -> None:
        unknown: Any = None
        super().__init__(**settings | {"commands": dict.fromkeys(FUNCTIONS, unknown)})

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        module, _, function = FUNCTIONS.get(cmd_name, "").partition(":")
        if not module:
            return None
        alone = typer.Typer(add_completion=False, rich_markup_mode=None)
        alone.command(cmd_name)(getattr(import_module(f"fleetcli.{module}"), function))
        return typer.main.get_command(alone)


app = typer.Typer(
    cls=Commands,
    name="energyfleet",
    help="Charging telemetry of meters and electric vehicles: run it, feed it, ask it.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode=None,
)


@app.callback()
def _group() -> None:
    """Has typer make a group, although the group knows its commands itself."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs a command line, this process's unless given. Where it cannot be done: one line, and exit code 1."""
    try:
        app(args=arguments)
    except (CommandError, StartRefused) as error:
        for line in str(error).splitlines():
            complain(line)
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
