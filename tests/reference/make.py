"""Writes the reference vectors in this folder: what PyTorch and timm compute for two small ViTs.

    python -m pip install torch==2.13.0 timm==1.0.31 safetensors numpy
    python make.py OUT_FOLDER [SEED]

Every file is float32 safetensors (indices int32), made on the CPU with deterministic algorithms. Tensor names:
    param/NAME      a parameter, under timm's state-dict name
    grad/NAME       d loss / d parameter
    images, labels, logits, loss, keep/BLOCK (kept token indices, ascending, int32[B, R])
    grad_norm       2-norm over all gradients
    adamw/losses, sgd/losses       loss before each of ten optimiser steps on the same batch
    adamw/param/NAME               a parameter after the ten steps (a few of them)
Metadata holds the settings as strings.
"""
import sys, json
import torch, timm
import torch.nn.functional as F
from safetensors.torch import save_file

out, seed = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 0
torch.use_deterministic_algorithms(True)
VERSIONS = {"torch": torch.__version__, "timm": timm.__version__, "seed": str(seed)}


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


def dump(path, model, forward, images, labels, extra=None, smoothing=0.0, steps=10, meta=None):
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
