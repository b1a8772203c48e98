"""Every command of the documentation runs, in order and with the smallest settings, in a folder of its page's own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from docs_chain import Chain
from docs_steps import PAGES, steps

TAKES_LONG = ("--evaluations 4", "compress --precision", "rcnas_edge.compress(", "meta-train", "--strategy random")
"""What steps have in them that take more than ten seconds on a busy core: whole runs, and what is first to measure."""


def each_step() -> Iterator[object]:
    for page in PAGES:
        for place, step in enumerate(steps(page)):
            slow = [pytest.mark.slow] * any(words in step.text for words in TAKES_LONG)
            yield pytest.param(page, place, id=str(step), marks=slow)


@pytest.fixture(scope="module")
def chains(tmp_path_factory: pytest.TempPathFactory, quick_runs: None) -> Iterator[dict[str, Chain]]:
    """The pages that were begun; their kits have few networks."""
    from rcnas_edge import kit

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(kit, "NETWORKS", 12)
        yield {}


@pytest.mark.parametrize(("page", "place"), each_step())
def test_a_step_of_the_documentation_works(
    page: str, place: int, chains: dict[str, Chain], small_teacher: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    if page not in chains:
        chains[page] = Chain(page, tmp_path_factory.mktemp("docs"), small_teacher)
    chains[page].upto(place)
