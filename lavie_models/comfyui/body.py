"""What browsers send to the routes of this pack."""

from __future__ import annotations


async def read_body(request, most: int) -> bytes:
    """The body of an aiohttp request, which may come in pieces; of one of more than ``most`` bytes, ``most`` + 1."""
    body = b""
    while len(body) <= most and (part := await request.content.read(most + 1 - len(body))):
        body += part
    return body
