"""Recipes as YAML files: read, overridden by `key=value`, checked strictly, with a suggestion for a slip."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from vidsift.errors import RecipeError


class Section(BaseModel):
    """A part of a recipe: frozen, and no key that it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True)


Model = TypeVar("Model", bound=Section)


def read_yaml(path: Path, overrides: list[str] | None = None) -> dict[str, Any]:
    """Read a recipe and apply `key=value` overrides (dotted keys; list items by number, `stages.0.steps=10`).

    `extends: [FILE, ...]` puts the recipe over others, which lie beside it by their relative names.
    Raises RecipeError naming the file, or the override.
    """
    raw = _read(path, ())
    for override in overrides or []:
        _override(raw, override)
    return raw


def _read(path: Path, readers: tuple[Path, ...]) -> dict[str, Any]:
    """A file over those that it extends, one after the other."""
    if path.resolve() in readers:
        raise RecipeError(f"{path}: extends itself")
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RecipeError(f"{path}: cannot read the recipe: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: not valid YAML: {error}") from error
    if not isinstance(raw, dict):
        raise RecipeError(f"{path}: a recipe is a YAML mapping of keys, found {type(raw).__name__}")
    bases = raw.pop("extends", [])
    bases = [bases] if isinstance(bases, str) else bases
    if not isinstance(bases, list) or not all(isinstance(base, str) for base in bases):
        raise RecipeError(f"{path}: extends takes the names of recipe files, relative to this one")
    found: dict[str, Any] = {}
    for base in bases:
        _merge(found, _read(path.parent / base, (*readers, path.resolve())))
    _merge(found, raw)
    return found


def _merge(into: dict[str, Any], over: dict[str, Any]) -> None:
    """Put one mapping over another; mappings inside are merged, everything else is replaced."""
    for key, value in over.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = value


def validated(kind: type[Model], raw: dict[str, Any], path: Path) -> Model:
    """Make a recipe of what was read.  Raises RecipeError with every key at fault, suggestions included."""
    try:
        return kind.model_validate(raw)
    except ValidationError as error:
        raise RecipeError(f"{path}: " + "; ".join(_explain(kind, e) for e in error.errors())) from error


def _override(raw: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator:
        raise RecipeError(f"{override!r}: an override is key=value, e.g. seed=1")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise RecipeError(f"{override!r}: the value is not valid YAML") from error
    *parents, last = key.split(".")
    node: Any = raw
    for parent in parents:
        if isinstance(node, dict):
            if node.get(parent) is None:
                node[parent] = {}
            node = node[parent]
        elif isinstance(node, list) and parent.isdecimal() and int(parent) < len(node):
            node = node[int(parent)]
        else:
            raise RecipeError(f"{override!r}: there is no {parent!r} to set anything in")
    if isinstance(node, list) and last.isdecimal() and int(last) < len(node):
        node[int(last)] = value
    elif isinstance(node, dict):
        node[last] = value
    else:
        raise RecipeError(f"{override!r}: there is no {last!r} to set")


def _explain(kind: type[BaseModel], error: Any) -> str:
    where = ".".join(str(part) for part in error["loc"]) or "recipe"
    if error["type"] != "extra_forbidden":
        return f"{where}: {error['msg']}"
    known = sorted({name for section in _sections(kind) for name in section.model_fields})
    close = difflib.get_close_matches(str(error["loc"][-1]), known, n=1)
    return f"{where}: unknown key" + (f"; did you mean {close[0]!r}?" if close else "")


def _sections(kind: type[BaseModel]) -> Iterator[type[BaseModel]]:
    """A section and all that it is made of."""
    yield kind
    for info in kind.model_fields.values():
        for part in _types(info.annotation):
            if isinstance(part, type) and issubclass(part, BaseModel):
                yield from _sections(part)


def _types(annotation: Any) -> Iterator[Any]:
    arguments = get_args(annotation)
    if not arguments:
        yield annotation
    for argument in arguments:
        yield from _types(argument)
