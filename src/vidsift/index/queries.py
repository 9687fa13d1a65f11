"""Queries of several terms: `a dog + a lake - snow`, each with a weight if wanted."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from vidsift.errors import QueryError

_SIGN = re.compile(r"\s([+-])(?=\s)")
_WEIGHT = re.compile(r"(\d+(?:\.\d+)?|\.\d+)\s*\*\s*(?=\S)")
_MOST, _HEAVIEST = 16, 1_000


@dataclass(frozen=True)
class Term:
    """A sentence and how much it counts; below 0 it counts against a clip.  Raises QueryError for a weight
    beyond 1,000 either way, or that is no number."""

    text: str
    weight: float = 1.0

    def __post_init__(self) -> None:
        if not abs(self.weight) <= _HEAVIEST:
            raise QueryError(f"the weight of {self.text!r} is beyond {_HEAVIEST:,}")


def parse_query(query: str) -> tuple[Term, ...]:
    """Terms of a query.

    Grammar: ``term (" + " term | " - " term)*``, a term being ``[weight *] words``; the signs stand between
    spaces, so that `jack-in-the-box` and `C++` are words. Words in double quotes are taken as they are:
    ``"salt + pepper" + 2 * "a kitchen"``. A query without a sign is one term of weight 1.
    Raises QueryError for a term without words, a query without a term that counts for a clip, or more than 16
    terms.
    """
    # Quoted parts are put aside while signs are looked for.
    aside: list[str] = []

    def put(found: re.Match[str]) -> str:
        aside.append(found.group(1))
        return f"\x00{len(aside) - 1}\x00"

    bare = re.sub(r'"([^"]*)"', put, query.replace("\x00", " "))
    parts = _SIGN.split(f" {bare} ")
    if len(parts) == 1 and not _WEIGHT.match(bare.strip()):
        return (Term(query),)
    signs = ["+", *parts[1::2]]
    terms: list[Term] = []
    for sign, part in zip(signs, parts[::2], strict=True):
        if not part.strip() and not terms and len(parts) > 1:
            continue  # a sign before the first term
        text, weight = part.strip(), 1.0
        found = _WEIGHT.match(text)
        if found:
            weight, text = float(found.group(1)), text[found.end() :]
        text = re.sub("\x00(\\d+)\x00", lambda m: aside[int(m.group(1))], text).strip()
        if not text:
            raise QueryError(f"{query!r}: a term has no words; put signs that are words in double quotes")
        terms.append(Term(text, -weight if sign == "-" else weight))
    if not any(term.weight > 0 for term in terms):
        raise QueryError(f"{query!r}: says only what should not be there; add what should")
    if len(terms) > _MOST:
        raise QueryError(f"a query has at most {_MOST} terms, this one {len(terms)}")
    return tuple(terms)


def as_terms(query: object) -> Sequence[Term] | None:
    """The terms of what a search was asked: a sentence is one; None for a vector."""
    if isinstance(query, str):
        return (Term(query),)
    if isinstance(query, Sequence) and query and all(isinstance(part, Term) for part in query):
        if not any(part.weight > 0 for part in query):
            raise QueryError("the query says only what should not be there; add what should")
        return query
    return None


def describe(terms: Sequence[Term]) -> str:
    """Terms as a query that `parse_query` takes apart again."""
    said = ""
    for term in terms:
        words = f'"{term.text}"' if _SIGN.search(f" {term.text} ") or _WEIGHT.match(term.text) else term.text
        size = abs(term.weight)
        weight = "" if size == 1 else f"{size:g} * "
        sign = "- " if term.weight < 0 else "+ "
        said += f"{' ' if said else ''}{sign if said or term.weight < 0 else ''}{weight}{words}"
    return said
