"""The typed client says what the service says."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from vidsift.server.client import Client, ClientError

pytestmark = pytest.mark.system


def test_a_program_searches_looks_and_indexes(start, tmp_path, library, story):
    service = start(4, "--token", "correct horse")
    with pytest.raises(ClientError, match="asks for its token") as refused, Client(service.url) as stranger:
        stranger.statistics()
    assert refused.value.status == 401
    with Client(service.url, token="correct horse") as client:
        assert client.statistics().clips == 4
        hit = client.search(story.captions[0].text, k=2).hits[0]
        assert hit.name == f"story-{story.video_of[0]:05d}.mp4"
        assert len(client.search(like=hit.clip).hits) == 3
        assert client.thumbnail(hit.clip)[:2] == b"\xff\xd8"
        picture = tmp_path / "picture.jpg"
        picture.write_bytes(client.thumbnail(hit.clip))
        assert client.search_image(picture, k=1).hits == client.search_image(picture.read_bytes(), k=1).hits
        assert [video.name for video in client.videos(page=3)] == [f"story-{n:05d}.mp4" for n in range(4)]
        assert len(client.relevance(hit.video, "a ball").times) == 12
        assert client.video(hit.video).parts[0].clip == hit.clip
        (tmp_path / "videos" / "new.mp4").write_bytes((library.videos / "story-00009.mp4").read_bytes())
        states = [job.state for job in client.watch(client.index(tmp_path / "videos").id)]
        assert states[-1] == "done"
        assert client.jobs()[0].report["added"] == 1
        client.forget(hit.video)
        with pytest.raises(ClientError, match="outside the folders"):
            client.index("/etc")
        with pytest.raises(ClientError, match="nothing of that name"):
            list(client.watch("0" * 32))
        with pytest.raises(ClientError, match="nothing of that name"):
            client.cancel("0" * 32)
        with pytest.raises(ValidationError):
            client.search("a", k=0)


def test_a_service_that_is_not_there_is_an_error():
    with (
        pytest.raises(ClientError, match=r"127\.0\.0\.1:1") as caught,
        Client("http://127.0.0.1:1") as client,
    ):
        client.statistics()
    assert caught.value.status == 0
