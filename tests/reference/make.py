"""Writes the reference vectors in this folder: what PyTorch, timm and transformers compute for small ViTs.

    python -m pip install torch==2.13.0 timm==1.0.31 transformers==5.23.0 safetensors numpy
    python make.py OUT_FOLDER [SEED]

Every file is float32 safetensors (indices int32), made on the CPU with deterministic algorithms. Tensor names:
    param/NAME      a parameter, under the library's own state-dict name
    grad/NAME       d loss / d parameter
    images, labels, logits, loss, keep/BLOCK (kept token indices, ascending, int32[B, R])
    grad_norm       2-norm over all gradients
    adamw/losses, sgd/losses       loss before each of ten optimiser steps on the same batch
    adamw/param/NAME               a parameter after the ten steps (a few of them)
Metadata holds the settings as strings. vit_hf/ is a folder as transformers' save_pretrained writes it, with
expected.safetensors beside it.
"""
import sys, json
from functools import partial
import torch, timm, transformers
import torch.nn.functional as F
from safetensors.torch import save_file

out, seed = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 0
torch.use_deterministic_algorithms(True)
VERSIONS = {"torch": torch.__version__, "timm": timm.__version__, "transformers": transformers.__version__, "seed": str(seed)}


def batch(n, size, classes, g):
    return torch.randn(n, 3, size, size, generator=g), torch.randint(0, classes, (n,), generator=g)


def randomise(model, g):
    """Give every parameter, zeros and ones included, a value that a wrong gradient would show up in."""
    with torch.no_grad():
        for name, p in sorted(model.named_parameters()):
            noise = torch.randn(p.shape, generator=g) * (0.08 if p.dim() > 1 else 0.05)
            p.copy_(noise + (1.0 if name.endswith("weight") and p.dim() == 1 else 0.0))


def block_forward(model, x, keep):
    """timm's forward with random-LTD: block i sees only the tokens keep[i]; the others skip it unchanged."""
    x = model.patch_embed(x)
    x = model._pos_embed(x)
    x = model.norm_pre(x)
    for i, block in enumerate(model.blocks):
        if i in keep:
            idx = keep[i].long().unsqueeze(-1).expand(-1, -1, x.shape[-1])
            x = x.scatter(1, idx, block(x.gather(1, idx)))
        else:
            x = block(x)
    return model.forward_head(model.norm(x))


def dump(path, model, forward, images, labels, extra=None, smoothing=0.0, steps=10, meta=None, named=True):
    """named=False leaves the parameters and their gradients out: the library's in-memory names are not its file's."""
    tensors = {"images": images, "labels": labels.int(), **(extra or {})}
    start = {k: v.detach().clone() for k, v in model.state_dict().items()}
    for k, v in start.items():
        tensors["param/" + k] = v
    logits = forward(images)
    loss = F.cross_entropy(logits, labels, label_smoothing=smoothing)
    model.zero_grad()
    loss.backward()
    tensors["logits"], tensors["loss"] = logits.detach(), loss.detach().reshape(1)
    for k, p in model.named_parameters():
        tensors["grad/" + k] = p.grad.clone()
    tensors["grad_norm"] = torch.nn.utils.get_total_norm([p.grad for p in model.parameters()]).reshape(1)
    recipes = {
        "adamw": lambda ps: torch.optim.AdamW(ps, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.05),
        "sgd": lambda ps: torch.optim.SGD(ps, lr=1e-2, momentum=0.9, weight_decay=5e-4),
    }
    for name, make in recipes.items():
        model.load_state_dict(start)
        opt, losses = make(model.parameters()), []
        for _ in range(steps):
            loss = F.cross_entropy(forward(images), labels, label_smoothing=smoothing)
            opt.zero_grad(); loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            opt.step(); losses.append(loss.item())
        tensors[name + "/losses"] = torch.tensor(losses)
        for k, p in list(model.named_parameters())[:4] + list(model.named_parameters())[-2:]:
            tensors[f"{name}/param/{k}"] = p.detach().clone()
    model.load_state_dict(start)
    if not named:
        tensors = {k: v for k, v in tensors.items() if "param/" not in k and "grad/" not in k}
    save_file({k: v.contiguous().clone() for k, v in tensors.items()}, path,
              metadata={**VERSIONS, "adamw": "lr 1e-3 betas .9 .999 eps 1e-8 wd .05 on every parameter, clip 1.0",
                        "sgd": "lr 1e-2 momentum .9 wd 5e-4, clip 1.0", "label_smoothing": str(smoothing), **(meta or {})})


def timm_vit(size, patch, dim, depth, heads, classes, **kw):
    return timm.models.vision_transformer.VisionTransformer(
        img_size=size, patch_size=patch, embed_dim=dim, depth=depth, num_heads=heads, num_classes=classes, **kw).eval()


g = torch.Generator().manual_seed(seed)
cfg = dict(size=24, patch=8, dim=48, depth=3, heads=3, classes=7)      # 10 tokens: odd everywhere on purpose
m = timm_vit(**cfg); randomise(m, g)
x, y = batch(5, cfg["size"], cfg["classes"], g)
dump(f"{out}/vit_timm.safetensors", m, m, x, y, smoothing=0.1, meta={"config": json.dumps(cfg)})

cfg = dict(size=32, patch=4, dim=64, depth=4, heads=2, classes=10)     # 65 tokens
m = timm_vit(**cfg); randomise(m, g)
x, y = batch(3, cfg["size"], cfg["classes"], g)
keep = {i: torch.stack([torch.randperm(65, generator=g)[:23].sort().values for _ in range(3)]).int() for i in (1, 2)}
dump(f"{out}/vit_timm_random_ltd.safetensors", m, lambda t: block_forward(m, t, keep), x, y,
     extra={f"keep/{i}": k for i, k in keep.items()}, meta={"config": json.dumps(cfg)})

hf = transformers.ViTConfig(hidden_size=48, num_hidden_layers=2, num_attention_heads=4, intermediate_size=192, image_size=32,
                            patch_size=8, num_labels=5, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
m = transformers.ViTForImageClassification(hf).eval(); randomise(m, g)
x, y = batch(4, 32, 5, g)
m.save_pretrained(f"{out}/vit_hf")                                     # config.json + model.safetensors, named as on the hub
dump(f"{out}/vit_hf/expected.safetensors", m, lambda t: m(pixel_values=t).logits, x, y, named=False)

pos = torch.randn(1, 1 + 7 * 7, 16, generator=g)                       # 7x7 grid with a class token
tensors = {"pos_embed": pos}
for side in (4, 7, 12, 14):
    tensors[f"resampled/{side}"] = timm.layers.resample_abs_pos_embed(pos, [side, side], num_prefix_tokens=1)
save_file({k: v.contiguous().clone() for k, v in tensors.items()}, f"{out}/pos_embed_resample.safetensors",
          metadata={**VERSIONS, "how": "timm.layers.resample_abs_pos_embed, bicubic, antialias"})

# What plain models have not: tokens without positions, a first norm, a mean behind or before the last norm.
variants = {
    "a": (dict(reg_tokens=3, no_embed_class=True, pre_norm=True, qkv_bias=False, global_pool="avg"), 1e-5),
    "b": (dict(reg_tokens=2, class_token=False, global_pool="avg", fc_norm=False, img_size=(12, 20), patch_size=4), 1e-6),
    "c": (dict(reg_tokens=1, fc_norm=True, global_pool="token"), 1e-6),
}
for name, (args, eps) in variants.items():
    args = {**dict(img_size=16, patch_size=4, embed_dim=24, depth=2, num_heads=3, mlp_ratio=3.5, num_classes=5), **args}
    m = timm.models.vision_transformer.VisionTransformer(**args, norm_layer=partial(timm.layers.LayerNorm, eps=eps)).eval()
    randomise(m, g)
    size = args["img_size"] if isinstance(args["img_size"], tuple) else (args["img_size"],) * 2
    x, y = torch.randn(3, 3, *size, generator=g), torch.randint(0, 5, (3,), generator=g)
    dump(f"{out}/vit_timm_variant_{name}.safetensors", m, m, x, y, meta={"model_args": json.dumps(args)})

pos = torch.randn(1, 2 + 3 * 5, 4, generator=g)                        # not square, two tokens before
tensors = {"pos_embed": pos}
for h, w in ((2, 9), (6, 4), (3, 3)):
    tensors[f"resampled/{h}x{w}"] = timm.layers.resample_abs_pos_embed(pos, [h, w], old_size=[3, 5], num_prefix_tokens=2)
save_file({k: v.contiguous().clone() for k, v in tensors.items()}, f"{out}/pos_embed_resample_3x5.safetensors", metadata=VERSIONS)
