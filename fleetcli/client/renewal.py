"""A channel that is made anew when the files of its credentials change, for clients that outlive certificates."""

import asyncio
from collections.abc import Callable

import grpc

from fleetcli.client.channel import open_channel
from fleetcli.client.credentials import Credentials
from fleetcli.client.errors import BadCredentials

FILES_LOOK_S = 1.0
"""How often the files are read while somebody waits for a change."""


class RenewedChannel:
    """Begins with a channel that is its caller's; those that follow are its own."""

    def __init__(
        self,
        channel: grpc.aio.Channel,
        address: str,
        credentials: Credentials,
        on_bad_files: Callable[[BadCredentials], None],
    ) -> None:
        """`on_bad_files` is called, once, when files have become such that what was read before is kept."""
        self.channel = channel
        self.credentials = credentials
        self._address = address
        self._on_bad_files = on_bad_files
        self._told = ""
        self._own: grpc.aio.Channel | None = None

    async def renew(self) -> bool:
        """Reads the files again, and opens a channel where they have changed. Whether there is one."""
        try:
            renewed = self.credentials.renewed()
        except BadCredentials as error:
            if str(error) != self._told:
                self._told = str(error)
                self._on_bad_files(error)
            return False
        self._told = ""
        if renewed is None:
            return False
        await self.close()
        self.credentials = renewed
        self.channel = self._own = open_channel(self._address, renewed)
        return True

    async def wait(self, timeout_s: float) -> None:
        """Until there is another channel, but no longer than that."""
        loop = asyncio.get_running_loop()
        end = loop.time() + timeout_s
        while (left_s := end - loop.time()) > 0:
            if await self.renew():
                return
            await asyncio.sleep(min(left_s, FILES_LOOK_S))

    async def close(self) -> None:
        if self._own is not None:
            await self._own.close(None)
