"""What it costs to get 12 uniform frames of 224 x 224 out of a file, against the official reading pattern.

Official: OpenCV seeks to every second and reads, PIL resizes (bicubic) and cuts every frame, 12 are kept;
that is what CLIP4Clip, TeachCLIP and EERCF do. Ours: vidsift.video.read_clips. In the same run our frames are
compared, bit for bit, with decoding everything and picking.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import av
import cv2
import numpy as np
import numpy.typing as npt
from av.video.stream import VideoStream
from PIL import Image

from _report import spread, write
from vidsift.video import Geometry, SegmentConfig, read_clips, sample_times
from vidsift.video.picture import PictureMaker, orientation

COUNT, SIDE, FPS = 12, 224, 30
UInt8 = npt.NDArray[np.uint8]


def pictures(width: int, height: int, count: int, seed: int) -> Any:
    """Yield pictures that are hard to compress: a textured ground and textured objects, all moving, noise."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (height // 16 + 8, width // 16 + 8, 3), dtype=np.uint8)
    size = (width + 128, height + 128)
    ground = cv2.resize(coarse, size, interpolation=cv2.INTER_CUBIC) // 2 + 64
    ground += rng.integers(0, 24, ground.shape, dtype=np.uint8)
    noise = rng.integers(0, 10, (4, height, width, 3), dtype=np.uint8)
    patches = [rng.integers(0, 256, (height // 5, width // 8, 3), dtype=np.uint8) for _ in range(8)]
    patches = [cv2.GaussianBlur(patch, (5, 5), 0) for patch in patches]
    speeds = rng.uniform(0.01, 0.06, (8, 2))
    for number in range(count):
        x, y = int(64 + 60 * np.sin(number / 40)), int(64 + 60 * np.cos(number / 53))
        picture = ground[y : y + height, x : x + width].copy()
        for patch, (u, v) in zip(patches, speeds, strict=True):
            top = int((np.sin(number * u + 9 * v) + 1) / 2 * (height - patch.shape[0]))
            left = int((np.cos(number * v + 9 * u) + 1) / 2 * (width - patch.shape[1]))
            picture[top : top + patch.shape[0], left : left + patch.shape[1]] = patch
        yield picture + noise[number % 4]


def encode(path: Path, codec: str, width: int, height: int, seconds: int, gop: int, seed: int) -> None:
    """Write the pictures; key frames every `gop` frames, all else as the encoder does by itself."""
    options = {
        "libx264": {"preset": "fast", "crf": "23"},
        "libx265": {"preset": "ultrafast", "bframes": "4", "x265-params": "log-level=error"},
        "libvpx-vp9": {"deadline": "realtime", "cpu-used": "8", "b": "3M", "row-mt": "1"},
    }[codec]
    with av.open(str(path), "w") as container:
        stream = cast(VideoStream, container.add_stream(codec, rate=FPS))
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.options = {**options, "g": str(gop)}
        for picture in pictures(width, height, seconds * FPS, seed):
            frame = av.VideoFrame.from_ndarray(picture, format="bgr24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def official(path: Path) -> UInt8:
    """Read as the official pipelines do: [12, 3, 224, 224]."""
    capture = cv2.VideoCapture(str(path))
    fps = int(capture.get(cv2.CAP_PROP_FPS))
    total = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
    frames = []
    for second in range(max(1, (total + fps - 1) // fps)):
        capture.set(cv2.CAP_PROP_POS_FRAMES, second * fps)
        read, picture = capture.read()
        if not read:
            break
        image = Image.fromarray(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB))
        scale = SIDE / min(image.size)
        image = image.resize((int(image.width * scale), int(image.height * scale)), Image.Resampling.BICUBIC)
        left, top = (image.width - SIDE) // 2, (image.height - SIDE) // 2
        frames.append(np.asarray(image.crop((left, top, left + SIDE, top + SIDE))).transpose(2, 0, 1))
    capture.release()
    kept = np.linspace(0, len(frames) - 1, num=COUNT, dtype=int)
    return np.stack([frames[i] for i in kept])


def ours(path: Path) -> UInt8:
    """Read as vidsift does: [12, 3, 224, 224]."""
    reader = read_clips(
        path, frames_per_clip=COUNT, geometry=Geometry(SIDE), segmentation=SegmentConfig("whole")
    )
    (clip,) = reader
    if reader.problem:
        raise RuntimeError(reader.problem)
    return clip.frames.pixels


def everything(path: Path) -> UInt8:
    """Decode everything and pick: [12, 3, 224, 224]; the measure of exactness."""
    reader = read_clips(
        path, frames_per_clip=COUNT, geometry=Geometry(SIDE), segmentation=SegmentConfig("whole")
    )
    (clip,) = reader
    times = sample_times(clip.span, COUNT)
    chosen: list[UInt8 | None] = [None] * COUNT
    maker = PictureMaker()
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        base, first = stream.time_base, None
        held: av.VideoFrame | None = None
        slot = 0
        for frame in container.decode(stream):
            pts = frame.pts or 0
            first = pts if first is None else first
            now = (pts - first) * base.numerator / base.denominator if base else 0.0
            while held is not None and slot < COUNT and times[slot] < now:
                chosen[slot] = maker.model(held, orientation(held, None), Geometry(SIDE))
                slot += 1
            held = frame
        while held is not None and slot < COUNT:
            chosen[slot] = maker.model(held, orientation(held, None), Geometry(SIDE))
            slot += 1
    return np.stack([picture for picture in chosen if picture is not None])


def measure(read: Callable[[Path], UInt8], path: Path, repeats: int) -> list[float]:
    """CPU seconds of this process, all threads together, of each repeat."""
    spent = []
    for _ in range(repeats):
        began = time.process_time()
        read(path)
        spent.append(time.process_time() - began)
    return spent


def main() -> None:
    """Measure and write the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5, help="of our reader")
    parser.add_argument("--official-repeats", type=int, default=1, help="of the official pattern (slow)")
    parser.add_argument("--codecs", action="store_true", help="also HEVC and VP9, 720p, 60 s, GOP 250")
    parser.add_argument("--quick", action="store_true", help="240p, 10 s only")
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    cv2.setNumThreads(1)
    sizes = {"240p": (426, 240), "720p": (1280, 720)}
    cases = [("libx264", s, d, g) for s in sizes for d in (10, 60) for g in (12, 250)]
    if chosen.codecs:
        cases += [("libx265", "720p", 60, 250), ("libvpx-vp9", "720p", 60, 250)]
    if chosen.quick:
        cases = cases[:2]
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for codec, name, seconds, gop in cases:
            path = Path(folder) / f"{codec}-{name}-{seconds}-{gop}.{'webm' if 'vp9' in codec else 'mp4'}"
            encode(path, codec, *sizes[name], seconds, gop, chosen.seed)
            began = time.process_time()
            reference = everything(path)
            full = time.process_time() - began
            exact = bool(np.array_equal(ours(path), reference))
            mine = measure(ours, path, chosen.repeats)
            theirs = measure(official, path, chosen.official_repeats)
            row: dict[str, Any] = {
                "codec": codec,
                "size": name,
                "seconds": seconds,
                "gop": gop,
                "megabytes": round(path.stat().st_size / 1e6, 1),
                "exact": exact,
                "ours_cpu_s": spread(mine),
                "official_cpu_s": spread(theirs),
                "full_decode_cpu_s": round(full, 3),
                "ratio": round(float(np.median(theirs) / np.median(mine)), 2),
                "seeds": [chosen.seed],
            }
            rows.append(row)
            print(row, flush=True)
            path.unlink()
    label = "{codec} {size} {seconds} s GOP {gop}".format
    headline = {
        f"ratio, {label(**r)}": r["ratio"] for r in rows if r["size"] == "720p" and r["seconds"] == 60
    }
    headline["all frames exact"] = all(row["exact"] for row in rows)
    table = [
        "CPU seconds, median (least-greatest). Full = decoding everything once and picking, with one more",
        "of our readings for the times; exact = our frames are bit for bit those of the full decode.",
        "",
        "| file | MB | official | ours | official / ours | full | exact |",
        "|---|---:|---:|---:|---:|---:|---|",
    ]
    for row in rows:
        their, my = row["official_cpu_s"], row["ours_cpu_s"]
        table.append(
            f"| {label(**row)} | {row['megabytes']} | {their['median']:.3f} x{their['repeats']} "
            f"| {my['median']:.3f} ({my['min']:.3f}-{my['max']:.3f}) x{my['repeats']} | **{row['ratio']}** "
            f"| {row['full_decode_cpu_s']:.3f} | {'yes' if row['exact'] else 'NO'} |"
        )
    print(
        write(
            "decode",
            headline=headline,
            rows=rows,
            packages=("av", "opencv-python", "opencv-python-headless", "pillow", "numpy"),
            text="\n".join(table),
        )
    )


if __name__ == "__main__":
    main()
