"""--ca, --cert, --key and --token: the same for each command that calls a service."""

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Annotated, Any

import typer

from fleetcli.client.credentials import Credentials
from fleetcli.client.errors import BadCredentials
from fleetcli.commands.command_errors import BadInput


def _option(name: str, metavar: str, meaning: str) -> Any:
    option = typer.Option(f"--{name}", envvar=f"ENERGYFLEET_{name.upper()}", metavar=metavar, help=meaning)
    return Annotated[str | None, option]


OPTIONS = {
    "ca": _option(
        "ca",
        "FILE",
        "Talk TLS to a service whose certificate one of these PEM certificates has signed; the system's are not"
        " trusted besides. Without it: plaintext.",
    ),
    "cert": _option("cert", "FILE", "Show this PEM certificate, which names who calls; its chain may follow."),
    "key": _option("key", "FILE", "The PEM key of --cert, without a password."),
    "token": _option(
        "token",
        "TOKEN|@FILE",
        "Send this bearer token instead of a certificate, over TLS alone. Others of this machine see command lines:"
        " prefer @FILE, which is read, or the variable.",
    ),
}


def takes_credentials(command: Callable[..., None]) -> Callable[..., None]:
    """A command without `credentials`, its last parameter, but with the options that it is made of."""
    signature = inspect.signature(command)
    *own, last = signature.parameters.values()
    assert last.name == "credentials"

    @wraps(command)
    def run(**arguments: Any) -> None:
        given = {name: arguments.pop(name) for name in OPTIONS}
        command(**arguments, credentials=_credentials(**given))

    options = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=option)
        for name, option in OPTIONS.items()
    ]
    run.__signature__ = signature.replace(parameters=[*own, *options])  # type: ignore[attr-defined]  # typer goes by it
    return run


def _credentials(**given: str | None) -> Credentials:
    try:
        return Credentials.read(**given)
    except BadCredentials as error:
        if error.file is None:
            raise typer.BadParameter(error.problem, param_hint=f"--{error.option}") from None
        raise BadInput(str(error)) from None
