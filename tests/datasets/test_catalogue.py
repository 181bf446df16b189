"""Catalogues: written whole, read back equal, damage and other versions recognised, fingerprints that notice."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace

import pytest
from comfyui_lavie.datasets.catalogue import Catalogue, Item, Skipped
from comfyui_lavie.datasets.errors import DataError
from comfyui_lavie.datasets.sources import probe, scan
from comfyui_lavie.nano.source import shapes
from comfyui_lavie.tests.media import write_image


@pytest.fixture
def catalogue() -> Catalogue:
    return Catalogue.of(shapes(videos=20, images=30), [Skipped("a.mp4", "no caption")])


def of_folder(folder) -> Catalogue:
    return Catalogue.of(map(probe, scan(folder)))


class TestFile:
    def test_what_is_saved_is_loaded(self, catalogue, tmp_path):
        catalogue.save(tmp_path / "new" / "folder")
        assert Catalogue.load(tmp_path / "new" / "folder") == catalogue

    def test_captions_in_any_language(self, tmp_path):
        (item,) = shapes(videos=1, images=0)
        catalogue = Catalogue.of([replace(item, caption="ein Fisch, 一条鱼\u2028")])
        catalogue.save(tmp_path)
        assert Catalogue.load(tmp_path) == catalogue

    def test_missing(self, tmp_path):
        with pytest.raises(DataError, match=r"no finished catalogue .* prepare --out"):
            Catalogue.load(tmp_path / "nowhere")

    def test_unfinished(self, catalogue, tmp_path):
        """What a stop while saving leaves: everything but the last file."""
        catalogue.save(tmp_path)
        (tmp_path / "catalogue.json").unlink()
        with pytest.raises(DataError, match="no finished catalogue"):
            Catalogue.load(tmp_path)

    def test_another_version(self, catalogue, tmp_path):
        catalogue.save(tmp_path)
        about = json.loads((tmp_path / "catalogue.json").read_text())
        (tmp_path / "catalogue.json").write_text(json.dumps({**about, "version": 99}))
        with pytest.raises(DataError, match="version 99; expected version 1"):
            Catalogue.load(tmp_path)

    @pytest.mark.parametrize("harm", ["line lost", "cut short", "caption changed", "file lost", "skipped lost", "mark"])
    def test_damage_is_recognised(self, catalogue, tmp_path, harm):
        catalogue.save(tmp_path)
        file = tmp_path / "catalogue.jsonl"
        text = file.read_text()
        if harm == "line lost":
            file.write_text(text.partition("\n")[2])
        elif harm == "cut short":
            file.write_text(text[:-20])
        elif harm == "caption changed":
            file.write_text(text.replace("moving", "walking", 1))
        elif harm == "file lost":
            file.unlink()
        elif harm == "skipped lost":
            (tmp_path / "skipped.jsonl").write_text("")
        else:
            (tmp_path / "catalogue.json").write_text("{")
        with pytest.raises(DataError, match=r"damaged.*; make it with"):
            Catalogue.load(tmp_path)


class TestFingerprint:
    def test_changes_with_items_captions_and_files(self, tmp_path):
        folder = tmp_path / "set"
        folder.mkdir()
        for name in "ab":
            write_image(folder / f"{name}.png")
            (folder / f"{name}.txt").write_text(name)
        seen = [of_folder(folder).fingerprint]
        assert of_folder(folder).fingerprint == seen[0]
        (folder / "a.txt").write_text("another caption")
        seen.append(of_folder(folder).fingerprint)
        os.utime(folder / "a.png")
        shutil.copy(folder / "b.png", tmp_path / "copy.png")
        os.replace(tmp_path / "copy.png", folder / "b.png")
        assert of_folder(folder).fingerprint == seen[-1], "times and inodes are not content"
        write_image(folder / "a.png", 50, 50)
        seen.append(of_folder(folder).fingerprint)
        (folder / "b.png").unlink()
        (folder / "b.txt").unlink()
        seen.append(of_folder(folder).fingerprint)
        assert len(set(seen)) == len(seen)

    def test_stays_when_the_folder_moves(self, tmp_path):
        first, second = tmp_path / "one" / "set", tmp_path / "two" / "set"
        first.mkdir(parents=True)
        write_image(first / "a.png")
        (first / "a.txt").write_text("a")
        before = of_folder(first)
        second.parent.mkdir()
        shutil.move(first, second)
        after = of_folder(second)
        assert after.fingerprint == before.fingerprint and after.items != before.items

    def test_identity_is_of_the_file_not_of_the_caption(self):
        first, second = shapes(videos=2, images=0)
        assert first.identity != second.identity
        assert replace(first, caption="x").identity == first.identity
        assert replace(first, width=65).identity != first.identity


class TestTogether:
    def test_keys_become_unique_and_repetitions_are_skipped(self):
        (item,) = shapes(videos=1, images=0)
        other = replace(item, caption="another caption")
        named_alike = replace(item, key=f"{item.key}#2", caption="third")
        catalogue = Catalogue.of([named_alike, item, other, item])
        assert [i.key for i in catalogue.items] == [f"{item.key}#2", item.key, f"{item.key}#3"]
        assert [i.caption for i in catalogue.items] == ["third", item.caption, "another caption"]
        assert catalogue.skipped == (Skipped(item.key, "listed twice with the same caption"),)

    def test_several_folders(self, catalogue, tmp_path):
        Catalogue(catalogue.items[:10]).save(tmp_path / "a")
        Catalogue(catalogue.items[10:], catalogue.skipped).save(tmp_path / "b")
        assert Catalogue.load_all([tmp_path / "a", tmp_path / "b"]) == catalogue

    def test_split_is_by_key_and_complete(self, catalogue):
        train, heldout = catalogue.split(5)
        assert sorted(i.key for i in (*train.items, *heldout.items)) == sorted(i.key for i in catalogue.items)
        assert [sum(i.kind == kind for i in heldout.items) for kind in ("video", "image")] == [5, 5]
        reordered = Catalogue(catalogue.items[::-1])
        assert {i.key for i in reordered.split(5)[1].items} == {i.key for i in heldout.items}
        assert catalogue.split(0)[0].items == catalogue.items and catalogue.split(0)[1].items == ()

    def test_parts_of_one_file_stay_together(self):
        """Else a clip would be held out and its other captions, or its next seconds, trained on."""
        base = next(iter(shapes(videos=1, images=0)))
        items = [replace(base, key=f"v{i}.mp4#{part}") for i in range(10) for part in ("0-2", "2-4", "4-6")]
        train, heldout = Catalogue(tuple(items)).split(4)
        files = [{item.key.split("#")[0] for item in part.items} for part in (train, heldout)]
        assert not files[0] & files[1] and len(files[1]) == 2

    def test_the_same_footage_never_stands_on_both_sides(self, tmp_path):
        """Named by a folder and by a list, linked to, copied byte by byte, near-duplicates of the builder."""
        folder = tmp_path / "set"
        folder.mkdir()
        for i in range(6):
            write_image(folder / f"{i}.png", 40 + i)
            os.symlink(folder / f"{i}.png", folder / f"link{i}.png")
            shutil.copy(folder / f"{i}.png", folder / f"copy{i}.png")
        rows = "".join(f"set/{i}.png,listed\n" for i in range(6))
        (tmp_path / "list.csv").write_text("path,caption\n" + rows)
        found = [probe(entry) for source in (folder, tmp_path / "list.csv") for entry in scan(source)]
        near = [replace(item, key=f"near{item.key[4:]}", locator={**item.locator, "path": f"/near{item.key}",
                "content": f"near{item.key}", "duplicates": item.key}) for item in found[-6:]]  # fmt: skip
        marked = [replace(i, locator={**i.locator, "duplicates": i.key}) if i in found[-6:] else i for i in found]
        catalogue = Catalogue.of([*marked, *near])
        assert len(catalogue.items) == 30
        train, heldout = catalogue.split(2)
        digits = [{next(sign for sign in item.key[::-1] if sign.isdigit()) for item in part.items}
                  for part in (train, heldout)]  # fmt: skip
        assert not digits[0] & digits[1] and len(heldout.items) == 5 and len(digits[0] | digits[1]) == 6

    def test_nothing_left_to_train_on(self, catalogue):
        with pytest.raises(DataError, match="heldout = 20 leaves no video to train on: the catalogue has 20"):
            catalogue.split(20)

    def test_items_are_frozen(self, catalogue):
        with pytest.raises(AttributeError):
            catalogue.items[0].caption = "x"
        assert isinstance(catalogue.items[0], Item)
