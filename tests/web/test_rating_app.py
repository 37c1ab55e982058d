"""The server of `aigc rate`: what it sends, and whom it answers."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sessions import Open
from starlette.testclient import TestClient

from aigc_cli.errors import EnvironmentProblem
from aigc_cli.web.app import MAX_BODY, make_tokens
from aigc_cli.web.rating import make_rating_app
from aigc_cli.workflows.rate.session import RatingSession

WORD, OTHER = "1" * 32, "2" * 32
ID = "a" * 32


@pytest.fixture
def session(open_session: Open) -> RatingSession:
    return open_session()


@pytest.fixture
def client(session: RatingSession) -> Iterator[TestClient]:
    app = make_rating_app(session, {WORD: "ann", OTHER: "ben"}, "127.0.0.1")
    with TestClient(app, base_url="http://127.0.0.1:8421", raise_server_exceptions=False) as found:
        yield found


def make_answer(client: TestClient, **more: Any) -> dict[str, Any]:
    question = client.get(f"/{WORD}/state").json()["question"]
    images = [one["name"] for one in question["images"]]
    values = {target: "3" for target in question["asks"]}
    return {"id": ID, "images": images, "seconds": 1.5, **values, **more}


def test_a_question_is_answered_and_taken_back(client: TestClient, session: RatingSession) -> None:
    before = client.get(f"/{WORD}/state").json()
    assert before["done"] == 0
    after = client.post(f"/{WORD}/answer", json=make_answer(client)).json()
    assert (after["saved"], after["done"]) == (True, 1)
    assert after["question"]["images"] != before["question"]["images"]
    again = client.post(f"/{WORD}/answer", json=make_answer(client)).json()
    assert (again["saved"], again["done"]) == (False, 1), "the same id"
    back = client.post(f"/{WORD}/undo", json={"id": "b" * 32}).json()
    assert (back["undone"], back["done"]) == (True, 0)
    assert back["question"]["images"] == before["question"]["images"]
    assert {row.rater for row in session.log.rows} == {"ann"}


def test_the_page_and_its_files(client: TestClient) -> None:
    page = client.get(f"/{WORD}/")
    assert page.status_code == 200
    assert "http" not in page.text, "nothing from another host"
    for name in ("rate.js", "rate.css"):
        assert f'assets/{name}"' in page.text
        assert client.get(f"/{WORD}/assets/{name}").status_code == 200
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert page.headers["x-content-type-options"] == "nosniff"
    assert page.headers["referrer-policy"] == "no-referrer"
    assert page.headers["cache-control"] == "no-store"


def test_only_images_of_the_folder_are_sent(client: TestClient, folder: Path) -> None:
    first = client.get(f"/{WORD}/image/0")
    assert first.headers["content-type"] == "image/png"
    assert first.content == (folder / "00.png").read_bytes()
    names = sorted(path.name for path in folder.iterdir() if path.suffix != ".txt")
    tiff = client.get(f"/{WORD}/image/{names.index('bare.tiff')}")
    assert tiff.headers["content-type"] == "image/png", "browsers don't show TIFF"
    assert client.get(f"/{WORD}/image/{names.index('broken.png')}").status_code in (200, 404)
    places = ("image/99", "image/-1", "image/secret.txt", "image/..%2fsecret.txt", "image/0/../../secret.txt")
    for place in (*places, "assets/..%2fapp.py", "assets/rate.html", "../prompts.csv"):
        found = client.get(f"/{WORD}/{place}")
        assert found.status_code in (404, 422), place
        assert "nobody" not in found.text


def test_an_image_that_becomes_a_link_outside_is_not_sent(client: TestClient, folder: Path) -> None:
    (folder / "00.png").unlink()
    (folder / "00.png").symlink_to(folder / "secret.txt")
    found = client.get(f"/{WORD}/image/0")
    assert found.status_code == 404
    assert "nobody" not in found.text


@pytest.mark.parametrize("word", ["", "0" * 32, WORD[:-1], WORD + "1", "%00", "ann"])
def test_without_the_secret_word_nothing_is_answered(client: TestClient, word: str) -> None:
    for place in ("", "state", "image/0", "assets/rate.js"):
        assert client.get(f"/{word}/{place}").status_code == 404
    answer = make_answer(client)
    assert client.post(f"/{word}/answer", json=answer).status_code in (404, 405)


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "10.0.0.1:8421", "", "localhost.evil"])
def test_another_host_name_is_refused(client: TestClient, host: str) -> None:
    """DNS rebinding: another site's name that leads to this address."""
    assert client.get(f"/{WORD}/state", headers={"host": host}).status_code == 421


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:9999"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
    ],
)
def test_another_page_can_not_answer(client: TestClient, session: RatingSession, headers: dict[str, str]) -> None:
    answer = make_answer(client)
    assert client.post(f"/{WORD}/answer", json=answer, headers=headers).status_code == 403
    assert session.log.rows == []


def test_a_form_can_not_answer(client: TestClient, session: RatingSession) -> None:
    text = json.dumps(make_answer(client))
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""):
        assert client.post(f"/{WORD}/answer", content=text, headers={"content-type": kind}).status_code == 415
    assert session.log.rows == []


@pytest.mark.parametrize(
    "change",
    [
        {"id": "short"},
        {"id": "../../x" + "0" * 25},
        {"more": 1},
        {"images": []},
        {"images": ["a", "b", "c"]},
        {"images": "00.png"},
        {"seconds": -1},
        {"seconds": "1"},
        {"skip": "yes"},
        {"quality": 3},
    ],
)
def test_what_is_no_answer(client: TestClient, session: RatingSession, change: dict[str, Any]) -> None:
    assert client.post(f"/{WORD}/answer", json=make_answer(client) | change).status_code == 422
    assert session.log.rows == []


@pytest.mark.parametrize("change", [{"quality": "9"}, {"quality": "=1+1"}, {"images": ["secret.txt"]}])
def test_an_answer_to_nothing_that_was_asked(
    client: TestClient, session: RatingSession, change: dict[str, Any]
) -> None:
    found = client.post(f"/{WORD}/answer", json=make_answer(client) | change)
    assert found.status_code == 409
    assert "Expected" in found.json()["error"]
    assert session.log.rows == []


def test_large_and_broken_requests(client: TestClient) -> None:
    big = json.dumps({"id": ID, "images": ["x" * MAX_BODY]})
    headers = {"content-type": "application/json"}
    assert client.post(f"/{WORD}/answer", content=big, headers=headers).status_code == 413
    endless = (part for part in [b"{"] * 3)
    assert client.post(f"/{WORD}/answer", content=endless, headers=headers).status_code == 413
    for text in ("", "{", "[]", "null", "\x00", '{"id": NaN}'):
        assert client.post(f"/{WORD}/answer", content=text, headers=headers).status_code == 422


def test_secret_words_stay_the_same_and_differ_by_rater_and_table(tmp_path: Path) -> None:
    key = tmp_path / "deep" / "web.key"
    first = make_tokens(["ann", "ben"], key, "ratings.csv")
    assert first == make_tokens(["ann", "ben"], key, "ratings.csv")
    assert list(first.values()) == ["ann", "ben"]
    assert not set(first) & set(make_tokens(["ann", "ben"], key, "other.csv"))
    assert all(len(word) == 32 for word in first)
    assert key.stat().st_mode & 0o077 == 0
    key.write_text("")  # an empty secret could be guessed
    with pytest.raises(EnvironmentProblem, match="Expected a secret"):
        make_tokens(["ann"], key, "ratings.csv")
    assert not set(first) & set(make_tokens(["ann", "ben"], tmp_path / "another.key", "ratings.csv"))
