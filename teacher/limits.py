"""What the page's server takes of those who connect: so many connections, so much time and so many bytes to say what
they want. aiohttp keeps these limits, but for the number of connections, which it does not know."""

import asyncio
import logging
from typing import Any

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

ANY_CONNECTIONS = 64  # the same, and those that have not said yet what they are
# seconds a connection has for a whole request's header, also if it sends a letter now and then, and for the next one
HEADER = 5.0
# bytes of a request's first line, and of another line; lines: browsers send a score, and cookies of all ports
LINE, FIELD, FIELDS = 2048, 8190, 64


def limits() -> dict[str, Any]:
    """As `web.AppRunner` takes them."""
    log = logging.Logger("dreamdrive.page", logging.WARNING)
    log.addHandler(logging.StreamHandler())
    # what others have sent that is no HTTP is answered, and not worth a word
    log.addFilter(lambda record: not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError)))
    return {
        "logger": log,
        "keepalive_timeout": HEADER,
        "max_line_size": LINE,
        "max_field_size": FIELD,
        "max_headers": FIELDS,
    }


class TurnedAway(asyncio.Protocol):
    """A connection too many, which is closed before it has said anything."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport), "that of a connection"
        transport.abort()


def admitted(server: web.Server | None) -> asyncio.BaseProtocol:
    """What talks to a new connection."""
    assert server is not None, "the runner has been set up"
    return server() if len(server.connections) < ANY_CONNECTIONS else TurnedAway()
