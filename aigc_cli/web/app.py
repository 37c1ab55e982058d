"""The server of all pages: who may ask, what a browser may do with the answer, and how it starts and ends.

Every address begins with a secret word, so that neither other users of the machine nor other pages in the browser can
ask anything. On top of that a request must name this server as its host, and a page of this server as its origin.
"""

import hmac
import ipaddress
import os
import secrets
import socket
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from urllib.parse import urlsplit

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse

from aigc_cli.errors import AigcError, EnvironmentProblem

PAGES = Path(__file__).with_name("assets")
LOOPBACK = ("127.0.0.1", "localhost", "::1")
MAX_BODY = 10_000  # bytes of a request
SECRET_BYTES = 32
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class Refused(Exception):
    """A request that is not answered."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def make_app(host: str) -> FastAPI:
    """An app without routes whose requests are checked. It is served at `host`."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)

    @app.middleware("http")
    async def check(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        try:
            _check_request(request, host)
            answer = await call_next(request)
        except Refused as refused:
            answer = JSONResponse({"error": str(refused)}, refused.status)
        for name, value in HEADERS.items():
            answer.headers[name] = value
        return answer

    @app.exception_handler(AigcError)
    def explain(request: Request, error: AigcError) -> Response:
        return JSONResponse({"error": f"{error.message} {error.hint}"}, 409)

    @app.exception_handler(RequestValidationError)
    def reject(request: Request, error: RequestValidationError) -> Response:
        return JSONResponse({"error": "Expected what this page sends, found something else."}, 422)

    @app.exception_handler(Refused)
    def refuse(request: Request, refused: Refused) -> Response:
        return JSONResponse({"error": str(refused)}, refused.status)

    return app


def _check_request(request: Request, host: str) -> None:
    """Raises Refused for a request that another page or another name of this machine may have made."""
    named = urlsplit(f"//{request.headers.get('host', '')}").hostname or ""
    if not _is_own_name(named, host):
        raise Refused(421, f"Expected the name of this server, found '{named}'.")
    origin, site = request.headers.get("origin"), request.headers.get("sec-fetch-site", "none")
    if origin is not None and urlsplit(origin).netloc != request.headers.get("host"):
        raise Refused(403, "Expected a request from this page, found one from another page.")
    if site not in ("none", "same-origin") and request.method != "GET":
        raise Refused(403, "Expected a request from this page, found one from another page.")
    if request.method == "POST":
        if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
            raise Refused(415, "Expected JSON.")
        size = request.headers.get("content-length", "")
        if not size.isdecimal() or int(size) > MAX_BODY:
            raise Refused(413, f"Expected at most {MAX_BODY:,} bytes, with their number in Content-Length.")


def _is_own_name(name: str, host: str) -> bool:
    if name == host or (name in LOOPBACK and host in LOOPBACK):
        return True
    if host in ("0.0.0.0", "::"):  # noqa: S104  # the user asked for all networks
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return name in LOOPBACK or name.lower() == socket.gethostname().lower()
        return True
    return False


def make_tokens(names: list[str], secret_file: Path, place: str) -> dict[str, str]:
    """{secret word: name}, the same at each start for the same `place`, so that an open page goes on.

    The secret of this machine's user is kept in `secret_file`, which nobody else can read.

    Raises:
        EnvironmentProblem: it can't be read or written, or is no secret.
    """
    try:
        secret_file.parent.mkdir(parents=True, exist_ok=True)
        try:  # nobody else may read it, not even for a moment
            descriptor = os.open(secret_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            pass
        else:
            os.write(descriptor, secrets.token_hex(SECRET_BYTES).encode())
            os.close(descriptor)
        secret = secret_file.read_text(encoding="ascii")
    except (OSError, ValueError) as error:
        raise EnvironmentProblem(f"{secret_file} can't be read or written: {error}.", "Remove it.") from error
    if len(secret) != 2 * SECRET_BYTES:  # cut short, or another process has not written it yet
        raise EnvironmentProblem(f"Expected a secret in {secret_file}, found another text.", "Remove it, try again.")
    return {hmac.digest(secret.encode(), f"{place}\0{name}".encode(), "sha256").hex()[:32]: name for name in names}


def find_name(tokens: Mapping[str, str], word: str) -> str:
    """The name behind a secret word; Refused for another word."""
    for token, name in tokens.items():
        if hmac.compare_digest(token.encode(), word.encode()):
            return name
    raise Refused(404, "This address is not known. Open the one that the program printed.")


def open_socket(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 is any free one.

    Raises:
        EnvironmentProblem: the port is taken, or there is no such address.
    """
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        found = socket.socket(family, socket.SOCK_STREAM)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind((host, port))
        found.listen(64)  # a browser that is faster than the start waits
    except OSError as error:
        raise EnvironmentProblem(
            f"Expected to listen at {host}, port {port}: {error.strerror}.", "Choose another port with --port."
        ) from error
    return found


def serve(app: FastAPI, listening: socket.socket) -> None:
    """Serves until the process is interrupted; open requests are finished first."""
    import uvicorn

    config = uvicorn.Config(
        app, log_level="warning", access_log=False, server_header=False, timeout_graceful_shutdown=3
    )
    uvicorn.Server(config).run(sockets=[listening])


def read_asset(name: str) -> str:
    """The text of a page, script or style of this folder."""
    return (PAGES / name).read_text(encoding="utf-8")
