"""Which clips an index takes for near-duplicates: other encodings of a video against other videos.

Storyboard videos are written, encoded again (stronger compression, half the size, both) and read back; every
clip is compared with itself in another encoding, and with all clips of other videos, by the cosine of the
coarse vectors and by the least cosine of the frames in their order. An index collapses what passes both
limits (`vidsift.index.ranking`). Writes reports/duplicates.json and .md.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from numpy.typing import NDArray

from _report import write
from vidsift.datasets.storyboard import load_split
from vidsift.datasets.storyboard.library import write_video
from vidsift.index.ranking import ALIKE, FRAMES_ALIKE
from vidsift.models import RetrievalModel, load_model
from vidsift.video import SegmentConfig, read_clips

ENCODINGS = {"CRF 35": (35, 1.0), "half size": (23, 0.5), "half size, CRF 35": (35, 0.5)}
Looks = tuple[NDArray[Any], NDArray[Any]]


def encode_again(source: Path, target: Path, crf: int, scale: float) -> None:
    """Write a video once more in H.264."""
    with av.open(str(source)) as old, av.open(str(target), "w") as new:
        stream = old.streams.video[0]
        width, height = (int(side * scale) // 2 * 2 for side in (stream.width, stream.height))
        out: Any = new.add_stream("libx264", rate=stream.average_rate, options={"crf": str(crf)})
        out.width, out.height, out.pix_fmt = width, height, "yuv420p"
        for frame in old.decode(stream):
            smaller = frame.reformat(width, height, "yuv420p")
            smaller.pts, smaller.time_base = frame.pts, frame.time_base
            new.mux(out.encode(smaller))
        new.mux(out.encode())


@torch.inference_mode()
def looks(model: RetrievalModel, path: Path) -> list[Looks]:
    """Coarse vector [D] and frame vectors [F, D] of every clip."""
    clips = read_clips(
        path,
        frames_per_clip=model.frames_per_clip,
        geometry=model.preprocess.geometry,
        segmentation=SegmentConfig(),
    )
    found = []
    for clip in clips:
        pixels, mask = torch.from_numpy(clip.frames.pixels)[None], torch.from_numpy(clip.frames.mask)[None]
        features = model.encode_video(pixels, mask)
        found.append((features.coarse[0].numpy(), features.frames[0][mask[0]].numpy()))
    return found


def compared(one: Looks, other: Looks) -> tuple[float, float]:
    """Cosine of the coarse vectors; least cosine of the frames, -1 where their numbers differ."""
    if one[1].shape != other[1].shape:
        return float(one[0] @ other[0]), -1.0
    return float(one[0] @ other[0]), float((one[1] * other[1]).sum(-1).min())


def main() -> None:
    """Measure and write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--videos", type=int, default=40)
    parser.add_argument("--model", default="vidsift-tiny")
    asked = parser.parse_args()
    model = load_model(asked.model)
    pairs: dict[str, list[tuple[float, float]]] = {name: [] for name in ENCODINGS}
    originals: list[list[Looks]] = []
    with tempfile.TemporaryDirectory() as folder:
        for number, video in enumerate(load_split("test", videos=asked.videos).videos):
            path = Path(folder) / f"{number}.mp4"
            write_video(video, path)
            originals.append(looks(model, path))
            for name, (crf, scale) in ENCODINGS.items():
                again = Path(folder) / "again.mp4"
                encode_again(path, again, crf, scale)
                pairs[name] += [
                    compared(*two) for two in zip(originals[-1], looks(model, again), strict=True)
                ]
    pairs["other videos"] = [
        compared(a, b)
        for i, clips in enumerate(originals)
        for others in originals[i + 1 :]
        for a in clips
        for b in others
    ]
    rows: list[dict[str, Any]] = []
    for name, found in pairs.items():
        values = np.array(found)
        alike = (values[:, 0] >= ALIKE) & (values[:, 1] >= FRAMES_ALIKE)
        rows.append(
            {
                "pair": name,
                "pairs": len(values),
                "seeds": ["test"],
                "coarse": [round(float(v), 4) for v in np.quantile(values[:, 0], [0, 0.05, 0.5, 1])],
                "frames": [round(float(v), 4) for v in np.quantile(values[:, 1], [0, 0.05, 0.5, 1])],
                "collapsed": round(float(alike.mean()), 4),
            }
        )
    lines = [
        (__doc__ or "").strip(),
        "",
        f"Model {asked.model}, {asked.videos} videos. Limits: {ALIKE} coarse, {FRAMES_ALIKE} every frame.",
        "Cosines: least, 5th percentile, median, greatest.",
        "",
        "| against | pairs | coarse | least frame | collapsed |",
        "|---|--:|---|---|--:|",
    ]
    for row in rows:
        cells = (" ".join(f"{v:.3f}" for v in row[key]) for key in ("coarse", "frames"))
        lines.append(
            f"| {row['pair']} | {row['pairs']:,} | {' | '.join(cells)} | {100 * row['collapsed']:.1f}% |"
        )
    headline = {f"collapsed, {row['pair']}": f"{100 * row['collapsed']:.1f}%" for row in rows}
    print(write("duplicates", headline=headline, rows=rows, packages=("av", "torch"), text="\n".join(lines)))


if __name__ == "__main__":
    main()
