"""The storyboard world: procedural captioned videos on which effects can be measured exactly."""

from vidsift.datasets.storyboard.captions import Caption, CaptionConfig, holds, write_caption
from vidsift.datasets.storyboard.render import render_frames
from vidsift.datasets.storyboard.splits import StorySet, ceiling, draw_set, load_split, matching_videos
from vidsift.datasets.storyboard.world import STANDARD, StoryVideo, WorldConfig, draw_video

__all__ = [
    "STANDARD",
    "Caption",
    "CaptionConfig",
    "StorySet",
    "StoryVideo",
    "WorldConfig",
    "ceiling",
    "draw_set",
    "draw_video",
    "holds",
    "load_split",
    "matching_videos",
    "render_frames",
    "write_caption",
]
