"""Reports in real headless Chromium: what a person does with them, and what they must never do."""

import base64
import csv
import hashlib
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

from aigc_cli.errors import AigcError
from aigc_cli.progress import Silent
from aigc_cli.report import page as reports
from aigc_cli.report.page import Figure, Report, Table, check_report, write_report

if shutil.which("chromium") is None or shutil.which("chromedriver") is None:
    if "NEED_CHROMIUM" in os.environ:
        raise RuntimeError("Chromium and its driver have to be here.")
    CHROMIUM = False
else:
    CHROMIUM = True
needs_chromium = pytest.mark.skipif(not CHROMIUM, reason="no Chromium with its driver on this machine")

NASTY = '</script><img src=x onerror="window.hit=1"><b>\'" \u2028 \u202edlrow\u202c & {{ 7*7 }} <!--'
FACTS = {"Model": "<i>tiny</i>", "Weights": "0123456789abcdef", "Scale": "0 to 5"}


def row(number: int, **other: Any) -> dict[str, Any]:
    """A scored image; quality rises with the number, consistency falls every other time."""
    quality = round(5 * number / 40, 3) % 5
    consistency = quality / 2 if number % 2 else 5 - quality
    parts = {"quality_base": quality - 0.5, "quality_delta": 0.5, "consistency_base": 2.0, "consistency_delta": -0.25}
    scores = {"quality": quality, "consistency": consistency, **parts}
    texts = {
        "prompt": f"prompt {number // 4}",
        "sampler": ["Euler", "DDIM"][number % 2],
        "status": "ok",
        "reason": None,
    }
    return {"name": f"image-{number:05}.png", "path": None, **scores, **texts} | other


def blank(number: int) -> dict[str, Any]:
    return {"name": f"bad-{number}.png", "path": None, "prompt": "lost", "status": "failed", "reason": "truncated"}


def page_of(report: Path) -> str:
    return report.read_text(encoding="utf-8")


def data_of(report: Path) -> Any:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page_of(report), re.S)
    assert found
    return json.loads(found[1])


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    from tools.shoot_report import browser

    downloads = tmp_path_factory.mktemp("downloads")
    found = browser(tmp_path_factory.mktemp("profile"), downloads)
    found.downloads = downloads
    found.set_script_timeout(20)
    yield found
    found.quit()


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 images of which 38 have scores and 4 a picture; one with a name and a prompt that try to be markup."""
    folder = tmp_path_factory.mktemp("small")
    rows = [row(number) for number in range(36)]
    for number in range(4):
        place = folder / f"image-{number:05}.png"
        Image.new("RGB", (300, 200), (60 * number, 90, 120)).save(place)
        rows[number]["path"] = str(place)
    rows += [row(36, name=NASTY, prompt=NASTY), row(37, consistency=None, prompt=None), blank(0), blank(1)]
    table = Table("Agreement <b>", ("score", "value"), [("quality", NASTY)], "A note.")
    write_report(folder / "r.html", Report(f"A {NASTY}", FACTS, tables=[table], rows=rows), Silent())
    return folder / "r.html"


@pytest.fixture(scope="module")
def big(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("big")
    write_report(folder / "r.html", Report("Many", rows=[row(number) for number in range(10_000)]), Silent())
    return folder / "r.html"


@pytest.fixture
def opened(driver: Any, request: pytest.FixtureRequest) -> Iterator[Callable[..., Any]]:
    """Opens a report in a window of that size; at the end nothing may have gone wrong or out."""
    from tools.shoot_report import resize

    def go(report: Path, width: int = 1280, height: int = 900) -> Any:
        driver.get("about:blank")
        for kind in ("browser", "performance"):
            driver.get_log(kind)
        resize(driver, width, height)
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


def settled(page: Any) -> None:
    """Two frames later: what was asked for is on the screen."""
    page.execute_async_script(
        "const done = arguments[0]; requestAnimationFrame(() => requestAnimationFrame(() => done()))"
    )


def names(page: Any) -> list[str]:
    """Names of the cards that exist, in the order of the list."""
    settled(page)
    cards = page.execute_script(
        "return [...document.querySelectorAll('.card')].map((c) => [+c.getAttribute('aria-posinset'),"
        " c.querySelector('.words').children[1].textContent])"
    )
    return [name for _, name in sorted(cards)]


def put(page: Any, field: str, text: Any) -> None:
    page.execute_script(
        "const f = document.getElementById(arguments[0]); f.type === 'checkbox' ? f.checked = arguments[1]"
        " : f.value = arguments[1]; f.dispatchEvent(new Event('input', {bubbles: true}));"
        " f.dispatchEvent(new Event('change', {bubbles: true}))",
        field,
        text,
    )
    settled(page)


def count(page: Any) -> str:
    settled(page)
    return str(page.execute_script("return document.getElementById('count').textContent"))


def press(page: Any, *keys: str) -> None:
    from selenium.webdriver.common.action_chains import ActionChains

    ActionChains(page).send_keys(*keys).perform()
    settled(page)


def test_the_same_results_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_report(tmp_path / f"{name}.html", Report("R", FACTS, rows=[row(1)]), Silent())
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


def test_the_policy_admits_its_own_script_and_style_only(small: Path) -> None:
    text = page_of(small)
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', text)
    assert policy
    assert "unsafe" not in policy[1]
    assert "default-src &#39;none&#39;" in policy[1]
    for tag in ("script", "style"):
        (own,) = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.S)
        assert base64.b64encode(hashlib.sha256(own.encode()).digest()).decode() in policy[1]
    assert len(re.findall(r"<script", text)) == 2  # what tries to be a script is escaped
    assert "https://" not in text


def test_thumbnails_go_beside_it_past_the_limit_or_when_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("RGB", (640, 480), "red").save(tmp_path / "a b#.png")
    rows = [row(n, path=str(tmp_path / "a b#.png")) for n in range(3)]
    write_report(tmp_path / "in.html", Report("R", rows=rows), Silent())
    inside = data_of(tmp_path / "in.html")["columns"]
    assert all(thumb.startswith("data:image/webp;base64,") for thumb in inside["thumb"])
    assert inside["link"][0] == "a%20b%23.png"
    write_report(tmp_path / "out.html", Report("R", rows=rows), Silent(), tmp_path / "t")
    monkeypatch.setattr(reports, "EMBEDDED", 2)
    write_report(tmp_path / "many.html", Report("R", rows=rows), Silent())
    for name, folder in (("out", "t"), ("many", "many-thumbs")):
        thumbs = data_of(tmp_path / f"{name}.html")["columns"]["thumb"]
        assert thumbs == [f"{folder}/{n:06}.webp" for n in range(3)]
        with Image.open(tmp_path / thumbs[0]) as thumb:
            assert (thumb.format, thumb.size) == ("WEBP", (224, 168))


def test_an_output_in_the_way_is_refused(tmp_path: Path) -> None:
    (tmp_path / "r.html").touch()
    with pytest.raises(AigcError, match="exists"):
        check_report(tmp_path / "r.html", overwrite=False)
    with pytest.raises(AigcError, match=r"\.html"):
        check_report(tmp_path / "r.pdf", overwrite=True)


@needs_chromium
def test_what_others_wrote_is_text(opened: Callable[..., Any], small: Path) -> None:
    page = opened(small)
    put(page, "search", "onerror")
    assert len(names(page)) == 1
    assert names(page)[0].startswith("</script><img src=x")
    page.execute_script("document.querySelector('.open').click()")
    shown = page.execute_script("return document.getElementById('prompt').textContent")
    assert shown == NASTY.replace("\u2028", r"\u2028").replace("\u202e", r"\u202e").replace("\u202c", r"\u202c")
    assert page.execute_script("return [window.hit, document.querySelectorAll('main b').length]")[0] is None
    assert page.title.startswith("A </script>")
    page.execute_script("document.getElementById('close').click()")


@needs_chromium
def test_sort_filter_and_group(opened: Callable[..., Any], small: Path) -> None:
    page = opened(small)
    columns = data_of(small)["columns"]
    scored = [i for i in range(40) if columns["quality"][i] is not None]
    best = sorted(scored, key=lambda i: (-columns["quality"][i], i))
    assert names(page)[:5] == [columns["name"][i] for i in best[:5]]
    page.execute_script("document.getElementById('direction').click()")
    assert names(page)[0] == columns["name"][best[-1]]
    put(page, "sort", "difference")
    apart = [i for i in scored if columns["consistency"][i] is not None]
    widest = max(apart, key=lambda i: columns["quality"][i] - columns["consistency"][i])
    assert names(page)[0] == columns["name"][widest]
    put(page, "min-quality", "2")
    put(page, "max-quality", "3")
    inside = [i for i in scored if 2 <= columns["quality"][i] <= 3]
    assert count(page) == f"{len(inside)} of 40 images"
    put(page, "by-sampler", "DDIM")
    assert count(page) == f"{len([i for i in inside if columns['sampler'][i] == 'DDIM'])} of 40 images"
    page.execute_script("document.getElementById('clear').click()")
    assert count(page) == "40 images"
    put(page, "by-status", "failed")
    assert sorted(names(page)) == ["bad-0.png", "bad-1.png"]
    assert "truncated" in page.execute_script("return document.getElementById('failed').textContent")
    page.execute_script("document.getElementById('clear').click()")
    put(page, "group", True)
    titles = page.execute_script("return [...document.querySelectorAll('.row-title')].map((one) => one.textContent)")
    assert titles[0].startswith(columns["prompt"][widest])
    assert any(re.fullmatch(r"prompt \d  4 images", title) for title in titles)
    shown = [columns["prompt"][columns["name"].index(name)] for name in names(page)]
    changes = sum(one != other for one, other in itertools.pairwise(shown))
    assert changes == len(set(shown)) - 1  # what belongs together stands together
    page.execute_script("document.querySelector('.row-title span').textContent = 'very '.repeat(400)")
    edge = "return document.querySelector('.row-title small').getBoundingClientRect().right <= innerWidth"
    assert page.execute_script(edge)  # the count stands beside however long a prompt


@needs_chromium
def test_a_brush_filters_and_a_click_lets_go(opened: Callable[..., Any], small: Path) -> None:
    from selenium.webdriver.common.action_chains import ActionChains

    page = opened(small)
    canvas = page.find_element("id", "chart-scatter")
    ActionChains(page).move_to_element_with_offset(canvas, -60, -40).click_and_hold().move_by_offset(
        90, 60
    ).release().perform()
    ends = [
        float(page.find_element("id", f"{end}-{score}").get_attribute("value"))
        for score in ("quality", "consistency")
        for end in ("min", "max")
    ]
    columns = data_of(small)["columns"]
    inside = [
        name
        for name, q, c in zip(columns["name"], columns["quality"], columns["consistency"], strict=True)
        if q is not None and c is not None and ends[0] <= q <= ends[1] and ends[2] <= c <= ends[3]
    ]
    assert 0 < len(inside) < 38
    assert count(page) == f"{len(inside)} of 40 images"
    assert sorted(names(page)) == sorted(inside)
    ActionChains(page).move_to_element(canvas).click().perform()
    assert count(page) == "40 images"


@needs_chromium
def test_open_with_its_parts(opened: Callable[..., Any], small: Path) -> None:
    page = opened(small)
    put(page, "search", "image-00002")
    page.find_element("css selector", ".open").click()
    dialog = page.find_element("id", "detail")
    assert dialog.get_attribute("open")
    bars = page.execute_script(
        "return [...document.querySelectorAll('#bars .part')].map((one) => one.innerText.split('\\n'))"
    )
    assert [part[0] for part in bars] == ["Base", "Residual", "Final"] * 2
    assert [part[-1] for part in bars][:3] == ["-0.25", "+0.50", "0.25"]
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


@needs_chromium
@pytest.mark.parametrize("name", ["image-00005", "bad-0"])
def test_an_image_that_is_not_there_leaves_no_broken_one(opened: Callable[..., Any], small: Path, name: str) -> None:
    page = opened(small)
    put(page, "search", name)
    page.find_element("css selector", ".open").click()
    assert not page.find_element("id", "large").is_displayed()
    assert page.find_element("css selector", "#original .none").text == "no picture"
    press(page, "\ue00c")  # Escape
    put(page, "search", "image-00002")
    page.find_element("css selector", ".open").click()
    assert page.find_element("id", "large").is_displayed()
    assert not page.find_element("css selector", "#original .none").is_displayed()


@needs_chromium
def test_keyboard_favourites_and_export(opened: Callable[..., Any], small: Path) -> None:
    page = opened(small)
    left, right, down, enter, escape = "\ue012", "\ue014", "\ue015", "\ue007", "\ue00c"
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
    press(page, down, enter, right, "f", escape)
    assert page.execute_script("return document.getElementById('favourites').textContent") == "2 favourites"
    stars = "return [...document.querySelectorAll('.mark[aria-pressed=true]')].map((m) => m.getAttribute('aria-label'))"
    marked = {text.removeprefix("Favourite: ") for text in page.execute_script(stars)}
    page.get(page.current_url)  # kept
    put(page, "only-favourites", True)
    assert set(names(page)) == marked
    for kind in ("txt", "csv"):
        page.find_element("id", f"export-{kind}").click()
    deadline = time.monotonic() + 10
    files = [page.downloads / f"favourites.{kind}" for kind in ("txt", "csv")]
    while not all(file.exists() for file in files) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert set(files[0].read_text().splitlines()) == marked
    with files[1].open(newline="") as stream:
        assert {line["name"] for line in csv.DictReader(stream)} == marked


@needs_chromium
def test_favourites_in_the_address_without_storage(opened: Callable[..., Any], small: Path) -> None:
    page = opened(small)
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


@needs_chromium
def test_ten_thousand_images_scroll(opened: Callable[..., Any], big: Path) -> None:
    page = opened(big)
    assert count(page) == "10,000 images"
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
    assert seen > 2000  # they came past
    assert sorted(frames)[len(frames) // 2] < 50  # milliseconds at 9,000 pixels a second
    began = time.monotonic()
    put(page, "search", "prompt 12")
    assert time.monotonic() - began < 2
    assert "of 10,000" in count(page)
    put(page, "search", "")
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


@needs_chromium
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_contrast_and_theme(opened: Callable[..., Any], small: Path, theme: str) -> None:
    page = opened(small)
    wish = {"features": [{"name": "prefers-color-scheme", "value": theme}]}
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", wish)
    settled(page)
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


@needs_chromium
@pytest.mark.parametrize("width", [320, 390])
def test_a_phone_never_scrolls_sideways(opened: Callable[..., Any], small: Path, width: int) -> None:
    page = opened(small, width, 800)
    wide = "return [document.documentElement.scrollWidth, innerWidth]"
    assert page.execute_script(wide) == [width, width]
    page.execute_script("document.querySelector('.open').click()")
    assert page.execute_script("const d = document.getElementById('detail'); return d.scrollWidth <= d.clientWidth")
    assert page.execute_script(wide) == [width, width]


@needs_chromium
def test_a_page_without_a_gallery(opened: Callable[..., Any], tmp_path: Path) -> None:
    Image.new("RGB", (40, 30), "blue").save(tmp_path / "plot.png")
    figure = Figure("A plot", (tmp_path / "plot.png").read_bytes())
    table = Table("Variants", ("variant", "SROCC"), [("residual", "0.819")])
    write_report(tmp_path / "r.html", Report("Ablation", FACTS, tables=[table], figures=[figure]), Silent())
    page = opened(tmp_path / "r.html")
    assert page.execute_script("return document.querySelector('.plot').naturalWidth") == 40
    assert "0.819" in page.find_element("tag name", "table").text
    page.find_element("id", "theme").click()


@needs_chromium
def test_the_pictures_of_the_documentation(opened: Callable[..., Any], small: Path, tmp_path: Path) -> None:
    from tools.shoot_report import LIMIT, shoot

    taken = shoot(opened(small), small, tmp_path)
    kept = Path(__file__).parents[2] / "docs"
    for place in taken:
        assert place.stat().st_size < LIMIT
        with Image.open(place) as new, Image.open(kept / place.name) as shown:
            assert new.size == shown.size
            assert (kept / place.name).stat().st_size < LIMIT
