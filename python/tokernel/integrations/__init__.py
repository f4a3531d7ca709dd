# SPDX-License-Identifier: Apache-2.0
"""Live models changed in place, and put back exactly: timm-shaped and transformers ViTs, LLaVAs, diffusers blocks."""

from tokernel.integrations._patch import Patch, patch_of, unpatch

__all__ = ["Patch", "patch_of", "unpatch"]
