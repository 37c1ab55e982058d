"""A process that forks runs of `aigc` and harms them at a repeatable moment.

Importing torch takes most of a small run's time; here it happens once. Moments are counted in events: a file of the
working folder is opened, synced, renamed or removed, tensors are saved, the optimiser makes a step. If the order has
`only`, just operations on files whose path contains it count.

Reads one JSON order per line from stdin and answers each with one line on stdout.
"""

import contextlib
import encodings.utf_8_sig  # noqa: F401  (another user may not read the folder of Python's modules)
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

from aigc_cli.cli import main as cli
from aigc_cli.metrics import by_name
from aigc_cli.model import eager, export  # noqa: F401  (imported before the fork)
from aigc_cli.model.loading import load_backbone
from aigc_cli.storage import tensors
from aigc_cli.training import loop  # noqa: F401
from aigc_cli.workflows.ablate import ablate  # noqa: F401
from aigc_cli.workflows.score import score  # noqa: F401
from aigc_cli.workflows.train import resume, train  # noqa: F401

WATCHED = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "shutil.rmtree"}
count = mmap.mmap(-1, 8)  # shared with the children, so that it survives a kill


class Events:
    """Counts events in a child and acts at the number that the order names."""

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

    def count_other(self) -> None:
        """Counts an event that is not a file operation."""
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
        time.sleep(0.01)  # lets the handler of the first signal run
        self.interrupt()
        time.sleep(60)

    def fill_disk(self) -> None:
        """From now on no file can grow beyond this number of bytes."""
        resource.setrlimit(resource.RLIMIT_FSIZE, (self.argument, self.argument))

    def remove(self) -> None:
        Path(self.argument).unlink()

    def spoil_loss(self) -> None:
        """Makes the next loss NaN."""
        with torch.no_grad():
            self.optimiser.param_groups[0]["params"][0].fill_(np.nan)


def count_events(order: dict[str, Any]) -> None:
    """Counts events in this process."""
    events = Events(order)
    sys.addaudithook(events.hook)
    step, save, sync = torch.optim.AdamW.step, tensors.save_file, os.fsync

    def counted_step(self: Any, *rest: Any, **more: Any) -> Any:
        events.optimiser = self  # type: ignore[attr-defined]
        found = step(self, *rest, **more)
        events.count_other()
        return found

    def counted_save(*rest: Any) -> None:
        events.count_other()
        save(*rest)
        events.count_other()

    def counted_sync(descriptor: int) -> None:
        events.count_other()
        sync(descriptor)

    torch.optim.AdamW.step = counted_step  # type: ignore[method-assign]
    tensors.save_file, os.fsync = counted_save, counted_sync
    if "save_every" in order:
        resume.SAVE_EVERY = order["save_every"]


def become_aigc(order: dict[str, Any]) -> None:
    """Becomes `aigc` with the order's arguments."""
    os.chdir(order["folder"])
    os.environ["AIGC_CACHE"] = str(Path("cache").absolute())
    for stream, name in ((1, "out.txt"), (2, "err.txt")):
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
    if "uid" in order:
        os.setuid(order["uid"])
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv = ["aigc", *order["arguments"]]
    count_events(order)
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
    by_name.RESAMPLES = 20  # intervals take most of a small run's time
    export.keep_graphs = lambda model, progress: {}  # the exporter would take as long again
    load_backbone(sys.argv[1])  # imports what loading needs
    with contextlib.redirect_stdout(io.StringIO()):
        cli.run(["train", "--print-config"])  # imports what a command line needs
    for line in sys.stdin:
        order = json.loads(line)
        count[:8] = struct.pack("q", 0)
        pid = os.fork()
        if pid == 0:
            become_aigc(order)
        _, status = os.waitpid(pid, 0)
        (events,) = struct.unpack("q", count[:8])
        print(json.dumps({"code": os.waitstatus_to_exitcode(status), "events": events}), flush=True)


if __name__ == "__main__":
    main()
