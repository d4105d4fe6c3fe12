"""What the lesson's server refuses, and that nobody is disturbed by those who are refused."""

import asyncio
import contextlib
import json
import queue
import socket
import struct
import threading
import time

import aiohttp
import numpy as np
import pytest

from dreamdrive.teacher import server
from dreamdrive.teacher.server import BURST, LARGEST, Malformed, Server, understood
from dreamdrive.teacher.session import Held
from dreamdrive.utils.errors import UserError

KEYS = {"left": "accelerate left", "right": "accelerate right"}
STATUS = {"phase": "running", "trial": 1}


class Lesson:
    """What a server needs of a session."""

    def __init__(self) -> None:
        self.held, self.orders, self.present = Held(), queue.SimpleQueue(), threading.Event()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def serving(host: str = "127.0.0.1"):
    """A server with a picture every 20 ms."""
    lesson, ending = Lesson(), threading.Event()
    page = Server(host, free_port(), {"world": "mountaincar", "keys": KEYS, "two_views": False, "only": False})
    page.session = lesson
    page.start()
    page.tell(STATUS)

    def shine() -> None:
        step = 0
        while not ending.wait(0.02):
            step += 1
            page.show(np.full((64, 64, 3), step % 256, np.uint8), {"step": step})

    light = threading.Thread(target=shine)
    light.start()
    try:
        yield page, lesson
    finally:
        ending.set()
        light.join()
        page.stop()


@pytest.fixture
def page():
    with serving() as served:
        yield served


def url(page: Server, path: str = "") -> str:
    return f"http://127.0.0.1:{page.port}/{path}"


class Guest:
    """A connection as the page makes it."""

    def __init__(self, session: aiohttp.ClientSession, page: Server, **headers: str) -> None:
        self._coming = session.ws_connect(
            url(page, "ws"), headers={"Origin": url(page)[:-1], **headers}, max_msg_size=0
        )

    async def __aenter__(self) -> "Guest":
        self.socket = await self._coming
        return self

    async def __aexit__(self, *exception) -> None:
        await self.socket.close()

    async def hello(self, name: str | None = None) -> dict:
        await self.socket.send_json({"type": "hello", "name": name})
        while "name" not in (status := await self.status()) or status["name"] is None:
            pass
        return status

    async def status(self) -> dict:
        while (message := await asyncio.wait_for(self.socket.receive(), 5)).type is not aiohttp.WSMsgType.TEXT:
            assert message.type is aiohttp.WSMsgType.BINARY, message
        return json.loads(message.data)

    async def step(self) -> int:
        """Number of the next picture."""
        while (message := await asyncio.wait_for(self.socket.receive(), 5)).type is not aiohttp.WSMsgType.BINARY:
            assert message.type is aiohttp.WSMsgType.TEXT, message
        (size,) = struct.unpack_from("<I", message.data)
        assert message.data[4 + size :][:2] == b"\xff\xd8"
        return json.loads(message.data[4 : 4 + size])["step"]

    async def closed(self) -> int:
        """Why the server ended it."""
        while (message := await asyncio.wait_for(self.socket.receive(), 5)).type in (
            aiohttp.WSMsgType.TEXT,
            aiohttp.WSMsgType.BINARY,
        ):
            pass
        return self.socket.close_code if message.type is not aiohttp.WSMsgType.CLOSE else message.data


def talk(page: Server, what):
    """Run what(session) -> coroutine as a browser would."""

    async def run():
        async with aiohttp.ClientSession() as session:
            return await what(session)

    return asyncio.run(run())


async def get(session: aiohttp.ClientSession, page: Server, path: str = "", **options) -> tuple[int, str, dict]:
    async with session.get(url(page, path), allow_redirects=False, **options) as answer:
        return answer.status, await answer.text(), dict(answer.headers)


# Who is let in


def test_the_page_is_served_and_no_file_else(page):
    status, text, headers = talk(page[0], lambda session: get(session, page[0]))
    policy = headers["Content-Security-Policy"]
    assert status == 200 and "<!doctype html>" in text and "default-src 'none'" in policy and "unsafe" not in policy
    for path in ("page.html", "../server.py", "%2e%2e/server.py", "static/", "favicon.ico", "bc/best.tar"):
        assert talk(page[0], lambda session, path=path: get(session, page[0], path))[0] == 404


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Host": "evil.example:8080"},
        {"Host": ""},
        {"Host": "[::1"},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Host": "10.0.0.1"},
    ],
)
def test_foreign_names_and_foreign_pages_are_refused(page, headers):
    assert talk(page[0], lambda session: get(session, page[0], headers=headers))[0] in (400, 403)

    async def enter(session):
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            async with Guest(session, page[0], **headers):
                pass
        return refused.value.status

    assert talk(page[0], enter) in (400, 403)


def test_a_socket_without_an_origin_is_refused(page):
    async def enter(session):
        with pytest.raises(aiohttp.WSServerHandshakeError):
            await session.ws_connect(url(page[0], "ws"))

    talk(page[0], enter)


def test_off_this_machine_a_token_is_demanded_once():
    with serving("0.0.0.0") as (page, _):
        assert page.token and page.address.endswith(f"?token={page.token}")

        async def visits(session):
            for path in ("", "ws", "?token=", "?token=wrong", f"?token={page.token}x", f"ws?token={page.token}"):
                assert (await get(session, page, path, headers={"Origin": url(page)[:-1]}))[0] == 403, path
            status, _, headers = await get(session, page, f"?token={page.token}")
            assert (
                status == 302
                and "HttpOnly" in headers["Set-Cookie"]
                and "SameSite=Strict" in headers["Set-Cookie"]
                and page.token not in headers["Set-Cookie"]
            )
            cookie = {"Cookie": headers["Set-Cookie"].split(";")[0]}
            assert (await get(session, page, headers=cookie))[0] == 200
            assert (await get(session, page, headers={**cookie, "Origin": "http://evil.example"}))[0] == 403
            assert (await get(session, page, headers={**cookie, "Host": "evil.example"}))[0] == 403
            assert (await get(session, page, headers={"Cookie": "dreamdrive=guess"}))[0] == 403
            async with Guest(session, page, **cookie) as guest:
                assert (await guest.hello())["seat"] == "yours"

        asyncio.run(in_session_without_cookies(visits))


@pytest.mark.parametrize(
    "header", [b"Cookie: dreamdrive=\xff\xfe", b"Cookie: \xff", b"Origin: http://[", b"Origin: \xff", b"Host: \xff"]
)
@pytest.mark.parametrize("path", [b"/", b"/?token=%ff", b"/?token=\xff", b"/ws"])
def test_headers_that_are_no_text_are_refused_like_others(path, header):
    with serving("0.0.0.0") as (page, _), socket.create_connection(("127.0.0.1", page.port), 5) as connection:
        host = b"" if header.startswith(b"Host") else b"Host: 127.0.0.1:%d\r\n" % page.port
        connection.sendall(b"GET %s HTTP/1.1\r\n%s%s\r\n\r\n" % (path, host, header))
        assert connection.recv(100).split()[1] in (b"403", b"400")


async def in_session_without_cookies(what) -> None:
    async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as session:
        await what(session)


def test_on_this_machine_no_token_is_needed(page):
    assert page[0].token is None and page[0].address == f"http://127.0.0.1:{page[0].port}/"


def test_an_address_that_is_taken_is_one_sentence(page):
    other = Server("127.0.0.1", page[0].port, {"keys": KEYS})
    with pytest.raises(UserError, match="cannot be listened on .*choose another --port"):
        other.start()


# What is refused, and that the lesson continues


FLOOD = [json.dumps({"type": "keys", "held": []})] * 10_000
BAD = {
    "broken JSON": ["{"],
    "no object": ["[]"],
    "deep": ["[" * 900],
    "no type": ["{}"],
    "unknown type": ['{"type": "shell"}'],
    "unknown keys": ['{"type": "keys", "held": ["q"]}'],
    "keys that are none": ['{"type": "keys", "held": [1, {}]}'],
    "no list": ['{"type": "keys", "held": "left"}'],
    "too many keys": [json.dumps({"type": "keys", "held": ["left"] * 50})],
    "unknown order": ['{"type": "do", "what": "rm"}'],
    "another speed": ['{"type": "do", "what": "speed", "value": 1000}'],
    "a speed that is none": ['{"type": "do", "what": "speed", "value": NaN}'],
    "more than wanted": ['{"type": "keys", "held": [], "more": 1}'],
    "large": ["x" * 10_000_000],
    "flood": FLOOD,
    "binary": [b"\0" * 10],
}


@pytest.mark.parametrize("name", BAD)
def test_malformed_messages_close_their_connection_and_nothing_else(page, name):
    served, lesson = page

    async def visit(session):
        async with Guest(session, served) as teacher:
            assert (await teacher.hello())["seat"] == "yours"
            await teacher.socket.send_json({"type": "keys", "held": ["left"]})
            async with Guest(session, served) as guest:
                await guest.hello()
                with contextlib.suppress(ConnectionError, aiohttp.ClientConnectionError):
                    for message in BAD[name]:
                        await (
                            guest.socket.send_bytes(message)
                            if isinstance(message, bytes)
                            else guest.socket.send_str(message)
                        )
                assert await guest.closed() in (1008, 1009, 1006)
            before = await teacher.step()
            for _ in range(20):
                assert (after := await teacher.step()) > before
                before = after
            await teacher.socket.send_json({"type": "keys", "held": ["right"]})
            for _ in range(5):
                await teacher.step()
            return lesson.held.now() and lesson.present.is_set()

    assert talk(served, visit) and lesson.orders.empty()


@pytest.mark.parametrize(
    "text, value",
    [
        ('{"type": "hello", "name": null}', None),
        ('{"type": "keys", "held": ["right", "left"]}', {"left", "right"}),
        ('{"type": "do", "what": "speed", "value": 0.5}', 0.5),
        ('{"type": "do", "what": "stop"}', None),
    ],
)
def test_what_the_page_sends_is_understood(text, value):
    message = understood(text, KEYS)
    assert message.get("held", message.get("value")) == value


def test_the_largest_message_of_the_page_passes():
    assert len(json.dumps({"type": "keys", "held": list(KEYS) * 10})) < LARGEST and BURST > 50
    with pytest.raises(Malformed):
        understood(json.dumps({"type": "hello", "name": "x" * 65}), KEYS)


def test_one_who_says_nothing_is_sent_away(page, monkeypatch):
    monkeypatch.setattr(server, "GREETING", 0.3)

    async def visit(session):
        async with Guest(session, page[0]) as guest:
            return await guest.closed()

    assert talk(page[0], visit) == 1008


# The teacher's seat


def test_there_is_one_teacher_and_others_watch(page):
    served, lesson = page

    async def visit(session):
        async with Guest(session, served) as teacher, Guest(session, served) as watcher:
            mine = await teacher.hello()
            # a guess at the teacher's name is of no use while the teacher is there
            theirs = await watcher.hello(mine["name"])
            assert mine["seat"] == "yours" and theirs["seat"] == "taken" and theirs["name"] != mine["name"]
            await watcher.socket.send_json({"type": "keys", "held": ["left"]})
            await watcher.socket.send_json({"type": "do", "what": "stop"})
            await watcher.socket.send_json({"type": "do", "what": "take"})
            await asyncio.sleep(0.3)
            assert lesson.held.now() == frozenset() and lesson.orders.empty()
            await teacher.socket.send_json({"type": "do", "what": "pause"})
            assert await asyncio.to_thread(lesson.orders.get, timeout=5) == ("pause", None)

    talk(served, visit)


def test_a_teacher_who_comes_back_goes_on_and_one_who_does_not_is_replaced(page, monkeypatch):
    monkeypatch.setattr(server, "SEAT_KEPT", 0.5)
    served, lesson = page

    async def visit(session):
        async with Guest(session, served) as watcher:
            async with Guest(session, served) as teacher:
                name = (await teacher.hello())["name"]
                await watcher.hello()
                await teacher.socket.send_json({"type": "keys", "held": ["left"]})
                while not lesson.held.now():
                    await teacher.step()
            start = time.monotonic()
            while lesson.held.now() or lesson.present.is_set():
                await asyncio.sleep(0.01)
            assert time.monotonic() - start < 1  # and not until somebody confirms the keys
            async with Guest(session, served) as again:
                assert (await again.hello(name))["seat"] == "yours" and lesson.present.is_set()
            while (await watcher.status())["seat"] != "free":
                pass
            await watcher.socket.send_json({"type": "do", "what": "take"})
            while (await watcher.status())["seat"] != "yours":
                pass
            assert lesson.present.is_set()
            async with Guest(session, served) as late:
                assert (await late.hello(name))["seat"] == "taken"

    talk(served, visit)


def test_a_slow_reader_misses_pictures_and_delays_nobody(page):
    served, _ = page

    async def visit(session):
        async with Guest(session, served) as teacher, Guest(session, served) as sleeper:
            await teacher.hello()
            await sleeper.hello()
            first = await teacher.step()
            await asyncio.sleep(2)
            start, seen = time.monotonic(), 0
            while time.monotonic() - start < 1:
                last = await teacher.step()
                seen += 1
            assert last > first + 60 and seen > 20

    talk(served, visit)


def test_the_end_is_said_and_soon():
    with serving() as (page, _):

        async def visit(session):
            async with Guest(session, page) as teacher:
                await teacher.hello()
                page.tell({**STATUS, "phase": "done"})
                threading.Thread(target=page.stop).start()
                while (await teacher.status())["phase"] != "done":
                    pass
                return await teacher.closed()

        start = time.monotonic()
        assert talk(page, visit) == 1001 and time.monotonic() - start < 5
