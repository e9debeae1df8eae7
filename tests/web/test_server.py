"""The page's server asked by hand: what it gives, what it refuses, and many at once."""

import http.client
import json
import threading
import uuid
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.web.conftest import Served

pytestmark = pytest.mark.slow


def ask(
    page: Served, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
) -> tuple[int, str]:
    connection = http.client.HTTPConnection(urlsplit(page.url).netloc, timeout=120)
    connection.request(method, path, body, headers or {})
    answer = connection.getresponse()
    text = answer.read().decode(errors="replace")
    connection.close()
    return answer.status, text


def upload(page: Served, path: Path) -> tuple[int, str]:
    boundary = uuid.uuid4().hex
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="files"; filename="{path.name}"\r\n\r\n'
    body = head.encode() + path.read_bytes() + f"\r\n--{boundary}--\r\n".encode()
    kind = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
    return ask(page, "POST", "/gradio_api/upload", body, kind)


def question(page: Served, picture: str, words: str, *, session: str) -> tuple[int, str]:
    """Put a question into the queue, as the button does."""
    config = json.loads(ask(page, "GET", "/config")[1])
    button = next(each["id"] for each in config["components"] if each["props"].get("elem_id") == "tcl-ask")
    wanted = next(each["id"] for each in config["dependencies"] if [button, "click"] in each["targets"])
    data = [{"path": picture, "meta": {"_type": "gradio.FileData"}}, "", words, "", 0.4, 0.5, True, True]
    body = {"data": data, "fn_index": wanted, "trigger_id": button, "session_hash": session}
    return ask(page, "POST", "/gradio_api/queue/join?", json.dumps(body), {"Content-Type": "application/json"})


def answers(page: Served, session: str) -> list[dict[str, Any]]:
    """All messages of a session, until its queue is done."""
    text = ask(page, "GET", f"/gradio_api/queue/data?session_hash={session}")[1]
    return [json.loads(line.removeprefix("data: ")) for line in text.splitlines() if line.startswith("data: ")]


def completed(page: Served, picture: str, words: str) -> dict[str, Any]:
    session = uuid.uuid4().hex[:12]
    status, text = question(page, picture, words, session=session)
    assert status == 200, text
    return next(each for each in answers(page, session) if each["msg"] == "process_completed")


def test_a_question_by_hand(page: Served, street: Path) -> None:
    (path,) = json.loads(upload(page, street)[1])
    done = completed(page, path, "person\nwall")
    assert done["success"], done
    assert "tcl-view" in done["output"]["data"][0]


@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd",
        "/gradio_api/file=/etc/passwd",
        "/gradio_api/file=../../../../etc/passwd",
        "/gradio_api/file=..%2f..%2f..%2fetc%2fpasswd",
        "/gradio_api/file={folder}/secret.txt",
        "/gradio_api/file=secret.txt",
        "/gradio_api/file={folder}",
        "/gradio_api/file=file:///etc/passwd",
        "/gradio_api/file=http://127.0.0.1:9/a.png",
        "/gradio_api/file=HTTPS://example.org/a.png",
        "/gradio_api/proxy=http://127.0.0.1:9/",
        "/assets/../../../../../../etc/passwd",
        "/static/..%2f..%2f..%2fetc/passwd",
        "/gradio_api/call/answer",
        "/gradio_api/run/answer",
        "/monitoring",
        "/monitoring/summary",
        "/docs",
        "/openapi.json",
        "/gradio_api/openapi.json",
        "/gradio_api/deep_link",
        "/gradio_api/runs",
        "/login",
    ],
)
def test_nothing_else_is_served(path: str, page: Served) -> None:
    for method in ("GET", "POST"):
        status, text = ask(page, method, path.format(folder=page.folder))
        assert status in (403, 404, 405), (status, text)
        assert "root:" not in text
        assert "not for visitors" not in text


def test_addresses_and_foreign_paths_are_no_pictures(page: Served, street: Path) -> None:
    for path in (
        "http://127.0.0.1:9/a.png",
        "https://example.org/a.png",
        "/etc/passwd",
        str(page.folder / "secret.txt"),
    ):
        done = completed(page, path, "person")
        assert not done["success"]
        assert "tcl-view" not in json.dumps(done)
    assert not completed(page, str(street), "person")["success"]


def test_broken_and_bottomless_pictures(page: Served, png_bomb: Path, tmp_path: Path) -> None:
    (tmp_path / "page.jpg").write_text("<!doctype html><html></html>")
    (tmp_path / "huge.png").write_bytes(bytes(40 << 20))
    for path, message in ((png_bomb, "far more than the 50 megapixels"), (tmp_path / "page.jpg", "not a picture")):
        (uploaded,) = json.loads(upload(page, path)[1])
        done = completed(page, uploaded, "sky")
        assert message in done["output"]["error"]
    assert upload(page, tmp_path / "huge.png")[0] == 413
    assert memory(page) < 2.5e9


def test_ten_thousand_words(page: Served, street: Path) -> None:
    (path,) = json.loads(upload(page, street)[1])
    done = completed(page, path, "\n".join(f"word {i}" for i in range(10_000)))
    assert "too many" in done["output"]["error"]
    session = uuid.uuid4().hex[:12]
    assert question(page, path, "word\n" * 100_000, session=session)[0] == 413


def test_fifty_at_once(page: Served, street: Path) -> None:
    (path,) = json.loads(upload(page, street)[1])
    outcomes: list[str] = []

    def one() -> None:
        session = uuid.uuid4().hex[:12]
        status, text = question(page, path, "person\nwall", session=session)
        if status != 200:
            outcomes.append(text)
            return
        done = next(each for each in answers(page, session) if each["msg"] == "process_completed")
        outcomes.append("answered" if done["success"] else json.dumps(done))

    threads = [threading.Thread(target=one) for _ in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(outcomes) == 50
    answered = outcomes.count("answered")
    assert answered >= 20
    assert all("full" in outcome for outcome in outcomes if outcome != "answered"), set(outcomes)
    assert memory(page) < 2.5e9


def test_the_page_names_no_other_host(page: Served) -> None:
    status, text = ask(page, "GET", "/")
    assert status == 200
    for tag in ("<script", "<link", "<iframe"):
        for part in text.split(tag)[1:]:
            head = part.split(">")[0]
            assert "http" not in head, head


def memory(page: Served) -> int:
    """The most memory that the server has had so far, in bytes."""
    status = Path(f"/proc/{page.process.pid}/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM"))
