"""What timm computes with attention pooling in a model with registers, whose pooling does not see them.

    python make_map_registers.py [SEED]

Beside this file, in vision/timm_map_reg4/ (README.md): vit_so150m_patch16_reg4_map_256, made small: 16 x 16 pictures in patches of 4, 32 wide,
2 deep, 2 heads, 4 registers, no class token, 7 classes, batch 3; every parameter random. expected.safetensors has the same tensors as the
others' files.
"""

import sys

import torch

from make_eva import CLASSES, HERE, STEPS, dump, saved_by_timm


def whole(model, x, _):
    features = model.forward_features(x)
    return features, model.forward_head(features)


def main(seed):
    g = torch.Generator().manual_seed(seed)
    sizes = dict(img_size=16, patch_size=4, embed_dim=32, depth=2, num_heads=2, num_classes=CLASSES, mlp_ratio=2.0)
    folder = HERE / "timm_map_reg4"
    model, x, y = saved_by_timm("vit_so150m_patch16_reg4_map_256", folder, sizes, g)
    dump(folder / "expected.safetensors", model, whole, x, y, [None] * STEPS, {"images": x, "labels": y})


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 0)
