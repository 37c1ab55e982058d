"""Measures what a person's answers teach: a simulated one uses the page of `aigc rate` in a browser; resumable.

    python -m tools.simulate_rater --data AGIQA-3K/data.csv --images AGIQA-3K/images -o runs/rater

A draw deals the prompts: a start model is trained on one half, the person judges images of a quarter, and the last
quarter tests what was learnt. Opinions are drawn for each question from the mean and the deviation of AGIQA-3K's
raters; the person `own` mixes 30% of colourfulness into quality. Each session gives 400 answers, as ratings or as
choices, in chosen or in random order. After 50, 100, 200 and 400 answers a taste is fitted to the start model. Its
SROCC with the person's mean opinions on the test part is compared with that of the start model.
"""

import argparse
import csv
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from aigc_cli.cli.console import Terminal
from aigc_cli.metrics.by_name import compute_metric
from aigc_cli.metrics.splits import Split
from aigc_cli.model.trained import load_model
from aigc_cli.progress import SilentProgress
from aigc_cli.recipe import resolve_recipe
from aigc_cli.storage.atomic_files import Output, write_json, write_text
from aigc_cli.training.loop import make_model, predict
from aigc_cli.training.rates import complete_recipe
from aigc_cli.training.taste import fit_taste
from aigc_cli.training.warm_start import read_start
from aigc_cli.workflows.experiment.folds import prepare_data
from aigc_cli.workflows.experiment.rated import read_rated
from aigc_cli.workflows.experiment.source import Compute, Source
from aigc_cli.workflows.rate.answers import Answer, list_given, read_answers, write_pairs, write_ratings
from aigc_cli.workflows.train.calibrate import HeldOutSource
from aigc_cli.workflows.train.train import train_model
from tools.measure_warm_start import COLOUR, measure_colourfulness
from tools.shoot_report import open_browser

SIZES = (50, 100, 200, 400)
START_PROMPTS, JUDGED_PROMPTS = 120, 60
TIE = 0.3  # MOS units: a smaller difference of two opinions is a tie
SPEED = 15  # images per second that the program scores while the person waits
SESSIONS = (  # person, what is asked, order
    *(("own", mode, order) for mode in ("ratings", "pairs") for order in ("chosen", "random")),
    *(("same", mode, "chosen") for mode in ("ratings", "pairs")),
)
Row = Mapping[str, str]


def make_table(path: Path, rows: Sequence[Row]) -> Path:
    """Writes rows as CSV."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


class Person:
    """Draws opinions: {target: mean and deviation} in MOS by image."""

    def __init__(self, rows: Sequence[Row], liked: Mapping[str, float], own: bool, seed: int) -> None:
        self._random = np.random.default_rng(seed)
        self.mean = {row["name"]: (float(row["mos_quality"]), float(row["mos_align"])) for row in rows}
        self._std = {row["name"]: (float(row["std_quality"]), float(row["std_align"])) for row in rows}
        if own:
            for name, (quality, consistency) in self.mean.items():
                self.mean[name] = ((1 - COLOUR) * quality + COLOUR * 5 * liked[name], consistency)

    def judge(self, image: str) -> tuple[float, float]:
        """Quality and consistency at this moment."""
        pairs = zip(self.mean[image], self._std[image], strict=True)
        quality, consistency = (float(self._random.normal(mean, std)) for mean, std in pairs)
        return quality, consistency

    def press(self, images: Sequence[str]) -> list[str]:
        """The keys that answer the question."""
        if len(images) == 1:
            return [str(round(min(max(opinion * 4 / 5 + 1, 1), 5))) for opinion in self.judge(images[0])]
        gaps = [a - b for a, b in zip(*map(self.judge, images), strict=True)]
        return ["2" if abs(gap) < TIE else "1" if gap > 0 else "3" for gap in gaps]


def rate_in_browser(driver: Any, folder: Path, model: Path, person: Person, mode: str, order: str, place: Path) -> None:
    """One session of `SIZES[-1]` answers through the page; the answers are in `place`."""
    from selenium.webdriver.common.action_chains import ActionChains

    table = place / ("pairs.csv" if mode == "pairs" else "ratings.csv")
    line = [sys.executable, "-m", "aigc_cli", "rate", str(folder), "--prompts", str(folder.parent / "prompts.csv")]
    line += ["--model", str(model), "--order", order, "--no-browser", "--port", "0", "-o", str(table)]
    names = sorted(path.name for path in folder.iterdir())
    program = subprocess.Popen(line + ["--pairs"] * (mode == "pairs"), stderr=subprocess.PIPE, text=True)
    try:
        assert program.stderr
        url = next(found[0] for text in program.stderr if (found := re.search(r"http\S+", text)))
        time.sleep(len(names) / SPEED if order == "chosen" else 1)
        driver.get(url)
        read = "const q = document.querySelectorAll('.picture img');"
        read += "return [document.getElementById('count').textContent, [...q].map((one) => one.src)]"
        seen, deadline = -1, time.monotonic() + 1800
        while seen < SIZES[-1]:
            assert time.monotonic() < deadline
            count, sources = driver.execute_script(read)
            done = int(count.split()[0]) if count else -1
            if done == seen or not sources:
                continue
            seen = done
            if seen < SIZES[-1]:
                images = [names[int(source.rpartition("/")[2])] for source in sources]
                ActionChains(driver, duration=0).send_keys(*person.press(images)).perform()
    finally:
        program.terminate()
        program.wait()


def learn(
    start: Path, source: Source, rows: Sequence[Row], person: Person, answers: Sequence[Answer], mode: str
) -> Any:
    """{answers: (gain of quality, gain of consistency)} in SROCC on the test images."""
    found, quiet = dict[str, list[float]](), SilentProgress()
    recipe = complete_recipe(resolve_recipe({"start_from": str(start), "freeze": "all"}).recipe)
    saved = read_start(recipe)
    rated = read_rated(source, recipe.scale, quiet)
    ready = prepare_data(load_model(start, "cpu").model.backbone, rated, recipe, Compute("cpu"), quiet)
    place = {sample.name: row for row, sample in enumerate(ready.rated.samples)}
    test = [place[row["name"]] for row in rows]
    human = np.array([person.mean[row["name"]] for row in rows])

    def rate(model: Any) -> Any:
        scores = predict(model, ready.data, test)
        pairs = ((scores.quality, human[:, 0]), (scores.consistency, human[:, 1]))
        return np.array([compute_metric("srocc", side.numpy(), wanted) for side, wanted in pairs], dtype=float)

    before = rate(make_model(ready.backbone, recipe, saved))
    found["0"] = before.tolist()
    for size in SIZES:
        with tempfile.TemporaryDirectory() as folder:
            table = Path(folder) / "table.csv"
            (write_pairs if mode == "pairs" else write_ratings)(table, answers[:size])
            images = source.images
            mine = Source(None, images, pairs=table) if mode == "pairs" else Source(table, images)
            scale = recipe.scale if mode == "pairs" else replace(recipe, mos_min=1.0, mos_max=5.0).scale
            judged = read_rated(mine, scale, quiet)
        mapped = replace(recipe, mos_min=scale.low, mos_max=scale.high)
        own = prepare_data(load_model(start, "cpu").model.backbone, judged, mapped, Compute("cpu"), quiet)
        model = make_model(own.backbone, recipe, saved)
        fit_taste(model, own.data, Split(range(len(judged.samples)), []), judged.list_groups("prompt"), recipe, quiet)
        found[str(size)] = (rate(model) - before).tolist()
    return found


def run_draw(rows: Sequence[Row], images: Path, liked: Mapping[str, float], draw: int, out: Path, driver: Any) -> None:
    """All sessions of one draw that are not finished yet."""
    random = np.random.default_rng(draw)
    dealt = random.permutation(sorted({row["prompt"] for row in rows}))
    parts = [set(part) for part in np.split(dealt, [START_PROMPTS, START_PROMPTS + JUDGED_PROMPTS])]
    first, judged, test = ([row for row in rows if row["prompt"] in part] for part in parts)
    start, folder = out / f"start-{draw}", out / f"pool-{draw}" / "images"
    if not (start / "run.json").exists():
        shutil.rmtree(start, ignore_errors=True)
        table = make_table(out / f"start-{draw}.csv", first)
        resolved = resolve_recipe({"val_fraction": 0.0}, "scorer")
        train_model(resolved, Source(table, images), Output(start), HeldOutSource(), Compute("cpu"), SilentProgress())
    if not folder.exists():
        folder.mkdir(parents=True)
        for row in judged:
            shutil.copyfile(images / row["name"], folder / row["name"])
        make_table(folder.parent / "prompts.csv", [{key: row[key] for key in ("name", "prompt")} for row in judged])
    for person, mode, order in SESSIONS:
        done = out / f"{draw}-{person}-{mode}-{order}.json"
        if done.exists():
            continue
        place, someone = out / done.stem, Person(rows, liked, person == "own", draw)
        if not (place / "complete").exists():
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir()
            rate_in_browser(driver, folder, start, someone, mode, order, place)
            (place / "complete").touch()
        answers = list_given(read_answers(next(place.glob("*.answers.csv"))))
        write_json(done, learn(start, Source(out / "all.csv", images), test, someone, answers, mode))


def print_table(out: Path, draws: int) -> None:
    """Means over draws of the gains, with two standard errors, and chosen order minus random order."""
    found = {path.stem: json.loads(path.read_text()) for path in out.glob("*.json")}
    lines = ["| person | answers | order | n | quality | consistency |", "|---|---|---|---|---|---|"]
    for person, mode, order in SESSIONS:
        for size in ("0", *map(str, SIZES)):
            values = np.array([found[f"{draw}-{person}-{mode}-{order}"][size] for draw in range(draws)])
            mean, error = values.mean(0), 2 * values.std(0, ddof=1) / np.sqrt(draws)
            cells = [f"{m:.3f}" if size == "0" else f"{m:+.3f} ± {e:.3f}" for m, e in zip(mean, error, strict=True)]
            lines.append(f"| {person} | {mode} | {order} | {size} | {cells[0]} | {cells[1]} |")
    write_text(out / "table.md", "\n".join(lines) + "\n")
    print("\n".join(lines))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("-o", "--out", type=Path, required=True, help="folder of finished sessions")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with arguments.data.open(encoding="utf-8", newline="") as stream:
        rows: list[Row] = list(csv.DictReader(stream))
    make_table(arguments.out / "all.csv", rows)
    shares = measure_colourfulness([arguments.images / row["name"] for row in rows]).tolist()
    liked = dict(zip((row["name"] for row in rows), shares, strict=True))
    progress = Terminal(quiet=False)
    driver = open_browser(Path(tempfile.mkdtemp()))
    try:
        for draw in range(arguments.draws):
            run_draw(rows, arguments.images, liked, draw, arguments.out, driver)
            progress.say(f"{draw + 1} of {arguments.draws} draws")
    finally:
        driver.quit()
    print_table(arguments.out, arguments.draws)


if __name__ == "__main__":
    main()
