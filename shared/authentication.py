"""Says who calls: by certificate where clients must have one, by token on the listener of tokens, else anybody.

A caller's certificate alone counts where there is one, whatever metadata or messages claim.
"""

from __future__ import annotations  # gRPC's classes are generic in the stubs only

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import structlog

from shared.certificates import identity_of
from shared.deny_list import DenyList
from shared.errors import PermissionDenied, Unauthenticated
from shared.identity import ANYBODY, CnTemplate, Identity
from shared.permissions import NEEDS
from shared.timestamps import Clock
from shared.tokens import Tokens

_log = structlog.get_logger()

CERTIFICATES_REMEMBERED = 20_000
"""Identities of certificates that are remembered, about 500 bytes each: two fleets. To read one takes 50 us."""


NEVER_US = 1 << 63


class Authentication:
    """Who calls, and whether he may. `client_certificates`: whoever has no certificate must have a token.

    `deny_file`: the list of certificates that are revoked. Raises OSError or ValueError where that cannot be read.
    """

    def __init__(
        self,
        clock: Clock,
        *,
        client_certificates: bool = False,
        templates: Sequence[CnTemplate] = (),
        deny_file: Path | None = None,
        tokens: Tokens | None = None,
    ) -> None:
        self._clock = clock
        self._client_certificates = client_certificates
        self._templates = templates
        self._tokens = tokens
        self._denied = DenyList(deny_file)
        self._remembered: OrderedDict[bytes, Identity] = OrderedDict()
        """By the certificate's digest; least recently used first."""
        self._open: dict[asyncio.Task[Any], Identity] = {}
        """Who has which stream."""
        self._ends_next_us = NEVER_US
        """Not after the first of their certificates and tokens ends."""
        self._ended: dict[asyncio.Task[Any], str] = {}
        """Why streams are cancelled by us."""

    def identify(self, context: Any) -> Identity:
        """Who makes a call. Raises Unauthenticated."""
        if not self._client_certificates and self._tokens is None:
            return ANYBODY
        shown: Mapping[str, Sequence[bytes]] = context.auth_context()
        pem = next(iter(shown.get("x509_pem_cert", ())), None)
        if pem is not None:
            identity = self._of_certificate(pem)
        elif self._tokens is not None:
            authorization = [value for key, value in context.invocation_metadata() or () if key == "authorization"]
            if len(authorization) != 1:
                raise Unauthenticated("send a token: `authorization: Bearer ...`, once")
            identity = self._tokens.identity(authorization[0])
        else:
            raise Unauthenticated("show a certificate of the fleet")
        self._require_current(identity)
        return identity

    @contextmanager
    def stream(self, identity: Identity) -> Iterator[None]:
        """Cancels the current task when its caller's certificate or token is revoked or ends.

        Then raises Unauthenticated in place of the cancellation.
        """
        task = asyncio.current_task()
        assert task is not None
        self._open[task] = identity
        self._ends_next_us = min(self._ends_next_us, _ends_us(identity))
        try:
            yield
        except asyncio.CancelledError:
            why = self._ended.get(task)
            if why is None or task.uncancel():
                raise
            raise Unauthenticated(why) from None
        finally:
            del self._open[task]
            self._ended.pop(task, None)

    def refresh(self) -> None:
        """Reads files that have changed, and ends the streams of whoever may not have them any more."""
        if self._tokens is not None:
            self._tokens.refresh()
        denied_others = self._denied.refresh()
        if not denied_others and self._clock() < self._ends_next_us:
            return
        self._ends_next_us = min(map(_ends_us, self._open.values()), default=NEVER_US)
        for task, identity in list(self._open.items()):
            if task not in self._ended:
                try:
                    self._require_current(identity)
                except Unauthenticated as error:
                    self._ended[task] = str(error)
                    task.cancel()

    def _of_certificate(self, pem: bytes) -> Identity:
        digest = hashlib.sha256(pem).digest()
        identity = self._remembered.get(digest)
        if identity is None:
            try:
                identity = identity_of(pem, self._templates)
            except ValueError as error:
                raise Unauthenticated(f"the certificate names nobody: {error}") from None
            self._remembered[digest] = identity
            if len(self._remembered) > CERTIFICATES_REMEMBERED:
                self._remembered.popitem(last=False)
        self._remembered.move_to_end(digest)
        return identity

    def _require_current(self, identity: Identity) -> None:
        if refusal := self._denied.refusal(identity.serial, identity.name):
            raise Unauthenticated(refusal)
        if identity.expires_at_us is not None and identity.expires_at_us <= self._clock():
            what = "certificate" if identity.serial else "token"
            raise Unauthenticated(f"the {what} of {identity.name} has expired")


def require_permission(identity: Identity, rpc: str) -> None:
    """Raises PermissionDenied unless somebody may call an rpc, by its path."""
    need = NEEDS.get(rpc)
    if need is None:
        raise PermissionDenied(f"{rpc} is nobody's")
    if not need.met_by(identity.grants):
        raise PermissionDenied(f"{identity.name} may not call {rpc}: that needs {need.said}")


def _ends_us(identity: Identity) -> int:
    return NEVER_US if identity.expires_at_us is None else identity.expires_at_us
