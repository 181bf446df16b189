"""LaVie text-to-video for ComfyUI: entry point of the node pack, and root of the package `comfyui_lavie`."""

WEB_DIRECTORY = "./web"


async def comfy_entrypoint():
    """Called by ComfyUI when it loads the pack."""
    from .nodes.extension import LaVieExtension

    return LaVieExtension()
