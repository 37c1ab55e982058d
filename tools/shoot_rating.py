"""Takes the screenshots of `aigc rate` that the documentation shows, with headless Chromium, on the example images.

    python -m tools.shoot_rating [--out docs]

Needs what tools/shoot_report.py needs, and the extra `web`.
"""

import argparse
import io
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tools.shoot_report import HEIGHT, PHONE, ROOT, WIDTH, open_browser, resize_page

EXAMPLES = "examples"  # a copy, so that no path of this machine is shown


def start(folder: Path, *more: str) -> tuple[subprocess.Popen[str], list[str]]:
    """The program, and the addresses that it prints."""
    line = ["rate", EXAMPLES, "--prompts", f"{EXAMPLES}/prompts.csv", "--no-browser", "--port", "0", *more]
    program = subprocess.Popen([sys.executable, "-m", "aigc_cli", *line], cwd=folder, stderr=subprocess.PIPE, text=True)
    assert program.stderr
    urls = []
    for text in program.stderr:
        urls += re.findall(r"http\S+", text)
        if text.startswith("End with"):
            break
    time.sleep(5)  # the examples are scored
    return program, urls


def shoot(driver: Any, place: Path, dark: bool = False) -> None:
    """Saves what the window shows."""
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
    time.sleep(1)
    Image.open(io.BytesIO(driver.get_screenshot_as_png())).convert("RGB").save(place, quality=84, method=6)


def rate(driver: Any, url: str, count: int, seed: int) -> None:
    """Answers questions by keyboard: a rater who mostly agrees with others."""
    from selenium.webdriver.common.action_chains import ActionChains

    draw = np.random.default_rng(seed)
    driver.get(url)
    look = "return [document.getElementById('count').textContent, document.querySelector('.picture img')?.src]"
    for done in range(count):
        while not ((seen := driver.execute_script(look))[0].startswith(f"{done} ") and seen[1]):
            time.sleep(0.02)
        level = int(seen[1].rpartition("/")[2]) % 4 + 1
        keys = [str(int(np.clip(level + draw.integers(-1, 2), 1, 5))) for _ in range(2)]
        time.sleep(0.4)
        ActionChains(driver).send_keys(*keys).perform()
    time.sleep(0.5)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "docs")
    out = parser.parse_args().out
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shutil.copytree(ROOT / EXAMPLES, folder / EXAMPLES)
        driver = open_browser(folder / "profile")
        try:
            program, urls = start(folder, "--rater", "ann", "--rater", "ben")
            for seed, url in enumerate(urls):
                rate(driver, url, 12, seed)
            resize_page(driver, WIDTH, HEIGHT)
            rate(driver, urls[0], 0, 0)
            driver.find_element("css selector", "#undo-last, #undo").click()
            time.sleep(1)
            shoot(driver, out / "rate.webp")
            resize_page(driver, *PHONE)
            shoot(driver, out / "rate-phone.webp", dark=True)
            program.terminate()
            program.communicate()
            line = [sys.executable, "-m", "aigc_cli", "rate", EXAMPLES, "--summary", "--report", "raters.html"]
            subprocess.run(line, cwd=folder, check=True)
            resize_page(driver, WIDTH, 560)
            driver.get((folder / "raters.html").as_uri())
            shoot(driver, out / "rate-raters.webp")
            program, urls = start(folder, "--pairs")
            resize_page(driver, WIDTH, HEIGHT)
            driver.get(urls[0])
            shoot(driver, out / "rate-pairs.webp")
            program.terminate()
            program.communicate()
        finally:
            driver.quit()


if __name__ == "__main__":
    main()
