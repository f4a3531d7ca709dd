# SPDX-License-Identifier: Apache-2.0
"""A ViT with timm's names and options, for tests where timm itself cannot be installed."""

import torch
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint


class Attention(nn.Module):
    def __init__(self, dim, heads, qk_norm, attn_drop, proj_drop, fused):
        super().__init__()
        self.num_heads, self.head_dim = heads, dim // heads
        self.scale = self.head_dim**-0.5
        self.fused_attn = fused
        self.qkv = nn.Linear(dim, 3 * dim)
        self.q_norm = nn.LayerNorm(self.head_dim) if qk_norm else nn.Identity()
        self.k_norm = nn.LayerNorm(self.head_dim) if qk_norm else nn.Identity()
        self.attn_drop = nn.Dropout(attn_drop)
        self.norm = nn.Identity()
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(proj_drop)

    def forward(self, x, attn_mask=None):
        batch, tokens, dim = x.shape
        qkv = self.qkv(x).reshape(batch, tokens, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        q, k = self.q_norm(q), self.k_norm(k)
        if self.fused_attn:
            p = self.attn_drop.p if self.training else 0.0
            x = functional.scaled_dot_product_attention(q, k, v, attn_mask=attn_mask, dropout_p=p)
        else:
            x = self.attn_drop((q * self.scale @ k.transpose(-2, -1)).softmax(-1)) @ v
        return self.proj_drop(self.proj(self.norm(x.transpose(1, 2).reshape(batch, tokens, dim))))


class LayerScale(nn.Module):
    def __init__(self, dim, value):
        super().__init__()
        self.gamma = nn.Parameter(value * torch.ones(dim))

    def forward(self, x):
        return x * self.gamma


class DropPath(nn.Module):
    def __init__(self, p):
        super().__init__()
        self.p = p

    def forward(self, x):
        if not self.training:
            return x
        return x * x.new_empty(x.shape[0], 1, 1).bernoulli_(1 - self.p) / (1 - self.p)


class Mlp(nn.Module):
    def __init__(self, dim, hidden):
        super().__init__()
        self.fc1, self.act, self.fc2 = nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim)

    def forward(self, x):
        return self.fc2(self.act(self.fc1(x)))


class Block(nn.Module):
    def __init__(self, dim, heads, mlp_ratio, init_values, drop_path, qk_norm, attn_drop, proj_drop, fused):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = Attention(dim, heads, qk_norm, attn_drop, proj_drop, fused)
        self.ls1 = LayerScale(dim, init_values) if init_values else nn.Identity()
        self.drop_path1 = DropPath(drop_path) if drop_path else nn.Identity()
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))
        self.ls2 = LayerScale(dim, init_values) if init_values else nn.Identity()
        self.drop_path2 = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, x, attn_mask=None):
        x = x + self.drop_path1(self.ls1(self.attn(self.norm1(x), attn_mask=attn_mask)))
        return x + self.drop_path2(self.ls2(self.mlp(self.norm2(x))))


class ResPostBlock(Block):
    """Normalises after attention and MLP: the same parts as a pre-norm block, another function."""

    def forward(self, x, attn_mask=None):
        x = x + self.norm1(self.attn(x))
        return x + self.norm2(self.mlp(x))


class PatchEmbed(nn.Module):
    def __init__(self, image, patch, channels, dim):
        super().__init__()
        self.num_patches = (image // patch) ** 2
        self.proj = nn.Conv2d(channels, dim, patch, patch)

    def forward(self, x):
        return self.proj(x).flatten(2).transpose(1, 2)


class VisionTransformer(nn.Module):
    def __init__(
        self,
        *,
        image=16,
        patch=4,
        dim=16,
        depth=3,
        heads=2,
        mlp_ratio=2.0,
        classes=5,
        global_pool="token",
        class_token=True,
        dist_token=False,
        fc_norm=None,
        block=Block,
        init_values=None,
        drop_path=0.0,
        qk_norm=False,
        attn_drop=0.0,
        proj_drop=0.0,
        fused=True,
    ):
        super().__init__()
        self.num_classes, self.global_pool = classes, global_pool
        self.num_prefix_tokens = int(class_token) + int(dist_token)
        self.grad_checkpointing = False
        self.patch_embed = PatchEmbed(image, patch, 3, dim)
        self.cls_token = nn.Parameter(torch.randn(1, 1, dim)) if class_token else None
        self.dist_token = nn.Parameter(torch.randn(1, 1, dim)) if dist_token else None
        self.pos_embed = nn.Parameter(torch.randn(1, self.patch_embed.num_patches + self.num_prefix_tokens, dim))
        options = (init_values, drop_path, qk_norm, attn_drop, proj_drop, fused)
        self.blocks = nn.Sequential(*[block(dim, heads, mlp_ratio, *options) for _ in range(depth)])
        pooled_norm = global_pool == "avg" if fc_norm is None else fc_norm
        self.norm = nn.Identity() if pooled_norm else nn.LayerNorm(dim, eps=1e-6)
        self.fc_norm = nn.LayerNorm(dim, eps=1e-6) if pooled_norm else nn.Identity()
        self.head = nn.Linear(dim, classes)

    def forward_features(self, x, attn_mask=None):
        x = self.patch_embed(x)
        special = [token.expand(len(x), -1, -1) for token in (self.cls_token, self.dist_token) if token is not None]
        x = torch.cat([*special, x], 1) + self.pos_embed
        if attn_mask is not None:
            for block in self.blocks:
                x = block(x, attn_mask=attn_mask)
        elif self.grad_checkpointing:
            for block in self.blocks:
                x = checkpoint(block, x, use_reentrant=False)
        else:
            x = self.blocks(x)
        return self.norm(x)

    def forward_head(self, x, pre_logits=False):
        x = x[:, self.num_prefix_tokens :].mean(1) if self.global_pool == "avg" else x[:, 0]
        x = self.fc_norm(x)
        return x if pre_logits else self.head(x)

    def forward(self, x, attn_mask=None):
        return self.forward_head(self.forward_features(x, attn_mask))


def load_golden(vectors, **options):
    """Build the ViT of a golden file and give it the weights stored there."""
    weights = {name[2:]: torch.from_numpy(value) for name, value in vectors.items() if name.startswith("w.")}
    dim, _, patch, _ = weights["patch_embed.proj.weight"].shape
    depth = 1 + max(int(name.split(".")[1]) for name in weights if name.startswith("blocks."))
    model = VisionTransformer(
        image=vectors["image"].shape[-1],
        patch=patch,
        dim=dim,
        depth=depth,
        heads=int(vectors["num_heads"]),
        classes=len(weights["head.bias"]),
        **options,
    )
    model.load_state_dict(weights)
    return model.eval()
