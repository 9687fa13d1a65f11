"""A recipe: the YAML file that describes one training run completely."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from vidsift.datasets.catalogue import DATASETS, TABLES
from vidsift.losses.similarity import Aggregate
from vidsift.losses.teaching import Teaching
from vidsift.training.pretraining.recipe import PretrainRecipe
from vidsift.training.settings import Section, read_yaml, validated

OnBad = Literal["stop", "skip"]


class DataSection(Section):
    """Where clips and captions come from.

    source: `storyboard`, a public data set (`vidsift data list`), or a table: `csv` or `jsonl` with the
        columns `video` and `caption` (and, if wanted, `start` and `end` in seconds).
    train, val: a split's name or a table.  root: folder of the data set, or of the table's videos.
    holdout: without `val`, the share of the training videos that is kept for validation.
    train_videos, val_videos: use only the first so many.  on_bad: what to do about videos that are missing
        or cannot be decoded and about empty captions.
    channels: the storyboard's videos have sound, speech and writing, too.
    weights: how much each training caption is worth, as `vidsift denoise` writes it: captions of a clip are
        drawn by it, and one of weight 0 is never seen.
    corrupt: for experiments, the share of the training captions that is given another clip's text.
    fold: [k, K] leaves the k-th of K parts of the training videos out of training.
    """

    source: str
    train: str
    val: str | None = None
    root: Path | None = None
    holdout: float = Field(0.1, gt=0, lt=1)
    train_videos: int | None = Field(None, gt=1)
    val_videos: int | None = Field(None, gt=1)
    on_bad: OnBad = "stop"
    channels: bool = False
    weights: Path | None = None
    corrupt: float = Field(0.0, ge=0, lt=1)
    fold: tuple[int, int] | None = None

    @field_validator("fold")
    @classmethod
    def _inside(cls, fold: tuple[int, int] | None) -> tuple[int, int] | None:
        if fold is not None and not 0 <= fold[0] < fold[1]:
            raise ValueError(f"{list(fold)}: give [k, K] with 0 <= k < K")
        return fold

    @field_validator("source")
    @classmethod
    def _known(cls, source: str) -> str:
        known = ("storyboard", *TABLES, *DATASETS)
        if source not in known:
            raise ValueError(f"no data source {source!r}; there are {', '.join(known)}")
        return source


class FeaturesSection(Section):
    """cache: keep what frozen towers say in a store, so that they run once; null decodes and encodes anew.

    folder: of the stores, shared by runs; a store made of another model, data or sampling is refused.
    experts: for MoEE and CE, what clips are seen by instead of pictures: `KIND` or `KIND:MODEL` of
        `vidsift.experts`.  clusters: that pool an expert of several vectors.  width: of its embedding.
    text: their text encoder instead of the backbone's own: `words`, `words:FILE`, or a model (
        `vidsift.models.text_encoders`).
    """

    cache: bool = True
    folder: Path = Path("runs/features")
    experts: tuple[str, ...] = ()
    clusters: int = Field(4, gt=0)
    width: int = Field(128, gt=0)
    text: str | None = None


class MethodSection(Section):
    """name: of a registered method.  settings: fields of its configuration."""

    name: str
    settings: dict[str, Any] = Field(default_factory=dict)
    frames: int = Field(12, gt=0)


class CoarseTeaching(Section):
    """kind: how rows of scores are compared.  of: the student's score that is taught."""

    weight: float = Field(1.0, ge=0)
    kind: Teaching = "pearson"
    of: str = "similarity"


class FineTeaching(Section):
    """kind: how weights over frames are compared.  temperature: of the teachers' weights.

    per_clip: sum over the frames of a clip, as the paper writes it, where the code averages.
    """

    weight: float = Field(2.0, ge=0)
    kind: Teaching = "cross_entropy"
    temperature: float = Field(0.1, gt=0)
    per_clip: bool = False


class Correlation(Section):
    """EERCF's constraint.  vectors: which of the clip's vectors, by weight; null takes the method's own."""

    weight: float = Field(0.001, ge=0)
    vectors: dict[str, float] | None = None


class MaxMargin(Section):
    """The ranking loss of MoEE and CE, on cosines."""

    weight: float = Field(1.0, ge=0)
    margin: float = Field(0.2, gt=0)


class SimilarityMatching(Section):
    """TeachText's loss on the cosines of student and teachers.

    aggregate: how several teachers become one matrix: their `mean`, their mean `weighted` by their recalls on
        the validation set, or `each`, a term per teacher, averaged.
    """

    weight: float = Field(1.0, ge=0)
    of: str = "similarity"
    aggregate: Aggregate = "mean"


class TextRegression(Section):
    """Text vectors stay where those of the model whose text tower is made compact are: 1 - cosine, of
    sentences and, by `words`, of single words."""

    weight: float = Field(1.0, ge=0)
    words: float = Field(0.5, ge=0)


class CompactSection(Section):
    """A text tower of so many layers, so wide, in place of the backbone's; the rest of that model is kept.

    heads: of attention; null takes one per 64 of width, at least two.
    """

    layers: int = Field(gt=0)
    width: int = Field(gt=0)
    heads: int | None = Field(None, gt=0)


class ObjectiveSection(Section):
    """The terms of the loss; a term that is left out does not exist.

    contrastive: weights of the symmetric contrastive loss by the name of the score (`similarity`, `coarse`,
        EERCF's `weak` and `strong`).  same_clip_negatives: count other captions of a clip as negatives.
    """

    contrastive: dict[str, float] = Field(default_factory=lambda: {"similarity": 1.0})
    same_clip_negatives: bool = False
    coarse_teaching: CoarseTeaching | None = None
    fine_teaching: FineTeaching | None = None
    correlation: Correlation | None = None
    max_margin: MaxMargin | None = None
    similarity_matching: SimilarityMatching | None = None
    text_regression: TextRegression | None = None

    @property
    def needs_teachers(self) -> bool:
        return any((self.coarse_teaching, self.fine_teaching, self.similarity_matching))


PRESETS: dict[str, dict[str, Any]] = {
    # TeachCLIP's train.py: 0.2 InfoNCE + coarse + 2 fine, the targets at temperature 1.
    "teachclip-code": {
        "contrastive": {"similarity": 0.2},
        "coarse_teaching": {"weight": 1.0, "kind": "pearson"},
        "fine_teaching": {"weight": 2.0, "kind": "cross_entropy", "temperature": 1.0},
    },
    # The paper: an unweighted sum, the fine term summed over frames.
    "teachclip-paper": {
        "contrastive": {"similarity": 1.0},
        "coarse_teaching": {"weight": 1.0, "kind": "pearson"},
        "fine_teaching": {
            "weight": 1.0,
            "kind": "cross_entropy",
            "temperature": 1.0,
            "per_clip": True,
        },
    },
    # EERCF's main_eercf.py.
    "eercf": {"contrastive": {"weak": 0.8, "strong": 0.2}, "correlation": {"weight": 0.001}},
}


class TeachersSection(Section):
    """models: folders (or names) of trained models.  cache: folder of what they said, shared by runs.

    scores: which pairs they score: those of the batches that this run (or one of the same seed, batch and
    steps) will see, or `all` captions against all clips, for any run.
    """

    models: tuple[str, ...] = Field(min_length=1)
    cache: Path = Path("runs/teachers")
    scores: Literal["batches", "all"] = "batches"


class LearningRates(Section):
    """One rate per part; 0 freezes it.  head: the method's own layers.  scale: the logit scale."""

    vision: float = Field(0.0, ge=0)
    text: float = Field(3e-4, ge=0)
    head: float = Field(1e-3, ge=0)
    scale: float = Field(3e-4, ge=0)


class OptimiserSection(Section):
    """kind: `adamw`, or `bertadam` to repeat published runs.  warmup: share of the steps; then a cosine to 0.

    clip_norm: of the whole gradient.  max_scale: the logit scale is kept at or below it.
    """

    kind: Literal["adamw", "bertadam"] = "adamw"
    lr: LearningRates = LearningRates()
    betas: tuple[float, float] = (0.9, 0.98)
    weight_decay: float = Field(0.02, ge=0)
    warmup: float = Field(0.1, ge=0, lt=1)
    clip_norm: float = Field(1.0, gt=0)
    max_scale: float = Field(100.0, gt=0)


class ValidationSection(Section):
    """every: steps between looks at the validation split.  select: the metric that chooses the model.

    `sum` is R@1 + R@5 + R@10.  direction: texts rank clips (`t2v`) or clips rank texts (`v2t`).
    tune: choose the search's mixing weights and number of candidates on the validation split, the fewest of
    `candidates` within `tolerance` points of R@1 of ranking everything.
    """

    every: int = Field(100, gt=0)
    select: Literal["r1", "r5", "r10", "sum"] = "sum"
    direction: Literal["t2v", "v2t"] = "t2v"
    tune: bool = True
    candidates: tuple[int, ...] = (10, 25, 50, 100)
    tolerance: float = Field(0.3, ge=0)


class Recipe(Section):
    """One run of a method over a pretrained backbone.

    backbone: a bundled name, a folder, a preset or a hub id.  batch: pairs per step, over all processes.
    chunk: pairs encoded at once; a larger batch is then trained by gradient caching (GradCache, 2021).
    memory_gb: choose the chunk so that what backward needs of one chunk fits.  ema: decay of the averaged
    weights that are validated and saved.  compact: distil the text tower of the backbone, which is then a
    trained model of the recipe's method and its own teacher, into a smaller one.  nan: a step whose loss is
    not finite stops the run or is skipped (after `max_skipped` of them in a row the run stops anyway).
    """

    name: str
    seed: int = Field(0, ge=0)
    data: DataSection
    backbone: str
    features: FeaturesSection = FeaturesSection()
    method: MethodSection
    objective: ObjectiveSection = ObjectiveSection()
    teachers: TeachersSection | None = None
    compact: CompactSection | None = None
    optimiser: OptimiserSection = OptimiserSection()
    validation: ValidationSection = ValidationSection()
    steps: int = Field(gt=0)
    batch: int = Field(64, gt=1)
    chunk: int | None = Field(None, gt=0)
    memory_gb: float | None = Field(None, gt=0)
    precision: Literal["fp32", "bf16"] = "fp32"
    ema: float | None = Field(None, gt=0, lt=1)
    nan: OnBad = "stop"
    max_skipped: int = Field(10, gt=0)
    threads: int | None = Field(None, gt=0)
    log_every: int = Field(10, gt=0)
    checkpoint_every: int = Field(100, gt=0)

    @field_validator("objective", mode="before")
    @classmethod
    def _preset(cls, raw: Any) -> Any:
        """`preset: NAME` gives the published terms; what stands beside it goes over them."""
        if not isinstance(raw, dict) or "preset" not in raw:
            return raw
        rest = {key: value for key, value in raw.items() if key != "preset"}
        if raw["preset"] not in PRESETS:
            raise ValueError(f"no objective preset {raw['preset']!r}; there are {', '.join(PRESETS)}")
        found = dict(PRESETS[raw["preset"]])
        for key, value in rest.items():
            both = isinstance(value, dict) and isinstance(found.get(key), dict) and key != "contrastive"
            found[key] = found[key] | value if both else value
        return found

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.objective.needs_teachers and self.teachers is None:
            raise ValueError("the objective teaches, but there are no teachers: add teachers.models")
        if self.objective.text_regression is not None and self.compact is None:
            raise ValueError("objective.text_regression: there is no text tower to follow; give compact")
        if self.compact is not None and (self.optimiser.lr.vision or self.optimiser.lr.head):
            raise ValueError("compact: only the text tower is trained; set optimiser.lr.head and vision to 0")
        if self.chunk is not None and self.memory_gb is not None:
            raise ValueError("give chunk or memory_gb, not both")
        if self.data.channels and self.data.source != "storyboard":
            raise ValueError("data.channels: only the storyboard's videos can be given sound and words")
        if self.data.source != "storyboard" and self.data.root is None:
            raise ValueError(f"data.source {self.data.source} needs data.root, the folder of the videos")
        return self


def load_recipe(path: Path, overrides: list[str] | None = None) -> Recipe | PretrainRecipe:
    """Read a recipe and apply `key=value` overrides (dotted keys; list items by number, `stages.0.steps=10`).

    A recipe with `stages` trains a dual encoder from nothing; any other trains a method over one.
    Raises RecipeError naming the file and the key, with a suggestion for a mistyped one.
    """
    raw = read_yaml(path, overrides)
    if "stages" in raw:
        return validated(PretrainRecipe, raw, path)
    return validated(Recipe, raw, path)
