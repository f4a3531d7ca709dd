# SPDX-License-Identifier: Apache-2.0
"""The README of the room: its table of papers, and its snippets."""

import room_readme


def test_the_table_is_the_registry():
    assert room_readme.table("text") == room_readme.registry("text")


def test_the_snippets_run_and_print_what_they_say():
    names = room_readme.run_snippets("text")
    assert names["ids"] == [259, 32, 240, 159, 145, 141, 260]
    assert names["text"] == "hello 👍<|end|>"
    assert names["shown"] == ["hello", " ", "", "", "", "👍", "<|end|>", ""]
    assert names["spans"].tolist() == [[0, 5], [5, 6], *[[6, 7]] * 4]
