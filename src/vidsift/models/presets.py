"""Recommended published backbones by purpose, with licence, size and cost."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Preset:
    """A backbone on the hub under a short name.

    parameters: of both towers, counted on the architecture.  download_mb: fp32 weights, 4 bytes each.
    relative_cost: multiply-accumulates per frame, `fast` (4.4 G) = 1.  width: D.  image_size: pixels.
    checked: where licence and architecture come from; says `unverified` for what was not checked there.
    """

    name: str
    hub_id: str
    licence: str
    parameters: int
    relative_cost: float
    width: int
    image_size: int
    languages: str
    checked: str

    @property
    def download_mb(self) -> int:
        """Size of the fp32 weights in megabytes (10^6 bytes)."""
        return round(self.parameters * 4 / 1e6)


PRESETS: dict[str, Preset] = {
    p.name: p
    for p in (
        Preset(
            name="fast",
            hub_id="openai/clip-vit-base-patch32",
            licence="MIT",
            parameters=151_277_313,
            relative_cost=1.0,
            width=512,
            image_size=224,
            languages="English",
            checked="licence of the repository openai/CLIP; the hub page states none",
        ),
        Preset(
            name="balanced",
            hub_id="google/siglip-base-patch16-256",
            licence="Apache-2.0",
            parameters=203_202_050,
            relative_cost=5.2,
            width=768,
            image_size=256,
            languages="English",
            checked="hub page; parameter count computed",
        ),
        Preset(
            name="best",
            hub_id="google/siglip2-so400m-patch14-384",
            licence="Apache-2.0",
            parameters=1_136_008_498,
            relative_cost=75.5,
            width=1152,
            image_size=384,
            languages="many (WebLI)",
            checked="hub page (licence, 4.54 GB); list of languages unverified",
        ),
        Preset(
            name="multilingual",
            hub_id="google/siglip2-base-patch16-224",
            licence="Apache-2.0",
            parameters=375_187_970,
            relative_cost=4.0,
            width=768,
            image_size=224,
            languages="many (WebLI)",
            checked="licence as on its sister models' hub pages; list of languages unverified",
        ),
    )
}
