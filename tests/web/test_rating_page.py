"""The page of `aigc rate` in headless Chromium: by keyboard, on a phone, and over interruptions."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from aigc_cli.images.sample import TARGETS
from aigc_cli.workflows.rate.answers import ANSWER, drop_undone, read_answers

CHROMIUM = all(shutil.which(program) for program in ("chromium", "chromedriver"))
if not CHROMIUM and "NEED_CHROMIUM" in os.environ:
    raise RuntimeError("Chromium and its driver are missing.")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not CHROMIUM, reason="no Chromium with its driver on this machine")]
KILLS = 20
Start = Callable[..., tuple[subprocess.Popen[str], str]]


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    from tools.shoot_report import open_browser

    found = open_browser(tmp_path_factory.mktemp("profile"))
    yield found
    found.quit()


@pytest.fixture
def start(folder: Path, tmp_path: Path) -> Iterator[Start]:
    """Starts the program; returns it and the address that it prints."""
    begun: list[subprocess.Popen[str]] = []

    def run(*more: str, port: int = 0) -> tuple[subprocess.Popen[str], str]:
        line = ["rate", str(folder), "--prompts", "prompts.csv", "--no-browser", "--port", str(port), *more]
        program = subprocess.Popen(
            [sys.executable, "-m", "aigc_cli", *line], cwd=tmp_path, stderr=subprocess.PIPE, text=True
        )
        begun.append(program)
        assert program.stderr
        for text in program.stderr:
            if found := re.search(r"http\S+", text):
                return program, found[0]
        raise AssertionError(program.wait())

    yield run
    for program in begun:
        program.kill()
        program.communicate()


def press(driver: Any, *keys: str) -> None:
    from selenium.webdriver.common.action_chains import ActionChains

    ActionChains(driver).send_keys(*keys).perform()


def read(driver: Any, name: str) -> str:
    return str(driver.find_element("id", name).text)


def wait(check: Callable[[], object], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < end
        time.sleep(0.02)


def open_page(driver: Any, url: str, width: int = 1280, height: int = 900) -> None:
    from tools.shoot_report import resize_page

    resize_page(driver, width, height)
    driver.get("about:blank")
    driver.get_log("browser")
    driver.get(url)
    wait(lambda: driver.find_elements("css selector", ".picture img"))


@pytest.mark.parametrize(("ending", "code"), [(signal.SIGINT, 0), (signal.SIGTERM, 143)])
def test_it_ends_without_a_trace_while_images_are_scored(
    start: Start, folder: Path, ending: signal.Signals, code: int
) -> None:
    for number in range(400):
        shutil.copy(folder / "00.png", folder / f"more-{number}.png")
    program, _ = start()
    time.sleep(4)  # the model is loaded, and most images are not scored
    program.send_signal(ending)
    _, err = program.communicate(timeout=30)
    assert program.returncode == code
    assert "Traceback" not in err
    assert (code == 0) or "all answers are saved" in err


def find_image(driver: Any) -> str:
    return str(driver.execute_script("return document.querySelector('.picture img').src"))


def wait_for_count(driver: Any, count: int) -> None:
    wait(lambda: read(driver, "count").startswith(f"{count} answered"))


def test_rating_by_keyboard_alone(driver: Any, start: Start, folder: Path, tmp_path: Path) -> None:
    (folder / "bare.tiff").unlink()  # every image has a prompt: two questions
    program, url = start("--rater", "ann")
    open_page(driver, url)
    press(driver, "4")
    assert driver.find_element("css selector", "[data-target=quality] [aria-pressed=true]").text == "4"
    press(driver, "2")
    wait_for_count(driver, 1)
    shown = find_image(driver)
    press(driver, "s")
    wait(lambda: find_image(driver) != shown)
    assert len(read_answers(tmp_path / "ratings.answers.csv")) == 2
    press(driver, "5", "1")
    wait_for_count(driver, 2)
    press(driver, "u")
    wait_for_count(driver, 1)
    assert "taken back" in read(driver, "said")
    prompt = driver.find_element("id", "prompt")
    press(driver, "h")
    assert not prompt.is_displayed()
    press(driver, "z")
    assert driver.execute_script("return document.body.classList.contains('pixels')")
    press(driver, "?")
    assert "undo" in read(driver, "help")
    assert driver.get_log("browser") == []
    program.send_signal(signal.SIGINT)
    assert program.wait(20) == 0
    rows = read_answers(tmp_path / "ratings.answers.csv")
    assert [(row.kind, row.quality, row.consistency) for row in rows] == [
        ("answer", "4", "2"),
        ("skip", "", ""),
        ("answer", "5", "1"),
        ("undo", "", ""),
    ]
    assert all(row.rater == "ann" for row in rows)
    assert not (tmp_path / "ratings.rating").exists()


def test_prompts_are_text(driver: Any, start: Start, folder: Path) -> None:
    (folder / "bare.tiff").unlink()
    _, url = start()
    open_page(driver, url)
    for count in range(1, 5):
        if "house" in read(driver, "prompt"):
            break
        press(driver, "3", "3")
        wait_for_count(driver, count)
    assert read(driver, "prompt") == "a red <b>house</b>"
    assert driver.find_elements("css selector", "#prompt b") == []


@pytest.mark.parametrize("more", [(), ("--pairs",)], ids=["ratings", "pairs"])
def test_a_phone_shows_everything_without_scrolling_sideways(driver: Any, start: Start, more: tuple[str, ...]) -> None:
    _, url = start(*more)
    open_page(driver, url, 360, 740)
    wide = "return document.documentElement.scrollWidth <= innerWidth"
    assert driver.execute_script(wide)
    for button in driver.find_elements("css selector", "#ask button"):
        box = button.rect
        assert box["height"] >= 44, "large enough for a finger"
        assert box["y"] + box["height"] <= 740, button.text
        assert button.accessible_name


def test_every_control_has_a_name_and_the_focus_can_reach_it(driver: Any, start: Start) -> None:
    _, url = start()
    open_page(driver, url)
    names = [
        button.accessible_name for button in driver.find_elements("css selector", "button") if button.is_displayed()
    ]
    assert all(names)
    assert "Quality: 5 Excellent" in names
    reached = set()
    for _ in range(30):
        press(driver, "\ue004")  # tab
        reached.add(driver.switch_to.active_element.accessible_name)
    assert set(names) <= reached
    driver.find_element("css selector", "[data-target=quality] button").send_keys("\n")
    driver.find_element("css selector", "[data-target=consistency] button").send_keys(" ")
    wait_for_count(driver, 1)
    assert driver.find_element("id", "said").get_attribute("role") == "status"


def test_pairs_by_arrows(driver: Any, start: Start, tmp_path: Path) -> None:
    program, url = start("--pairs")
    open_page(driver, url)
    assert len(driver.find_elements("css selector", ".picture img")) == 2
    press(driver, "\ue012", "\ue014")  # left, right
    wait_for_count(driver, 1)
    press(driver, "2", "1")
    wait_for_count(driver, 2)
    program.send_signal(signal.SIGINT)
    assert program.wait(20) == 0
    rows = read_answers(tmp_path / "pairs.answers.csv")
    assert [(row.quality, row.consistency) for row in rows] == [("a", "b"), ("tie", "a")]
    assert len((tmp_path / "pairs.csv").read_text().splitlines()) == 5


def test_killed_during_answers_nothing_is_lost_and_nothing_twice(driver: Any, start: Start, tmp_path: Path) -> None:
    """The program is killed at moments around an answer, and started again; the open page goes on by itself."""
    program, url = start()
    port = int(url.split(":")[2].split("/")[0])
    open_page(driver, url)
    given: list[tuple[str, str]] = []
    for number in range(KILLS):
        values = str(number % 5 + 1), str(number % 4 + 1)
        if len(driver.find_elements("css selector", "fieldset")) == 1:  # an image without a prompt
            values = (values[0], "")
        pairs = [pair for pair in zip(TARGETS, values, strict=True) if pair[1]]
        places = [f"[data-target={name}] [data-value='{value}']" for name, value in pairs]
        for place in places[:-1]:
            driver.find_element("css selector", place).click()
        click = "const place = arguments[0]; setTimeout(() => document.querySelector(place).click(), 5)"
        driver.execute_script(click, places[-1])
        time.sleep(0.0015 * number)
        program.kill()
        program.wait()
        given.append(values)
        program, again = start(port=port)
        assert again == url
        wait_for_count(driver, number + 1)
    rows = [row for row in drop_undone(read_answers(tmp_path / "ratings.answers.csv")) if row.kind != "skip"]
    assert [(row.quality, row.consistency) for row in rows] == given
    assert len({row.id for row in rows}) == KILLS
    fresh = [row.image for row in rows if row.kind == ANSWER]
    assert len(fresh) == len(set(fresh))
