"""Who sees moving previews: browsers say whether, and how large, and get those of their own workflows.

Contract: every LaVie MODEL carries `while_sampling` as one of ComfyUI's own sampling wrappers, so core samplers are
used unchanged and other models never meet it. Messages of type EVENT go to clients that registered at PATH, to no
others; what a client wants only that client can say, by the key that its websocket was sent.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Collection

from comfy_execution.progress import get_progress_state
from comfy_execution.utils import get_executing_context

from .body import read_body
from .preview import Previews

EVENT = "lavie_preview"
KEY_EVENT = "lavie_preview_key"
SIZES = range(32, 1025)  # of the longest edge of a frame, pixels
PATH = "/lavie/preview"
MAX_BYTES = 1000  # of a wish
EXPECTED = 'expected {"client_id": text, "size": pixels, "key": text or null}'


class Viewers:
    """The browsers that want previews: ComfyUI's client id of each, how large, and the key that only it knows."""

    def __init__(self):
        self._sizes: dict[str, int] = {}
        self._keys: dict[str, str] = {}

    def key(self, client_id: str) -> str:
        """The secret of a client; it is sent to that client's websocket and nowhere else."""
        return self._keys.setdefault(client_id, secrets.token_urlsafe(16))

    def register(self, client_id: str, size: int, key: str | None, connected: Collection[str]) -> bool:
        """Remember a client; size 0 forgets its wish, and all that are no longer ``connected`` are forgotten.

        Returns whether the key is that client's; with another one nothing changes for it.

        Raises:
            ValueError: for a client that is not connected, and a size that is neither 0 nor in SIZES.
        """
        for known in (self._sizes, self._keys):
            for client in known.keys() - set(connected):
                del known[client]
        if client_id not in connected:
            raise ValueError("no client of that id is connected")
        if size and size not in SIZES:
            raise ValueError(f"size must be 0 (off) or {SIZES.start} .. {SIZES.stop - 1} pixels, got {size}")
        if not secrets.compare_digest((key or "").encode(), self.key(client_id).encode()):
            return False
        self._sizes[client_id] = size
        return True

    def size(self, client_id: str | None) -> int:
        """Pixels of the longest edge that a client wants, 0 for none."""
        return self._sizes.get(client_id, 0)


viewers = Viewers()


def parse_wish(body: bytes) -> tuple[str, int, str | None]:
    """(client id, size, key) of a request. Raises ValueError for anything else, however it is made."""
    if len(body) > MAX_BYTES:
        raise ValueError(f"at most {MAX_BYTES} bytes")
    try:
        wish = json.loads(body.decode())
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    client, size, key = (wish.get(name) if isinstance(wish, dict) else None for name in ("client_id", "size", "key"))
    if isinstance(size, float) and size.is_integer():
        size = int(size)
    whole = isinstance(size, int) and not isinstance(size, bool)
    if not (isinstance(client, str) and whole and isinstance(key, str | None)):
        raise ValueError(f"got {body[:80]!r}")
    return client, size, key


async def register(request):
    """POST {"client_id": ComfyUI's, "size": pixels of the longest edge or 0, "key": the one that the client was sent}.

    Answers 200; 202 for a key that is missing or wrong, and the right one goes to the client's websocket; 400 with a
    reason for all else.
    """
    from aiohttp import web
    from server import PromptServer

    server = PromptServer.instance
    try:
        client, size, key = parse_wish(await read_body(request, MAX_BYTES))
        known = viewers.register(client, size, key, server.sockets)
    except ValueError as error:
        return web.Response(status=400, text=f"{EXPECTED}: {error}")
    if not known:
        server.send_sync(KEY_EVENT, {"key": viewers.key(client)}, client)
    return web.json_response({}, status=200 if known else 202)


def add_route() -> None:
    """Add PATH to the server; call it while custom nodes are loaded, before the server fixes its routes."""
    from server import PromptServer  # only a process that has a server needs its packages

    PromptServer.instance.routes.post(PATH)(register)


def while_sampling(executor, noise, latent_image, sampler, sigmas, denoise_mask=None, callback=None, *rest, **options):
    """Wrapper of CFGGuider.outer_sample: the sampler's callback also feeds the previews, where anyone looks at them."""
    previews = _start(executor.class_obj.model_patcher.model)
    if previews is None:
        return executor(noise, latent_image, sampler, sigmas, denoise_mask, callback, *rest, **options)

    def after_step(step, x0, x, total_steps):
        if not x0.is_nested and x0.ndim == 4:
            previews.offer(x0)
        if callback is not None:
            callback(step, x0, x, total_steps)

    try:
        return executor(noise, latent_image, sampler, sigmas, denoise_mask, after_step, *rest, **options)
    finally:
        previews.close()


def _start(model) -> Previews | None:
    """Previews for the client whose workflow is running, or None: no server, no node, or nobody asked."""
    from server import PromptServer  # only a process that has a server needs its packages

    server, context = getattr(PromptServer, "instance", None), get_executing_context()
    if server is None or context is None or not (size := viewers.size(server.client_id)):
        return None
    client, shown = server.client_id, get_progress_state().dynprompt.get_display_node_id(context.node_id)
    about = {"node": shown, "prompt_id": context.prompt_id, "stage": model.model_config.lavie_config.stage}
    return Previews(model.latent_format, size, lambda message: server.send_sync(EVENT, {**about, **message}, client))
