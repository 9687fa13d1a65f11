"""The HTTP API: what is asked is answered, what is wrong is refused in words, nothing else is given away."""

from __future__ import annotations

import http.client
import io
import os
import random
import shutil
import signal
import threading
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest
from PIL import Image

from vidsift.datasets.storyboard import render_frames
from vidsift.errors import ServiceError
from vidsift.server.client import Client
from vidsift.server.settings import ServerSettings

pytestmark = pytest.mark.system


def video_of(story: Any, text: str) -> str:
    number = next(v for c, v in zip(story.captions, story.video_of, strict=True) if c.text == text)
    return f"story-{number:05d}.mp4"


def test_captions_find_their_videos_at_a_moment(service, story):
    right = 0
    for caption in story.captions[::3]:
        found = service.post("/search", {"query": caption.text, "k": 5})
        best = found["hits"][0]
        right += best["name"] == video_of(story, caption.text)
        assert (
            best["start"]
            <= best["moment"]["start"]
            <= best["moment"]["best"]
            <= best["moment"]["end"]
            <= best["end"]
        )
        assert service.get("/search", params={"q": caption.text, "k": 5})["hits"] == found["hits"]
        assert [hit["score"] for hit in found["hits"]] == sorted(
            (h["score"] for h in found["hits"]), reverse=True
        )
    assert right >= 0.8 * len(story.captions[::3])


def test_a_clip_and_a_picture_can_ask(service, story):
    first = service.get("/search", params={"q": story.captions[0].text})["hits"][0]
    alike = service.post("/search", {"like": first["clip"], "k": 3})["hits"]
    assert len(alike) == 3
    assert first["clip"] not in {hit["clip"] for hit in alike}
    pixels = render_frames(story.videos[4], 12)[6].transpose(1, 2, 0)
    content = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(content, "PNG")
    found = service.ask.post("/api/v1/search/image?k=3", content=content.getvalue()).json()
    assert found["hits"][0]["name"] == "story-00004.mp4"
    refused = service.ask.post("/api/v1/search/image", content=b"no picture")
    assert (refused.status_code, "cannot be read as a picture" in refused.text) == (400, True)
    assert service.ask.post("/api/v1/search/image").status_code == 400


def test_what_is_said_is_found_and_shown(service):
    with Client(service.url) as client:
        assert client.statistics().words
        found = client.search("captain in Lisbon", k=3).hits
        assert (found[0].name, found[0].cue.text) == ("story-00002.mp4", "The captain sails for Lisbon")
        assert (found[0].cue.start, found[0].moment.start, found[0].moment.end) == (2.0, 2.0, 3.5)
        assert "words" in found[0].channels
        assert [(hit.channels, hit.cue) for hit in found[1:]] == [(["pictures"], None)] * 2
        alone = client.search("captain in Lisbon", channels="words", threshold=1e6).hits
        assert [hit.name for hit in alone] == ["story-00002.mp4"], "words have no threshold"
        assert not client.search("captain in Lisbon", channels="pictures", threshold=1e6).hits
        assert not client.search("zebra", channels="words").hits
    asked = {"q": "captain in Lisbon", "channels": "words"}
    assert len(service.get("/search", params=asked)["hits"]) == 1
    refused = service.post("/search", {"like": found[0].clip, "channels": "words"}, code=400)
    assert "by a sentence" in refused["error"]
    service.post("/search", {"query": "a", "channels": "smells"}, code=422)
    assert 'vidsift_search_seconds_count{stage="words"}' in service.ask.get("/metrics").text


def test_filters_a_video_and_a_threshold_narrow_the_answer(service, library):
    every = service.post("/search", {"query": "a red ball", "k": 100})["hits"]
    assert len(every) == len(library.paths)
    one = service.post("/search", {"query": "a red ball", "video": every[3]["video"], "group_by": "moment"})[
        "hits"
    ]
    assert {hit["video"] for hit in one} == {every[3]["video"]}
    bar = every[4]["score"]
    assert len(service.post("/search", {"query": "a red ball", "threshold": bar})["hits"]) == 5
    where = {"paths": ["*/story-0000[12].mp4"]}
    assert len(service.post("/search", {"query": "a red ball", "filters": where})["hits"]) == 2
    assert not service.post("/search", {"query": "a ball", "filters": {"metadata": {"codec": "none"}}})[
        "hits"
    ]


def test_videos_clips_and_their_bytes(service, library):
    listed = service.get("/videos", params={"offset": 1, "limit": 2})
    assert listed["total"] == len(library.paths)
    assert [video["name"] for video in listed["videos"]] == ["story-00001.mp4", "story-00002.mp4"]
    video = service.get(f"/videos/{listed['videos'][0]['video']}")
    picture = service.ask.get(video["parts"][0]["thumbnail"])
    assert Image.open(io.BytesIO(picture.content)).format == "JPEG"
    assert service.ask.get(video["parts"][0]["thumbnail"]).content == picture.content
    content = (library.videos / "story-00001.mp4").read_bytes()
    assert service.ask.get(video["content"]).content == content
    part = service.ask.get(video["content"], headers={"range": "bytes=10-29"})
    assert (part.status_code, part.content) == (206, content[10:30])
    assert part.headers["content-range"] == f"bytes 10-29/{len(content)}"
    assert service.ask.get(video["content"], headers={"range": f"bytes={len(content)}-"}).status_code == 416
    strip = service.get(f"/videos/{video['video']}/relevance", params={"q": "a red ball"})
    assert len(strip["times"]) == len(strip["relevance"]) == 12
    assert strip["times"] == sorted(strip["times"])


@pytest.mark.parametrize(
    ("method", "path", "options", "code", "says"),
    [
        ("POST", "/search", {"json": {}}, 400, "query, or like"),
        ("POST", "/search", {"json": {"query": "a", "like": "0" * 32}}, 400, "query, or like"),
        ("POST", "/search", {"json": {"query": "   "}}, 400, "empty"),
        ("POST", "/search", {"json": {"query": "a", "kk": 3}}, 422, "body.kk"),
        ("POST", "/search", {"json": {"query": "- snow"}}, 400, "only what should not"),
        ("POST", "/search", {"json": {"query": "a", "k": 0}}, 422, "body.k"),
        ("POST", "/search", {"content": b"{", "headers": {"content-type": "application/json"}}, 422, "JSON"),
        (
            "POST",
            "/search",
            {"content": b'{"query": "\\ud800"}', "headers": {"content-type": "application/json"}},
            422,
            "query",
        ),
        (
            "POST",
            "/search",
            {"json": {"query": "a", "filters": {"after": 9, "before": 3}}},
            400,
            "nothing can match",
        ),
        ("POST", "/search", {"json": {"like": "0" * 32}}, 404, "nothing of that name"),
        ("POST", "/search", {"json": {"query": "a", "video": "0" * 32}}, 404, "nothing of that name"),
        ("POST", "/search", {"content": b"x" * 70_000}, 413, "larger"),
        ("GET", "/videos/" + "0" * 32, {}, 404, "nothing of that name"),
        ("GET", "/videos/../../etc", {}, 404, ""),
        ("GET", f"/clips/{'0' * 32}/thumbnail", {}, 404, "nothing of that name"),
        ("GET", f"/jobs/{'0' * 32}", {}, 404, "nothing of that name"),
        ("PATCH", "/search", {}, 405, ""),
    ],
)
def test_what_is_wrong_is_refused_in_words(service, method, path, options, code, says):
    answer = service.ask.request(method, f"/api/v1{path}", **options)
    assert answer.status_code == code, answer.text
    assert says in answer.json()["error"]


def test_a_file_that_is_not_what_was_indexed_is_not_given_away(start, tmp_path):
    running = start(2)
    secret = tmp_path / "secret.mp4"
    secret.write_bytes(b"secret" * 100)
    video = running.get("/videos")["videos"][0]
    path = tmp_path / "videos" / video["name"]
    path.unlink()
    path.symlink_to(secret)
    answer = running.ask.get(video["content"])
    assert (answer.status_code, "changed" in answer.text) == (409, True)
    path.unlink()
    assert "gone" in running.ask.get(video["content"]).text


def test_a_token_is_asked_for_everywhere_but_where_nothing_is_told(start):
    running = start(2, "--token", "correct horse")
    assert running.ask.get("/healthz").status_code == 200
    assert running.ask.get("/").status_code == 200
    for path in ("/api/v1/stats", "/api/v1/openapi.json", "/metrics", "/api/v1/search?q=a"):
        assert running.ask.get(path).status_code == 401
        assert running.ask.get(path, headers={"authorization": "Bearer wrong horse"}).status_code == 401
        assert running.ask.get(path, headers={"authorization": "Bearer correct horse"}).status_code == 200
    jar = {"cookie": "vidsift=correct-horse"}
    assert running.ask.get("/api/v1/stats", headers=jar).status_code == 401
    running.post("/login", {"token": "wrong"}, 401)
    running.post("/login", {"token": "correct horse"}, 204)
    assert running.ask.get("/api/v1/stats").status_code == 200, "by the cookie"
    assert "correct horse" not in running.ask.cookies["vidsift"]


def test_an_open_address_needs_a_token():
    with pytest.raises(ServiceError, match="needs a token"):
        ServerSettings(Path("x"), host="0.0.0.0")
    with pytest.raises(ServiceError, match="too short"):
        ServerSettings(Path("x"), token="short")
    for host in ("127.0.0.1", "::1", "localhost", "127.3.2.1"):
        assert ServerSettings(Path("x"), host=host).is_loopback
    assert not ServerSettings(Path("x"), host="example.org", token="long enough").is_loopback


def test_other_sites_and_names_get_nothing(service):
    for host in ("evil.example", "127.0.0.1.evil.example", "[::1", ""):
        answer = service.ask.get("/api/v1/stats", headers={"host": host})
        assert answer.status_code in (400, 421), host
    answer = service.ask.post(
        "/api/v1/search", json={"query": "a"}, headers={"origin": "https://evil.example"}
    )
    assert answer.status_code == 403
    answer = service.ask.get("/api/v1/stats", headers={"origin": "https://evil.example"})
    assert "access-control-allow-origin" not in answer.headers
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_a_name_in_front_is_answered_to_when_it_is_given(start):
    running = start(2, "--name", "videos.example.org")
    proxied = {"host": "videos.example.org", "origin": "https://videos.example.org"}
    assert running.ask.post("/api/v1/search", json={"query": "a"}, headers=proxied).status_code == 200
    assert running.ask.get("/api/v1/stats", headers={"host": "other.example.org"}).status_code == 421
    crossed = proxied | {"origin": "https://other.example.org"}
    assert running.ask.post("/api/v1/search", json={"query": "a"}, headers=crossed).status_code == 403


def test_one_client_cannot_ask_without_end(start):
    running = start(2, "--rate", "1")
    codes = [running.ask.get("/healthz").status_code for _ in range(12)]
    assert codes[0] == 200
    assert codes[-1] == 429


def test_two_thousand_hostile_requests_get_nothing_outside(service, library):
    secret = library.folder / "secret.txt"
    secret.write_text("the secret outside of the library")
    (library.videos / "aside.txt").write_text("the secret beside the videos")
    known = service.get("/videos")["videos"][0]["video"]
    rng = random.Random(0)
    ups = [
        "../",
        "..%2f",
        "%2e%2e/",
        "..%5c",
        "%252e%252e%252f",
        "....//",
        "..;/",
        "%00",
        "\\..\\",
        "/",
        "//",
    ]
    ends = [
        "secret.txt",
        "videos/aside.txt",
        "etc/passwd",
        str(secret).lstrip("/"),
        "index/index.json",
        "%ff%fe",
    ]
    starts = [
        "/static/",
        "/api/v1/videos/",
        f"/api/v1/videos/{known}/",
        "/api/v1/clips/",
        "/",
        "/api/v1/jobs/",
    ]
    headers = [
        "range",
        "x-forwarded-host",
        "cookie",
        "authorization",
        "if-none-match",
        "content-length",
        "accept",
    ]
    odd = [
        "bytes=-99999999999",
        "bytes=5-1",
        "bytes=0-0,1-1,2-2",
        "../../x",
        "\x01",
        "Bearer " + "x" * 500,
        "\xff\xfe",
        "-1",
    ]
    address = urlsplit(service.url)
    codes = set()
    connection = http.client.HTTPConnection(address.hostname, address.port, timeout=30)
    for _ in range(2000):
        path = rng.choice(starts) + "".join(rng.choices(ups, k=rng.randint(0, 6))) + rng.choice(ends)
        if rng.random() < 0.3:
            path += rng.choice(["/content", "/thumbnail", "?q=" + rng.choice(ups), "%00.mp4", "/events"])
        try:
            connection.putrequest(
                rng.choice(["GET", "GET", "HEAD", "DELETE", "POST"]), path, skip_accept_encoding=True
            )
            for name in rng.sample(headers, rng.randint(0, 3)):
                if name != "content-length":
                    connection.putheader(name, rng.choice(odd).encode("latin-1"))
            connection.putheader("content-length", "0")
            connection.endheaders()
            answer = connection.getresponse()
            body = answer.read()
            codes.add(answer.status)
            assert answer.status < 500, (path, body)
            for hidden in (b"the secret", b"root:", b'"segmentation"', b"Traceback"):
                assert hidden not in body, path
        except (http.client.HTTPException, OSError, ValueError):
            # A request that is none: the connection is dropped, the service goes on.
            connection.close()
            connection = http.client.HTTPConnection(address.hostname, address.port, timeout=30)
    connection.close()
    assert {200, 404} <= codes or {404, 422} <= codes
    assert service.ask.get("/healthz").status_code == 200


def test_many_at_once_get_the_same_answers(service, story):
    texts = [caption.text for caption in story.captions[:8]]
    alone = {text: service.post("/search", {"query": text})["hits"] for text in texts}
    wrong = []

    def ask(seed: int) -> None:
        rng = random.Random(seed)
        with httpx.Client(base_url=service.url, timeout=60) as client:
            for _ in range(12):
                text = rng.choice(texts)
                answer = client.post("/api/v1/search", json={"query": text})
                if answer.status_code != 200 or answer.json()["hits"] != alone[text]:
                    wrong.append(answer.text)

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_measures_tell_what_happened(service):
    service.get("/search", params={"q": "a red ball"})
    said = service.ask.get("/metrics").text
    assert 'vidsift_requests_total{route="/api/v1/search",status="200"}' in said
    assert 'vidsift_search_seconds_count{stage="recall"}' in said
    assert "vidsift_clips 14.0" in said
    assert service.says('"path": "/metrics"')


def test_jobs_index_in_the_background_and_what_they_found_can_be_seen(start, tmp_path, library):
    running = start(2)
    assert running.get("/stats")["clips"] == 2
    shutil.copy(library.videos / "story-00009.mp4", tmp_path / "videos" / "new.mp4")
    (tmp_path / "videos" / "broken.mp4").write_bytes(b"no video")
    job = running.post("/jobs", {"paths": [str(tmp_path / "videos")]}, 202)
    with running.ask.stream("GET", f"/api/v1/jobs/{job['id']}/events") as events:
        said = [line for line in events.iter_lines() if line.startswith("data: ")]
    assert '"state":"done"' in said[-1]
    done = running.finished(job["id"])
    assert (done["report"]["added"], done["report"]["unchanged"]) == (1, 2)
    assert [Path(p["path"]).name for p in done["report"]["failed"]] == ["broken.mp4"]
    time.sleep(1.1)
    assert running.get("/stats")["clips"] == 3
    gone = next(v for v in running.get("/videos")["videos"] if v["name"] == "new.mp4")
    assert running.ask.delete(f"/api/v1/videos/{gone['video']}").status_code == 204
    time.sleep(1.1)
    assert running.get("/stats")["clips"] == 2
    assert (tmp_path / "videos" / "new.mp4").exists()


def test_only_allowed_folders_are_indexed(start, tmp_path):
    running = start(2, "--library", str(tmp_path / "more"))
    (tmp_path / "more").mkdir()
    (tmp_path / "videos" / "link").symlink_to("/etc")
    for path in ("/etc", str(tmp_path), "videos", f"{tmp_path}/videos/../secret", f"{tmp_path}/videos/link"):
        assert running.ask.post("/api/v1/jobs", json={"paths": [path]}).status_code == 400
    missing = running.post("/jobs", {"paths": [str(tmp_path / "videos" / "none")]}, 400)
    assert "no such file" in missing["error"]
    assert (
        running.finished(running.post("/jobs", {"paths": [str(tmp_path / "more")]}, 202)["id"])["state"]
        == "done"
    )


def many_videos(folder: Path, source: Path, count: int) -> None:
    folder.mkdir(exist_ok=True)
    content = source.read_bytes()
    for number in range(count):
        (folder / f"{number:04}.mp4").write_bytes(content + b"\x00\x00\x00\x10free%08d" % number)


def test_a_job_can_be_cancelled_and_keeps_what_was_finished(start, tmp_path, library):
    running = start(2)
    many_videos(tmp_path / "videos" / "many", library.videos / "story-00003.mp4", 150)
    first = running.post("/jobs", {"paths": [str(tmp_path / "videos")]}, 202)
    second = running.post("/jobs", {"paths": [str(tmp_path / "videos")]}, 202)
    assert running.ask.delete(f"/api/v1/jobs/{second['id']}").json()["state"] == "cancelled"
    while running.get(f"/jobs/{first['id']}")["progress"]["clips"] < 20:
        time.sleep(0.05)
    running.ask.delete(f"/api/v1/jobs/{first['id']}")
    assert running.finished(first["id"])["state"] == "cancelled"
    time.sleep(1.1)
    kept = running.get("/stats")["clips"]
    assert 20 <= kept < 152


def test_a_killed_service_goes_on_with_its_job(start, tmp_path, library):
    running = start(2)
    many_videos(tmp_path / "videos" / "many", library.videos / "story-00003.mp4", 120)
    job = running.post("/jobs", {"paths": [str(tmp_path / "videos")]}, 202)["id"]
    while running.get(f"/jobs/{job}")["progress"]["clips"] < 30:
        time.sleep(0.05)
    running.stop(signal.SIGKILL)
    again = start(2)
    assert again.finished(job)["state"] == "done"
    time.sleep(1.1)
    assert again.get("/stats")["clips"] == 122
    assert again.stop(signal.SIGTERM) in (0, -signal.SIGTERM, 143)


def test_an_address_that_is_taken_and_a_missing_index_are_said(library, tmp_path):
    import subprocess
    import sys

    program = Path(sys.executable).with_name("vidsift")
    done = subprocess.run([program, "serve", "--index", tmp_path / "none"], capture_output=True, text=True)
    assert (done.returncode, "no index here" in done.stderr) == (3, True)
    done = subprocess.run(
        [program, "serve", "--index", library.index, "--host", "0.0.0.0"],
        capture_output=True,
        text=True,
        env={k: v for k, v in os.environ.items() if k != "VIDSIFT_TOKEN"},
    )
    assert (done.returncode, "needs a token" in done.stderr) == (3, True)
