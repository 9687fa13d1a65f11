"""The words of the storyboard world: what exists in it and every way of saying so."""

from __future__ import annotations

from typing import Final

KINDS: Final[dict[str, tuple[str, ...]]] = {
    "circle": ("circle", "disc", "dot"),
    "square": ("square", "box"),
    "triangle": ("triangle",),
    "star": ("star",),
    "heart": ("heart",),
    "diamond": ("diamond", "gem"),
    "cross": ("cross", "plus"),
    "ring": ("ring", "hoop"),
    "moon": ("moon", "crescent"),
    "arrow": ("arrow", "pointer"),
    "tree": ("tree", "pine"),
    "house": ("house", "home", "hut"),
    "car": ("car", "automobile"),
    "boat": ("boat", "ship"),
    "fish": ("fish",),
    "flower": ("flower", "blossom"),
    "cloud": ("cloud",),
    "mushroom": ("mushroom", "toadstool"),
    "key": ("key",),
    "cup": ("cup", "mug"),
}

COLOURS: Final[dict[str, tuple[str, ...]]] = {
    "red": ("red", "crimson", "scarlet"),
    "orange": ("orange", "amber"),
    "yellow": ("yellow", "golden"),
    "green": ("green", "emerald"),
    "cyan": ("cyan", "turquoise"),
    "blue": ("blue", "azure"),
    "purple": ("purple", "violet"),
    "pink": ("pink", "rosy"),
    "white": ("white", "pale"),
    "brown": ("brown", "tan"),
}

RGB: Final[dict[str, tuple[int, int, int]]] = {
    "red": (220, 40, 40),
    "orange": (245, 140, 30),
    "yellow": (245, 225, 50),
    "green": (50, 180, 60),
    "cyan": (60, 215, 220),
    "blue": (50, 80, 225),
    "purple": (140, 60, 190),
    "pink": (250, 130, 190),
    "white": (245, 245, 245),
    "brown": (145, 95, 50),
}

# "medium" is never said: silence about the size carries no information.
SIZES: Final[dict[str, tuple[str, ...]]] = {
    "small": ("small", "little", "tiny"),
    "medium": (),
    "large": ("big", "large", "huge"),
}

# Finite (alone, after "a video where") and participle (after "there is", "we see", "next to").
MOTIONS: Final[dict[str, tuple[tuple[str, str], ...]]] = {
    "left": (
        ("moves left", "moving left"),
        ("drifts left", "drifting left"),
        ("slides to the left", "sliding to the left"),
    ),
    "right": (
        ("moves right", "moving right"),
        ("drifts right", "drifting right"),
        ("slides to the right", "sliding to the right"),
    ),
    "up": (("moves up", "moving up"), ("rises", "rising")),
    "down": (("moves down", "moving down"), ("falls", "falling"), ("sinks", "sinking")),
    "grow": (("grows", "growing"), ("gets bigger", "getting bigger"), ("expands", "expanding")),
    "shrink": (("shrinks", "shrinking"), ("gets smaller", "getting smaller")),
    "spin": (("spins", "spinning"), ("rotates", "rotating"), ("turns around", "turning around")),
    "blink": (("blinks", "blinking"), ("flashes", "flashing")),
    "bounce": (("bounces", "bouncing"), ("hops", "hopping")),
    "still": (("stays still", "staying still"), ("rests", "resting"), ("does not move", "not moving")),
}

BACKGROUNDS: Final[dict[str, tuple[str, ...]]] = {
    "black": ("on a black background", "in the dark"),
    "gray": ("on a gray background", "in front of a gray wall"),
    "sky": ("in the sky", "against a blue sky"),
    "grass": ("on the grass", "on a lawn", "in a meadow"),
    "sand": ("on the sand", "in the desert", "on a beach"),
    "night": ("at night", "under the stars"),
    "checkered": ("on a checkered floor", "on a chessboard"),
    "striped": ("on a striped background", "in front of stripes"),
    "brick": ("in front of a brick wall", "by the bricks"),
    "water": ("on the water", "in the waves"),
}

PLAIN_BACKGROUNDS: Final = ("black", "gray", "sky", "sand")

OPENINGS_FINITE: Final = ("a video where", "at some point")
OPENINGS_PARTICIPLE: Final = ("there is", "we see")
FUNCTION_WORDS: Final = (
    "a", "an", "and", "then", "while", "next", "to", "first", "followed", "by", "before", "after", "comes",
    "with", ",", "video", "clip", "of", "this", "shows",
)  # fmt: skip


def words() -> list[str]:
    """Every word that a caption of this world can contain, sorted, without repeats."""
    phrases: list[str] = [*FUNCTION_WORDS, *OPENINGS_FINITE, *OPENINGS_PARTICIPLE]
    for table in (KINDS, COLOURS, SIZES, BACKGROUNDS):
        phrases.extend(phrase for choices in table.values() for phrase in choices)
    for pairs in MOTIONS.values():
        phrases.extend(form for pair in pairs for form in pair)
    return sorted({word for phrase in phrases for word in phrase.split()})
