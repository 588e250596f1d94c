"""What timm and transformers compute for DINOv3s with a gated MLP (ViT-S+, ViT-H+, ViT-7B), and timm for EVA, EVA-02 and BEiT-3, made
small.

    python make_eva.py [SEED]

Beside this file, in vision/, each a folder as its library saves it, with expected.safetensors (README.md):

timm_dinov3_plus   vit_small_plus_patch16_dinov3: gate and value by layers of their own, fc1_g and fc1_x; q, k and v without biases;
                   mean of the patches; also random_ltd.safetensors: block 1 keeps 23 of 41 tokens, others at each step.
hf_dinov3_gated    DINOv3ViTModel with use_gated_mlp and a linear head of ours: gate_proj and up_proj; q and v with biases.

timm_eva02         eva02_tiny_patch14_224: learned and rotary positions, these counted as on 3 x 3 patches; a gated MLP in one layer;
                   also random_ltd.safetensors, and resized/: pictures of 32 pixels.
timm_eva02_clip    eva02_base_patch16_clip_224: queries, keys, values, gate and what it lets through apart; norms within attention and MLP.
timm_eva_giant     eva_giant_patch14_224: keys without bias, and no rotary positions.
timm_beit3         beit3_base_patch16_224: norms within attention and MLP of a plain ViT.

24 x 24 pictures in patches of 4, 32 wide, 3 deep (the last four 2), 2 heads, 7 classes, batch 3; every parameter random. Tensors: images, labels, features,
logits, loss, grad/NAME, grad_norm, adamw/losses and adamw/param/NAME of ten steps; param/NAME is the head that is in no file.
"""

import copy
import json
import math
import shutil
import sys
from pathlib import Path

import timm
import torch
import transformers
from safetensors.torch import load_file, save_file

HERE = Path(__file__).parent / "vision"
CLASSES, STEPS, KEPT, BLOCK = 7, 10, 23, 1


def randomise(model, g):
    with torch.no_grad():
        for name, p in sorted(model.named_parameters()):
            noise, last = torch.randn(p.shape, generator=g), name.split(".")[-1]
            if last in ("q_bias", "v_bias"):
                p.copy_(0.1 * noise)
            elif last in ("gamma_1", "gamma_2", "lambda1"):
                p.copy_(0.5 + 0.3 * noise)
            elif "token" in last:
                p.copy_(0.15 * noise)
            elif p.dim() == 1:
                p.copy_(1 + 0.2 * noise if last == "weight" else 0.1 * noise)
            elif p.dim() == 4:
                p.copy_(0.15 / math.sqrt(p[0].numel()) * noise)
            else:
                p.copy_(noise / math.sqrt(p.shape[1]))


def plain(model, x, _):
    features = model.forward_features(x)
    return features, model.forward_head(features)


def eva(model, x, keep):
    """timm's model block by block; block BLOCK sees the tokens `keep` [B, r] alone, each turned by the angles of its own place."""
    h, rope = model._pos_embed(model.patch_embed(x))
    prefix, half = model.num_prefix_tokens, rope.shape[-1] // 2
    still = torch.cat([rope.new_zeros(prefix, half), rope.new_ones(prefix, half)], 1)
    table = torch.cat([still, rope])
    for i, block in enumerate(model.blocks):
        if keep is None or i != BLOCK:
            h = block(h, rope=rope)
            continue
        rows = keep.long().unsqueeze(-1).expand(-1, -1, h.shape[-1])
        block.attn.num_prefix_tokens = 0
        out = block(h.gather(1, rows), rope=table[keep.long()].unsqueeze(1))
        block.attn.num_prefix_tokens = prefix
        h = h.scatter(1, rows, out)
    h = model.norm(h)
    return h, model.forward_head(h)


class WithHead(torch.nn.Module):
    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone
        self.classifier = torch.nn.Linear(backbone.config.hidden_size, CLASSES)


def dinov3(model, x, _):
    out = model.backbone(pixel_values=x)
    return out.last_hidden_state, model.classifier(out.pooler_output)


def compute(model, run, x, y, keep):
    """Of `keep[t]`, what step t keeps."""
    loss_of = lambda model, kept: torch.nn.functional.cross_entropy(run(model, x, kept)[1], y)
    features, logits = run(model, x, keep[0])
    loss = loss_of(model, keep[0])
    model.zero_grad()
    loss.backward()
    grads = {k: p.grad.clone() for k, p in model.named_parameters() if p.grad is not None}
    trained = copy.deepcopy(model)
    optimizer = torch.optim.AdamW(trained.parameters(), lr=1e-3, weight_decay=0.05)
    losses = []
    for kept in keep:
        loss_now = loss_of(trained, kept)
        optimizer.zero_grad()
        loss_now.backward()
        torch.nn.utils.clip_grad_norm_(trained.parameters(), 1.0)
        optimizer.step()
        losses.append(loss_now.detach())
    after = {k: p.detach() for k, p in trained.named_parameters() if k in grads}
    norm = torch.nn.utils.get_total_norm(list(grads.values()))
    tensors = {"features": features, "logits": logits, "loss": loss.reshape(1), "grad_norm": norm.reshape(1)}
    tensors["adamw/losses"] = torch.stack(losses)
    # As in the libraries' files, where the model within `WithHead` stands by itself and its blocks one level higher.
    in_file = lambda name: name.removeprefix("backbone.").removeprefix("model.")
    tensors |= {f"grad/{in_file(k)}": v for k, v in grads.items()}
    tensors |= {f"adamw/param/{in_file(k)}": v for k, v in after.items() if v.numel() <= 600 or ".0.mlp." in k}
    return {k: v.detach() for k, v in tensors.items()}


def dump(path, model, run, x, y, keep, extra):
    tensors = compute(model, run, x, y, keep)
    exact = compute(copy.deepcopy(model).double(), run, x.double(), y, keep)
    gap = lambda k: ((tensors[k].double() - exact[k]).abs().max() / exact[k].abs().max()).item()
    groups = {"grad/": 0.0}
    for k in exact:
        group = "grad/" if k.startswith("grad/") else k
        if not k.startswith("adamw/param/"):
            groups[group] = max(groups.get(group, 0.0), gap(k))
    print(path.relative_to(HERE), {k: f"{v:.1e}" for k, v in groups.items()})
    metadata = {"torch": torch.__version__, "timm": timm.__version__, "transformers": transformers.__version__}
    metadata["f32_against_f64"] = json.dumps(groups)
    save_file({k: v.contiguous().clone() for k, v in {**tensors, **extra}.items()}, path, metadata)


def batch(side, g):
    return torch.randn(3, 3, side, side, generator=g), torch.randint(0, CLASSES, (3,), generator=g)


def saved_by_timm(name, folder, sizes, g):
    """timm's model with random parameters, and a batch on which it computes the same once it was saved and loaded."""
    model = timm.create_model(name, **sizes).eval()
    randomise(model, g)
    side = sizes["img_size"]
    model.pretrained_cfg["input_size"] = (3, side, side)
    shutil.rmtree(folder, ignore_errors=True)
    timm.models.save_for_hf(model, folder, model_args=sizes, safe_serialization=True)
    x, y = batch(side, g)
    again = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    with torch.no_grad():
        assert torch.equal(again(x), model(x))
    return model, x, y


def main(seed):
    g = torch.Generator().manual_seed(seed)
    sizes = dict(img_size=24, patch_size=4, embed_dim=32, depth=3, num_heads=2, num_classes=CLASSES, mlp_ratio=2.0)
    folder = HERE / "timm_dinov3_plus"
    model, x, y = saved_by_timm("vit_small_plus_patch16_dinov3", folder, sizes, g)
    with torch.no_grad():
        assert torch.equal(model(x), eva(model, x, None)[1])
    given = {"images": x, "labels": y}
    dump(folder / "expected.safetensors", model, eva, x, y, [None] * STEPS, given)
    draw = lambda: torch.randperm(41, generator=g)[:KEPT].sort().values
    keep = torch.stack([torch.stack([draw() for _ in range(3)]) for _ in range(STEPS)]).int()
    dump(folder / "random_ltd.safetensors", model, eva, x, y, list(keep), {f"keep/{BLOCK}": keep})

    config = transformers.DINOv3ViTConfig(
        hidden_size=32, num_hidden_layers=3, num_attention_heads=2, intermediate_size=48, image_size=24, patch_size=4,
        num_register_tokens=4, use_gated_mlp=True, hidden_act="silu",
    )  # fmt: skip
    model = WithHead(transformers.DINOv3ViTModel(config)).eval()
    randomise(model, g)
    folder = HERE / "hf_dinov3_gated"
    shutil.rmtree(folder, ignore_errors=True)
    model.backbone.save_pretrained(folder)
    transformers.DINOv3ViTImageProcessor(size={"height": 24, "width": 24}).save_pretrained(folder)
    x, y = batch(24, g)
    head = {f"param/classifier.{k}": v.detach() for k, v in model.classifier.state_dict().items()}
    dump(folder / "expected.safetensors", model, dinov3, x, y, [None] * STEPS, {"images": x, "labels": y, **head})
    names = {k.removeprefix("grad/") for k in load_file(folder / "expected.safetensors") if k.startswith("grad/")}
    missing = {k for k in load_file(folder / "model.safetensors") if "mask_token" not in k} - names
    assert not missing, missing
    for family in TIMMS:
        of_timm(family, *TIMMS[family], g)


# Architecture, what it has beside the sizes, and how it is run.
TIMMS = {
    "timm_eva02": ("eva02_tiny_patch14_224", {"ref_feat_shape": (3, 3), "mlp_ratio": 2.66667}, eva),
    "timm_eva02_clip": ("eva02_base_patch16_clip_224", {"mlp_ratio": 2.66667}, plain),
    "timm_eva_giant": ("eva_giant_patch14_224", {"mlp_ratio": 2.0}, plain),
    "timm_beit3": ("beit3_base_patch16_224", {"mlp_ratio": 2.0}, plain),
}


def of_timm(name, architecture, others, run, g):
    sizes = dict(img_size=24, patch_size=4, embed_dim=32, depth=2, num_heads=2, num_classes=CLASSES, **others)
    folder = HERE / name
    model, x, y = saved_by_timm(architecture, folder, sizes, g)
    given = {"images": x, "labels": y}
    with torch.no_grad():
        assert torch.equal(model(x), run(model, x, None)[1])
        if name == "timm_eva02":
            larger = timm.create_model(f"local-dir:{folder}", pretrained=True, img_size=32).eval()
            pictures, _ = batch(32, g)
            given |= {"resized/images": pictures[:2], "resized/logits": larger(pictures[:2])}
    dump(folder / "expected.safetensors", model, run, x, y, [None] * STEPS, given)
    if run is eva:
        draw = lambda: torch.randperm(37, generator=g)[:KEPT].sort().values
        keep = torch.stack([torch.stack([draw() for _ in range(3)]) for _ in range(STEPS)]).int()
        dump(folder / "random_ltd.safetensors", model, run, x, y, list(keep), {f"keep/{BLOCK}": keep})


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 0)
