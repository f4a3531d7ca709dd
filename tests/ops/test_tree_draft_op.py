# SPDX-License-Identifier: Apache-2.0
"""Drawing, growing and fixing as torch ops: registration, no gradients, transforms, compilation."""

import pytest

torch = pytest.importorskip("torch")

from tokernel import ops


def random(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def table():
    return random(2, 12, 3), random(2, 12, seed=1) < 0.8


def equal(got, want):
    assert len(got) == len(want)
    return all(torch.equal(g, w) for g, w in zip(got, want, strict=True))


def test_opcheck(table):
    q, u = random(3, 17).softmax(-1), random(3, 17, seed=1)
    checked = torch.library.opcheck
    checked(torch.ops.tokernel.expand_greedy.default, (*table, 7, None, 2))
    checked(torch.ops.tokernel.expand_greedy.default, (*table, None, 0.25, None))
    checked(torch.ops.tokernel.sample_without_replacement.default, (q, 5, u))
    checked(torch.ops.tokernel.masked_transfer.default, (q, u < 0.5, torch.tensor([1, 2, 3]), 0.1))
    checked(torch.ops.tokernel.masked_transfer.default, (q, u < 0.5, None, 0.1))


def test_gumbel_argmax_registration():
    """Its only output is an integer, which opcheck cannot differentiate."""
    logits, u = random(3, 17), random(3, 17, seed=1)
    op = torch.ops.tokernel.gumbel_argmax.default
    torch.library.opcheck(op, (logits, u, 1.0), test_utils=("test_schema", "test_faketensor"))
    assert torch.equal(op(logits, u, 1.0), ops.gumbel_argmax(logits, u))
    assert torch.equal(ops.gumbel_argmax(logits, u, 0.0), logits.argmax(-1))


def test_samples_equal_the_race_of_torch():
    q, u = random(4, 300).softmax(-1), random(4, 300, seed=1)
    index, prob = ops.sample_without_replacement(q, 9, u)
    assert torch.equal(index, (u.double().log() / q.double()).topk(9).indices)
    taken = q.double().gather(-1, index)
    torch.testing.assert_close(prob.double(), taken / (1 - taken.cumsum(-1) + taken), rtol=1e-5, atol=0)


def test_without_gradient():
    q = random(2, 9).requires_grad_()
    u = random(2, 9, seed=1)
    outputs = [
        *ops.sample_without_replacement(q, 2, u),
        ops.gumbel_argmax(q, u),
        ops.masked_transfer(q, u < 0.5, None, 0.1),
    ]
    outputs += ops.expand_greedy(q[None, :, :3], torch.ones(1, 2, dtype=torch.bool), threshold=0.1)
    assert not any(x.requires_grad for x in outputs)


def test_vmap(table):
    q, u = random(5, 2, 30), random(5, 2, 30, seed=1)
    got = torch.vmap(lambda a, b: ops.sample_without_replacement(a, 4, b))(q, u)
    want = ops.sample_without_replacement(q.flatten(0, 1), 4, u.flatten(0, 1))
    assert equal([x.flatten(0, 1) for x in got], want)
    got = torch.vmap(ops.gumbel_argmax)(q, u)
    assert torch.equal(got.flatten(), ops.gumbel_argmax(q.flatten(0, 1), u.flatten(0, 1)))
    draw_p, known = table
    got = torch.vmap(lambda p, k: ops.expand_greedy(p[None], k[None], budget=6))(draw_p, known)
    assert equal([x[:, 0] for x in got], ops.expand_greedy(draw_p, known, budget=6))


def test_compiles_whole(table):
    def step(logits, u, draw_p, known):
        index, prob = ops.sample_without_replacement(logits.softmax(-1), 3, u)
        found = ops.expand_greedy(draw_p, known, threshold=0.2)
        return (index, prob, *found, ops.gumbel_argmax(logits, u, 0.5), ops.masked_transfer(u, u < 0.5, None, 0.2))

    inputs = (random(2, 20), random(2, 20, seed=1), *table)
    torch._dynamo.reset()
    assert equal(torch.compile(step, fullgraph=True, backend="aot_eager")(*inputs), step(*inputs))


def test_errors_pass_through(table):
    with pytest.raises(
        ValueError, match=r"^expand_greedy: budget must be given or threshold, and not both, got neither$"
    ):
        ops.expand_greedy(*table)
    with pytest.raises(ValueError, match=r"^sample_without_replacement: k must be in \[0, 4\], got 5$"):
        ops.sample_without_replacement(torch.zeros(2, 4), 5, torch.zeros(2, 4))
    with pytest.raises(TypeError, match=r"^gumbel_argmax: u must be float32, got float64$"):
        ops.gumbel_argmax(torch.zeros(2, 4), torch.zeros(2, 4).double())
    with pytest.raises(ValueError, match=r"^masked_transfer: count must be .*, got neither$"):
        ops.masked_transfer(torch.zeros(2, 4), torch.zeros(2, 4).bool())
