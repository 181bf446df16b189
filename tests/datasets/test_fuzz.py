"""Random files, seeded: names, suffixes, captions, lengths, rates, sizes, pixel aspects and orientations at once."""

from __future__ import annotations

import io
import re
import tarfile
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from comfyui_lavie.datasets.catalogue import Catalogue, Item, Skipped
from comfyui_lavie.datasets.prepare import summary
from comfyui_lavie.datasets.sources import probe, read_frames, scan
from comfyui_lavie.tests.datasets.test_shown import EIGHT, mapped, with_matrix
from comfyui_lavie.tests.media import write_planes
from PIL import Image

LETTERS = list("abcXYZ0189 .-_%#[](){}'&+~=,;!@$éß漢字") + ["%03d", "..", ":", "\\"]


def name_of(rng: np.random.Generator) -> str:
    """A file's name without suffix; not one that begins with a dot, which is ignored, or ends with one."""
    return f"{rng.choice(list('ab7é'))}{''.join(rng.choice(LETTERS, rng.integers(0, 9)))}{rng.choice(list('xy3'))}"


def any_case(rng: np.random.Generator, suffix: str) -> str:
    return "".join(letter.upper() if rng.random() < 0.5 else letter for letter in suffix)


def write_color(path: Path, color: np.ndarray) -> None:
    form = {".jpg": "JPEG", ".png": "PNG", ".tif": "TIFF", ".webp": "WEBP"}[path.suffix.lower()]
    Image.new("RGB", (16, 16), tuple(map(int, color))).save(path, form, quality=100)


@pytest.mark.parametrize("seed", range(3))
def test_a_folder_of_any_names(tmp_path, seed):
    """Every image is found with its pixels and its own caption, every other file is named once."""
    rng = np.random.default_rng(seed)
    root = tmp_path / "set"
    root.mkdir()
    colors, captions, left = {}, {}, set()
    for number, stem in enumerate(sorted({name_of(rng) for _ in range(30)})):
        place = root if rng.random() < 0.5 else root / f"{name_of(rng)} {number}"
        place.mkdir(exist_ok=True)
        kind = rng.choice(["image", "image", "image", "caption", "other"])
        if kind == "other":
            left.add(other := place / f"{stem}.{rng.choice(['md', 'MP3', 'xyz'])}")
            other.touch()
            continue
        text, suffix = f"caption {number}", rng.choice([".txt", ".json"])
        beside = place / f"{stem}{any_case(rng, suffix)}"
        beside.write_text(text if suffix == ".txt" else f'{{"text": "{text}"}}', encoding="utf-8")
        if kind == "caption":
            left.add(beside)
            continue
        path = place / f"{stem}{any_case(rng, rng.choice(['.jpg', '.png', '.tif', '.webp']))}"
        colors[path], captions[path] = rng.integers(0, 256, 3), text
        write_color(path, colors[path])
    entries = list(scan(root))
    key = lambda path: f"set/{path.relative_to(root).as_posix()}"  # noqa: E731
    assert sorted(entry.key for entry in entries) == sorted(map(key, [*colors, *left]))
    found = {entry.key: probe(entry) for entry in entries if not isinstance(entry, Skipped)}
    for path, color in colors.items():
        item = found[key(path)]
        assert isinstance(item, Item) and item.caption == captions[path]
        assert np.abs(read_frames(item, [0])[0] - color.astype(float)).max() <= 4


@pytest.mark.parametrize("seed", range(4))
def test_a_shard_of_any_names(tmp_path, seed):
    """Members in any order, dots in names: each image gets the caption of its stem, else of its sample, or none."""
    rng = np.random.default_rng(seed)
    members, expected = {}, {}
    for sample in dict.fromkeys(name_of(rng).replace(".", "").replace("\\", "") for _ in range(8)):
        parts = [f"{sample}.{i:03}" if rng.random() < 0.8 else f"{sample}.{i}.left" for i in range(rng.integers(1, 5))]
        shared = f"of {sample}" if rng.random() < 0.5 else ""
        if shared:
            members[f"{sample}.txt"] = shared.encode()
        for part in parts:
            own = f"of {part}" if rng.random() < 0.5 else ""
            if own:
                members[f"{part}{any_case(rng, '.txt')}"] = own.encode()
            content = io.BytesIO()
            Image.new("RGB", (8, 8)).save(content, "PNG")
            members[name := f"{part}{any_case(rng, '.png')}"] = content.getvalue()
            expected[f"a.tar/{name}"] = own or shared
    with tarfile.open(tmp_path / "a.tar", "w") as shard:
        for name in rng.permutation(sorted(members)):
            about = tarfile.TarInfo(str(name))
            about.size = len(members[str(name)])
            shard.addfile(about, io.BytesIO(members[str(name)]))
    found = {e.key: e.caption for e in scan(tmp_path / "a.tar") if not isinstance(e, Skipped)}
    assert found == expected


@pytest.mark.parametrize("seed", range(16))
def test_any_video(tmp_path, seed):
    """Random length, rate, size, pixel aspect and orientation: counted, timed, sized and seen right, frame by frame."""
    rng = np.random.default_rng(seed)
    count, rate = int(rng.integers(2, 30)), Fraction(int(rng.integers(5, 61)), int(rng.choice([1, 1, 2])))
    width, height = (int(side) for side in rng.integers(12, 40, 2) * 2)
    aspect = Fraction(str(rng.choice(["1", "1", "16/15", "8/9", "4/3", "2"])))
    matrix = EIGHT[rng.integers(8)]
    levels = rng.integers(16, 236, (count, 4)).astype(np.uint8)  # of the quarters of each frame
    frames = []
    for quarters in levels:
        luma = np.kron(quarters.reshape(2, 2), np.ones((height // 2, width // 2), np.uint8)).astype(np.uint8)
        luma = np.pad(luma, ((0, height - luma.shape[0]), (0, width - luma.shape[1])), mode="edge")
        frames.append([luma, *[np.full((height // 2, width // 2), 128, np.uint8)] * 2])
    path = tmp_path / f"clip %02d {seed}.mp4"
    facts = dict(codec="libx264", options={"qp": "0"}, rate=rate, sample_aspect_ratio=aspect)
    turned = with_matrix(write_planes(path, frames, "yuv420p", **facts), matrix)
    turned.with_suffix(".TXT").write_text("a clip")
    (item,) = [probe(entry) for entry in scan(tmp_path) if "turned" in entry.key]
    shown = (round(width * aspect), height)
    assert (item.frames, item.caption) == (count, "a clip") and item.fps == pytest.approx(float(rate), rel=1e-3)
    assert (item.width, item.height) == (shown if matrix[0] else shown[::-1])
    wanted = sorted(rng.integers(0, count, 5).tolist())
    for index, picture in zip(wanted, read_frames(item, wanted), strict=True):
        grey = np.rint((levels[index].astype(float) - 16) * 255 / 219)
        expected = mapped(np.repeat(grey.reshape(2, 2, 1), 3, 2).astype(np.uint8), matrix)
        rows, columns = np.array([1, 3]) * item.height // 4, np.array([1, 3]) * item.width // 4
        assert np.abs(picture[np.ix_(rows, columns)].astype(int) - expected).max() <= 2


def faults(folder: Path, rng: np.random.Generator) -> list[Skipped]:
    """What is skipped of a folder that has one of many faults, under any names and of any numbers."""
    folder.mkdir()
    size, count = rng.integers(8, 40, 2), int(rng.integers(2, 9))
    pictures = [Image.new("RGB", tuple(map(int, size)), (9 * i, 0, 0)) for i in range(count)]
    names = (f"{name_of(rng)}{i}" for i in range(40))
    pictures[0].save(folder / f"{next(names)}.webp", save_all=True, append_images=pictures[1:])
    Image.new("F", (8, 8)).save(folder / f"{next(names)}.tif")
    whole = io.BytesIO()
    pictures[0].save(whole, "PNG")
    (folder / f"{next(names)}.png").write_bytes(whole.getvalue()[: rng.integers(20, 50)])
    (folder / f"{next(names)}.mp4").write_bytes(b"not a video" * int(rng.integers(1, 200)))
    (folder / f"{next(names)}.txt").write_text("of nothing")
    (folder / f"{next(names)}.{rng.choice(['md', 'docx'])}").touch()
    plane = [np.zeros(shape, np.uint8) for shape in ((32, 32), (16, 16), (16, 16))]
    aspect = Fraction(int(rng.integers(5, 9)))
    write_planes(folder / f"{next(names)}.mkv", [plane], "yuv420p", "libx264", sample_aspect_ratio=aspect)
    write_planes(folder / f"{next(names)}.mkv", [plane], "yuv420p", color_trc=int(rng.integers(8, 11)))
    names_there = [path for path in folder.iterdir() if path.suffix in (".webp", ".tif", ".png", ".mp4", ".mkv")]
    listed = [*(path.name for path in names_there), f"{rng.integers(10**6)} gone: (1), 2; 3.mp4"]
    rows = [f'"{name}",a caption' for name in listed]
    (folder / "captions.csv").write_text("\n".join(["path,caption", *rows]))
    return [thing if isinstance(thing, Skipped) else probe(thing) for thing in scan(folder)]


def test_reasons_group_by_their_kind(tmp_path):
    """Names and numbers, which are anything, are no part of a kind."""
    groups = []
    for seed in range(4):
        skipped = faults(tmp_path / str(seed), np.random.default_rng(seed))
        assert all(isinstance(skip, Skipped) for skip in skipped)
        lines = summary(Catalogue((), tuple(skipped)), tmp_path).splitlines()
        groups.append(sorted(line.strip() for line in lines if re.match(r" +\d+ x ", line)))
    assert groups[0] == groups[1] == groups[2] == groups[3] and len(groups[0]) >= 7
