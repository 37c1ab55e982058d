"""Decodes image files in child processes: a decoder that crashes costs one image, not the run.

A child reads requests on stdin, each a line of JSON: the path of a file, as hexadecimal digits, and the preprocessing
or null. For each it writes to stdout the length of a JSON text (4 bytes, little endian), the JSON text (sizes, note and
generation record, or the reason of a failure) and the pixels. With a preprocessing these are few: resizing 3 MB in the
child takes less time than the pipe. It loads only the image reader.
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
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import numpy as np

from aigc_cli.errors import EnvironmentProblem
from aigc_cli.images.preprocess import Pixels, Preprocessing
from aigc_cli.images.reader import DecodedImage, ImageFault, decode_image, read_image_bytes
from aigc_cli.prompts.record import GenerationRecord

DECODE_SECONDS = 60.0  # for one image; the largest image allowed takes a few
MAX_MEMORY = 4 << 30  # bytes of address space; the largest image allowed takes half of it
ATTEMPTS = 2  # the first process may have been killed from outside, which is not the image's fault
PIPE_BYTES = 1 << 20  # both ends wait for each other whenever the pipe is full
_SETTINGS = {  # environment variables of the child
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    # The C library of Linux keeps freed memory up to 32 MB for the next image: new pages cost a fifth of the time.
    "MALLOC_MMAP_THRESHOLD_": "16777216",
    "MALLOC_TRIM_THRESHOLD_": "33554432",
}
_START = "import sys; sys.path.append(sys.argv[1]); from aigc_cli.images.decoder import serve_decoder; serve_decoder()"


def decode_file(path: Path, preprocessing: Preprocessing | None = None) -> DecodedImage:
    """`decode_image(read_image_bytes(path), preprocessing)` in a child process; threads may call it at the same time.

    Raises:
        ImageFault: the faults of those two functions; decoder_crash when the child died `ATTEMPTS` times, or sent
            nothing for `DECODE_SECONDS`.
        EnvironmentProblem: no child process can be started.
    """
    for _ in range(ATTEMPTS):
        process = POOL.take()
        try:
            decoded = process.decode(path, preprocessing)
        except ImageFault:
            POOL.waiting.append(process)
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
            POOL.waiting.append(process)
            return decoded
    raise ImageFault("decoder_crash")


class DecoderProcess:
    """One child process, which decodes one image at a time."""

    def __init__(self) -> None:
        package = Path(__file__).parents[2]
        try:
            self.child = subprocess.Popen(  # noqa: S603
                [sys.executable, "-P", "-c", _START, str(package)],  # -P: no modules from the working folder
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,  # messages of libraries that crash
                env=os.environ | _SETTINGS,
                process_group=0 if os.name == "posix" else None,  # Ctrl-C reaches the parent only
                bufsize=0,
            )
            self._pipe = cast(io.RawIOBase, self.child.stdout)
            with contextlib.suppress(ImportError, AttributeError, OSError):  # only Linux supports it
                import fcntl

                fcntl.fcntl(self._pipe, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        except OSError as error:
            raise _explain_no_start(error) from error
        self._ready = False

    def wait_until_ready(self) -> None:
        """Wait until the process takes requests. Raises EnvironmentProblem when it has died."""
        if self._ready:
            return
        try:
            self._read_answer()
        except OSError as error:  # TimeoutError is one
            self.kill()
            raise _explain_no_start(error) from error
        self._ready = True

    def decode(self, path: Path, preprocessing: Preprocessing | None) -> DecodedImage:
        """Decode one file. Raises OSError when the process is gone, TimeoutError when it does not answer."""
        assert self.child.stdin is not None
        self.wait_until_ready()
        settings = None if preprocessing is None else asdict(preprocessing)
        request = {"path": os.fsencode(path.absolute()).hex(), "preprocessing": settings}
        self.child.stdin.write(json.dumps(request).encode() + b"\n")
        answer = self._read_answer()
        if "reason" in answer:
            raise ImageFault(answer["reason"])
        shape = answer["shape"]
        pixels = self._read(math.prod(shape)).reshape(shape)
        record = GenerationRecord(**answer["record"])
        return DecodedImage(pixels, answer["width"], answer["height"], answer["note"], record)

    def kill(self) -> None:
        self.child.kill()
        self.close()

    def close(self) -> None:
        """Close the pipes, which ends the process, and wait for it."""
        for stream in (self.child.stdin, self.child.stdout):
            with contextlib.suppress(OSError):
                cast(io.RawIOBase, stream).close()
        self.child.wait()

    def _read_answer(self) -> dict[str, Any]:
        size = int.from_bytes(self._read(4).tobytes(), "little")
        return dict(json.loads(self._read(size).tobytes()))

    def _read(self, count: int) -> Pixels:
        """Read exactly `count` bytes. No buffered reader: poll would not see bytes that lie in its buffer."""
        found, done = np.empty(count, np.uint8), 0
        while done < count:
            if hasattr(select, "poll"):  # Windows waits for ever
                poll = select.poll()
                poll.register(self._pipe, select.POLLIN)
                if not poll.poll(1000 * DECODE_SECONDS):
                    raise TimeoutError
            part = self._pipe.readinto(found.data[done:])
            if not part:
                raise OSError("the process ended without an answer")
            done += part
        return found


def _explain_no_start(error: Exception) -> EnvironmentProblem:
    return EnvironmentProblem(
        f"A process that decodes images could not be started: {error}.", "Free some memory, or end some processes."
    )


class DecoderPool:
    """The idle child processes. There are as many as the largest number of threads that decoded at the same time."""

    def __init__(self) -> None:
        self.waiting: list[DecoderProcess] = []  # without a lock: append and pop are atomic

    def take(self) -> DecoderProcess:
        with contextlib.suppress(IndexError):
            return self.waiting.pop()
        return DecoderProcess()

    def start(self, count: int) -> None:
        """Start processes until `count` are idle; they import their modules while the caller does something else."""
        while len(self.waiting) < count:
            self.waiting.append(DecoderProcess())

    def close(self) -> None:
        while self.waiting:
            self.waiting.pop().close()

    def forget(self) -> None:
        """Close only this process's ends of the pipes: after a fork, the children belong to the parent."""
        for process in self.waiting:
            process.child.returncode = 0  # so that `close` does not wait for it
        self.close()


POOL = DecoderPool()
atexit.register(POOL.close)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=POOL.forget)


# --- in the child process


def serve_decoder() -> None:
    """Decode the files named on stdin, one after the other, until stdin ends."""
    for sent in (signal.SIGINT, signal.SIGTERM):
        signal.signal(sent, signal.SIG_IGN)  # the parent ends this process by closing its stdin
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY, MAX_MEMORY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sys.modules["nvidia.cuda_nvrtc"] = None  # type: ignore[assignment]  # kornia_rs would load it if it could: 80 MB
    set_alarm: Callable[[int], Any] = getattr(signal, "alarm", int)  # Windows has none
    with os.fdopen(os.dup(1), "wb") as out:
        os.dup2(2, 1)  # so that nothing a library prints gets between the answers
        _send_reply(out, {})
        for line in sys.stdin.buffer:
            set_alarm(int(2 * DECODE_SECONDS))  # ends a hanging decoder whose parent has died
            try:
                decoded = _answer_request(json.loads(line))
                sizes = {"width": decoded.width, "height": decoded.height, "shape": decoded.pixels.shape}
                answer = sizes | {"note": decoded.note, "record": asdict(decoded.record)}
                _send_reply(out, answer, decoded.pixels.data.cast("B"))
            except ImageFault as fault:
                _send_reply(out, {"reason": fault.reason})
            except MemoryError:
                _send_reply(out, {"reason": "decoder_crash"})
            set_alarm(0)


def _answer_request(request: dict[str, Any]) -> DecodedImage:
    path, settings = Path(os.fsdecode(bytes.fromhex(request["path"]))), request["preprocessing"]
    return decode_image(read_image_bytes(path), settings and Preprocessing(**settings))


def _send_reply(out: Any, answer: dict[str, Any], pixels: bytes | memoryview = b"") -> None:
    text = json.dumps(answer).encode()
    out.write(len(text).to_bytes(4, "little") + text)
    out.write(pixels)
    out.flush()
