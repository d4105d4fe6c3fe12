"""Those who connect to the page and say nothing, too much, or no HTTP: they are sent away, and the log stays clean."""

import asyncio
import time

from dreamdrive.teacher import limits
from dreamdrive.tests.test_teacher_server import serving

SLOW = b"GET / HTTP/1.1\r\nHost: 127"


async def sent(page, payload: bytes, seconds: float = 3.0) -> bytes:
    """The first line of the answer to some bytes; b"" for a connection that was closed."""
    reader, writer = await asyncio.open_connection(page.host, page.port)
    try:
        writer.write(payload)
        await writer.drain()
        return (await asyncio.wait_for(reader.read(300), seconds)).split(b"\r\n")[0]
    except ConnectionError:
        return b""
    finally:
        writer.close()


def head(page, *lines: bytes, host: bytes | None = None) -> bytes:
    host = host or f"{page.host}:{page.port}".encode()
    return b"\r\n".join([b"GET / HTTP/1.1", b"Host: " + host, *lines, b"", b""])


def test_an_origin_or_a_host_that_is_none_of_ours_is_refused():
    with serving() as (page, _):
        for origin in (b"http://[", b"http://]", b"http://[::1", b"//[", b"[", b"http://\xff", b"http://a@b"):
            assert b" 403 " in asyncio.run(sent(page, head(page, b"Origin: " + origin))), origin
        for host in (b"[", b"]", b"evil@localhost", b"localhost.evil.example", b"[::1", b"\xff"):
            assert b" 403 " in asyncio.run(sent(page, head(page, host=host))), host


def test_what_is_no_http_is_answered_and_leaves_no_traceback(capfd):
    with serving() as (page, _):
        for payload in (
            b"\x16\x03\x01\x00\xa5" + bytes(160),
            b"GET / HTTP/1.1\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
            b"GET /" + b"a" * limits.LINE + b" HTTP/1.1\r\n\r\n",
            head(page, b"X: " + b"a" * 200_000),
            head(page, *(b"X%d: a" % i for i in range(limits.FIELDS + 1))),
            head(page, b"Content-Length: -5"),
            head(page, b"X: a\nSet-Cookie: b"),
        ):
            assert asyncio.run(sent(page, payload)).split()[1:2] in ([], [b"400"]), payload[:40]
        assert b" 200 " in asyncio.run(sent(page, head(page)))
    assert capfd.readouterr().err == ""


def test_a_header_has_its_time_however_slowly_it_comes(monkeypatch):
    monkeypatch.setattr(limits, "HEADER", 0.6)

    async def trickle(page) -> float:
        reader, writer = await asyncio.open_connection(page.host, page.port)
        writer.write(SLOW)
        began = time.monotonic()
        while not reader.at_eof() and time.monotonic() - began < 5:
            writer.write(b"a")
            try:
                await asyncio.wait_for(reader.read(1), 0.1)
            except (TimeoutError, ConnectionError):
                continue
        writer.close()
        return time.monotonic() - began

    with serving() as (page, _):
        assert asyncio.run(trickle(page)) < 3


def test_there_is_an_end_to_connections_and_they_make_room_again(monkeypatch):
    monkeypatch.setattr(limits, "ANY_CONNECTIONS", 4)

    async def crowd(page) -> list[bytes]:
        held = [await asyncio.open_connection(page.host, page.port) for _ in range(4)]
        for _, writer in held:
            writer.write(SLOW)
        await asyncio.sleep(0.2)
        full = await sent(page, head(page))
        for _, writer in held:
            writer.close()
        await asyncio.sleep(0.3)
        return [full, await sent(page, head(page))]

    with serving() as (page, _):
        full, later = asyncio.run(crowd(page))
    assert full == b"" and b" 200 " in later
