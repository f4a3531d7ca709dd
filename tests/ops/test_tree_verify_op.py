# SPDX-License-Identifier: Apache-2.0
"""Verification of draft trees as torch ops: registration, dtypes, transforms, compilation."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from tokernel import ops
from tokernel.kernels import tree as kernels
from tokernel.kernels.tree import TokenTree

TREES = [TokenTree([-1, 0, 0, 1]), TokenTree([-1, 0, 1])]
PARENTS = torch.tensor([[-1, 0, 0, 1], [-1, 0, 1, -1]])
WORDS = 12


@pytest.fixture
def drafted():
    """tokens, target_p, draft_p, coins of two sequences."""
    generator = torch.Generator().manual_seed(0)
    target, draft = (torch.randn(2, 4, WORDS, generator=generator).softmax(-1) for _ in range(2))
    tokens = torch.randint(0, WORDS, (2, 4), generator=generator)
    return tokens, target, (target + draft) / 2, torch.rand(2, 5, generator=generator)


def same(found, want):
    for ours, theirs in zip(found, want, strict=True):
        assert ours.dtype == torch.int64
        np.testing.assert_array_equal(ours.numpy(), np.asarray(theirs))


def arrays(*tensors):
    return [None if t is None else t.numpy() for t in tensors]


@pytest.mark.parametrize("rule", ["sequoia", "specinfer", "eagle", "target_only", "typical"])
def test_equals_the_low_level_function(drafted, rule):
    tokens, target, draft, coins = drafted
    q = draft if rule in ("sequoia", "specinfer") else None
    want = kernels.verify_stochastic(*arrays(tokens, target, q, coins), TREES, rule)
    for given in (TREES, PARENTS, PARENTS.int()):
        same(ops.verify_stochastic(tokens, target, q, coins, given, rule), want)
    leaf = target.clone().requires_grad_()
    found = ops.verify_stochastic(tokens, leaf, q, coins, TREES, rule)
    same(found, want)
    assert not any(x.requires_grad for x in found)
    with torch.inference_mode():
        same(ops.verify_stochastic(tokens, target, q, coins, TREES, rule), want)


def test_greedy_equals_the_low_level_function(drafted):
    tokens, target, _, _ = drafted
    say = target.argmax(-1)
    want = kernels.verify_greedy(*arrays(tokens, say), TREES)
    for given in (TREES, PARENTS):
        same(ops.verify_greedy(tokens, say, given), want)
        same(ops.verify_greedy(tokens.int(), say.int(), given), want)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_that_of_the_rounded_rows(drafted, dtype):
    tokens, target, draft, coins = drafted
    p, q = target.to(dtype), draft.to(dtype)
    found = ops.verify_stochastic(tokens, p, q, coins, TREES)
    same(found, ops.verify_stochastic(tokens, p.float(), q.float(), coins, TREES))
    index = ops.residual_sample(p[0], q[0], coins[0, :4])
    np.testing.assert_array_equal(index, ops.residual_sample(p[0].float(), q[0].float(), coins[0, :4]))


def test_bfloat16_rows_may_be_as_far_off_as_rounding_makes_them():
    few = torch.tensor([[0.5, 0.50390625]], dtype=torch.bfloat16)
    assert ops.residual_sample(few, few, torch.zeros(1)) == 0
    more = torch.tensor([[0.5, 0.5078125]], dtype=torch.bfloat16)
    with pytest.raises(ValueError, match=r"sum to 1 within 0\.0049, got a sum of 1\.00781 in row 0$"):
        ops.residual_sample(more, more, torch.zeros(1))


def test_without_a_batch(drafted):
    tokens, target, draft, coins = drafted
    want = ops.verify_stochastic(tokens[:1], target[:1], draft[:1], coins[:1], TREES[0])
    found = ops.verify_stochastic(tokens[0], target[0], draft[0], coins[0], TREES[0])
    same(found, [x[0] for x in want])
    say = target.argmax(-1)
    same(
        ops.verify_greedy(tokens[0], say[0], TREES[0]), [x[0] for x in ops.verify_greedy(tokens[:1], say[:1], TREES[0])]
    )


def test_chain_equals_the_low_level_function(drafted):
    tokens, target, draft, coins = drafted
    chain = (tokens[:, 1:], target, draft[:, :3], coins[:, 1:])
    want = kernels.verify_chain(*arrays(*chain))
    same(ops.verify_chain(*chain), want)
    same(kernels.verify_chain(*chain), want)
    with pytest.raises(ValueError, match=r"^verify_chain: tokens and uniforms must be .*, got \(3,\) and \(2, 4\)$"):
        ops.verify_chain(tokens[0, 1:], *chain[1:])


def test_vmap(drafted):
    tokens, target, draft, coins = drafted
    stacked = [torch.stack([x, x.flip(0)]) for x in (tokens, target, draft, coins)]
    found = torch.vmap(lambda *args: tuple(ops.verify_stochastic(*args, PARENTS[0])))(*stacked)
    for i in range(2):
        same([x[i] for x in found], ops.verify_stochastic(*(x[i] for x in stacked), PARENTS[0]))
    say = stacked[1].argmax(-1)
    found = torch.vmap(lambda t, s, p: tuple(ops.verify_greedy(t, s, p)))(stacked[0], say, PARENTS.expand(2, -1, -1))
    for i in range(2):
        same([x[i] for x in found], ops.verify_greedy(stacked[0][i], say[i], PARENTS))
    index = torch.vmap(ops.residual_sample)(stacked[1][:, 0], stacked[2][:, 0], stacked[3][:, 0, :4])
    np.testing.assert_array_equal(index[1], ops.residual_sample(target[1], draft[1], coins[1, :4]))


def test_compiles_whole(drafted):
    _tokens, _target, _draft, _coins = drafted

    def step(tokens, target, draft, coins, parents):
        kept = ops.verify_stochastic(tokens, target, draft, coins, parents, "specinfer")
        greedy = ops.verify_greedy(tokens, target.argmax(-1), parents)
        return *kept, *greedy, ops.residual_sample(target[0], draft[0], coins[0, :4])

    torch._dynamo.reset()
    compiled = torch.compile(step, backend="aot_eager", fullgraph=True)
    for given in (PARENTS, TREES[0]):
        same(compiled(*drafted, given), step(*drafted, given))


def test_the_shapes_of_fake_tensors(drafted):
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode() as mode:
        tokens, target, draft, coins, parents = (mode.from_tensor(x) for x in (*drafted, PARENTS))
        found = ops.verify_stochastic(tokens, target, draft, coins, parents)
        assert [tuple(x.shape) for x in found] == [(2, 4), (2,), (2,)]
        assert [tuple(x.shape) for x in ops.verify_greedy(tokens, tokens, parents)] == [(2, 4), (2,), (2,)]
        assert ops.residual_sample(target[0], draft[0], coins[0, :4]).shape == (4,)
        assert all(x.dtype == torch.int64 for x in found)
