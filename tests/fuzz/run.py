"""Attacks `aigc` with damaged files for a given time and keeps the files that reveal a bug in corpus/."""

import argparse
import contextlib
import io
import os
import random
import resource
import tempfile
import time
from collections import Counter
from hashlib import sha256
from pathlib import Path

import torch
from attacks import Attack, make_image_attack
from mutate import mutate
from sandbox import Sandbox
from seeds import make_images

from aigc_cli.metrics import by_name

HERE = Path(__file__).parent
MAX_MEMORY = 12 << 30  # bytes of address space; a command that needs more fails with MemoryError, which is a find
Find = tuple[str, str]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="Attacks aigc with damaged files.")
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--seed", type=int, default=None, help="default: a random seed, which is printed")
    parser.add_argument("--only", default="", help="only attacks whose name contains this text")
    given = parser.parse_args()
    seed = random.SystemRandom().randrange(10**6) if given.seed is None else given.seed
    print(f"seed {seed}", flush=True)
    torch.set_num_threads(1)
    by_name.RESAMPLES = 20  # intervals are slow, and other tests cover them
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY, MAX_MEMORY))
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        os.environ["AIGC_CACHE"] = str(Path(folder, "cache"))
        box = Sandbox(Path(folder, "box"), ablation=True)
        found = run_attacks(60 * given.minutes, box, random.Random(seed), given.only)
    return int(bool(found))


def run_attacks(seconds: float, box: Sandbox, draw: random.Random, only: str) -> dict[str, Find]:
    """Attack for `seconds`; returns {place and text of the error: (attack, command)}."""
    jobs: dict[str, list[tuple[Attack, str, bytes]]] = {}
    for attack, data in list_attacks(box):
        jobs.setdefault(attack.name, []).extend((attack, line, data) for line in attack.lines)
    names = [name for name in jobs if only in name]
    spent = {(attack.name, line): [1.0, 1.0] for kind in jobs.values() for attack, line, _ in kind}  # seconds, times
    codes, found, begun, tries = Counter[str](), dict[str, Find](), time.monotonic(), 0
    while time.monotonic() - begun < seconds:
        kind = jobs[draw.choice(names)]
        # quick commands are tried more often
        weights = [1 / (spent[a.name, line][0] / spent[a.name, line][1] + 0.1) ** 2 for a, line, _ in kind]
        attack, line, data = draw.choices(kind, weights)[0]
        bad, start = mutate(data, draw), time.monotonic()
        try:
            code = str(box.attack_file(attack, line, bad).code)
        except AssertionError as error:
            code = "broken"
            keep_find(attack, line, bad, str(error), box, found)
        spent[attack.name, line][0] += time.monotonic() - start
        spent[attack.name, line][1] += 1
        codes[f"{attack.name}: {code}"] += 1
        tries += 1
    print(f"{tries} attacks in {(time.monotonic() - begun) / 60:.1f} minutes, {len(found)} finds")
    for name, count in sorted(codes.items()):
        print(f"  {name:<32}{count}")
    return found


def list_attacks(box: Sandbox) -> list[tuple[Attack, bytes]]:
    """Every attack with the undamaged content of its file."""
    tables = [(a, (box.root / (a.like or a.file.removeprefix("out/"))).read_bytes()) for a in box.attacks.values()]
    name = sorted(path.name for path in (box.root / "images").iterdir())[0]
    return tables + [(make_image_attack(name), data) for data in make_images()]


def keep_find(attack: Attack, line: str, data: bytes, message: str, box: Sandbox, found: dict[str, Find]) -> None:
    """Print a find with its traceback and keep its bytes, once for each place that raised."""
    with contextlib.suppress(AssertionError), contextlib.redirect_stderr(io.StringIO()):
        box.attack_file(attack, f"{line} --debug", data)
    shown = box.last.err.strip() or message
    place = [row for row in shown.splitlines() if row.startswith("  File ") and "aigc_cli" in row]
    key = f"{place[-1] if place else ''} {message.split('err=')[-1][:60]}"
    if key in found:
        return
    found[key] = (attack.name, line)
    folder = HERE / "corpus" / attack.name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / sha256(data).hexdigest()[:12]).write_bytes(data)
    print(f"--- {attack.name}: {line}\n{message[:800]}\n{shown[-1500:]}\n", flush=True)
