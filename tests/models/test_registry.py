"""The registry: methods by name, found without importing the others, and named clearly when unknown."""

import subprocess
import sys

import pytest

from vidsift.errors import ModelNotFoundError
from vidsift.models import RetrievalModel, list_methods, register
from vidsift.models.methods.meanp import MeanPool
from vidsift.models.registry import method_class


def test_every_listed_method_is_found_under_its_own_name() -> None:
    assert "meanp" in list_methods()
    assert {name: method_class(name).method for name in list_methods()} == {n: n for n in list_methods()}


def test_a_method_with_a_file_of_its_own_is_loaded_alone() -> None:
    code = (
        "import sys; from vidsift.models.registry import method_class; method_class('meanp');"
        "print([m for m in sys.modules if m.startswith('vidsift.models.methods.')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['vidsift.models.methods.meanp']"


def test_an_unknown_method_gets_the_nearest_name() -> None:
    with pytest.raises(ModelNotFoundError, match="did you mean 'meanp'"):
        method_class("meanpp")
    with pytest.raises(ModelNotFoundError, match=r"known methods: .*meanp"):
        method_class("../q")


def test_two_classes_cannot_share_a_name() -> None:
    class Other(RetrievalModel):
        method = "meanp"

    with pytest.raises(ValueError, match="already"):
        register(Other)
    assert register(MeanPool) is MeanPool
