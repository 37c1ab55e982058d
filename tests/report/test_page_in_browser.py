"""Reports in headless Chromium: what a reader does with them, and that nothing in them runs or leaves the page."""

import csv
import itertools
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from report_pages import FACTS, NASTY, make_row, read_data, save_page, save_small_page

from aigc_cli.report.page import Page, PageFigure, PageTable

CHROMIUM = all(shutil.which(program) for program in ("chromium", "chromedriver"))
if not CHROMIUM and "NEED_CHROMIUM" in os.environ:
    raise RuntimeError("Chromium and its driver are missing.")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not CHROMIUM, reason="no Chromium with its driver on this machine")]


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    from tools.shoot_report import open_browser

    downloads = tmp_path_factory.mktemp("downloads")
    found = open_browser(tmp_path_factory.mktemp("profile"), downloads)
    found.downloads = downloads
    found.set_script_timeout(20)
    yield found
    found.quit()


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_small_page(tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="module")
def big(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_page(tmp_path_factory.mktemp("big") / "r.html", Page("Many", rows=[make_row(n) for n in range(10_000)]))


@pytest.fixture
def open_report(driver: Any) -> Iterator[Callable[..., Any]]:
    """Opens a report in a window of that size. At the end there must be no error and no request to another host."""
    from tools.shoot_report import resize_page

    def go(report: Path, width: int = 1280, height: int = 900) -> Any:
        driver.get("about:blank")
        for kind in ("browser", "performance"):
            driver.get_log(kind)
        resize_page(driver, width, height)
        driver.get(report.as_uri())
        driver.execute_script("try { localStorage.clear() } catch {}")
        driver.get(report.as_uri() + "?fresh")
        return driver

    yield go
    assert [entry["message"] for entry in driver.get_log("browser")] == []  # errors, and violations of the policy
    asked = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    urls = [one["params"]["request"]["url"] for one in asked if one["method"] == "Network.requestWillBeSent"]
    assert urls
    assert [url for url in urls if not url.startswith(("file:", "data:", "blob:", "about:"))] == []


def wait_for_frames(page: Any) -> None:
    """Waits two frames, after which the last input is on the screen."""
    page.execute_async_script(
        "const done = arguments[0]; requestAnimationFrame(() => requestAnimationFrame(() => done()))"
    )


def list_names(page: Any) -> list[str]:
    """Names on the existing cards, in order."""
    wait_for_frames(page)
    cards = page.execute_script(
        "return [...document.querySelectorAll('.card')].map((c) => [+c.getAttribute('aria-posinset'),"
        " c.querySelector('.words').children[1].textContent])"
    )
    return [name for _, name in sorted(cards)]


def enter(page: Any, field: str, text: Any) -> None:
    page.execute_script(
        "const f = document.getElementById(arguments[0]); f.type === 'checkbox' ? f.checked = arguments[1]"
        " : f.value = arguments[1]; f.dispatchEvent(new Event('input', {bubbles: true}));"
        " f.dispatchEvent(new Event('change', {bubbles: true}))",
        field,
        text,
    )
    wait_for_frames(page)


def read_count(page: Any) -> str:
    wait_for_frames(page)
    return str(page.execute_script("return document.getElementById('count').textContent"))


def press(page: Any, *keys: str) -> None:
    from selenium.webdriver.common.action_chains import ActionChains

    ActionChains(page).send_keys(*keys).perform()
    wait_for_frames(page)


def test_names_and_prompts_are_shown_as_text(open_report: Callable[..., Any], small: Path) -> None:
    page = open_report(small)
    enter(page, "search", "onerror")
    assert len(list_names(page)) == 1
    assert list_names(page)[0].startswith("</script><img src=x")
    page.execute_script("document.querySelector('.open').click()")
    shown = page.execute_script("return document.getElementById('prompt').textContent")
    assert shown == NASTY.replace("\u2028", r"\u2028").replace("\u202e", r"\u202e").replace("\u202c", r"\u202c")
    assert page.execute_script("return [window.hit, document.querySelectorAll('main b').length]")[0] is None
    assert page.title.startswith("A </script>")
    page.execute_script("document.getElementById('close').click()")


def test_sort_filter_and_group(open_report: Callable[..., Any], small: Path) -> None:
    page = open_report(small)
    columns = read_data(small)["columns"]
    scored = [i for i in range(40) if columns["quality"][i] is not None]
    best = sorted(scored, key=lambda i: (-columns["quality"][i], i))
    assert list_names(page)[:5] == [columns["name"][i] for i in best[:5]]
    page.execute_script("document.getElementById('direction').click()")
    assert list_names(page)[0] == columns["name"][best[-1]]
    enter(page, "sort", "difference")
    apart = [i for i in scored if columns["consistency"][i] is not None]
    widest = max(apart, key=lambda i: columns["quality"][i] - columns["consistency"][i])
    assert list_names(page)[0] == columns["name"][widest]
    enter(page, "min-quality", "2")
    enter(page, "max-quality", "3")
    inside = [i for i in scored if 2 <= columns["quality"][i] <= 3]
    assert read_count(page) == f"{len(inside)} of 40 images"
    enter(page, "by-sampler", "DDIM")
    assert read_count(page) == f"{len([i for i in inside if columns['sampler'][i] == 'DDIM'])} of 40 images"
    page.execute_script("document.getElementById('clear').click()")
    assert read_count(page) == "40 images"
    enter(page, "by-status", "failed")
    assert sorted(list_names(page)) == ["bad-0.png", "bad-1.png"]
    assert "truncated" in page.execute_script("return document.getElementById('failed').textContent")
    page.execute_script("document.getElementById('clear').click()")
    enter(page, "group", True)
    titles = page.execute_script("return [...document.querySelectorAll('.row-title')].map((one) => one.textContent)")
    assert titles[0].startswith(columns["prompt"][widest])
    assert any(re.fullmatch(r"prompt \d  4 images", title) for title in titles)
    shown = [columns["prompt"][columns["name"].index(name)] for name in list_names(page)]
    changes = sum(one != other for one, other in itertools.pairwise(shown))
    assert changes == len(set(shown)) - 1  # rows of one prompt are adjacent
    page.execute_script("document.querySelector('.row-title span').textContent = 'very '.repeat(400)")
    edge = "return document.querySelector('.row-title small').getBoundingClientRect().right <= innerWidth"
    assert page.execute_script(edge)  # a long prompt must not hide the count


def test_dragging_on_a_chart_filters_and_a_click_clears(open_report: Callable[..., Any], small: Path) -> None:
    from selenium.webdriver.common.action_chains import ActionChains

    page = open_report(small)
    canvas = page.find_element("id", "chart-scatter")
    ActionChains(page).move_to_element_with_offset(canvas, -60, -40).click_and_hold().move_by_offset(
        90, 60
    ).release().perform()
    ends = [
        float(page.find_element("id", f"{end}-{score}").get_attribute("value"))
        for score in ("quality", "consistency")
        for end in ("min", "max")
    ]
    columns = read_data(small)["columns"]
    inside = [
        name
        for name, q, c in zip(columns["name"], columns["quality"], columns["consistency"], strict=True)
        if q is not None and c is not None and ends[0] <= q <= ends[1] and ends[2] <= c <= ends[3]
    ]
    assert 0 < len(inside) < 38
    assert read_count(page) == f"{len(inside)} of 40 images"
    assert sorted(list_names(page)) == sorted(inside)
    ActionChains(page).move_to_element(canvas).click().perform()
    assert read_count(page) == "40 images"


def test_detail_shows_the_parts_of_scores(open_report: Callable[..., Any], small: Path) -> None:
    page = open_report(small)
    enter(page, "search", "image-00002")
    page.find_element("css selector", ".open").click()
    dialog = page.find_element("id", "detail")
    assert dialog.get_attribute("open")
    bars = page.execute_script(
        "return [...document.querySelectorAll('#bars .part')].map((one) => one.innerText.split('\\n'))"
    )
    assert [part[0] for part in bars] == ["Base", "Residual", "Final", "90% interval", "Base", "Residual", "Final"]
    assert [part[-1] for part in bars][:3] == ["-0.25", "+0.50", "0.25"]
    assert bars[3][-1] == "[0.1, 0.9]"
    assert "0.97 (how unusual" in page.find_element("id", "rest").text
    widths = page.execute_script(
        "return [...document.querySelectorAll('#bars .fill')].map((one) => one.getBoundingClientRect().width)"
    )
    track = page.execute_script("return document.querySelector('#bars .track').getBoundingClientRect().width")
    assert widths[2] == pytest.approx(track * 0.25 / 5, abs=1)
    large = "return ((one) => one.decode().then(() => one.naturalWidth))(document.getElementById('large'))"
    assert page.execute_script(large) == 300  # the image itself, not its thumbnail
    press(page, "\ue00c")  # Escape
    assert not dialog.get_attribute("open")
    assert page.execute_script("return document.activeElement.className") == "open"


@pytest.mark.parametrize("name", ["image-00005", "bad-0"])
def test_missing_images_leave_no_broken_picture(open_report: Callable[..., Any], small: Path, name: str) -> None:
    page = open_report(small)
    enter(page, "search", name)
    page.find_element("css selector", ".open").click()
    assert not page.find_element("id", "large").is_displayed()
    assert page.find_element("css selector", "#original .none").text == "no picture"
    press(page, "\ue00c")  # Escape
    enter(page, "search", "image-00002")
    page.find_element("css selector", ".open").click()
    assert page.find_element("id", "large").is_displayed()
    assert not page.find_element("css selector", "#original .none").is_displayed()


def test_keyboard_favourites_and_export(open_report: Callable[..., Any], small: Path) -> None:
    page = open_report(small)
    left, right, down, return_key, escape = "\ue012", "\ue014", "\ue015", "\ue007", "\ue00c"
    press(page, right)  # nothing has the focus yet
    assert page.execute_script("return document.activeElement.closest('.card').getAttribute('aria-posinset')") == "1"
    press(page, "/")
    assert page.execute_script("return document.activeElement.id") == "search"
    press(page, *"image-0", down)
    here = "return document.activeElement.closest('.card').getAttribute('aria-posinset')"
    assert page.execute_script(here) == "1"
    press(page, right, right, left, "f")
    assert page.execute_script(here) == "2"
    outline = page.execute_script("return getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"
    press(page, down, return_key, right, "f", escape)
    assert page.execute_script("return document.getElementById('favourites').textContent") == "2 favourites"
    stars = "return [...document.querySelectorAll('.mark[aria-pressed=true]')].map((m) => m.getAttribute('aria-label'))"
    marked = {text.removeprefix("Favourite: ") for text in page.execute_script(stars)}
    page.get(page.current_url)  # favourites must survive a reload
    enter(page, "only-favourites", True)
    assert set(list_names(page)) == marked
    for kind in ("txt", "csv"):
        page.find_element("id", f"export-{kind}").click()
    deadline = time.monotonic() + 10
    files = [page.downloads / f"favourites.{kind}" for kind in ("txt", "csv")]
    while not all(file.exists() for file in files) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert set(files[0].read_text().splitlines()) == marked
    with files[1].open(newline="") as stream:
        assert {line["name"] for line in csv.DictReader(stream)} == marked


def test_favourites_in_the_address_without_storage(open_report: Callable[..., Any], small: Path) -> None:
    page = open_report(small)
    block = "Object.defineProperty(window, 'localStorage', { get() { throw new Error('none here') } })"
    script = page.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": block})
    try:
        page.get(small.as_uri() + "?blocked")
        page.execute_script("document.querySelector('.mark').click()")
        address = page.current_url
        assert re.search(r"#favourites=\d+$", address)
        page.get("about:blank")
        page.get(address)
        assert page.execute_script("return document.getElementById('favourites').textContent") == "1 favourite"
    finally:
        page.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", script)


def test_ten_thousand_images_scroll(open_report: Callable[..., Any], big: Path) -> None:
    page = open_report(big)
    assert read_count(page) == "10,000 images"
    frames, cards, seen = page.execute_async_script(
        "const done = arguments[0], frames = [], seen = new Set(); let cards = 0, before = performance.now(), n = 0;"
        "const step = (now) => { frames.push(now - before); before = now; n++;"
        "n < 60 ? scrollBy(0, 150) : scrollTo(0, document.body.scrollHeight * (n - 60) / 60);"
        "for (const c of document.querySelectorAll('.card')) seen.add(c.dataset.row);"
        "cards = Math.max(cards, document.querySelectorAll('.card').length);"
        "n < 120 ? requestAnimationFrame(step) : done([frames.slice(2, 60), cards, seen.size]) };"
        "requestAnimationFrame(step)"
    )
    assert cards < 150
    assert seen > 2000  # many rows were shown while scrolling
    assert sorted(frames)[len(frames) // 2] < 50  # milliseconds at 9,000 pixels a second
    began = time.monotonic()
    enter(page, "search", "prompt 12")
    assert time.monotonic() - began < 2
    assert "of 10,000" in read_count(page)
    enter(page, "search", "")
    page.execute_script("document.querySelector('.open').focus({preventScroll: true})")
    press(page, "\ue010")  # End
    assert (
        page.execute_script("return document.activeElement.closest('.card').getAttribute('aria-posinset')") == "10000"
    )


CONTRAST = """
const parse = (text) => { const c = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
  c.fillStyle = text; c.fillRect(0, 0, 1, 1); return [...c.getImageData(0, 0, 1, 1).data]; };
const light = (rgb) => { const [r, g, b] = rgb.slice(0, 3).map((v) => v / 255)
  .map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
const ground = (e) => { for (; e; e = e.parentElement) { const c = parse(getComputedStyle(e).backgroundColor);
  if (c[3] === 255) return c; } return [255, 255, 255, 255]; };
const found = [];
for (const e of document.querySelectorAll('body *')) {
  const own = [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim()) || e.matches('input[type=search]');
  if (!own || !e.getClientRects().length || e.matches('script, style, option, :disabled')) continue;
  const [a, b] = [parse(getComputedStyle(e).color), ground(e)].map(light);
  found.push([(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), e.tagName + '.' + e.className]);
}
return found;
"""


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_contrast_and_theme(open_report: Callable[..., Any], small: Path, theme: str) -> None:
    page = open_report(small)
    wish = {"features": [{"name": "prefers-color-scheme", "value": theme}]}
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", wish)
    wait_for_frames(page)
    dark = "return getComputedStyle(document.body).backgroundColor === 'rgb(16, 19, 23)'"
    assert page.execute_script(dark) == (theme == "dark")
    page.execute_script("document.querySelector('.mark').click()")
    for opening in ("", "document.querySelector('.open').click()"):
        page.execute_script(opening)
        ratios = page.execute_script(CONTRAST)
        assert len(ratios) > 40
        assert [found for found in ratios if found[0] < 4.5] == []
    page.execute_script("document.getElementById('close').click(); document.getElementById('theme').click()")
    assert page.execute_script(dark) == (theme == "light")
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


@pytest.mark.parametrize("width", [320, 390])
def test_a_phone_never_scrolls_sideways(open_report: Callable[..., Any], small: Path, width: int) -> None:
    page = open_report(small, width, 800)
    wide = "return [document.documentElement.scrollWidth, innerWidth]"
    assert page.execute_script(wide) == [width, width]
    page.execute_script("document.querySelector('.open').click()")
    assert page.execute_script("const d = document.getElementById('detail'); return d.scrollWidth <= d.clientWidth")
    assert page.execute_script(wide) == [width, width]


def test_a_page_without_a_gallery(open_report: Callable[..., Any], tmp_path: Path) -> None:
    Image.new("RGB", (40, 30), "blue").save(tmp_path / "plot.png")
    figure = PageFigure("A plot", (tmp_path / "plot.png").read_bytes())
    table = PageTable("Variants", ("variant", "SROCC"), [("residual", "0.819")])
    save_page(tmp_path / "r.html", Page("Ablation", FACTS, tables=[table], figures=[figure]))
    page = open_report(tmp_path / "r.html")
    assert page.execute_script("return document.querySelector('.plot').naturalWidth") == 40
    assert "0.819" in page.find_element("tag name", "table").text
    page.find_element("id", "theme").click()


def test_screenshots_of_the_documentation_have_the_right_size(
    open_report: Callable[..., Any], small: Path, tmp_path: Path
) -> None:
    from tools.shoot_report import MAX_BYTES, take_screenshots

    taken = take_screenshots(open_report(small), small, tmp_path)
    kept = Path(__file__).parents[2] / "docs"
    for place in taken:
        assert place.stat().st_size < MAX_BYTES
        with Image.open(place) as new, Image.open(kept / place.name) as shown:
            assert new.size == shown.size
            assert (kept / place.name).stat().st_size < MAX_BYTES
