"""Queries of several terms: the grammar, and scores that add up."""

from __future__ import annotations

from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vidsift.errors import QueryError
from vidsift.index import Term, parse_query
from vidsift.index.queries import describe


@pytest.mark.parametrize(
    ("query", "terms"),
    [
        ("a red ball", [("a red ball", 1)]),
        ("jack-in-the-box and C++", [("jack-in-the-box and C++", 1)]),
        ("a dog + a lake - snow", [("a dog", 1), ("a lake", 1), ("snow", -1)]),
        ("2 * a dog - .5*snow", [("a dog", 2), ("snow", -0.5)]),
        ("- snow + a lake", [("snow", -1), ("a lake", 1)]),
        ('"salt + pepper" + 2 * "a kitchen"', [("salt + pepper", 1), ("a kitchen", 2)]),
        ('"a quoted sentence"', [('"a quoted sentence"', 1)]),
        ("3 * dogs", [("dogs", 3)]),
        ("3 dogs", [("3 dogs", 1)]),
    ],
)
def test_the_grammar(query, terms):
    assert [(term.text, term.weight) for term in parse_query(query)] == terms


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("a dog + ", "no words"),
        ("a dog + - snow", "no words"),
        ("- snow", "only what should not"),
        ("0 * dog", "only what should not"),
        ("9" * 400 + " * a dog + a lake", "beyond 1,000"),
        ("a lake - 1001 * a dog", "beyond 1,000"),
        (" + ".join("abcdefghijklmnopq"), "at most 16"),
    ],
)
def test_what_is_no_query_is_refused(query, says):
    with pytest.raises(QueryError, match=says):
        parse_query(query)


WORD = st.text("abc+-*2 ", min_size=1, max_size=8).map(str.strip).filter(bool)
TERMS = st.lists(st.tuples(WORD, st.sampled_from([1.0, 2.0, 0.5, -1.0, -3.0])), min_size=2, max_size=5)


@given(TERMS.filter(lambda terms: any(weight > 0 for _, weight in terms)))
def test_terms_that_are_written_down_are_read_back(terms):
    wanted = tuple(Term(text, weight) for text, weight in terms)
    assert parse_query(describe(wanted)) == wanted


@given(st.text(max_size=60))
def test_any_text_is_a_query_or_is_refused_in_words(text):
    with suppress(QueryError):  # and nothing else
        assert parse_query(text)


class Model:
    """Says a known vector for a word."""

    name = "fake"

    def __init__(self, fingerprint, vectors):
        self._fingerprint, self._vectors = fingerprint, vectors

    def fingerprint(self):
        return self._fingerprint

    def encode_queries(self, texts):
        return np.stack([self._vectors[text] for text in texts])


def test_scores_of_terms_add_up_by_their_weights(library, kit):
    index = library[2]
    vectors = {
        word: kit.unit(np.random.default_rng(n).normal(size=kit.width)) for n, word in enumerate("abc")
    }
    model = Model(kit.fingerprint, vectors)

    def scores(query):
        hits = index.search(query, model, k=99, candidates=99, group_by="clip").hits
        return {hit.clip_id: hit.score for hit in hits}

    alone = {word: scores(word) for word in "abc"}
    found = scores(parse_query("a + 2 * b - 0.5 * c"))
    for clip, score in found.items():
        wanted = (alone["a"][clip] + 2 * alone["b"][clip] - 0.5 * alone["c"][clip]) / 3.5
        assert score == pytest.approx(wanted, abs=1e-3)
    assert list(found) == sorted(found, key=found.get, reverse=True)
    assert scores([Term("a", 7.0)]) == alone["a"], "one term is the sentence itself"
    assert index.search(parse_query("a - b"), model).query == "a - b"
    with pytest.raises(QueryError, match="cancel"):
        index.search(parse_query("a - a"), model)
    with pytest.raises(QueryError, match="only what should not"):
        index.search([Term("a", -1.0)], model)
    with pytest.raises(QueryError, match="beyond"):
        Term("a", float("nan"))
    with pytest.raises(QueryError, match="empty"):
        index.search([Term("a"), Term(" ")], model)
