# SPDX-License-Identifier: Apache-2.0
"""The registry of papers: complete, unique, and readable without torch."""

import re
import subprocess
import sys

import pytest

from tokernel.papers import Paper, paper, papers


def test_slugs_are_unique_and_name_their_module():
    slugs = [p.slug for p in papers()]
    assert len(slugs) == len(set(slugs))
    assert all(p.module.rsplit(".", 1)[1] == p.slug for p in papers())


@pytest.mark.parametrize("record", papers(), ids=lambda p: p.slug)
def test_every_field_says_something(record: Paper):
    assert re.fullmatch(r"\d{4}\.\d{5}", record.arxiv)
    assert record.verified_against in ("repo", "paper", "abstract", "reconstruction")
    assert record.status in ("complete", "partial")
    assert record.official_repo is None or re.fullmatch(r"[\w.-]+/[\w.-]+", record.official_repo)
    assert all((record.title, record.venue, record.licence, record.notes))


def test_a_reconstruction_says_so_in_its_notes():
    assert all("our reconstruction" in p.notes for p in papers() if p.verified_against == "reconstruction")


def test_unknown_slug_names_the_known_ones():
    with pytest.raises(ValueError, match=r"paper: slug expected one of tome, .*; got 'nope'"):
        paper("nope")


def test_reading_the_registry_needs_no_torch():
    code = (
        "import sys; sys.modules['torch'] = None; import tokernel;"
        "print(len(tokernel.papers.papers()) > 0, tokernel.papers.paper('tome').venue)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.stdout.strip() == "True ICLR 2023", result.stderr


def test_records_are_frozen():
    with pytest.raises(AttributeError):
        papers()[0].slug = "other"  # type: ignore[misc]
