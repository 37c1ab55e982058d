"""A warm process that forks runs of `aigc` and, at a moment that can be chosen again, does something to them.

Importing torch is most of a small run's time; here it is paid once. Moments are counted in events: files of the working
folder being opened, synced, renamed or removed, tensors being saved, and steps of the optimiser; or, when the order has
`only`, of files alone whose path holds it.

Reads one JSON order a line from stdin and answers each with one line on stdout.
"""

import contextlib
import io
import json
import mmap
import os
import resource
import signal
import struct
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import numpy as np
import torch

from aigc_cli.cli import commands
from aigc_cli.cli import main as cli
from aigc_cli.metrics import by_name as metrics
from aigc_cli.model.loading import load_backbone
from aigc_cli.storage import tensors as weights
from aigc_cli.workflows import ablate, evaluate, score, train, unfinished  # noqa: F401  (imported before the fork)

WATCHED = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "shutil.rmtree"}
count = mmap.mmap(-1, 8)  # shared with the children, so that it outlives a kill


class Events:
    """Counts what happens in a child and acts at the moment that the order names."""

    def __init__(self, order: dict[str, Any]) -> None:
        self.at, self.action, self.argument = order.get("at", 0), order.get("do", "kill"), order.get("with")
        self.folder, self.only, self.busy = str(Path.cwd()) + os.sep, order.get("only", ""), False

    def __call__(self) -> None:
        if self.busy:
            return
        (done,) = struct.unpack("q", count[:8])
        count[:8] = struct.pack("q", done + 1)
        if done + 1 == self.at:
            self.busy = True
            getattr(self, self.action)()
            self.busy = False

    def hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event in WATCHED and isinstance(arguments[0], str | os.PathLike):
            path = os.path.abspath(os.fspath(arguments[0]))  # noqa: PTH100
            if path.startswith(self.folder) and self.only in path:
                self()

    def other(self) -> None:
        """Something that is no file event happened."""
        if not self.only:
            self()

    def kill(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def interrupt(self) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    def terminate(self) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    def interrupt_twice(self) -> None:
        self.interrupt()
        time.sleep(0.01)  # here the first one is taken note of
        self.interrupt()
        time.sleep(60)

    def fill_disk(self) -> None:
        """From now on no file grows beyond so many bytes."""
        resource.setrlimit(resource.RLIMIT_FSIZE, (self.argument, self.argument))

    def remove(self) -> None:
        Path(self.argument).unlink()

    def spoil(self) -> None:
        """The next loss is not a number."""
        with torch.no_grad():
            self.optimiser.param_groups[0]["params"][0].fill_(np.nan)


def watch(order: dict[str, Any]) -> None:
    """Lets events be counted in this process."""
    events = Events(order)
    sys.addaudithook(events.hook)
    step, save, sync = torch.optim.AdamW.step, weights.save_file, os.fsync

    def counted_step(self: Any, *rest: Any, **more: Any) -> Any:
        events.optimiser = self  # type: ignore[attr-defined]
        found = step(self, *rest, **more)
        events.other()
        return found

    def counted_save(*rest: Any) -> None:
        events.other()
        save(*rest)
        events.other()

    def counted_sync(descriptor: int) -> None:
        events.other()
        sync(descriptor)

    torch.optim.AdamW.step = counted_step  # type: ignore[method-assign]
    weights.save_file, os.fsync = counted_save, counted_sync
    if "save_every" in order:
        unfinished.SAVE_EVERY = order["save_every"]


def child(order: dict[str, Any]) -> None:
    """Becomes `aigc` with the order's arguments."""
    os.chdir(order["folder"])
    os.environ["AIGC_CACHE"] = str(Path("cache").absolute())
    for stream, name in ((1, "out.txt"), (2, "err.txt")):
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
    if "uid" in order:
        os.setuid(order["uid"])
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv = ["aigc", *order["arguments"]]
    watch(order)
    code: Any = 1
    try:
        cli.main()
    except SystemExit as ending:
        code = ending.code
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def main() -> None:
    torch.set_num_threads(1)
    metrics.metric_rows.__defaults__ = (20,)  # the intervals have tests of their own
    load_backbone(sys.argv[1])  # so that whatever it imports is there, and what a command line takes
    commands.register(cli.app)
    with contextlib.redirect_stdout(io.StringIO()):
        cli._run(["train", "--print-config"])
    for line in sys.stdin:
        order = json.loads(line)
        count[:8] = struct.pack("q", 0)
        pid = os.fork()
        if pid == 0:
            child(order)
        _, status = os.waitpid(pid, 0)
        (events,) = struct.unpack("q", count[:8])
        print(json.dumps({"code": os.waitstatus_to_exitcode(status), "events": events}), flush=True)


main()
