"""The command `energyfleet`: puts its subcommands together."""

from collections.abc import Sequence
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperGroup

from fleetcli.client.errors import ClientError, HandshakeFailed, NotReachable
from fleetcli.commands.command_errors import CommandError
from fleetcli.commands.console import complain
from shared.errors import StartRefused

FUNCTIONS = {
    "up": "up:up",
    "demo": "demo:demo",
    "simulate": "simulate:simulate",
    "replay": "replay:replay",
    "performance": "ask:performance",
    "fleet": "fleet:fleet",
    "meters": "meters:meters",
    "sessions": "sessions:sessions",
    "plot": "plot:plot",
    "status": "ask:status",
    "devices": "devices:devices",
    "health": "ask:health",
    "migrate": "migrate:migrate",
    "maintain": "maintain:maintain",
    "storage": "storage:storage",
    "archive": "archive:archive",
    "verify": "verify:verify",
    "map": "mapping:map_",  # `map` is Python's own
    "unmap": "mapping:unmap",
    "mappings": "mappings:mappings",
    "correct": "correct:correct",
    "corrections": "correct:corrections",
    "certs": "certs:app",
    "secrets": "secrets:secrets",
}
"""Module and function of each command, or the app of several, in the order of `--help`."""


class Commands(TyperGroup):
    """Imports a command when it runs: those that call a service need none of PostgreSQL's modules."""

    def __init__(self, **settings: Any) -> None:
        unknown: Any = None
        super().__init__(**settings | {"commands": dict.fromkeys(FUNCTIONS, unknown)})

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        module, _, function = FUNCTIONS.get(cmd_name, "").partition(":")
        if not module:
            return None
        found = getattr(import_module(f"fleetcli.commands.{module}"), function)
        if isinstance(found, typer.Typer):
            return typer.main.get_command(found)
        alone = typer.Typer(add_completion=False, rich_markup_mode=None)
        alone.command(cmd_name)(found)
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
    """Makes typer build a group, although `Commands` finds its commands itself."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs a command line, this process's unless given. What cannot be done ends in one line and exit code 1."""
    try:
        app(args=arguments)
    except (ClientError, CommandError, StartRefused) as error:
        away = isinstance(error, NotReachable) and not isinstance(error, HandshakeFailed)
        hint = "; is the service running? `energyfleet up` starts everything" if away else ""
        for line in f"{error}{hint}".splitlines():
            complain(line)
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
