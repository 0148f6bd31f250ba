"""The page in a real browser: drawn, clicked, driven by keyboard, on a phone, in both themes.

Needs `pip install 'calmgrad[browser]'` and Chromium with its driver; skips without.
"""

import shutil
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from calmgrad.explain import Story, html_page

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking"
    " --disable-component-update --disable-sync --disable-dev-shm-usage --window-size=1300,900"
)
HOSTILE = "</script><script>document.title = 'taken'</script>\u202e\u05d0"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """One browser for all tests of this file."""
    pytest.importorskip("selenium", reason="no selenium: pip install 'calmgrad[browser]'")
    binary = next(filter(None, map(shutil.which, BROWSERS)), None)
    driver = shutil.which("chromedriver")
    if binary is None or driver is None:
        pytest.skip("no Chromium with its chromedriver on the PATH")
    chrome = import_module("selenium.webdriver.chrome.webdriver")
    options = import_module("selenium.webdriver.chrome.options").Options()
    service = import_module("selenium.webdriver.chrome.service").Service(executable_path=driver)
    options.binary_location = binary
    for flag in (*FLAGS.split(), f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    window = chrome.WebDriver(options=options, service=service)
    try:
        yield window
    finally:
        window.quit()


@pytest.fixture(scope="module")
def address(story: Story, tmp_path_factory: pytest.TempPathFactory) -> str:
    path: Path = tmp_path_factory.mktemp("page") / "step.html"
    page = html_page(story, {"model": HOSTILE, "data": "d.ctds"})
    path.write_text(page, encoding="utf-8")
    return path.as_uri()


@pytest.fixture
def page(browser: Any, address: str) -> Iterator[Any]:
    """The page, newly loaded; afterwards nothing may have gone wrong in it."""
    browser.set_window_size(1300, 900)
    browser.get(address)
    yield browser
    wrong = [e for e in browser.get_log("browser") if e["level"] in ("SEVERE", "WARNING")]
    assert not wrong, wrong


def texts(page: Any, selector: str) -> list[str]:
    found: list[str] = page.execute_script(
        "return [...document.querySelectorAll(arguments[0])].map((e) => e.textContent)", selector
    )
    return found


def press(page: Any, *names: str) -> None:
    keys = import_module("selenium.webdriver.common.keys").Keys
    for name in names:
        page.switch_to.active_element.send_keys(getattr(keys, name))


def draw_everything(page: Any) -> None:
    """Scroll through the page, so that each section is drawn."""
    page.execute_async_script(
        "const done = arguments[arguments.length - 1];"
        "document.documentElement.style.scrollBehavior = 'auto';"
        "(async () => { for (const id of ['flow', 'scan', 'parameters', 'update']) {"
        " document.getElementById(id).scrollIntoView();"
        " for (let i = 0; i < 40 && !document.querySelector(`#${id} .scroll, #${id} .heat, #${id}"
        " .chart`); i++) await new Promise((r) => setTimeout(r, 25)); } done(); })();"
    )


def test_it_draws_all_there_is(page: Any, story: Story) -> None:
    assert len(texts(page, ".node")) == len(story.ops)
    assert [t.split(",")[0] for t in texts(page, ".token")][:2] == ["BOS", "CWD"]
    assert f"{story.loss:.4g}" in texts(page, "#facts dd")[0]
    assert HOSTILE in texts(page, "#about")[0]
    assert page.title != "taken"
    draw_everything(page)
    for section in ("flow", "scan", "parameters", "update"):
        assert texts(page, f"#{section} .chart, #{section} .heat"), section
    requests = page.execute_script("return performance.getEntriesByType('resource').length")
    assert requests == 0


def test_the_numbers_it_shows_are_those_of_the_step(page: Any, story: Story) -> None:
    for i, op in enumerate(story.ops):
        got = page.execute_script(
            "const m = activationMatrix(arguments[0], 'gradient'); return [m.rows, ...m.data]", i
        )
        expected = op.gradient if op.gradient.ndim == 1 else op.gradient.T
        assert got[0] == (1 if expected.ndim == 1 else expected.shape[0])
        scale = np.abs(expected).max()
        np.testing.assert_allclose(got[1:], expected.ravel(), rtol=1e-3, atol=1e-5 * scale)
    for i, p in enumerate(story.parameters):
        got = page.execute_script("return [...parameterMatrix(arguments[0], 'value').data]", i)
        scale = np.abs(p.value).max()
        np.testing.assert_allclose(got, p.value.ravel(), rtol=1e-3, atol=1e-5 * scale)


def test_every_op_opens_and_every_tensor_can_be_looked_at(page: Any, story: Story) -> None:
    seen = page.execute_script(
        "return OPS.map((op, i) => { document.getElementById(`op-${i}`).click();"
        " const select = document.getElementById('tensor'), told = [];"
        " for (const option of select.options) { select.value = option.value;"
        "  select.dispatchEvent(new Event('change'));"
        "  document.querySelector('#panel details').open = true;"
        "  told.push(document.querySelector('#panel .heat').getAttribute('aria-label')); }"
        " return [document.getElementById('panel-title').textContent,"
        "  document.querySelectorAll('#panel math').length, told]; })"
    )
    for (title, formulas, told), op in zip(seen, story.ops, strict=True):
        assert title == op.name
        assert formulas >= 2
        assert len(told) == 1 + len(op.inputs)
        assert told[0].startswith(f"values of {op.output}:")


def test_the_graph_by_keyboard(page: Any, story: Story) -> None:
    page.execute_script("document.getElementById('op-5').focus()")
    press(page, "ARROW_DOWN", "ARROW_RIGHT")
    op = next(o for o in story.ops if o.name == "blocks.1.mixer.out_proj")
    assert texts(page, "#panel-title") == [op.name]
    here = page.switch_to.active_element
    assert here.get_attribute("title") == op.name
    assert here.get_attribute("aria-pressed") == "true"
    assert here.value_of_css_property("outline-style") == "solid"
    assert len(page.find_elements("css selector", ".node[tabindex='0']")) == 1
    assert len(page.find_elements("css selector", ".edge.in")) == 2
    press(page, "ENTER")
    assert page.switch_to.active_element.get_attribute("id") == "panel"
    press(page, "TAB", "TAB", "TAB")  # two formulas, then the first link: what it reads
    press(page, "ENTER")
    assert texts(page, "#panel-title") == ["blocks.1.mixer.selective_scan"]


def test_tokens_by_keyboard(page: Any, story: Story) -> None:
    page.execute_script("document.querySelector('.token').focus()")
    press(page, "END", "ARROW_LEFT")
    position = len(story.tokens) - 2
    loss = story.tokens[position].loss
    assert loss is not None
    [said] = texts(page, "#token-said")
    assert said.startswith(f"Token {position}, :300:")
    assert f"{loss:.3g}" in said
    press(page, "HOME")
    assert "prompt" in texts(page, "#token-said")[0]


def test_heat_map_and_buffer_by_keyboard(page: Any, story: Story) -> None:
    page.execute_script("document.getElementById('op-1').click()")
    page.execute_script("document.querySelector('#panel .heat').focus()")
    press(page, "ARROW_RIGHT", "ARROW_RIGHT", "ARROW_DOWN")
    value = float(story.ops[1].value[1, 1])
    [read] = texts(page, "#panel .read")
    assert read.startswith("token 1 CWD, channel 1: ")
    assert float(read.rpartition(" ")[2].replace("−", "-")) == pytest.approx(value, rel=6e-3)
    draw_everything(page)
    page.execute_script(
        "const s = document.getElementById('buffer-parameter');"
        "s.value = arguments[0]; s.dispatchEvent(new Event('change'));"
        "document.querySelector('#buffer .heat').focus()", 3
    )  # fmt: skip
    press(page, "ARROW_RIGHT")
    p = story.parameters[3]
    [read] = texts(page, "#buffer .read")
    assert read.startswith(f"{p.name}[0, 1]: value ")
    assert f"element {p.start + 1} " in read
    shown = float(read.split("gradient ")[1].split(" ")[0].replace("−", "-"))
    assert shown == pytest.approx(float(p.gradient[0, 1]), rel=6e-3)


def test_a_cell_with_time_chooses_its_token(page: Any, story: Story) -> None:
    logits = next(i for i, op in enumerate(story.ops) if op.name == "logits")
    page.execute_script("document.getElementById(`op-${arguments[0]}`).click()", logits)
    page.execute_script("document.querySelector('#panel .heat').focus()")
    press(page, "ARROW_RIGHT", "ARROW_RIGHT", "ARROW_RIGHT", "ENTER")
    assert texts(page, "#token-said")[0].startswith(f"Token {story.rows[2]}, ")
    assert texts(page, ".token[aria-selected='true']")[0].startswith(
        story.tokens[story.rows[2]].label
    )
    ruled = page.find_element("css selector", "#panel .rule").get_attribute("style")
    assert f"left: {100 * 2 / len(story.rows):.3f}"[:9] in ruled


def test_the_map_knows_where_each_parameter_begins_and_ends(page: Any, story: Story) -> None:
    draw_everything(page)
    for i, p in enumerate(story.parameters):
        found = page.execute_script(
            "return [arguments[0], arguments[1]].map((e) => page.buffer.parameterAt(e))",
            p.start, p.start + p.value.size - 1,
        )  # fmt: skip
        assert found == [i, i]


def test_the_scan_of_a_channel(page: Any, story: Story) -> None:
    draw_everything(page)
    page.execute_script(
        "page.scan.layers.value = 1; page.scan.layers.dispatchEvent(new Event('change'));"
        "page.scan.channels.value = 2; page.scan.channels.dispatchEvent(new Event('change'))"
    )
    scan = story.scans[1]
    for name in ("h", "lost", "dt", "out"):
        expected = getattr(scan, name)[2]
        got = page.execute_script("return [...page.scan.data(arguments[0]).data]", name)
        scale = np.abs(getattr(scan, name)).max()
        np.testing.assert_allclose(got, expected.ravel(), rtol=1e-3, atol=1e-5 * scale)
    page.execute_script("chooseToken(4)")
    assert texts(page, "#scan-body .above")[0].startswith("Token 4 ")


def test_rounding_is_not_drawn_as_a_signal(page: Any) -> None:
    """Numbers that differ in the fourth digit alone, as the steps of a channel may."""
    heights = page.execute_script(
        "return [[1, 1.0005, 1], [1, 1.5, 1]].map((data) => { const d = lane(data, 'x', false)"
        ".querySelector('path').getAttribute('d');"
        " const y = [...d.matchAll(/ ([0-9.]+)H/g)].map((m) => +m[1]);"
        " return Math.max(...y) - Math.min(...y); })"
    )
    assert heights == [pytest.approx(0.0005 * 64 / 1.0005 * 40, rel=1e-3), 40]


def test_both_themes(page: Any) -> None:
    def ground() -> str:
        colour: str = page.find_element("tag name", "body").value_of_css_property(
            "background-color"
        )
        return colour

    before, button = ground(), page.find_element("id", "theme")
    first = page.execute_script("return css(colourOf('signed', 0, 1))")
    button.click()
    assert ground() != before
    assert page.execute_script("return css(colourOf('signed', 0, 1))") != first
    button.click()
    assert ground() == before


def test_nothing_is_cut_off_on_a_phone(page: Any) -> None:
    page.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True},
    )
    try:
        draw_everything(page)
        page.execute_script("document.getElementById('op-3').click()")
        wide = page.execute_script("return document.documentElement.scrollWidth - innerWidth")
        assert wide <= 0
        lefts = page.execute_script(
            "return [...new Set([...document.querySelectorAll('.node')]"
            ".map((n) => Math.round(n.getBoundingClientRect().left)))]"
        )
        assert len(lefts) == 1  # one op below the other
    finally:
        page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def top_of(page: Any, section: str) -> float:
    """How far down the window the section stands, when scrolling has come to rest."""
    top: float = page.execute_async_script(
        "const [id, done] = arguments; let before, still = 0; (function wait() {"
        " const now = document.getElementById(id).getBoundingClientRect().top;"
        " still = now === before ? still + 1 : 0; before = now;"
        " still > 10 ? done(now) : requestAnimationFrame(wait); })();", section
    )  # fmt: skip
    return top


def test_a_link_leads_to_its_section_though_those_above_were_not_drawn(
    page: Any, address: str
) -> None:
    page.execute_script("document.querySelector('nav a[href=\"#update\"]').click()")
    assert abs(top_of(page, "update") - 64) < 2
    page.get("about:blank")
    page.get(f"{address}#parameters")
    assert abs(top_of(page, "parameters") - 64) < 2


def test_all_of_it_is_printed_and_in_the_light_theme(page: Any) -> None:
    if page.execute_script("return theme()") == "light":
        page.find_element("id", "theme").click()
    page.execute_script(
        "addEventListener('beforeprint', () => { const graph = document.querySelector('.canvas');"
        " window.printed = [theme(), graph.offsetWidth, graph.style.getPropertyValue('--fit')]; })"
    )
    page.execute_cdp_cmd("Page.printToPDF", {})
    for section in ("flow", "scan", "parameters", "update"):
        assert texts(page, f"#{section} .chart, #{section} .heat"), section
    theme, width, fit = page.execute_script("return window.printed")
    assert theme == "light"
    assert width * float(fit) == pytest.approx(min(width, 660), abs=1)  # as wide as a sheet
    assert page.execute_script("return theme()") == "dark"


def test_every_control_has_a_name(page: Any) -> None:
    draw_everything(page)
    nameless = page.execute_script(
        "return [...document.querySelectorAll('button, select, input, [tabindex=\"0\"]')]"
        ".filter((e) => !(e.getAttribute('aria-label') || e.textContent.trim()"
        " || (e.labels && e.labels[0] && e.labels[0].textContent.trim())))"
        ".map((e) => e.outerHTML.slice(0, 120))"
    )
    assert nameless == []
    assert page.execute_script("return new Set([...document.querySelectorAll('[id]')]"
                               ".map((e) => e.id)).size") == len(texts(page, "[id]"))  # fmt: skip
