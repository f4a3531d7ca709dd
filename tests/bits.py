# SPDX-License-Identifier: Apache-2.0
"""Answers to compare bit by bit."""

import tokernel


def on_one_and_two_threads(run):
    """Return what `run` gives on one thread and on two."""
    try:
        results = []
        for threads in (1, 2):
            tokernel.set_num_threads(threads)
            results.append(run())
        return results
    finally:
        tokernel.set_num_threads(0)
