"""Takes the screenshots of a report that the documentation shows, with headless Chromium.

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
MAX_BYTES = 150_000  # of one screenshot


def open_browser(profile: Path, downloads: Path | None = None) -> webdriver.Chrome:
    """Headless Chromium with its own profile and without background connections."""
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


def resize_page(driver: Any, width: int, height: int) -> None:
    """Sets the size of the window in CSS pixels; below 600 pixels it is a phone."""
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


def take_screenshots(driver: Any, report: Path, folder: Path) -> list[Path]:
    """Saves gallery, detail, dark theme and phone width of a report as WebP files in `folder`."""
    taken = []

    def save(name: str) -> None:
        driver.execute_async_script(
            "const done = arguments[0]; Promise.all([...document.images].filter((one) => one.src && !one.hidden)"
            ".map((one) => one.decode().catch(() => null))).then(() => requestAnimationFrame(() => done()))"
        )
        place = folder / f"report-{name}.webp"
        Image.open(io.BytesIO(driver.get_screenshot_as_png())).convert("RGB").save(place, quality=84, method=6)
        taken.append(place)

    resize_page(driver, WIDTH, HEIGHT)
    driver.get(report.as_uri())
    driver.execute_script("document.documentElement.dataset.theme = 'light'; dispatchEvent(new Event('resize'))")
    driver.execute_script("document.querySelectorAll('.mark')[0].click()")
    save("gallery")
    driver.execute_script("document.querySelector('.open').click()")
    save("detail")
    driver.execute_script("document.getElementById('close').click(); document.activeElement.blur()")
    driver.execute_script("document.getElementById('theme').click(); scrollTo(0, 0)")
    save("dark")
    driver.execute_script("document.getElementById('theme').click()")
    resize_page(driver, *PHONE)
    driver.execute_async_script(
        "const done = arguments[0]; requestAnimationFrame(() => requestAnimationFrame(() => done()))"
    )
    driver.execute_script("document.getElementById('only-favourites').scrollIntoView(); document.activeElement.blur()")
    driver.execute_async_script(
        "const done = arguments[0]; requestAnimationFrame(() => requestAnimationFrame(() => done()))"
    )
    save("phone")
    return taken


def main() -> None:
    """Scores the examples and takes screenshots of their report."""
    from aigc_cli.progress import SilentProgress
    from aigc_cli.report.page_output import PageOutput
    from aigc_cli.storage.atomic_files import Output
    from aigc_cli.workflows.reports import report_scores
    from aigc_cli.workflows.score.plan import ScoringPlan
    from aigc_cli.workflows.score.score import score_folder

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=ROOT / "docs")
    out: Path = parser.parse_args().out.absolute()
    os.chdir(ROOT)  # the screenshots must not show folders of this machine
    with tempfile.TemporaryDirectory() as scratch:
        table, report = Path(scratch) / "scores.parquet", Path(scratch) / "report.html"
        score_folder(Path("examples"), Output(table), ScoringPlan(prompts=Path("examples/prompts.csv")))
        report_scores(table, PageOutput(report), SilentProgress())
        driver = open_browser(Path(scratch) / "profile")
        try:
            for place in take_screenshots(driver, report, out):
                print(place, place.stat().st_size)
        finally:
            driver.quit()


if __name__ == "__main__":
    main()
