"""Decodes image files in processes of their own, so that a decoder that dies takes one image with it and not the run.

Such a process reads the paths of files on its stdin and answers on its stdout: a line of JSON (the size, and what the
image says of its making), and the pixels. It has the image reader loaded and nothing else, may not use more than
`MEMORY` bytes, and ends when its pipe does.
"""

import atexit
import contextlib
import io
import json
import math
import os
import select
import signal
import subprocess
import sys
import threading
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import numpy as np

from aigc_cli.errors import EnvironmentProblem
from aigc_cli.images.reader import DecodedImage, ImageFault, Pixels, decode, read_bytes
from aigc_cli.prompts.programs import Recorded

PATIENCE = 60.0  # seconds; the largest image allowed takes a few
MEMORY = 4 << 30  # address space; the largest image allowed takes half of it
ATTEMPTS = 2  # a process may have been killed from outside, which is no fault of its image
PIPE = 1 << 20  # bytes
_START = "import sys; sys.path.append(sys.argv[1]); from aigc_cli.images.decoder import serve; serve()"


def decode_file(path: Path) -> DecodedImage:
    """What `decode(read_bytes(path))` gives, computed in another process; may be called from several threads.

    Raises:
        ImageFault: as those two do, and decoder_crash when the decoder died twice, or did not answer in `PATIENCE`.
        EnvironmentProblem: no process can be started.
    """
    for _ in range(ATTEMPTS):
        process = _idle.take()
        try:
            decoded = process.decode(path)
        except ImageFault:
            _idle.give(process)
            raise
        except TimeoutError:
            process.kill()
            break
        except OSError:
            process.kill()
        except BaseException:
            process.kill()
            raise
        else:
            _idle.give(process)
            return decoded
    raise ImageFault("decoder_crash")


class _Process:
    """One process that decodes one image at a time."""

    def __init__(self) -> None:
        package = Path(__file__).parents[2]
        try:
            self._child = subprocess.Popen(  # noqa: S603
                [sys.executable, "-P", "-c", _START, str(package)],  # -P: no module out of the working folder
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,  # what libraries print as they die
                env=os.environ | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
                process_group=0 if os.name == "posix" else None,  # Ctrl-C is for the one who started it all
                bufsize=0,
            )
            assert self._child.stdout is not None
            self._pipe = cast(io.RawIOBase, self._child.stdout)
            _widen(self._pipe)
            self._answer(PATIENCE)
        except OSError as error:
            with contextlib.suppress(AttributeError):
                self.kill()
            raise EnvironmentProblem(
                f"A process that decodes images could not be started: {error}.", "Free some memory or processes."
            ) from error

    def decode(self, path: Path) -> DecodedImage:
        """Raises OSError when the process is gone, TimeoutError when it is silent."""
        assert self._child.stdin is not None
        self._child.stdin.write(os.fsencode(path.absolute()).hex().encode() + b"\n")
        self._child.stdin.flush()
        answer = self._answer(PATIENCE)
        if "reason" in answer:
            raise ImageFault(answer["reason"])
        shape = answer["height"], answer["width"], 3
        return DecodedImage(
            self._read(math.prod(shape), PATIENCE).reshape(shape), answer["note"], Recorded(**answer["recorded"])
        )

    def kill(self) -> None:
        self._child.kill()
        self.close()

    def close(self) -> None:
        """Ends the process, which leaves by itself when its stdin is closed."""
        for stream in (self._child.stdin, self._child.stdout):
            with contextlib.suppress(OSError):
                if stream is not None:
                    stream.close()
        self._child.wait()

    def forget(self) -> None:
        """Lets go of a process that is another's child."""
        self._child.returncode = 0  # nobody here has to wait for it
        self.close()

    def _answer(self, patience: float) -> dict[str, Any]:
        line = self._read(int.from_bytes(self._read(4, patience).tobytes(), "little"), patience)
        return dict(json.loads(line.tobytes()))

    def _read(self, count: int, patience: float) -> Pixels:
        """Exactly `count` bytes; reads the pipe itself, so that nothing is held in a buffer while we wait."""
        found, done = np.empty(count, np.uint8), 0
        view = found.data
        while done < count:
            if not _readable(self._pipe.fileno(), patience):
                raise TimeoutError
            part = self._pipe.readinto(view[done:])
            if not part:
                raise OSError("it ended without an answer")
            done += part
        return found


def _widen(pipe: io.RawIOBase) -> None:
    """Lets a pipe hold as much as the system allows, since both ends wait for each other whenever it is full."""
    with contextlib.suppress(ImportError, AttributeError, OSError):  # Linux has it
        import fcntl

        fcntl.fcntl(pipe.fileno(), fcntl.F_SETPIPE_SZ, PIPE)


def _readable(pipe: int, patience: float) -> bool:
    if not hasattr(select, "poll"):
        return True
    poll = select.poll()
    poll.register(pipe, select.POLLIN)
    return bool(poll.poll(1000 * patience))


class _Idle:
    """The processes that wait for work; there are as many as there were threads at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: list[_Process] = []

    def take(self) -> _Process:
        with self._lock:
            if self._waiting:
                return self._waiting.pop()
        return _Process()

    def give(self, process: _Process) -> None:
        with self._lock:
            self._waiting.append(process)

    def close(self) -> None:
        while self._waiting:
            self._waiting.pop().close()

    def forget(self) -> None:
        """After a fork: the processes and the lock are the parent's."""
        self._lock = threading.Lock()
        while self._waiting:
            self._waiting.pop().forget()


_idle = _Idle()
atexit.register(_idle.close)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_idle.forget)


# --- the other end


def serve() -> None:
    """Answers one path after the other until stdin ends."""
    for sent in (signal.SIGINT, signal.SIGTERM):
        signal.signal(sent, signal.SIG_IGN)  # the run decides when it is over, and this ends with it
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with os.fdopen(os.dup(1), "wb") as out:
        os.dup2(2, 1)  # nothing that a library prints may come between the answers
        _reply(out, {})
        for line in sys.stdin.buffer:
            _alarm(2 * PATIENCE)  # whoever started this may have gone while it hangs
            try:
                decoded = decode(read_bytes(Path(os.fsdecode(bytes.fromhex(line.decode())))))
                size = {"width": decoded.width, "height": decoded.height, "note": decoded.note}
                _reply(out, size | {"recorded": asdict(decoded.recorded)}, decoded.pixels.data.cast("B"))
            except ImageFault as fault:
                _reply(out, {"reason": fault.reason})
            except MemoryError:
                _reply(out, {"reason": "decoder_crash"})
            _alarm(0)


def _alarm(seconds: float) -> None:
    """Ends this process after so many seconds, 0 for not any more."""
    if hasattr(signal, "alarm"):
        signal.alarm(int(seconds))


def _reply(out: Any, answer: dict[str, Any], pixels: bytes | memoryview = b"") -> None:
    text = json.dumps(answer).encode()
    out.write(len(text).to_bytes(4, "little") + text)
    out.write(pixels)
    out.flush()
