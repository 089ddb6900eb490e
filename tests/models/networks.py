"""Small timm networks of every family, for tests."""

from typing import Any

TINY: dict[str, Any] = {"patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2, "image_size": 16}
SMALL: dict[str, Any] = {"image_size": 32}
# timm name -> the structure it is shrunk to
NETWORKS: dict[str, dict[str, Any]] = {
    "vit_tiny_patch16_224": TINY,
    "deit_tiny_patch16_224": TINY,
    "deit_tiny_distilled_patch16_224": TINY,  # two heads
    "deit3_small_patch16_224": TINY,  # layer scale, class token without position
    "vit_base_patch16_clip_224": TINY,  # norm before the blocks
    "vit_base_patch16_siglip_224": TINY,  # pools by attention, no class token
    "vit_base_patch16_siglip_gap_224": TINY,  # no prefix token at all
    "vit_little_patch16_reg4_gap_256": TINY,  # registers, pools patches
    "vit_small_patch14_dinov2": TINY,
    "vit_small_patch14_reg4_dinov2": TINY,  # class token and registers
    "vit_small_patch16_dinov3": TINY,  # rotary positions and registers
    "vit_small_patch16_rope_mixed_224": TINY,  # learned rotations of every block
    "eva02_tiny_patch14_224": TINY,  # learned and rotary positions, SwiGLU
    "resnet10t": SMALL,
    "test_resnet": SMALL,
    "seresnet18": SMALL,
    "test_convnext": SMALL,
    "test_convnext2": SMALL,  # convolutional MLP
    "convnextv2_atto": SMALL,  # no layer scale
    "swin_tiny_patch4_window7_224": SMALL,
}
ONE_OF_EACH = (
    "vit_tiny_patch16_224",
    "vit_base_patch16_siglip_gap_224",
    "vit_small_patch14_reg4_dinov2",
    "vit_small_patch16_dinov3",
    "test_resnet",
    "test_convnext",
)
