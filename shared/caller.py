"""Who makes the call that is being served, for whatever is done on the call's behalf; it goes with the call's task."""

from contextvars import ContextVar

from shared.identity import ANYBODY, Identity

_identity: ContextVar[Identity] = ContextVar("identity", default=ANYBODY)


def set_identity(identity: Identity) -> None:
    _identity.set(identity)


def identity() -> Identity:
    """The caller; ANYBODY where nobody asks."""
    return _identity.get()
