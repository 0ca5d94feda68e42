"""Options that several commands share, and what their values mean."""

import asyncio
import re
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import Annotated, Any, TypeVar

import typer

from fleetcli.client.credentials import Credentials
from shared.config import AnalyticsSettings, IngestionSettings
from shared.timestamps import US_PER_HOUR, system_clock, us_from_datetime

HOURS_MAX = 400 * 24
"""What the services keep."""

INGESTION_DEFAULT = str(IngestionSettings.model_fields["ingestion_address"].default)
ANALYTICS_DEFAULT = str(AnalyticsSettings.model_fields["analytics_address"].default)

Answer = TypeVar("Answer")
Client = TypeVar("Client", bound="AbstractAsyncContextManager[Any]")

_ADDRESS = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^\[\]:/\s]+):(\d{1,5})")


def checked_address(value: str) -> str:
    """HOST:PORT as it is; a usage error for anything else."""
    match = _ADDRESS.fullmatch(value)
    if match is None or not 0 < int(match[2]) <= 65_535:
        raise typer.BadParameter(f"{value!r} is not HOST:PORT")
    return value


def _address(service: str) -> Any:
    return typer.Option(
        f"--{service}",
        envvar=f"ENERGYFLEET_{service.upper()}_ADDRESS",
        metavar="HOST:PORT",
        help=f"Where the {service} service listens.",
        callback=checked_address,
    )


Ingestion = Annotated[str, _address("ingestion")]
Analytics = Annotated[str, _address("analytics")]
Vehicle = Annotated[str, typer.Argument(metavar="VEHICLE", help="The vehicle's id; after -- where it begins with -.")]
Ending = Annotated[str | None, typer.Option(metavar="now|TIME", help="End of the window: RFC 3339.")]


Exact = Annotated[bool, typer.Option("--exact", help="Look at the window as it is, not at whole hours.")]
DaysOf = Annotated[
    str | None, typer.Option(metavar="ZONE", help="Look at whole days of this time zone, such as Europe/Berlin.")
]


def require_one_format(as_json: bool, as_csv: bool) -> None:
    if as_json and as_csv:
        raise typer.BadParameter("either --json or --csv, not both", param_hint="--csv")


def alignment(exact: bool, days_of: str | None) -> tuple[str, str]:
    """To what a window is widened, by the contract's name, and the time zone of its days."""
    if exact and days_of is not None:
        raise typer.BadParameter("either --exact or --days-of, not both", param_hint="--days-of")
    if days_of is not None:
        return "DAY", days_of
    return ("EXACT" if exact else "HOUR"), ""


def hours_option(meaning: str, most: int = HOURS_MAX) -> Any:
    """For a span of hours: a second at least."""
    return typer.Option(min=0.0003, max=most, help=meaning)


LINES_SHOWN = 20
"""Lines of a list for a person, unless asked for otherwise."""

Rows = Annotated[int | None, typer.Option(min=1, help=f"At most so many. Default: {LINES_SHOWN}, or all as JSON.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the answer as JSON, for programs.")]


def moment_us(option: str, value: str, now_us: int) -> int:
    """`now` or an RFC 3339 time in microseconds; a usage error that names the option for anything else."""
    if value == "now":
        return now_us
    try:
        moment = datetime.fromisoformat(value)
        if moment.tzinfo is not None:
            return us_from_datetime(moment)
    except ValueError:
        pass
    raise typer.BadParameter(f"{value!r} is neither `now` nor a time such as 2026-02-09T10:00:00Z", param_hint=option)


def window_start_us(end_us: int, hours: float) -> int:
    return end_us - round(hours * US_PER_HOUR)


def window_us(hours: float | None, ending: str | None, default_hours: float) -> tuple[int | None, int | None]:
    """The start and the end of the window that --hours and --ending ask for; the service's own where neither does."""
    if hours is None and ending is None:
        return None, None
    end_us = moment_us("--ending", ending or "now", system_clock())
    return window_start_us(end_us, hours or default_hours), end_us


def ask(
    client: Callable[[str, Credentials], Client],
    address: str,
    credentials: Credentials,
    question: Callable[[Client], Awaitable[Answer]],
) -> Answer:
    """What a service answers to a client of it."""

    async def asked() -> Answer:
        async with client(address, credentials) as connected:
            return await question(connected)

    return asyncio.run(asked())
