"""The registry of methods: every file of `vidsift.models.methods` registers the classes it defines."""

from __future__ import annotations

import importlib
import pkgutil
from difflib import get_close_matches
from importlib.util import find_spec
from typing import Any, TypeVar

from vidsift.errors import ModelNotFoundError
from vidsift.models import methods
from vidsift.models.backbone import Backbone
from vidsift.models.base import RetrievalModel, SearchWeights
from vidsift.models.text import TextTokenizer

_METHODS: dict[str, type[RetrievalModel]] = {}
Method = TypeVar("Method", bound=type[RetrievalModel])

DEFAULT_METHOD = "meanp"


def register(cls: Method) -> Method:
    """Class decorator: make a method known under its `method` name.  Raises ValueError for a taken name."""
    known = _METHODS.setdefault(cls.method, cls)
    if known is not cls:
        raise ValueError(f"method {cls.method!r} is already {known.__module__}.{known.__name__}")
    return cls


def list_methods() -> list[str]:
    """Names of all methods, sorted."""
    for module in pkgutil.iter_modules(methods.__path__):
        importlib.import_module(f"{methods.__name__}.{module.name}")
    return sorted(_METHODS)


def method_class(name: str) -> type[RetrievalModel]:
    """The class of a method.  Raises ModelNotFoundError, with the nearest name, for an unknown one."""
    if name in _METHODS:
        return _METHODS[name]
    if name.isidentifier() and find_spec(f"{methods.__name__}.{name}"):
        importlib.import_module(f"{methods.__name__}.{name}")  # most methods have a file of their own
    if name not in _METHODS and name not in (known := list_methods()):
        near = get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known methods: {', '.join(known)}"
        raise ModelNotFoundError(f"no method {name!r}; {hint}")
    return _METHODS[name]


def create_model(
    name: str,
    backbone: Backbone,
    tokenizer: TextTokenizer,
    *,
    frames_per_clip: int = 12,
    search: SearchWeights | None = None,
    **settings: Any,
) -> RetrievalModel:
    """Build a method over a backbone, its own layers freshly initialised.

    settings: fields of the method's configuration class.  Raises TypeError for a setting it does not have.
    """
    cls = method_class(name)
    config = cls.config_class(**settings)
    return cls(backbone, tokenizer, config, frames_per_clip=frames_per_clip, search=search)
