"""Sending answers with aiohttp: as fast as the kernel can, or as badly as a fault wants.

A whole file or a range of it goes by sendfile(2); everything else goes in pieces, at a pace where one is set.
Runs on the server's event loop only.
"""

from __future__ import annotations

import asyncio
import gzip
import os
import time
from collections.abc import Callable

from aiohttp import web

from rescalefs.emulator.exchange import JSON, Answer

# Bytes of JSON from which compressing pays for its time.
GZIP_MIN_BYTES = 2048
# gzip's quickest level: on loopback time counts, not size.
GZIP_LEVEL = 1
# Seconds of a paced stream that one write carries: 50 writes a second are smooth and cost next to nothing.
PACE_S = 0.02
# Most bytes of one write.
PIECE_BYTES = 1 << 18
# How often a stalled stream looks whether its client has gone.
STALL_LOOK_S = 0.05


async def deliver(
    request: web.BaseRequest, answer: Answer, sent: Callable[[int], None], *, accepts_gzip: bool
) -> web.StreamResponse:
    """Send *answer*, telling *sent* of body bytes as they are handed to the kernel (negative: taken back)."""
    if answer.is_dropped:
        if request.transport is not None:
            request.transport.abort()
        return web.Response()
    if not answer.content.is_ready():
        await asyncio.to_thread(answer.content.local_file)
    in_pieces = answer.chunked or any(
        limit is not None for limit in (answer.bytes_per_s, answer.cut_after, answer.stall_after)
    )
    path = None if in_pieces else answer.content.local_file()
    try:
        if in_pieces:
            return await _send_pieces(request, answer, sent)
        if path is not None:
            return await _send_file(request, answer, path, sent)
    except ConnectionError:  # The client has gone before the answer began.
        return web.Response()
    body, headers = answer.body(), dict(answer.headers)
    if accepts_gzip and headers.get("Content-Type") == JSON and len(body) >= GZIP_MIN_BYTES:
        body = await asyncio.to_thread(gzip.compress, body, GZIP_LEVEL)
        headers["Content-Encoding"] = "gzip"
    sent(len(body))
    return web.Response(status=answer.status, headers=headers, body=body)


async def _send_file(
    request: web.BaseRequest, answer: Answer, path: os.PathLike[str], sent: Callable[[int], None]
) -> web.StreamResponse:
    response = web.StreamResponse(status=answer.status, headers=answer.headers)
    response.content_length = answer.length
    await response.prepare(request)
    if request.transport is None or request.transport.is_closing() or not answer.length:
        return response
    # A client that has all bytes must find them counted, so they are counted first and the rest taken back.
    sent(answer.length)
    with open(path, "rb", buffering=0) as file:
        try:
            await asyncio.get_running_loop().sendfile(request.transport, file, answer.start, answer.length)
        except (ConnectionError, asyncio.CancelledError) as error:
            sent(max(file.tell(), answer.start) - answer.stop)  # The position is where it broke off.
            if isinstance(error, asyncio.CancelledError):
                raise
    return response


async def _send_pieces(request: web.BaseRequest, answer: Answer, sent: Callable[[int], None]) -> web.StreamResponse:
    response = web.StreamResponse(status=answer.status, headers=answer.headers)
    if answer.chunked:
        response.enable_chunked_encoding()
    else:
        response.content_length = answer.length
    await response.prepare(request)
    ends = [end for end in (answer.cut_after, answer.stall_after) if end is not None]
    stop = min([answer.stop, *(answer.start + end for end in ends)])
    rate = answer.bytes_per_s
    piece = PIECE_BYTES if rate is None else min(PIECE_BYTES, max(1, round(rate * PACE_S)))
    begun = time.monotonic()
    for start in range(answer.start, stop, piece):
        end = min(start + piece, stop)
        if rate is not None:  # Each byte is due at its own time, so the pace holds however late one write is.
            await asyncio.sleep(max(0.0, begun + (end - answer.start) / rate - time.monotonic()))
        data = answer.content.read(start, end)
        sent(len(data))
        try:
            await response.write(data)
        except ConnectionError:  # The client has gone.
            return response
    if stop == answer.stop:
        return response
    if answer.stall_after is not None:
        while request.transport is not None and not request.transport.is_closing():
            await asyncio.sleep(STALL_LOOK_S)
    if request.transport is not None:
        request.transport.close()
    return response
