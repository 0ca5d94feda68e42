"""The command `energyfleet`: puts its subcommands together."""

from collections.abc import Sequence

import typer

from fleetcli import ask, demo, fleet, maintain, mapping, plot, replay, simulate, up, verify
from fleetcli.console import complain
from fleetcli.errors import CommandError
from shared.errors import StartRefused

app = typer.Typer(
    name="energyfleet",
    help="Charging telemetry of meters and electric vehicles: run it, feed it, ask it.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode=None,
)
for command in (
    up.up,
    demo.demo,
    simulate.simulate,
    replay.replay,
    ask.performance,
    fleet.fleet,
    plot.plot,
    ask.status,
    ask.health,
    up.migrate,
    maintain.maintain,
    verify.verify,
):
    app.command()(command)
app.command("map")(mapping.map_)  # `map` is Python's own
app.command()(mapping.unmap)


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
