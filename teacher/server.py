"""The web page of a lesson, or of play.py: one file, a WebSocket for the pictures and the keys, and nobody else's
business.

What is served is the page and nothing else. Host and Origin are checked on every request and on the WebSocket, so that
no other web page, and no name that was made to point here, can reach it from the teacher's own browser. Off this
machine (`--host`) a token is demanded, which the printed address holds; the browser swaps it for a cookie.

Messages from the page are small JSON objects: {"type": "hello", "name": ...}, {"type": "keys", "held": [...]}, {"type":
"do", "what": ..., "value": ...}. One that is malformed, too large, or one of too many closes its connection and nothing
else. To the page go status as JSON text, and pictures as binary: the length of a JSON header (uint32, little endian),
the header, a JPEG. Whoever reads too slowly misses pictures; nothing waits for him.
"""

import asyncio
import contextlib
import hmac
import io
import ipaddress
import json
import queue
import secrets
import socket
import struct
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

import numpy as np
from aiohttp import WSCloseCode, WSMsgType, web
from PIL import Image

from dreamdrive.teacher.limits import admitted, limits
from dreamdrive.teacher.session import SPEEDS, Held
from dreamdrive.utils.content_policy import own_only
from dreamdrive.utils.errors import UserError
from dreamdrive.utils.page_style import styled
from dreamdrive.utils.video import people

PAGE = Path(__file__).with_name("page.html")
COOKIE = "dreamdrive"
LARGEST = 1024  # bytes of a message
RATE, BURST = 80.0, 160.0  # messages a second, and as many at once, that a connection may send
CONNECTIONS = 32  # of the page's sockets
GREETING = 5.0  # seconds a connection has to say hello
SEAT_KEPT = 15.0  # seconds a teacher who has gone may come back before somebody else can take over
GOODBYE = 5.0  # seconds the server has to end
LEAST_SIDE = 400  # pixels: smaller pictures are enlarged, so that JPEG leaves them as they are
LOCAL = ("localhost", "127.0.0.1", "::1")
# what the page may order -> its values: None for none, those that are possible, or whether one is
Doing = Mapping[str, Sequence | Callable[[Any], bool] | None]
DOING: Doing = {
    "pause": None,
    "go": None,
    "step": None,
    "reset": None,
    "stop": None,
    "take": None,
    "speed": SPEEDS,
    "view": (False, True),
}


class Malformed(ValueError):
    """A message that no page of ours sends."""


class Orders(Protocol):
    def put(self, order: tuple[str, Any], /) -> None: ...


class Served(Protocol):
    """What the page shows and moves: see teacher.session.Session."""

    @property
    def held(self) -> Held: ...

    @property
    def present(self) -> threading.Event: ...

    @property
    def orders(self) -> Orders: ...


class Client:
    """A connection."""

    def __init__(self, socket: web.WebSocketResponse) -> None:
        self.socket = socket
        self.name: str | None = None
        self.text: str | None = None  # what is to be sent: the latest of each kind
        self.picture: bytes | None = None
        self.news = asyncio.Event()
        self._allowance, self._then = BURST, time.monotonic()

    def spend(self) -> None:
        """Count a message; Malformed if there are too many."""
        now = time.monotonic()
        self._allowance = min(BURST, self._allowance + RATE * (now - self._then)) - 1
        self._then = now
        if self._allowance < 0:
            raise Malformed("too many messages")


class Server:
    """Serves a lesson to one teacher, and to others who watch."""

    def __init__(
        self, host: str, port: int, about: dict, doing: Doing = DOING, does: str = "teach", what: str = "the lesson"
    ) -> None:
        """
        Args:
            about: what the page is told once, e.g. the world's name and keys
            doing: what it may order
            does, what: what is done there, for people
        """
        self.host, self.port, self.doing, self.does, self.what = host, port, doing, does, what
        self.session: Served  # to be set before `start`
        self.token = None if host in LOCAL else secrets.token_urlsafe(18)
        self.about = {**about, "guarded": self.token is not None}
        self._cookie = secrets.token_urlsafe(18)
        self._clients: set[Client] = set()
        self._teacher: str | None = None  # name of the client in the seat
        self._left = 0.0  # when the seat became empty
        self._status: dict = {}
        self._picture: bytes | None = None  # the last one, for those who come while nothing moves
        self._loop: asyncio.AbstractEventLoop | None = None
        page = styled(PAGE.read_text())
        self._page, self._policy = page, content_policy(page)

    @property
    def address(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else socket.gethostname() if self.host == "0.0.0.0" else self.host
        return f"http://{host}:{self.port}/" + (f"?token={self.token}" if self.token else "")

    # What the lesson says; called from its thread

    def tell(self, status: dict) -> None:
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._told, status)

    def show(self, picture: np.ndarray, now: dict) -> None:
        if self._loop is not None and self._clients:
            header = json.dumps(now).encode()
            content = struct.pack("<I", len(header)) + header + jpeg(picture)
            self._loop.call_soon_threadsafe(self._shown, content)

    def _told(self, status: dict) -> None:
        self._status = status
        for client in self._clients:
            self._inform(client)

    def _shown(self, content: bytes) -> None:
        self._picture = content
        for client in self._clients:
            client.picture = content
            client.news.set()

    def _inform(self, client: Client) -> None:
        """Tell a client how things are, and whether he is the teacher."""
        seat = "yours" if client.name == self._teacher else "free" if self._free() else "taken"
        client.text = json.dumps(
            {**self.about, **self._status, "seat": seat, "name": client.name, "watching": len(self._clients) - 1}
        )
        client.news.set()

    # The teacher's seat

    def _there(self, name: str | None) -> bool:
        return any(client.name == name for client in self._clients)

    def _free(self) -> bool:
        return self._teacher is None or (not self._there(self._teacher) and time.monotonic() - self._left > SEAT_KEPT)

    def _sit(self, client: Client) -> None:
        self._teacher = client.name
        self.session.present.set()
        self._told(self._status)

    def _go(self, client: Client) -> None:
        """A connection is over."""
        self._clients.discard(client)
        if client.name == self._teacher and client.name is not None:
            self._left = time.monotonic()
            self.session.held.hold(frozenset())
            self.session.present.clear()
            asyncio.get_running_loop().call_later(SEAT_KEPT + 0.1, self._told_again)
        self._told_again()

    def _told_again(self) -> None:
        self._told(self._status)

    # HTTP

    def application(self) -> web.Application:
        app = web.Application(middlewares=[self._guard], client_max_size=LARGEST)
        app.router.add_get("/", self._serve_page)
        app.router.add_get("/ws", self._serve_socket)
        return app

    @web.middleware
    async def _guard(self, request: web.Request, handler) -> web.StreamResponse:
        if not self._host_is_ours(request.headers.get("Host", "")):
            return refusal(403, "this page is not served under that name")
        origin = request.headers.get("Origin")
        if (origin is not None or request.path == "/ws") and host_of(origin or "") != request.headers["Host"]:
            return refusal(403, "this comes from another page")
        if self.token is not None and not same(request.cookies.get(COOKIE, ""), self._cookie):
            if request.path == "/" and same(request.query.get("token", ""), self.token):
                answer = web.HTTPFound("/")
                answer.set_cookie(COOKIE, self._cookie, httponly=True, samesite="Strict")
                raise answer
            return refusal(403, f"the address must have the token that was printed where {self.what} was started")
        return await handler(request)

    def _host_is_ours(self, header: str) -> bool:
        """Names that others can make point here are not; an address is, since nobody can make that."""
        if "@" in header:
            return False
        try:
            name = urlsplit(f"//{header}").hostname or ""
        except ValueError:
            return False
        if name in LOCAL:
            return True
        if self.token is None:
            return False
        try:
            ipaddress.ip_address(name)
            return True
        except ValueError:
            return name in {self.host.lower(), socket.gethostname().lower(), socket.getfqdn().lower()}

    async def _serve_page(self, request: web.Request) -> web.Response:
        return web.Response(
            text=self._page,
            content_type="text/html",
            headers={
                "Content-Security-Policy": self._policy,
                "Cache-Control": "no-store",
                "X-Content-Type-Options": "nosniff",
                "Referrer-Policy": "no-referrer",
            },
        )

    async def _serve_socket(self, request: web.Request) -> web.StreamResponse:
        if len(self._clients) >= CONNECTIONS:
            return refusal(503, "too many are watching")
        connection = web.WebSocketResponse(max_msg_size=LARGEST, heartbeat=5.0, compress=False)
        await connection.prepare(request)
        client = Client(connection)
        self._clients.add(client)
        sender = asyncio.create_task(self._send(client))
        try:
            while True:
                message = await asyncio.wait_for(connection.receive(), None if client.name else GREETING)
                if message.type is not WSMsgType.TEXT:
                    if message.type is WSMsgType.BINARY:
                        raise Malformed("pictures go the other way")
                    break
                client.spend()
                self._obey(client, understood(message.data, self.about["keys"], self.doing))
        except (Malformed, TimeoutError) as error:
            await connection.close(code=WSCloseCode.POLICY_VIOLATION, message=str(error)[:100].encode())
        finally:
            sender.cancel()
            self._go(client)
        return connection

    async def _send(self, client: Client) -> None:
        """Pass on the latest status and the latest picture, as fast as they are taken."""
        while True:
            await client.news.wait()
            client.news.clear()
            text, picture, client.text, client.picture = client.text, client.picture, None, None
            try:
                if text is not None:
                    await client.socket.send_str(text)
                if picture is not None:
                    await client.socket.send_bytes(picture)
            except ConnectionError:
                return

    def _obey(self, client: Client, message: dict) -> None:
        if message["type"] == "hello":
            if client.name is None:
                known = message["name"]
                client.picture = self._picture
                client.name = known if known and not self._there(known) else secrets.token_urlsafe(12)
                if self._free() or client.name == self._teacher:
                    self._sit(client)
                else:
                    self._inform(client)
        elif client.name is None:
            raise Malformed("hello is to be said first")
        elif message["type"] == "do" and message["what"] == "take":
            if self._free():
                self._sit(client)
        elif client.name != self._teacher:
            return  # who watches may press what he likes
        elif message["type"] == "keys":
            self.session.held.hold(message["held"])
        else:
            self.session.orders.put((message["what"], message["value"]))

    # From start to end

    def start(self) -> None:
        """Serve in a thread of its own; UserError if the address cannot be had."""
        ready: queue.SimpleQueue[OSError | ValueError | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run(ready)), name="page", daemon=True)
        self._thread.start()
        error = ready.get()
        if error is not None:
            why = getattr(error, "strerror", None) or error
            raise UserError(f"{self.host}:{self.port} cannot be listened on ({why}): choose another --port or --host")
        print(
            f"{self.does} at {self.address}   (Ctrl-C ends {self.what}"
            + (")" if self.token else f"; from another machine: ssh -L {self.port}:localhost:{self.port} ...)"),
            flush=True,
        )

    def stop(self) -> None:
        """Say goodbye to all, and be gone within seconds."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._ended.set)
        self._thread.join(GOODBYE)

    async def _run(self, ready: queue.SimpleQueue) -> None:
        self._ended = asyncio.Event()
        runner = web.AppRunner(self.application(), access_log=None, shutdown_timeout=1.0, **limits())
        await runner.setup()
        listening = None
        try:
            try:
                loop = asyncio.get_running_loop()
                listening = await loop.create_server(lambda: admitted(runner.server), self.host, self.port)
            except (OSError, ValueError) as error:  # a port that is taken, an address that is none
                ready.put(error)
                return
            self._loop = asyncio.get_running_loop()
            ready.put(None)
            await self._ended.wait()
            await asyncio.sleep(0.2)  # for the last words to get out
            for client in list(self._clients):
                with contextlib.suppress(Exception):
                    await asyncio.wait_for(
                        client.socket.close(code=WSCloseCode.GOING_AWAY, message=f"{self.what} is over".encode()), 1.0
                    )
        finally:
            self._loop = None
            if listening is not None:
                listening.close()
            await runner.cleanup()


def understood(text: str, keys: Mapping[str, str], doing: Doing = DOING) -> dict:
    """A message of the page, checked; Malformed if it is none."""
    try:
        message = json.loads(text)
    except (ValueError, RecursionError):
        raise Malformed("that is not JSON") from None
    if not isinstance(message, dict):
        raise Malformed("an object is wanted")
    kind = message.get("type")
    if (
        kind == "hello"
        and set(message) == {"type", "name"}
        and (message["name"] is None or isinstance(message["name"], str) and len(message["name"]) <= 64)
    ):
        return message
    if (
        kind == "keys"
        and set(message) == {"type", "held"}
        and isinstance(message["held"], list)
        and len(message["held"]) <= len(keys)
        and all(isinstance(key, str) and key in keys for key in message["held"])
    ):
        return {"type": kind, "held": frozenset(message["held"])}
    if (
        kind == "do"
        and set(message) <= {"type", "what", "value"}
        and isinstance(message.get("what"), str)
        and message["what"] in doing
    ):
        if possible(message.get("value"), doing[message["what"]]):
            value = message.get("value")
            return {"type": kind, "what": message["what"], "value": value}
    raise Malformed("that is no message of this page")


def possible(value: Any, allowed: Sequence | Callable[[Any], bool] | None) -> bool:
    """Whether an order may have that value."""
    if allowed is None or value is None:
        return allowed is value
    plain = isinstance(value, (int, float, str))
    return plain and (allowed(value) if callable(allowed) else value in allowed)


def jpeg(picture: np.ndarray) -> bytes:
    """A picture (h, w, 3) or (h, w, n), grey frames of which the last is shown, as a JPEG; small ones enlarged by a
    whole factor."""
    image = Image.fromarray(people(picture))
    factor = -(-LEAST_SIDE // min(image.size))
    if factor > 1:
        image = image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def host_of(origin: str) -> str | None:
    """Host and port of an Origin; None if it is no address."""
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return None


def same(got: str, secret: str) -> bool:
    """Whether they are equal, in a time that says nothing about `secret`. `got` may be no text: aiohttp hands bytes on
    that are not UTF-8 as lone surrogates."""
    return hmac.compare_digest(got.encode(errors="surrogatepass"), secret.encode())


def refusal(status: int, why: str) -> web.Response:
    return web.Response(status=status, text=f"refused: {why}\n")


def content_policy(page: str) -> str:
    """What the page may do: run its own script and style, and talk to us."""
    return f"{own_only(page)}; img-src blob: data:; connect-src 'self'; frame-ancestors 'none'"
