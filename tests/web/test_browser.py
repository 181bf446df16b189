"""The pack as an artist meets it: in a real browser, from the template browser to the finished video.

Contract: one browser and one server; the tests go on from one another's page as a person would, and each leaves no
dialog open. Pictures of what was seen are left in runs/browser.
"""

from __future__ import annotations

import contextlib
import os
import re

import pytest
from comfyui_lavie.tests.web.kit import (
    WATCH_SAMPLER,
    close_dialogs,
    finished_video,
    node,
    open_template,
    picture,
    play,
    run,
    setting,
    subgraphs,
    wait_for_readout,
)
from comfyui_lavie.tools.browser import BrowserError, find_chromium, open_browser, open_comfyui
from comfyui_lavie.tools.texts import read
from comfyui_lavie.tools.workflows.templates import CASCADE, START, TEMPLATES
from playwright.sync_api import TimeoutError

PREVIEWS = "LaVie.Preview.Enabled"


@pytest.fixture(scope="module")
def page(comfyui, tmp_path_factory):
    try:
        find_chromium()
    except BrowserError as error:
        pytest.fail(str(error)) if os.environ.get("CI") else pytest.skip(str(error))
    with open_browser(comfyui.server.url, tmp_path_factory.mktemp("chromium")) as page:
        yield page
        assert not page.errors


def open_templates(page) -> None:
    """The template browser at this pack's page."""
    close_dialogs(page)
    page.locator(".templates-tab-button").click()
    page.get_by_role("dialog").get_by_text("lavie", exact=True).first.click()
    page.get_by_test_id(f"template-workflow-{START}").wait_for()


def click_template(page, name: str) -> None:
    """Under load ComfyUI's page may miss a click on a template; a person would click again."""
    open_templates(page)
    shown = page.get_by_test_id("template-workflows-content")
    for _ in range(3):
        with contextlib.suppress(TimeoutError):
            page.get_by_test_id(f"template-workflow-{name}").click(timeout=20_000)
            shown.wait_for(state="hidden", timeout=40_000)
        if not shown.is_visible():
            break
    shown.wait_for(state="hidden")
    page.wait_for_function("() => window.app.graph.nodes.length > 5")


def test_template_browser_lists_ours(page):
    open_templates(page)
    picture(page, "templates")
    for name in TEMPLATES:
        assert page.get_by_test_id(f"template-workflow-{name}").count() == 1, name
    close_dialogs(page)


def test_a_click_opens_a_template(page):
    click_template(page, START)
    assert node(page, "EmptyLaVieLatent", "node.comfyClass") == "EmptyLaVieLatent"


@pytest.mark.parametrize("name", TEMPLATES)
def test_template_opens_with_every_node(page, name):
    open_template(page, name)
    nodes = "[app.rootGraph, ...app.rootGraph.subgraphs.values()].flatMap((graph) => graph.nodes)"
    missing = page.evaluate(
        f"() => {nodes}.map((node) => node.type).filter((type) => !LiteGraph.registered_node_types[type])"
    )
    known = page.evaluate(f"() => {nodes}.filter((node) => node.comfyClass?.includes('LaVie')).length")
    picture(page, name)
    assert [kind for kind in missing if kind not in subgraphs(page)] == [] and known >= 3


def test_readout_follows_the_widgets(page):
    """Frames, size and duration at the rate of the video node, told before anything runs, and again after a change."""
    open_template(page)
    assert "in float32" in wait_for_readout(page, "EmptyLaVieLatent", "16 frames, 64 x 64, 2 s at 8/s")
    node(page, "EmptyLaVieLatent", "node.widgets.find((widget) => widget.name === 'frames').value = 12")
    text = wait_for_readout(page, "EmptyLaVieLatent", "12 frames, 64 x 64, 1.5 s at 8/s")
    assert "fits" in text and "free" in text


def test_prompts_that_change_are_shown(page):
    """Which frames get which prompt, before anything runs; of a line that is wrong, what is wrong with it."""
    open_template(page, next(name for name in TEMPLATES if TEMPLATES[name].use == "prompt_travel"))
    text = wait_for_readout(page, "LaVieFramePrompts", "1 - 14: blend")
    assert [line.split(":")[0] for line in text.splitlines()] == ["0", "1 - 14", "15"]
    node(page, "LaVieFramePrompts", "node.widgets.find((widget) => widget.name === 'schedule').value = '99: a fish'")
    wait_for_readout(page, "LaVieFramePrompts", "line 1 of the schedule names frame 99")


def test_the_cascade_tells_its_cost_and_how_far_it_is(page):
    """Where each stage's video is saved: what it makes, and while it runs how much of the whole is done."""
    open_template(page, CASCADE)
    base, interpolated, enlarged = (f"video/lavie_nano_cascade{ending}" for ending in ("_base", "_interpolation", ""))
    face = "node.widgets.find((widget) => widget.name === '{}').value = {}".format
    for stage, steps in (("Text to video", 4), ("Interpolation", 2), ("Super-resolution", 2)):
        node(page, stage, face("steps", steps))
    node(page, "Text to video", face("frames", 4))
    wait_for_readout(page, base, "4 frames, 64 x 64, 0.5 s at 8/s")
    wait_for_readout(page, interpolated, "4 -> 13 frames, 64 x 64")
    assert "3 windows of 8 frames" in wait_for_readout(page, enlarged, "13 frames, 64 x 64 -> 256 x 256")
    picture(page, "cascade_before")
    page.evaluate("""() => {
        window.told = [];
        app.api.addEventListener('progress_text', ({ detail }) => window.told.push(detail.text));
    }""")
    page.get_by_test_id("queue-button").click()
    wait_for_readout(page, base, "whole run: ")
    picture(page, "cascade_during")
    page.wait_for_function("() => Object.keys(app.nodeOutputs).length >= 3")
    untimed = re.findall(r"^whole run: (\d+) %$", "\n".join(page.evaluate("window.told")), re.MULTILINE)
    assert len(untimed) > 2 and untimed == sorted(untimed, key=int), "also when only some stages were timed"
    wait_for_readout(page, base, "4 steps of")
    picture(page, "cascade_after")


# Nodes in a row, each connected to the one before: [type, the input that takes it, output of the one before]
CHAIN = """(chain) => {
    app.graph.clear();
    let before;
    for (const [type, input, output] of chain) {
        const node = LiteGraph.createNode(type);
        app.graph.add(node);
        if (before) before.connect(output, node, node.findInputSlot(input));
        before = node;
    }
}"""
BASE = (["EmptyLaVieLatent", "", 0], ["KSampler", "latent_image", 0])
INTERPOLATED = (*BASE, ["LaVieInterpolationConditioning", "latent", 0])


@pytest.mark.parametrize(
    ("chain", "told"),
    [
        (INTERPOLATED, "16 -> 61 frames, 512 x 320, 2.54 s at 24/s"),
        (
            (*BASE, ["VAEDecode", "samples", 0], ["LaVieSuperResolutionConditioning", "frames", 0]),
            "16 frames, 512 x 320 -> 2048 x 1280, 2 s",
        ),
        ((["LoadImage", "", 0], ["LaVieInterpolationConditioning", "frames", 0]), "n frames -> 4 (n - 1) + 1 frames"),
    ],
    ids=["interpolation", "super-resolution", "unknown clip"],
)
def test_readout_of_the_later_stages(page, chain, told):
    """What comes in is followed upstream; where the graph does not tell, only the rule is shown."""
    close_dialogs(page)
    page.evaluate(CHAIN, chain)
    wait_for_readout(page, next(type_ for type_, *_ in chain if "Conditioning" in type_), told)


def test_rate_is_that_of_the_video_node(page):
    """The interpolated clip plays at the rate of its video; the clip that it was made of does not."""
    close_dialogs(page)
    page.evaluate(CHAIN, (*INTERPOLATED, ["KSampler", "latent_image", 2], ["LaVieDecodeToVideo", "samples", 0]))
    node(page, "LaVieDecodeToVideo", "node.widgets.find((widget) => widget.name === 'fps').value = 30")
    wait_for_readout(page, "LaVieInterpolationConditioning", "16 -> 61 frames, 512 x 320, 2.03 s at 30/s")
    wait_for_readout(page, "EmptyLaVieLatent", "16 frames, 512 x 320, 2 s at 8/s")


def test_preview_moves_and_the_video_plays(page):
    """Run is clicked; while it samples, the node shows many different pictures; in the end the video plays."""
    open_template(page)
    page.evaluate(WATCH_SAMPLER)
    run(page, seed=7, steps=12)
    page.wait_for_function("() => Object.keys(window.shown).length >= 8")
    picture(page, "preview")
    video = finished_video(page)
    page.evaluate("() => clearInterval(window.watch)")
    play(page, video)
    picture(page, "video")
    assert video.evaluate("(video) => [video.videoWidth, video.videoHeight]") == [64, 64]
    assert video.evaluate("(video) => video.duration") == pytest.approx(2, abs=0.1)
    wait_for_readout(page, "EmptyLaVieLatent", "12 steps of")
    drop_video(page, video)
    assert node(page, "KSampler", "node.widgets.find((widget) => widget.name === 'seed').value") == 7


def drop_video(page, video) -> None:
    """Empty the graph and drop a video that was shown on it."""
    video.evaluate("""async (video) => {
        const content = await (await fetch(video.currentSrc)).blob();
        app.graph.clear();
        await app.handleFile(new File([content], 'dropped.mp4', { type: 'video/mp4' }));
    }""")
    page.wait_for_function("() => app.graph.nodes.length > 5")


def test_preview_moves_in_nodes_2(page, comfyui):
    """ComfyUI's newer drawing of nodes shows the same preview."""
    with other_setting(page, comfyui, "Comfy.VueNodes.Enabled", True):
        open_template(page)
        run(page, seed=8, steps=12)
        image = page.get_by_alt_text("sampling preview").first
        seen = set()
        while len(seen) < 4:
            seen.add(image.get_attribute("src"))
        picture(page, "nodes_2")
        finished_video(page)


def test_other_language(page, comfyui):
    """Nodes, their inputs and the read-out speak the language of the interface."""
    with other_setting(page, comfyui, "Comfy.Locale", "ja"):
        open_template(page)
        words = read("ja", "nodeDefs.json")["EmptyLaVieLatent"]
        assert node(page, "EmptyLaVieLatent", "node.title") == words["display_name"]
        label = node(page, "EmptyLaVieLatent", "node.widgets.find((widget) => widget.name === 'frames').label")
        assert label == words["inputs"]["frames"]["name"]
        wait_for_readout(page, "EmptyLaVieLatent", "16 フレーム")


def setting_saved(page, name: str):
    """A context that ends when the server has taken a changed setting."""
    return page.expect_response(lambda response: name in response.url and response.request.method == "POST")


@contextlib.contextmanager
def other_setting(page, comfyui, name: str, value):
    """A setting of ComfyUI's changed for a while; the page is loaded anew before and after."""

    def change(state):
        with setting_saved(page, name):
            page.evaluate("([name, value]) => app.extensionManager.setting.set(name, value)", [name, state])
        open_comfyui(page, comfyui.server.url)

    before = setting(page, name)
    change(value)
    try:
        yield
    finally:
        change(before)


def test_help_opens_beside_the_graph(page):
    open_template(page)
    node(page, "EmptyLaVieLatent", "app.canvas.selectNode(node)")
    page.get_by_test_id("info-button").click()
    page.get_by_role("heading", name="Empty LaVie Latent", exact=True).wait_for()
    page.get_by_text("batch axis").first.wait_for()
    picture(page, "help")


def test_setting_persists_and_is_obeyed(page, comfyui):
    """Previews switched off in the dialog are off after a reload, for the server too; and on again."""
    assert setting(page, PREVIEWS) is True
    switch_previews(page)
    picture(page, "settings")
    open_comfyui(page, comfyui.server.url)
    assert setting(page, PREVIEWS) is False
    open_template(page)
    page.evaluate(WATCH_SAMPLER)
    run(page, seed=99, steps=4)
    finished_video(page)
    assert page.evaluate("() => Object.keys(window.shown).length") <= 1
    switch_previews(page)
    assert setting(page, PREVIEWS) is True


def switch_previews(page) -> None:
    close_dialogs(page)
    page.keyboard.press("Control+,")
    dialog = page.get_by_test_id("settings-dialog")
    dialog.get_by_text("LaVie", exact=True).first.click()
    with setting_saved(page, PREVIEWS):
        dialog.locator(f'[data-setting-id="{PREVIEWS}"]').get_by_role("switch").click()
    close_dialogs(page)
