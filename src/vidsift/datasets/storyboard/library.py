"""Storyboard videos as real files: H.264 mp4, captions.jsonl and a contact sheet."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any, Final

import av
import numpy as np
from PIL import Image, ImageDraw

from vidsift.datasets.storyboard import channels
from vidsift.datasets.storyboard.captions import Caption
from vidsift.datasets.storyboard.render import Pixels, render_at, render_frames, scene_at
from vidsift.datasets.storyboard.splits import StorySet
from vidsift.datasets.storyboard.world import FPS, FRAME, SECONDS, StoryVideo
from vidsift.errors import DataError

# A world pixel becomes 4 x 4 file pixels, so that 4:2:0 chroma and the codec cost the picture little.
UPSCALE: Final = 4
CRF: Final = 18
CAPTIONS_FILE: Final = "captions.jsonl"
SHEET_FILE: Final = "contact-sheet.png"


def video_name(number: int) -> str:
    return f"story-{number:05d}.mp4"


def write_video(video: StoryVideo, path: Path, with_channels: bool = False) -> None:
    """Render a video to an H.264 mp4 of 256 x 256 at 10 frames a second; whole or not at all.

    with_channels: with its sound as AAC, its writing in the pictures, and its speech as a .srt file beside.
    """
    partial = path.with_suffix(".part")
    sound = channels.sound(video) if with_channels else None
    labels = channels.written(video) if with_channels else None
    with av.open(str(partial), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=FPS)
        stream.width = stream.height = FRAME * UPSCALE
        stream.pix_fmt = "yuv420p"
        stream.time_base = Fraction(1, FPS)
        # One thread: the same bytes whatever the machine.
        stream.codec_context.thread_count = 1
        stream.options = {"crf": str(CRF), "preset": "veryfast"}
        audio = None
        if sound is not None:
            audio = container.add_stream("aac", rate=channels.RATE, layout="mono")
            audio.codec_context.thread_count = 1
        for number in range(round(SECONDS * FPS)):
            picture = render_at(video, number).repeat(UPSCALE, 0).repeat(UPSCALE, 1)
            if labels is not None:
                picture = _labelled(picture, labels[scene_at(video, number / FPS)])
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts = number
            frame.time_base = Fraction(1, FPS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
        if audio is not None and sound is not None:
            _encode_sound(container, audio, sound)
    spoken = channels.speech(video) if with_channels else []
    beside = path.with_suffix(".srt")
    beside.unlink(missing_ok=True)  # of a library that was here before
    if spoken:
        beside.write_text(_subtitles(spoken), encoding="utf-8")
    os.replace(partial, path)


def _labelled(picture: Pixels, label: str) -> Pixels:
    """A picture [H, W, 3] with small white words on a black strip at its lower edge."""
    image = Image.fromarray(picture)
    if label:
        draw = ImageDraw.Draw(image)
        draw.rectangle((0, image.height - 14, image.width, image.height), fill="black")
        draw.text((4, image.height - 13), label, fill="white")
    return np.asarray(image)


def _encode_sound(container: Any, stream: Any, sound: channels.Waveform) -> None:
    frame = av.AudioFrame.from_ndarray(sound[None], format="flt", layout="mono")
    frame.sample_rate, frame.pts = channels.RATE, 0
    frame.time_base = Fraction(1, channels.RATE)
    fifo = av.AudioFifo()
    fifo.write(frame)
    size = stream.codec_context.frame_size or 1024
    while (part := fifo.read(size, partial=True)) is not None:
        container.mux(stream.encode(part))
    container.mux(stream.encode())


def _subtitles(spoken: list[tuple[float, float, str]]) -> str:
    """A .srt file."""

    def stamp(seconds: float) -> str:
        whole, rest = divmod(round(1000 * seconds), 1000)
        return f"{whole // 3600:02d}:{whole // 60 % 60:02d}:{whole % 60:02d},{rest:03d}"

    return "".join(
        f"{number}\n{stamp(start)} --> {stamp(end)}\n{text}\n\n"
        for number, (start, end, text) in enumerate(spoken, 1)
    )


def caption_record(name: str, video: StoryVideo, caption: Caption) -> dict[str, str | float]:
    """One line of captions.jsonl: what is said of which file, and from when to when it is true."""
    start, end = caption.span(video)
    return {"video": name, "text": caption.text, "start": start, "end": end, "kind": caption.kind}


def write_library(
    story: StorySet,
    out: Path,
    progress: Callable[[int, int], None] | None = None,
    with_channels: bool = False,
) -> list[Path]:
    """Write a set's videos, its captions.jsonl and a contact sheet into a folder; returns the video files.

    with_channels: the videos have sound, speech (as subtitles) and writing, too.
    Existing videos of the same name are written anew. `progress(done, total)` is called after each file.
    Raises DataError for a folder with videos of a larger library, which would stay behind uncaptioned.
    """
    out.mkdir(parents=True, exist_ok=True)
    paths = [out / video_name(number) for number in range(len(story.videos))]
    strangers = sorted(set(out.glob("story-*.mp4")) - set(paths))
    if strangers:
        raise DataError(
            f"{out}: holds another library ({strangers[-1].name}); choose another folder or empty it"
        )
    for number, (video, path) in enumerate(zip(story.videos, paths, strict=True)):
        write_video(video, path, with_channels)
        if progress is not None:
            progress(number + 1, len(paths))
    lines = [
        json.dumps(caption_record(paths[owner].name, story.videos[owner], caption), ensure_ascii=False)
        for owner, caption in zip(story.video_of.tolist(), story.captions, strict=True)
    ]
    captions = out / CAPTIONS_FILE
    partial = captions.with_suffix(".part")
    partial.write_text("\n".join(lines) + "\n", encoding="utf-8")
    os.replace(partial, captions)
    contact_sheet(story).save(out / SHEET_FILE)
    return paths


def contact_sheet(story: StorySet, rows: int = 12, captions_each: int = 3) -> Image.Image:
    """A picture to look at: the frames of the first videos as strips, some of their captions below each."""
    shown = min(rows, len(story.videos))
    strips = [_strip(story.videos[number]) for number in range(shown)]
    width, line = strips[0].shape[1], 14
    height = strips[0].shape[0] + captions_each * line + 6
    sheet = Image.new("RGB", (width, height * shown), "white")
    draw = ImageDraw.Draw(sheet)
    for number, strip in enumerate(strips):
        top = number * height
        sheet.paste(Image.fromarray(strip), (0, top))
        said = [c for owner, c in zip(story.video_of, story.captions, strict=True) if owner == number]
        for k, caption in enumerate(said[:captions_each]):
            y = top + strip.shape[0] + 2 + k * line
            draw.text((4, y), f"[{caption.kind}] {caption.text}", fill="black")
    return sheet


def _strip(video: StoryVideo, upscale: int = 2) -> Pixels:
    frames = render_frames(video).transpose(0, 2, 3, 1).repeat(upscale, 1).repeat(upscale, 2)
    return np.concatenate(list(frames), axis=1)
