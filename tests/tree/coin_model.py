# SPDX-License-Identifier: Apache-2.0
"""The lossless rules of tree verification over fractions: what comes out with which probability, exactly.

Written from section 4 of the papers' notes, not from the kernels. A coin is integrated over, never drawn: a test that
keeps a child where u q <= p does so with probability min(1, p / q).
"""

from collections import defaultdict
from fractions import Fraction
from itertools import product

ONE = Fraction(1)
WITH_DRAFT = ("sequoia", "specinfer")


def norm(row):
    total = sum(row)
    return [x / total for x in row] if total else row


def residual(p, q):
    left = [max(a - b, Fraction(0)) for a, b in zip(p, q, strict=True)]
    return norm(left) if any(left) else p


def without(row, x):
    rest = [Fraction(0) if i == x else v for i, v in enumerate(row)]
    return norm(rest) if any(rest) else row


def tests(rule, words, p, q):
    """For a node whose children hold these words: pairs (place of the kept child or None, p for the bonus, chance)."""
    found, reach, tested = [], ONE, Fraction(0)
    first = p
    for place, x in enumerate(words):
        if rule == "target_only":  # one coin: what is left of it is uniform above `tested`
            share = p[x] and first[x]
            keep = share / (1 - tested) if share else Fraction(0)
            tested += share
        elif rule == "eagle":
            keep = p[x]
        else:
            keep = min(ONE, p[x] / q[x]) if q[x] else Fraction(int(p[x] > 0))
        found.append((place, p, reach * keep))
        reach *= 1 - keep
        if not reach:
            return found
        if rule in WITH_DRAFT:
            p = residual(p, q)
        else:
            p = without(p, x)
        if rule == "sequoia":
            q = [Fraction(0) if i == x else v for i, v in enumerate(q)]
            if not any(q):
                break
            q = norm(q)
    return [*found, (None, p, reach)]


def outcomes(rule, parents, tokens, target, draft):
    """{(path, bonus): chance} for these tokens; target and draft are rows of the nodes."""
    found = defaultdict(Fraction)

    def walk(path, chance):
        node = path[-1]
        children = [c for c in range(len(parents)) if parents[c] == node]
        for place, p, share in tests(rule, [tokens[c] for c in children], target[node], draft[node]):
            if not share:
                continue
            if place is not None:
                walk((*path, children[place]), chance * share)
                continue
            for word, mass in enumerate(p):
                if mass:
                    found[path, word] += chance * share * mass

    walk((0,), ONE)
    return dict(found)


def drafts(rule, parents, table, start):
    """Pairs (tokens of the nodes, chance) of all drafts. `table` says what the draft model expects after a word; where
    children are chosen without chance, they are its most likely words."""
    found = [({0: start}, ONE)]
    for node in range(len(parents)):
        children = [c for c in range(len(parents)) if parents[c] == node]
        longer = []
        for (tokens, chance), words in product(found, product(range(len(table)), repeat=len(children))):
            share = draw_chance(rule, table[tokens[node]], words)
            if share:
                longer.append(({**tokens, **dict(zip(children, words, strict=True))}, chance * share))
        found = longer
    return [([tokens[i] for i in range(len(parents))], chance) for tokens, chance in found]


def draw_chance(rule, q, words):
    if rule not in WITH_DRAFT:
        order = sorted(range(len(q)), key=lambda x: (-q[x], x))
        return Fraction(int(tuple(order[: len(words)]) == words))
    chance = ONE
    for word in words:
        chance *= q[word]
        if rule == "sequoia" and chance:
            q = without(q, word)
    return chance if rule == "specinfer" or len(set(words)) == len(words) else Fraction(0)


def first_words(rule, parents, target_table, draft_table, start, length):
    """{words: chance} of the first `length` words that come out, later steps being plain samples of the target."""
    found = defaultdict(Fraction)
    for tokens, chance in drafts(rule, parents, draft_table, start):
        target = [target_table[x] for x in tokens]
        draft = [draft_table[x] for x in tokens]
        for (path, bonus), share in outcomes(rule, parents, tokens, target, draft).items():
            words = (*(tokens[c] for c in path[1:]), bonus)
            for rest, mass in sampled(target_table, words[-1], length - len(words)):
                found[(words + rest)[:length]] += chance * share * mass
    return dict(found)


def sampled(table, word, length):
    """Pairs (words, chance) of plain samples after a word."""
    if length <= 0:
        return [((), ONE)]
    return [
        ((x, *rest), mass * share)
        for x, mass in enumerate(table[word])
        if mass
        for rest, share in sampled(table, x, length - 1)
    ]
