"""What the browser's read-outs are told: precision and windows of this computer, and schedules in words."""

from __future__ import annotations

import http.client
import json
import time
import urllib.error
import urllib.parse
import urllib.request

import pytest
from comfyui_lavie.lavie_models.published import PUBLISHED
from comfyui_lavie.nodes.frame_prompts import Span, spans


def post(comfyui, body: bytes) -> tuple[int, str]:
    request = urllib.request.Request(f"{comfyui.server.url}/lavie/schedule", body, method="POST")
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


@pytest.mark.parametrize(
    ("schedule", "frames", "expected"),
    [
        ("0: a\n8: b", 16, [(0, 0, "a"), (1, 7, None), (8, 15, "b")]),
        ("4: a\n5: b", 8, [(0, 4, "a"), (5, 7, "b")]),
        ("2: a", 4, [(0, 3, "a")]),
        ("0: a\n3: a\n4: b", 6, [(0, 3, "a"), (4, 5, "b")]),
    ],
    ids=["blend", "sudden change", "one prompt", "one prompt twice"],
)
def test_spans(schedule, frames, expected):
    assert spans(schedule, frames) == [Span(*span) for span in expected]


def test_stages_say_what_this_computer_does(comfyui):
    """The test server runs on a CPU, which computes in 32 bits."""
    with urllib.request.urlopen(f"{comfyui.server.url}/lavie/stages") as answer:
        told = json.load(answer)
    assert told.keys() == PUBLISHED.keys()
    for stage, published in PUBLISHED.items():
        assert (told[stage]["window"], told[stage]["overlap"]) == (published.window, published.overlap)
        assert told[stage]["precision"] == "float32"
    per_pixel = 2 * PUBLISHED["base"].held_values * 4 / 8**2  # two conditions, 4 bytes, 8 x 8 pixels to a latent pixel
    assert told["base"]["bytes_per_pixel"] == pytest.approx(per_pixel)


def test_schedule_in_words_or_what_is_wrong_with_it(comfyui):
    status, text = post(comfyui, b'{"schedule": "0: a\\n2: b", "frames": 3}')
    assert status == 200 and json.loads(text)[1] == {"first": 1, "last": 1, "prompt": None}
    for body, reason in (
        (b'{"schedule": "99: a", "frames": 3}', "frames 0 to 2"), (b'{"schedule": 1, "frames": 3}', "expected"),
        (b'{"schedule": "0: a", "frames": 99999}', "expected"), (b"[]", "expected"), (b"{", "Expecting"),
        (b"x" * 200_000, "at most"), (b"[" * 50_000, ""),
    ):  # fmt: skip
        status, text = post(comfyui, body)
        assert status == 400 and reason in text, body[:40]


def test_a_schedule_may_come_in_pieces(comfyui):
    """As slow connections send it: the server has the first piece before the second is on its way."""

    def pieces():
        yield b'{"schedule": "0: a'
        time.sleep(0.3)
        yield b'\\n2: b", "frames": 3}'

    address = urllib.parse.urlsplit(comfyui.server.url)
    connection = http.client.HTTPConnection(address.hostname, address.port, timeout=30)
    connection.request("POST", "/lavie/schedule", pieces(), {"Transfer-Encoding": "chunked"}, encode_chunked=True)
    answer = connection.getresponse()
    assert answer.status == 200 and json.load(answer)[-1] == {"first": 2, "last": 2, "prompt": "b"}
    connection.close()
