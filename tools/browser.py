"""A real browser on a real server: Debian's Chromium, headless, driven by Playwright.

Contract: `open_browser` yields a page that shows ComfyUI with nothing stored; exceptions that nothing on the page
caught are kept in `page.errors`.
"""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path

from playwright.sync_api import sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip
SIZE = {"width": 1440, "height": 900}
TIMEOUT_MS = 300_000  # two busy cores
# ComfyUI greets a newcomer with its template browser, some time after the page is ready. Its canvas, drawn by the CPU
# here, would leave little of it to the sampler.
SETTINGS = {"Comfy.TutorialCompleted": True, "LiteGraph.Canvas.MaximumFps": 10}


class BrowserError(RuntimeError):
    """There is no browser on this machine; the message says what to do."""


def find_chromium() -> str:
    """Path of the browser. Raises BrowserError."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        raise BrowserError("there is no Chromium on this machine (on Debian: apt-get install chromium)")
    return found


@contextlib.contextmanager
def open_browser(url: str, folder: Path):
    """A page with ComfyUI in a fresh browser whose data lies in ``folder``; ready for use."""
    executable = find_chromium()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch_persistent_context(
            folder, executable_path=executable, headless=True, args=FLAGS, viewport=SIZE
        )
        try:
            browser.set_default_timeout(TIMEOUT_MS)
            page = browser.pages[0]
            page.errors = []
            page.on("pageerror", lambda error: page.errors.append(str(error)))
            page.request.post(f"{url}/api/settings", data=SETTINGS)
            open_comfyui(page, url)
            yield page
        finally:
            browser.close()


def open_comfyui(page, url: str) -> None:
    """Load ComfyUI's page and wait until its graph and our extension are there."""
    page.goto(url, wait_until="domcontentloaded")
    page.wait_for_function("() => window.app?.extensionManager && window.app.canvas?.graph && window.app.vueAppReady")
    page.wait_for_function("() => window.app.extensions.some((extension) => extension.name === 'LaVie')")
    page.wait_for_function("() => window.app.extensionManager.workflow.activeWorkflow")
