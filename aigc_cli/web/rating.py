"""The page of `aigc rate`."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field

from aigc_cli.images.decoder import decode_file
from aigc_cli.images.reader import ImageFault, read_image_bytes
from aigc_cli.text import to_printable
from aigc_cli.web.app import Refused, find_name, make_app, read_asset
from aigc_cli.workflows.rate.session import Question, RatingSession

ASSET_KINDS = {"rate.js": "text/javascript", "rate.css": "text/css"}
SHOWN = (  # what browsers show, by its first bytes; other formats are sent as PNG
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"GIF8", "image/gif"),
)
Identity = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]


class GivenAnswer(BaseModel):
    """An answer as the page sends it."""

    model_config = ConfigDict(extra="forbid", strict=True)
    id: Identity
    images: Annotated[list[str], Field(min_length=1, max_length=2)]
    quality: str | None = None
    consistency: str | None = None
    seconds: Annotated[float, Field(ge=0)] = 0.0
    skip: bool = False


class GivenUndo(BaseModel):
    """A wish to take back the last answer."""

    model_config = ConfigDict(extra="forbid", strict=True)
    id: Identity


def make_rating_app(session: RatingSession, tokens: Mapping[str, str], host: str) -> FastAPI:
    """The app; `tokens` are {secret word of an address: rater}."""
    app = make_app(host)
    numbers = {name: number for number, name in enumerate(session.entries)}
    names = list(session.entries)

    def describe(rater: str) -> dict[str, Any]:
        question = session.get_question(rater)
        done, total = session.count(rater)
        state = {"rater": rater, "done": done, "total": total, "pairs": session.pairs, "worth": session.worth}
        return state | {"question": None if question is None else _show(question, numbers)}

    @app.get("/{word}/")
    def show_page(word: str) -> Response:
        find_name(tokens, word)
        return Response(read_asset("rate.html"), media_type="text/html")

    @app.get("/{word}/assets/{name}")
    def send_asset(word: str, name: str) -> Response:
        find_name(tokens, word)
        if name not in ASSET_KINDS:
            raise Refused(404, "There is no such file.")
        return Response(read_asset(name), media_type=ASSET_KINDS[name])

    @app.get("/{word}/state")
    def send_state(word: str) -> dict[str, Any]:
        return describe(find_name(tokens, word))

    @app.get("/{word}/image/{number}")
    def send_image(word: str, number: int) -> Response:
        find_name(tokens, word)
        return _answer_image(session.find_image(names[number]) if 0 <= number < len(names) else None)

    @app.post("/{word}/answer")
    def take_answer(word: str, given: GivenAnswer) -> dict[str, Any]:
        rater = find_name(tokens, word)
        saved = session.answer(rater, given.model_dump())
        return describe(rater) | {"saved": saved}

    @app.post("/{word}/undo")
    def take_back(word: str, given: GivenUndo) -> dict[str, Any]:
        rater = find_name(tokens, word)
        return {"undone": session.undo(rater, given.id)} | describe(rater)

    return app


def _answer_image(path: Path | None) -> Response:
    if path is None:
        raise Refused(404, "There is no such image.")
    try:
        data, kind = convert_image(path)
    except ImageFault as fault:
        raise Refused(404, f"The image can't be read: {fault.reason}.") from fault
    return Response(data, media_type=kind)


def _show(question: Question, numbers: Mapping[str, int]) -> dict[str, Any]:
    return {
        "images": [{"name": name, "source": f"image/{numbers[name]}"} for name in question.images],
        "prompt": to_printable(question.prompt),
        "asks": question.asks,
    }


def convert_image(path: Path) -> tuple[bytes, str]:
    """The bytes of an image for a browser, and their media type.

    Raises:
        ImageFault: the image can't be read.
    """
    data = read_image_bytes(path)
    for start, kind in SHOWN:
        if data.startswith(start):
            return data, kind
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return data, "image/webp"
    out = io.BytesIO()
    decode_file(path).image.save(out, "PNG", compress_level=1)
    return out.getvalue(), "image/png"
