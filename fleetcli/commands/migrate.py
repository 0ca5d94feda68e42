"""`energyfleet migrate`."""

from pathlib import Path
from typing import Annotated

import typer

from fleetcli.commands.console import note, say
from fleetcli.commands.stack import database
from shared.config import ConfigError, Settings, read_settings
from shared.db.migrate import migrate as migrate_schema
from shared.db.roles import OWNER, RolesMade, make_roles, read_passwords

SECRETS = Path("/run/secrets")
"""Where containers have them."""


def migrate(
    roles: Annotated[
        bool,
        typer.Option(
            "--roles",
            help="First make the roles of owner, ingestion, analytics and maintenance, and give the database to its"
            " owner. Needs a superuser, or who may make roles and databases and owns this one.",
        ),
    ] = False,
    passwords: Annotated[
        Path,
        typer.Option(
            metavar="DIR",
            envvar="ENERGYFLEET_SECRETS_DIR",
            show_envvar=False,
            help="With --roles: where the passwords are, in files named owner_password, ingestion_password,"
            " analytics_password and maintenance_password. A login without a file is left as it is.",
        ),
    ] = SECRETS,
    own_server: Annotated[
        bool,
        typer.Option(
            "--own-server",
            help="With --roles, on a server that is the fleet's alone: nobody may connect to its other databases but a"
            " superuser and whoever was granted it.",
        ),
    ] = False,
) -> None:
    """Bring the database's schema up to date. Safe to repeat, and from several machines at once.

    With --roles it runs with the rights of the database's owner, and passwords that have changed are set.
    """
    settings = read_settings(Settings)
    if not roles:
        if own_server:
            raise typer.BadParameter("goes with --roles", param_hint="--own-server")
        with database(settings) as used:
            say(f"The schema is at revision {migrate_schema(used.owner_url)}: {used.whereabouts}.")
        return
    if not settings.database_url:
        raise ConfigError("ENERGYFLEET_DATABASE_URL is not set: --roles is for a server of your own")
    if passwords != SECRETS and not passwords.is_dir():
        raise typer.BadParameter(f"{passwords} is no directory", param_hint="--passwords")
    _tell(make_roles(settings.database_url, read_passwords(passwords), own_server=own_server), passwords)
    revision = migrate_schema(settings.database_url, OWNER)
    say(f"The schema is at revision {revision} and belongs to {OWNER}.")


def _tell(done: RolesMade, directory: Path) -> None:
    for name in done.made:
        say(f"made {name}")
    for name in done.with_password:
        say(f"set the password of {name}")
    for login in done.without_password:
        note(f"{login.name} cannot log in: {directory / login.password_file} is missing.")
    for login in done.left:
        note(f"{login.name} keeps its password: {directory / login.password_file} is missing.")
    if done.open_databases:
        note(f"Every role of this server may connect to {', '.join(done.open_databases)}, too; --own-server ends that.")
