"""Takes the pictures of a report that the documentation shows, in headless Chromium.

    python tools/shoot_report.py [--out docs]

Needs Chromium and its driver (Debian: chromium, chromium-driver) and selenium.
"""

import argparse
import io
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image
from selenium import webdriver
from selenium.webdriver.chrome.service import Service

ROOT = Path(__file__).parents[1]
WIDTH, HEIGHT = 1280, 960
PHONE = (390, 844)  # CSS pixels
LIMIT = 150_000  # bytes of one picture


def browser(profile: Path, downloads: Path | None = None) -> webdriver.Chrome:
    """Headless Chromium with a profile of its own, which asks nobody for anything by itself."""
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    flags = ["headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-background-networking"]
    flags += ["disable-component-update", "disable-sync", f"user-data-dir={profile}", f"window-size={WIDTH},{HEIGHT}"]
    for flag in flags:
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    if downloads is not None:
        options.add_experimental_option("prefs", {"download.default_directory": str(downloads)})
    return webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))


def resize(driver: Any, width: int, height: int) -> None:
    """Gives the page a window of that many CSS pixels, as a phone or a screen would."""
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


def shoot(driver: Any, report: Path, folder: Path) -> list[Path]:
    """Gallery, detail, dark and phone width of a report, as WebP in `folder`."""
    taken = []

    def keep(name: str) -> None:
        driver.execute_async_script(
            "const done = arguments[0]; Promise.all([...document.images].filter((one) => one.src && !one.hidden)"
            ".map((one) => one.decode().catch(() => null))).then(() => requestAnimationFrame(() => done()))"
        )
        place = folder / f"report-{name}.webp"
        Image.open(io.BytesIO(driver.get_screenshot_as_png())).convert("RGB").save(place, quality=84, method=6)
        taken.append(place)

    resize(driver, WIDTH, HEIGHT)
    driver.get(report.as_uri())
    driver.execute_script("document.documentElement.dataset.theme = 'light'; dispatchEvent(new Event('resize'))")
    driver.execute_script("document.querySelectorAll('.mark')[0].click()")
    keep("gallery")
    driver.execute_script("document.querySelector('.open').click()")
    keep("detail")
    driver.execute_script("document.getElementById('close').click(); document.activeElement.blur()")
    driver.execute_script("document.getElementById('theme').click(); scrollTo(0, 0)")
    keep("dark")
    driver.execute_script("document.getElementById('theme').click()")
    resize(driver, *PHONE)
    driver.execute_async_script(
        "const done = arguments[0]; requestAnimationFrame(() => requestAnimationFrame(() => done()))"
    )
    driver.execute_script("document.getElementById('only-favourites').scrollIntoView(); document.activeElement.blur()")
    driver.execute_async_script(
        "const done = arguments[0]; requestAnimationFrame(() => requestAnimationFrame(() => done()))"
    )
    keep("phone")
    return taken


def main() -> None:
    """Scores the examples and takes the pictures."""
    from aigc_cli.progress import Silent
    from aigc_cli.workflows.reports import report_scores
    from aigc_cli.workflows.score.score import score_folder

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=ROOT / "docs")
    out: Path = parser.parse_args().out.absolute()
    os.chdir(ROOT)  # so that the pictures show no folder of this machine
    with tempfile.TemporaryDirectory() as scratch:
        table, report = Path(scratch) / "scores.parquet", Path(scratch) / "report.html"
        score_folder(Path("examples"), table, prompts=Path("examples/prompts.csv"))
        report_scores(table, report, Silent())
        driver = browser(Path(scratch) / "profile")
        try:
            for place in shoot(driver, report, out):
                print(place, place.stat().st_size)
        finally:
            driver.quit()


if __name__ == "__main__":
    main()
