"""Where browsers say whether, and how large, they want to see clips while these are sampled."""

from __future__ import annotations

from aiohttp import web
from server import PromptServer

from ..lavie_models.comfyui.preview import viewers

PATH = "/lavie/preview"


async def register(request: web.Request) -> web.Response:
    """POST {"client_id": ComfyUI's, "size": pixels of the longest edge, 0 for none}; 400 with a reason for others."""
    try:
        wish = await request.json()
        viewers.register(str(wish["client_id"]), int(wish["size"]), PromptServer.instance.sockets)
    except (ValueError, TypeError, KeyError) as error:
        return web.Response(status=400, text=f'expected {{"client_id": ..., "size": pixels}}: {error}')
    return web.json_response({})


def add_route() -> None:
    """Before the server adds its routes to the application, which is when custom nodes are loaded."""
    PromptServer.instance.routes.post(PATH)(register)
