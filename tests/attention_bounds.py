# SPDX-License-Identifier: Apache-2.0
"""How near an attention must come to its definition."""

import torch

UNIT = {torch.float32: 2.0**-24, torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8}


def hold_to_definition(answer, exact, plain, reach):
    """Hold answer and lse to twice the error of the definition computed in the dtype (`plain`), plus one rounding of
    the largest value, `reach`; `exact` is the definition in float64."""
    (out, lse), (exact, exact_lse), (plain, plain_lse) = answer, exact, plain
    assert lse.dtype == torch.float32
    bound = 2 * float((plain.double() - exact).abs().max()) + 2 * UNIT[out.dtype] * reach
    assert float((out.double() - exact).abs().max()) <= bound
    empty = exact_lse == -torch.inf
    assert torch.equal(empty, lse == -torch.inf)
    assert not out[empty].any()
    exact_lse, plain_lse, lse = (x.double().masked_fill(empty, 0.0) for x in (exact_lse, plain_lse, lse))
    error = float((plain_lse - exact_lse).abs().max())
    assert float((lse - exact_lse).abs().max()) <= 2 * error + 4 * UNIT[torch.float32] * (1 + float(lse.abs().max()))
