"""The page as text: whole, safe, and with the numbers of the step inside."""

import base64
import json
import re
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.typing import NDArray

import calmgrad
from calmgrad.demo import sessions
from calmgrad.explain import Story, html_page, tell_step
from calmgrad.explain.packed import Packed, statistics, thin
from calmgrad.explain.page import SCRIPTS, script_json
from tests.explain.conftest import ROOT

HOSTILE = "</script><img src=x onerror=alert(1)>\u2028\u202e\udcff\x00\"'&amp;"


class Reader(HTMLParser):
    """What a page consists of: its tags, and the text in each script."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: dict[str, str] = {}
        self._inside: str | None = None
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._inside = (dict(attrs).get("id") or "code") if tag == "script" else None

    def handle_data(self, data: str) -> None:
        if self._inside is not None:
            self.scripts[self._inside] = self.scripts.get(self._inside, "") + data

    def handle_endtag(self, tag: str) -> None:
        self._inside = None


@pytest.fixture(scope="module")
def reader(story: Story) -> Reader:
    return Reader(html_page(story, {"model": HOSTILE, "data": "d.ctds"}))


def array(reader: Reader, packed: dict[str, Any]) -> NDArray[np.float64]:
    data = base64.b64decode(reader.scripts["arrays"])
    count = int(np.prod(packed["shape"]))
    stored = np.frombuffer(data, "<f2", count, packed["at"]).astype(np.float64)
    scaled: NDArray[np.float64] = stored.reshape(packed["shape"]) * packed["scale"]
    return scaled


def test_nothing_is_fetched(reader: Reader) -> None:
    for tag, attributes in reader.tags:
        assert tag not in ("iframe", "object", "embed", "img", "audio", "video", "base")
        assert "src" not in attributes
        href = attributes.get("href")
        assert href is None or href.startswith(("#", "data:")), href
    policy = next(a["content"] for t, a in reader.tags if "http-equiv" in a)
    assert policy is not None
    assert policy.startswith("default-src 'none'")
    web = ROOT / "calmgrad/explain/web"
    for path in (*web.glob("*.js"), *web.glob("*.css")):
        source = path.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?:|@import|url\(|fetch\(|import\(|XMLHttp", source), path.name


def test_every_script_is_in_the_page(reader: Reader) -> None:
    names = {path.stem for path in (ROOT / "calmgrad/explain/web").glob("*.js")}
    assert names == set(SCRIPTS)
    assert "start();" in reader.scripts["code"]
    assert set(reader.scripts) == {"facts-json", "arrays", "code"}


def test_names_from_outside_stay_text(reader: Reader) -> None:
    assert json.loads(reader.scripts["facts-json"])["about"]["model"] == HOSTILE
    assert not any(tag == "img" for tag, _ in reader.tags)


@given(st.text("<>&/!-\"'\\a\u2028\u202e\x00\udcff"))
@example("</script ><!--<script>&lt;")
def test_json_in_a_script(text: str) -> None:
    told = script_json({"text": text})
    assert json.loads(told)["text"] == text
    assert told.isascii()
    assert not set(told) & set("<>&")


def test_the_arrays_are_those_of_the_step(reader: Reader, story: Story) -> None:
    facts = json.loads(reader.scripts["facts-json"])
    for told, op in zip(facts["ops"], story.ops, strict=True):
        for what, wanted in (("value", op.value), ("gradient", op.gradient)):
            got = array(reader, told[what])
            np.testing.assert_allclose(got, wanted, rtol=1e-3, atol=1e-6 * told[what]["scale"])
            assert sum(told[what]["histogram"]) == wanted.size
    for told, parameter in zip(facts["parameters"], story.parameters, strict=True):
        assert (told["name"], told["start"]) == (parameter.name, parameter.start)
    flat, tops = facts["flat"]["gradient"], facts["flat"]["gradient"]["tops"]
    got = array(reader, flat)
    for parameter, top in zip(story.parameters, tops, strict=True):
        own = got[parameter.start : parameter.start + parameter.value.size] * top
        np.testing.assert_allclose(own, parameter.gradient.ravel(), rtol=1e-3, atol=1e-6 * top)
    for told_scan, scan in zip(facts["scans"], story.scans, strict=True):
        got = array(reader, told_scan["h"])
        np.testing.assert_allclose(got, scan.h, atol=1e-3 * np.abs(scan.h).max())


def test_a_page_of_nano_is_small() -> None:
    sequences, positions = sessions(30, 5)
    tokens, position = max(zip(sequences, positions, strict=True), key=lambda pair: len(pair[0]))
    assert len(tokens) > 100
    page = html_page(tell_step(calmgrad.new_model("nano"), tokens, position), {})
    assert len(page) < 3_000_000


def test_of_a_large_model_a_cell_is_several_weights() -> None:
    model = calmgrad.new_model("micro")
    story = tell_step(model, [calmgrad.BOS, 65, calmgrad.EOS])
    reader = Reader(html_page(story, {}))
    facts = json.loads(reader.scripts["facts-json"])
    flat = facts["flat"]
    assert flat["step"] == 3
    got = array(reader, flat["value"])
    for k, parameter in enumerate(story.parameters):
        end = (flat["starts"] + [got.size])[k + 1]
        own = np.abs(got[flat["starts"][k] : end]) * flat["value"]["tops"][k]
        size = np.abs(parameter.value.ravel())
        padded = np.pad(size, (0, -size.size % 3)).reshape(-1, 3).max(axis=1)
        np.testing.assert_allclose(own, padded, rtol=1e-3, atol=1e-6)


def test_cells_of_the_map_hold_the_weights_that_are_said(
    story: Story, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many of a cell, where a parameter is no multiple of it."""
    monkeypatch.setattr("calmgrad.explain.page.WHOLE", 300)
    reader = Reader(html_page(story, {}))
    flat = json.loads(reader.scripts["facts-json"])["flat"]
    step, got = flat["step"], array(reader, flat["gradient"])
    for p, start, top in zip(
        story.parameters, flat["starts"], flat["gradient"]["tops"], strict=True
    ):
        size = np.abs(p.gradient.ravel())
        cells = np.pad(size, (0, -size.size % step)).reshape(-1, step).max(axis=1)
        own = np.abs(got[start : start + cells.size]) * top
        np.testing.assert_allclose(own, cells, rtol=1e-3, atol=1e-4 * top)


# --- packing --------------------------------------------------------------------------------------


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 500))
def test_thinning_keeps_the_strongest(rows: int, columns: int, cells: int) -> None:
    whole = np.random.default_rng(rows * columns).normal(size=(rows, columns))
    thinned, (r, c) = thin(whole, cells)
    assert thinned.shape == (-(-rows // r), -(-columns // c))
    assert thinned.size <= cells
    for i, j in np.ndindex(thinned.shape):
        block = whole[i * r : (i + 1) * r, j * c : (j + 1) * c]
        assert thinned[i, j] == block.flat[np.abs(block).argmax()]


def test_what_is_small_enough_is_kept_whole() -> None:
    whole = np.arange(12.0).reshape(3, 4)
    thinned, step = thin(whole, 12)
    assert step == (1, 1)
    np.testing.assert_array_equal(thinned, whole)
    assert thin(np.zeros((5, 100, 100)), 50)[0].shape[0] == 5  # only the last two axes


@pytest.mark.parametrize("scale", [1e-30, 1e-8, 1.0, 1e30])
def test_numbers_of_any_size(scale: float) -> None:
    values = np.array([1.0, -0.5, 1e-3, 0.0]) * scale
    packed = Packed()
    told = packed.add(values, 100)
    stored = np.frombuffer(base64.b64decode(packed.text()), "<f2").astype(np.float64)
    np.testing.assert_allclose(stored * told["scale"], values, rtol=1e-3)


def test_statistics_of_everything() -> None:
    told = statistics(np.array([[3.0, -4.0], [0.0, 0.0]]))
    assert (told["mean"], told["min"], told["max"], told["norm"]) == (-0.25, -4.0, 3.0, 5.0)
    assert statistics(np.zeros((0, 3)))["histogram"] == []
    assert sum(statistics(np.full(7, 2.5))["histogram"]) == 7


# --- colours --------------------------------------------------------------------------------------


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_text_has_contrast_enough(theme: int) -> None:
    source = (ROOT / "calmgrad/explain/web/page.css").read_text(encoding="utf-8")
    block = re.findall(r":root[^{]*\{(.*?)\n\}", source, re.DOTALL)[theme]
    colours = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", block))
    for ground in ("ground", "surface", "sunken", "accent-soft"):
        for ink in ("text", "muted", "accent"):
            light, dark = sorted((luminance(colours[ground]), luminance(colours[ink])))[::-1]
            assert (light + 0.05) / (dark + 0.05) >= 4.5, (ink, ground)
        for ink in ("embedding", "mixer", "ffn", "head", "strong", "back"):
            light, dark = sorted((luminance(colours[ground]), luminance(colours[ink])))[::-1]
            assert (light + 0.05) / (dark + 0.05) >= 3, (ink, ground)
