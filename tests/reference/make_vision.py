"""Writes the vision references in vision/: what timm, transformers and PEFT compute for tiny models of the families people finetune.

    python -m pip install torch==2.13.0 timm==1.0.31 transformers==5.23.0 peft==0.21.2 safetensors numpy
    python make_vision.py --seed 0 --out OUT_FOLDER

A folder a model, with the files as the library writes them, expected.safetensors, and for three families random_ltd.safetensors;
lora/ with a base and two adapters; ops.safetensors. float32 (kept indices int32, other integers int64), made on the CPU with
deterministic algorithms; README.md lists the folders. For OUT_FOLDER take vision/ in this folder, or in another one for another seed.
The script checks what it writes and stops at the first check that fails: the block loop used for random-LTD gives the library's own
result when nothing or everything is kept, autograd agrees with central differences in float64, files load again to the same bits,
and timm and transformers agree once the weights of one are renamed for the other.
"""
import argparse, copy, json, math, os, re, shutil, tempfile
from dataclasses import dataclass
from typing import Callable
import peft, timm, torch, transformers
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from timm.layers import RotaryEmbeddingCat, RotaryEmbeddingDinoV3, apply_rot_embed_cat, resample_abs_pos_embed
from timm.models import save_for_hf
from transformers.activations import ACT2FN
from transformers.core_model_loading import revert_weight_conversion

import shared

STEPS, CLASSES = 10, 7
ADAMW = "lr 1e-3 betas .9 .999 eps 1e-8 wd .05 on every parameter that has a gradient, clip 1.0"
IMAGENET = dict(image_mean=[0.485, 0.456, 0.406], image_std=[0.229, 0.224, 0.225])


def randomise(model, g):
    """Give every parameter, zeros and ones included, a value that a wrong gradient would show up in."""
    with torch.no_grad():
        for name, p in sorted(model.named_parameters()):
            noise, last = torch.randn(p.shape, generator=g), name.split(".")[-1]
            if last in ("gamma", "gamma_1", "gamma_2", "lambda1"):                          # layer scale
                p.copy_(0.5 + 0.3 * noise)
            elif "token" in last or "embedding" in last or "position_embedding." in name or last in ("pos_embed", "position_embeddings", "latent", "probe"):
                p.copy_(0.15 * noise)                                                       # small, so that the epsilon of the first norm shows
            elif p.dim() == 1:
                p.copy_(1 + 0.2 * noise if last == "weight" else 0.1 * noise)
            elif p.dim() == 4:
                p.copy_(0.15 / math.sqrt(p[0].numel()) * noise)
            else:
                p.copy_(noise / math.sqrt(p.shape[1]))


def batch(case_size, g, n=3):
    return torch.randn(n, 3, *case_size, generator=g), torch.randint(0, CLASSES, (n,), generator=g)


# ---- the models as block loops, so that a block can be given fewer tokens. Each returns the tokens after the last norm, and the logits ----

def run_blocks(h, blocks, keep):
    """blocks: functions of (tokens, their positions or None for all). Block i sees only the tokens keep[i] (int[B, r]), the others skip it unchanged."""
    for i, block in enumerate(blocks):
        if i in keep:
            idx = keep[i].long()
            rows = idx.unsqueeze(-1).expand(-1, -1, h.shape[-1])
            h = h.scatter(1, rows, block(h.gather(1, rows), idx))
        else:
            h = block(h, None)
    return h


def timm_vit(m, x, keep):
    h = m.norm_pre(m.patch_drop(m._pos_embed(m.patch_embed(x))))
    h = m.norm(run_blocks(h, [lambda h, _, b=b: b(h) for b in m.blocks], keep))
    return h, m.forward_head(h)


def timm_eva(m, x, keep):
    h, rope = m._pos_embed(m.patch_embed(x))                                # rope [patches, 2D]: sines, then cosines
    prefix, D = m.num_prefix_tokens, rope.shape[-1] // 2
    still = torch.cat([rope.new_zeros(prefix, D), rope.new_ones(prefix, D)], 1)
    table = torch.cat([still, rope])                                        # class and register tokens are turned by 0

    def block(b, h, idx):
        if idx is None:
            return b(h, rope=rope)
        b.attn.num_prefix_tokens = 0                                        # which kept tokens are patches differs by sample, the table knows
        h = b(h, rope=table[idx].unsqueeze(1))
        b.attn.num_prefix_tokens = prefix
        return h
    h = m.norm(run_blocks(m.norm_pre(h), [lambda h, idx, b=b: block(b, h, idx) for b in m.blocks], keep))
    return h, m.forward_head(h)


def hf_dinov3(m, x, keep):
    body = m.backbone
    h, (cos, sin) = body.embeddings(x), body.rope_embeddings(x)
    prefix = h.shape[1] - cos.shape[0]
    cos_all, sin_all = torch.cat([cos.new_ones(prefix, cos.shape[1]), cos]), torch.cat([sin.new_zeros(prefix, sin.shape[1]), sin])

    def block(b, h, idx):
        return b(h, position_embeddings=(cos, sin) if idx is None else (cos_all[idx].unsqueeze(1), sin_all[idx].unsqueeze(1)))
    h = body.norm(run_blocks(h, [lambda h, idx, b=b: block(b, h, idx) for b in body.model.layer], keep))
    return h, m.classifier(h[:, 0])


def hf_clip(m, x, keep):
    body = m.vision_model
    h = body.pre_layrnorm(body.embeddings(x))
    h = run_blocks(h, [lambda h, _, b=b: b(h, None) for b in body.encoder.layers], keep)
    return h, m.classifier(h[:, 1:].mean(1))                                # no norm after the last block


def hf_plain(m, x, keep):
    """By the library's own forward; the tokens come from a hook on what the head reads."""
    assert not keep
    seen = []
    body = next(c for _, c in m.named_children())
    hook = body.register_forward_hook(lambda _, args, out: seen.append(out.last_hidden_state))
    out = m(pixel_values=x)
    hook.remove()
    return seen[0], out.logits


class WithHead(torch.nn.Module):
    """DINOv3ViTModel and a linear layer on its pooler_output, the class token after the last norm."""
    def __init__(self, backbone, classes):
        super().__init__()
        self.backbone, self.classifier = backbone, torch.nn.Linear(backbone.config.hidden_size, classes)


# ---- references ----

@dataclass
class Case:
    folder: str
    model: torch.nn.Module
    run: Callable
    loss: Callable = lambda logits, y: F.cross_entropy(logits, y)
    own: Callable = lambda model, x: model(x)                               # logits by the model's own forward

    def names(self, tensors):
        """Tensors by the model's parameter names, as they would stand in the file that the library writes."""
        hf = self.model.backbone if isinstance(self.model, WithHead) else self.model
        if not isinstance(hf, transformers.PreTrainedModel):
            return dict(tensors)
        ours = {k: v for k, v in tensors.items() if isinstance(self.model, WithHead) and k.startswith("classifier.")}
        return {**ours, **revert_weight_conversion(hf, {k.removeprefix("backbone."): v for k, v in tensors.items() if k not in ours})}


def compute(case, model, x, y, sets):
    """sets[t]: what step t keeps, {block: indices}."""
    features, out = case.run(model, x, sets[0])
    loss = case.loss(out, y)
    model.zero_grad()
    loss.backward()
    grads = {k: p.grad.clone() for k, p in model.named_parameters() if p.grad is not None}
    tensors = {"features": features.detach(), "loss": loss.detach().reshape(1), "grad_norm": torch.nn.utils.get_total_norm(list(grads.values())).reshape(1)}
    if isinstance(out, tuple):
        tensors |= {"train/logits": out[0].detach(), "train/logits_dist": out[1].detach()}
    else:
        tensors["logits"] = out.detach()
    trained = copy.deepcopy(model)
    opt = torch.optim.AdamW(trained.parameters(), lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.05)
    losses = []
    for keep in sets:
        loss = case.loss(case.run(trained, x, keep)[1], y)
        opt.zero_grad(); loss.backward()
        torch.nn.utils.clip_grad_norm_(trained.parameters(), 1.0)
        opt.step(); losses.append(loss.detach())
    after = {k: p.detach() for k, p in trained.named_parameters() if k in grads}
    for k, p in trained.named_parameters():                                 # without a gradient: not even decayed
        assert k in grads or torch.equal(p, model.get_parameter(k))
    return {**tensors, "adamw/losses": torch.stack(losses), **{"grad/" + k: v for k, v in case.names(grads).items()},
            **{"adamw/param/" + k: v for k, v in case.names(after).items()}}


def references(case, x, y, sets):
    """Tensors for the file, and how far float32 is from float64: what a tolerance can be measured by."""
    tensors = compute(case, case.model, x, y, sets)
    exact_model = copy.deepcopy(case.model).double()
    exact = compute(case, exact_model, x.double(), y, sets)
    error, noise = {}, {}
    for k, v in exact.items():
        group = next((p for p in ("grad/", "adamw/param/") if k.startswith(p)), k)
        gap = (tensors[k].double() - v).abs().max().item()
        if group == "adamw/param/" and gap > 1e-5:
            noise[k.removeprefix(group)] = float(f"{gap:.1e}")
        elif v.abs().max() > 1e-12:
            error[group] = max(error.get(group, 0.0), gap / v.abs().max().item())
    worst = central_differences(exact_model, lambda: case.loss(case.run(exact_model, x.double(), sets[0])[1], y))
    meta = {"f32_against_f64": {k: float(f"{e:.1e}") for k, e in error.items()}, "adamw_param_off_by_more_than_1e_5": noise}
    report(f"{case.folder}{' random-LTD' if sets[0] else ''}", loss=tensors["loss"].item(), last=tensors["adamw/losses"][-1].item(), central_differences=worst, **meta)
    some = lambda k: not k.startswith("adamw/param/") or tensors[k].numel() <= 600 or (not sets[0] and re.search(r"(blocks|layers?)\.0\.(attn|attention|self_attn)", k))
    return {k: v for k, v in tensors.items() if some(k)}, meta


def central_differences(model, loss):
    g, worst, h = torch.Generator().manual_seed(1), 0.0, 1e-4
    for k, p in model.named_parameters():                                   # two elements of every parameter
        if p.grad is None:
            continue
        for at in torch.randint(0, p.numel(), (2,), generator=g).tolist():
            flat = p.data.view(-1)
            old = flat[at].item()
            side = []
            for d in (h, -h):
                flat[at] = old + d
                with torch.no_grad():
                    side.append(loss().item())
            flat[at] = old
            got = p.grad.view(-1)[at].item()
            worst = max(worst, abs((side[0] - side[1]) / (2 * h) - got) / (abs(got) + 1e-3))
    assert worst < 1e-5, worst
    return worst


def dump(case, x, y, extra=None, ltd=(), r=0, g=None):
    folder, model = f"{OUT}/{case.folder}", case.model
    with torch.no_grad():
        plain = case.run(model, x, {})[1]
        if isinstance(plain, torch.Tensor):
            assert torch.equal(plain, case.own(model, x)), "the loop does not give the model's own logits"
    tensors, measured = references(case, x, y, [{}] * STEPS)
    unused = sorted(case.names({k: p for k, p in model.named_parameters() if p.grad is None}))
    shared.save(f"{folder}/expected.safetensors", {"images": x, "labels": y, **tensors, **(extra or {})}, **VERSIONS, adamw=ADAMW, no_gradient=unused, **measured)
    if ltd:
        T = tensors["features"].shape[1]
        one = lambda: torch.randperm(T, generator=g)[:r].sort().values
        keep = {}
        for b in ltd:
            while b not in keep or len(set((keep[b][0, :, 0] == 0).tolist())) == 1:    # at step 0 some sample keeps the class token and some does not
                keep[b] = torch.stack([torch.stack([one() for _ in range(len(x))]) for _ in range(STEPS)]).int()
        sets = [{b: keep[b][t] for b in ltd} for t in range(STEPS)]
        everything = {i: torch.arange(T).expand(len(x), -1) for i in range(16)}
        with torch.no_grad():
            gap = (case.run(model, x, everything)[1] - plain).abs().max().item()
        assert gap < 1e-6, gap                                              # r = T is the plain model
        tensors, measured = references(case, x, y, sets)
        shared.save(f"{folder}/random_ltd.safetensors", {**{f"keep/{b}": k for b, k in keep.items()}, **tensors}, **VERSIONS, adamw=ADAMW, ltd_blocks=list(ltd), **measured)
        report("  every token kept against the plain model", gap=gap)


def wider(run, model, size, g):
    """Another image size, two pictures: positions are resampled, or rotary angles made anew."""
    x = torch.randn(2, 3, *size, generator=g)
    with torch.no_grad():
        return {"resized/images": x, "resized/logits": run(model, x)}


# ---- files ----

def save_timm(case, x):
    folder = f"{OUT}/{case.folder}"
    save_for_hf(case.model, folder, safe_serialization=True)
    again = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    with torch.no_grad():
        assert torch.equal(again(x), case.model(x).detach())


def save_hf(case, x, processor=None, v5_names=False):
    folder = f"{OUT}/{case.folder}"
    model = case.model.backbone if isinstance(case.model, WithHead) else case.model
    model.save_pretrained(folder)
    if processor is not None:
        processor.save_pretrained(folder)
    if v5_names:                                                            # the names transformers 5 has in memory: save_original_format=False
        with tempfile.TemporaryDirectory() as other:
            model.save_pretrained(other, save_original_format=False)
            reload(model, other, x)
            shutil.copyfile(f"{other}/model.safetensors", f"{folder}/model_v5_names.safetensors")
    reload(model, folder, x)
    assert set(case.names({k: p for k, p in case.model.named_parameters()})) == set(load_file(f"{folder}/model.safetensors")) | (
        {"classifier.weight", "classifier.bias"} if model is not case.model else set())


def reload(model, folder, x):
    again = type(model).from_pretrained(folder).eval()
    with torch.no_grad():
        a, b = again(pixel_values=x), model(pixel_values=x)
    assert all(torch.equal(a[k], b[k]) for k in ("logits", "last_hidden_state", "pooler_output") if b.get(k) is not None)


def build_timm(name, g, size=24, patch=4, depth=3, **kw):
    model = timm.create_model(name, img_size=size, patch_size=patch, embed_dim=32, depth=depth, num_heads=2, num_classes=CLASSES, **kw).eval()
    randomise(model, g)
    return model


# ---- timm and transformers against each other ----

DINOV2 = {"norm1": "norm1", "attn.qkv": ("attention.attention.query", "attention.attention.key", "attention.attention.value"), "attn.proj": "attention.output.dense",
          "ls1.gamma": "layer_scale1.lambda1", "norm2": "norm2", "mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2", "ls2.gamma": "layer_scale2.lambda1"}
SWIGLU = {**DINOV2, "mlp.fc1": "mlp.weights_in", "mlp.fc2": "mlp.weights_out"}
VIT = {"norm1": "layernorm_before", "attn.qkv": DINOV2["attn.qkv"], "attn.proj": "attention.output.dense", "norm2": "layernorm_after",
       "mlp.fc1": "intermediate.dense", "mlp.fc2": "output.dense"}
CLIP = {"norm1": "layer_norm1", "attn.qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"), "attn.proj": "self_attn.out_proj",
        "norm2": "layer_norm2", "mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2"}
DINOV3 = {"norm1": "norm1", "attn.qkv": ("attention.q_proj", "attention.k_proj", "attention.v_proj"), "attn.proj": "attention.o_proj",
          "gamma_1": "layer_scale1.lambda1", "norm2": "norm2", "mlp.fc1": "mlp.up_proj", "mlp.fc2": "mlp.down_proj", "gamma_2": "layer_scale2.lambda1"}


def timm_blocks(sd, layer, table, depth=3):
    """Blocks under timm's names from transformers' file; layer is the prefix up to the block's number."""
    out = {}
    for i in range(depth):
        for ours, theirs in table.items():
            for end in ("", ".weight", ".bias"):
                keys = [f"{layer}{i}.{t}{end}" for t in (theirs if isinstance(theirs, tuple) else (theirs,))]
                if ours == "attn.qkv" and end == ".bias" and "attention.k_proj" in theirs:       # DINOv3: the key has no bias
                    out |= {f"blocks.{i}.attn.q_bias": sd[keys[0]], f"blocks.{i}.attn.v_bias": sd[keys[2]]}
                elif keys[0] in sd:
                    out[f"blocks.{i}.{ours}{end}"] = torch.cat([sd[k] for k in keys])
    return out


def linear(sd, ours, theirs):
    return {f"{ours}.{e}": sd[f"{theirs}.{e}"] for e in ("weight", "bias") if f"{theirs}.{e}" in sd}


def agree(name, folder, timm_name, weights, kw, images, wanted):
    """wanted: {how: (function of timm's model, transformers' result)}, both in float64."""
    model = timm.create_model(timm_name, embed_dim=32, depth=3, num_heads=2, num_classes=CLASSES, **kw).eval().double()
    sd = {k: v.double() for k, v in load_file(f"{OUT}/{folder}/model.safetensors").items()}
    missing, left = model.load_state_dict(weights(sd), strict=False)
    assert not left and all(k.startswith("head") for k in missing), (missing, left)
    gaps = {}
    with torch.no_grad():
        for how, (ours, theirs) in wanted.items():
            gaps[how] = (ours(model, images.double()) - theirs).abs().max().item()
    report(f"  timm and transformers: {name}", **gaps)
    assert max(gaps.values()) < (1e-6 if "dinov3" in folder else 1e-12), gaps               # both make their rotary tables in float32


# ---- families ----

def make_dinov2(seed):
    g = torch.Generator().manual_seed(1000 * seed + 1)
    m = build_timm("vit_small_patch14_reg4_dinov2", g, 30, 6, mlp_ratio=2.0)                # 5 x 5 patches of 108 numbers
    x, y = batch((30, 30), g)
    case = Case("timm_dinov2_reg4", m, timm_vit)
    save_timm(case, x)
    small = copy.deepcopy(m)
    small.set_input_size((24, 24))
    dump(case, x, y, wider(lambda _, x: small(x), m, (24, 24), g), ltd=(1,), r=17, g=g)

    m = build_timm("deit3_small_patch16_224", g, mlp_ratio=2.0)
    x, y = batch((24, 24), g)
    case = Case("timm_deit3", m, timm_vit)
    save_timm(case, x)
    dump(case, x, y, ltd=(1,), r=20, g=g)

    shape = dict(hidden_size=32, num_hidden_layers=3, num_attention_heads=2, mlp_ratio=2, image_size=30, patch_size=6, num_labels=CLASSES)
    processor = transformers.BitImageProcessor(size={"shortest_edge": 34}, crop_size={"height": 30, "width": 30}, **IMAGENET)
    own = lambda m, x: m(pixel_values=x).logits
    for folder, cls, cfg, extra, table in (
            ("hf_dinov2", transformers.Dinov2ForImageClassification, transformers.Dinov2Config, {}, DINOV2),
            ("hf_dinov2_with_registers", transformers.Dinov2WithRegistersForImageClassification, transformers.Dinov2WithRegistersConfig, {"num_register_tokens": 4}, DINOV2),
            ("hf_dinov2_swiglu", transformers.Dinov2ForImageClassification, transformers.Dinov2Config, {"use_swiglu_ffn": True}, SWIGLU)):
        m = cls(cfg(**{**shape, **extra})).eval()
        randomise(m, g)
        x, y = batch((30, 30), g)
        case = Case(folder, m, hf_plain, own=own)
        save_hf(case, x, processor, v5_names=True)
        dump(case, x, y, wider(own, m, (24, 24), g) if "swiglu" not in folder else None)

        exact, registers, at = copy.deepcopy(m).double(), "registers" in folder, m.base_model_prefix + "."

        def weights(sd):
            e, pos = at + "embeddings.", sd[at + "embeddings.position_embeddings"]
            out = {**timm_blocks(sd, at + "encoder.layer.", table), **linear(sd, "norm", at + "layernorm"), **linear(sd, "patch_embed.proj", e + "patch_embeddings.projection")}
            if registers:                                                   # timm adds no position to the class token: fold it in
                return {**out, "cls_token": sd[e + "cls_token"] + pos[:, :1], "pos_embed": pos[:, 1:], "reg_token": sd[e + "register_tokens"]}
            return {**out, "cls_token": sd[e + "cls_token"], "pos_embed": pos}

        def logits(t, x):
            h = t.forward_features(x)
            return exact.classifier(torch.cat([h[:, 0], h[:, t.num_prefix_tokens:].mean(1)], 1))
        name, kw = (("vit_small_patch14_reg4_dinov2", {}) if registers else ("vit_giant_patch14_dinov2", {"mlp_ratio": 3.0}) if table is SWIGLU
                    else ("vit_small_patch14_dinov2", {}))
        kw = {"img_size": 30, "patch_size": 6, "mlp_ratio": 2.0, **kw}
        agree(folder, folder, name, weights, kw, x, {
            "tokens": (lambda t, x: t.forward_features(x), hf_plain(exact, x.double(), {})[0]), "logits": (logits, own(exact, x.double()))})


def make_clip(seed):
    g = torch.Generator().manual_seed(1000 * seed + 2)
    m = build_timm("vit_base_patch32_clip_quickgelu_224", g, 32, 8, mlp_ratio=2.0)
    x, y = batch((32, 32), g)
    case = Case("timm_clip", m, timm_vit)
    save_timm(case, x)
    dump(case, x, y, ltd=(1,), r=9, g=g)

    vision = dict(hidden_size=32, num_hidden_layers=3, num_attention_heads=2, intermediate_size=64, image_size=32, patch_size=8)
    m = transformers.CLIPForImageClassification(transformers.CLIPConfig(vision_config=vision, num_labels=CLASSES)).eval()
    randomise(m, g)
    x, y = batch((32, 32), g)
    own = lambda m, x: m(pixel_values=x).logits
    case = Case("hf_clip", m, hf_clip, own=own)
    save_hf(case, x, transformers.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}))
    pooled = m.vision_model(pixel_values=x).pooler_output.detach()
    dump(case, x, y, {"pooler_output": pooled})

    exact, v = copy.deepcopy(m).double(), "vision_model."
    agree("hf_clip", "hf_clip", "vit_base_patch32_clip_quickgelu_224", lambda sd: {
        **timm_blocks(sd, v + "encoder.layers.", CLIP), **linear(sd, "norm_pre", v + "pre_layrnorm"), **linear(sd, "norm", v + "post_layernorm"),
        "patch_embed.proj.weight": sd[v + "embeddings.patch_embedding.weight"], "cls_token": sd[v + "embeddings.class_embedding"].reshape(1, 1, -1),
        "pos_embed": sd[v + "embeddings.position_embedding.weight"].unsqueeze(0)}, {"img_size": 32, "patch_size": 8, "mlp_ratio": 2.0}, x, {
        "pooler_output": (lambda t, x: t.forward_features(x)[:, 0], exact.vision_model(pixel_values=x.double()).pooler_output)})


def make_siglip(seed):
    g = torch.Generator().manual_seed(1000 * seed + 3)
    for folder, name in (("timm_siglip_gap", "vit_base_patch32_siglip_gap_256"), ("timm_siglip_map", "vit_base_patch16_siglip_224")):
        m = build_timm(name, g, mlp_ratio=2.0)                              # gap: tanh GELU; map: the exact one. The name decides
        assert type(m.blocks[0].mlp.act).__name__ == ("GELUTanh" if "gap" in name else "GELU")
        x, y = batch((24, 24), g)
        case = Case(folder, m, timm_vit)
        save_timm(case, x)
        dump(case, x, y)

    vision = dict(hidden_size=32, num_hidden_layers=3, num_attention_heads=2, intermediate_size=64, image_size=24, patch_size=4)
    text = dict(bos_token_id=1, eos_token_id=2)                             # only so that the unused text_config is valid
    m = transformers.SiglipForImageClassification(transformers.SiglipConfig(vision_config=vision, text_config=text, num_labels=CLASSES)).eval()
    randomise(m, g)
    x, y = batch((24, 24), g)
    own = lambda m, x: m(pixel_values=x).logits
    case = Case("hf_siglip", m, hf_plain, own=own)
    save_hf(case, x, transformers.SiglipImageProcessor(size={"height": 24, "width": 24}))
    pooled = m.vision_model(pixel_values=x).pooler_output.detach()
    dump(case, x, y, {"pooler_output": pooled})

    exact, v = copy.deepcopy(m).double(), "vision_model."

    def weights(sd, pool):
        h, C = v + "head.", 32
        out = {**timm_blocks(sd, v + "encoder.layers.", CLIP), **linear(sd, "norm", v + "post_layernorm"), **linear(sd, "head", "classifier"),
               **linear(sd, "patch_embed.proj", v + "embeddings.patch_embedding"), "pos_embed": sd[v + "embeddings.position_embedding.weight"].unsqueeze(0)}
        if not pool:
            return out
        w, b = sd[h + "attention.in_proj_weight"], sd[h + "attention.in_proj_bias"]
        return {**out, "attn_pool.latent": sd[h + "probe"], "attn_pool.q.weight": w[:C], "attn_pool.q.bias": b[:C], "attn_pool.kv.weight": w[C:], "attn_pool.kv.bias": b[C:],
                **linear(sd, "attn_pool.proj", h + "attention.out_proj"), **linear(sd, "attn_pool.norm", h + "layernorm"),
                **linear(sd, "attn_pool.mlp.fc1", h + "mlp.fc1"), **linear(sd, "attn_pool.mlp.fc2", h + "mlp.fc2")}
    shape = {"img_size": 24, "patch_size": 4, "mlp_ratio": 2.0}
    agree("hf_siglip, mean", "hf_siglip", "vit_base_patch32_siglip_gap_256", lambda sd: weights(sd, False), shape, x, {
        "logits": (lambda t, x: t(x), own(exact, x.double()))})
    agree("hf_siglip, map", "hf_siglip", "vit_base_patch32_siglip_256", lambda sd: weights(sd, True), shape, x, {
        "pooler_output": (lambda t, x: t.forward_head(t.forward_features(x), pre_logits=True), exact.vision_model(pixel_values=x.double()).pooler_output)})


def make_dinov3(seed):
    g = torch.Generator().manual_seed(1000 * seed + 4)
    m = build_timm("vit_small_patch16_dinov3", g, depth=4, mlp_ratio=2.0)   # four deep, so that two blocks drop with two draws
    x, y = batch((24, 24), g)
    case = Case("timm_dinov3", m, timm_eva)
    save_timm(case, x)
    dump(case, x, y, wider(lambda m, x: m(x), m, (32, 32), g), ltd=(1, 2), r=23, g=g)

    cfg = transformers.DINOv3ViTConfig(hidden_size=32, num_hidden_layers=3, num_attention_heads=2, intermediate_size=64, image_size=24, patch_size=4,
                                       num_register_tokens=4)
    m = WithHead(transformers.DINOv3ViTModel(cfg), CLASSES).eval()
    randomise(m, g)
    x, y = batch((24, 24), g)
    own = lambda m, x: m.classifier(m.backbone(pixel_values=x).pooler_output)
    case = Case("hf_dinov3", m, hf_dinov3, own=own)
    save_hf(case, x, transformers.DINOv3ViTImageProcessor(size={"height": 24, "width": 24}))
    dump(case, x, y, {**{"param/classifier." + k: v for k, v in m.classifier.state_dict().items()}, **wider(own, m, (32, 32), g)}, ltd=(1,), r=23, g=g)

    exact = copy.deepcopy(m).double()
    agree("hf_dinov3", "hf_dinov3", "vit_small_patch16_dinov3_qkvb", lambda sd: {
        **timm_blocks(sd, "layer.", DINOV3), **linear(sd, "norm", "norm"), **linear(sd, "patch_embed.proj", "embeddings.patch_embeddings"),
        "cls_token": sd["embeddings.cls_token"], "reg_token": sd["embeddings.register_tokens"]},
        {"img_size": 24, "patch_size": 4, "mlp_ratio": 2.0}, x, {
        "tokens": (lambda t, x: t.forward_features(x), exact.backbone(pixel_values=x.double()).last_hidden_state)})


def make_deit(seed):
    g = torch.Generator().manual_seed(1000 * seed + 5)
    m = build_timm("deit_small_distilled_patch16_224", g, mlp_ratio=2.0)
    x, y = batch((24, 24), g)
    teacher = (y + 1 + torch.randint(0, CLASSES - 1, (3,), generator=g)) % CLASSES              # never the label
    case = Case("timm_deit_distilled", m, timm_vit, loss=lambda out, y: (F.cross_entropy(out[0], y) + F.cross_entropy(out[1], teacher)) / 2)
    save_timm(case, x)
    with torch.no_grad():
        average = m(x)
    m.set_distilled_training(True)
    m.train()                                                               # the two outputs come only so; there is no dropout
    dump(case, x, y, {"logits": average, "teacher_labels": teacher, "average/loss": F.cross_entropy(average, y).reshape(1)})

    cfg = transformers.DeiTConfig(hidden_size=32, num_hidden_layers=3, num_attention_heads=2, intermediate_size=64, image_size=24, patch_size=4,
                                  num_labels=CLASSES)
    m = transformers.DeiTForImageClassificationWithTeacher(cfg).eval()
    randomise(m, g)
    x, y = batch((24, 24), g)
    own = lambda m, x: m(pixel_values=x).logits
    case = Case("hf_deit_distilled", m, hf_plain, own=own)
    save_hf(case, x, transformers.DeiTImageProcessor(size={"height": 27, "width": 27}, crop_size={"height": 24, "width": 24}, **IMAGENET))
    out = m(pixel_values=x)
    dump(case, x, y, {"cls_logits": out.cls_logits, "distillation_logits": out.distillation_logits})

    exact, e = copy.deepcopy(m).double(), "deit.embeddings."
    agree("hf_deit_distilled", "hf_deit_distilled", "deit_small_distilled_patch16_224", lambda sd: {
        **timm_blocks(sd, "deit.encoder.layer.", VIT), **linear(sd, "norm", "deit.layernorm"), **linear(sd, "patch_embed.proj", e + "patch_embeddings.projection"),
        **linear(sd, "head", "cls_classifier"), **linear(sd, "head_dist", "distillation_classifier"),
        "cls_token": sd[e + "cls_token"], "dist_token": sd[e + "distillation_token"], "pos_embed": sd[e + "position_embeddings"]},
        {"img_size": 24, "patch_size": 4, "mlp_ratio": 2.0, "norm_layer": lambda dim, **kw: torch.nn.LayerNorm(dim, eps=1e-12)}, x, {
        "logits": (lambda t, x: t(x), own(exact, x.double()))})


def make_swiglu(seed):
    g = torch.Generator().manual_seed(1000 * seed + 6)
    m = build_timm("vit_giant_patch14_dinov2", g, 30, 6)                    # ratio 5.33334: fc1 gives 170 numbers, two halves of 85
    x, y = batch((30, 30), g)
    case = Case("timm_swiglu", m, timm_vit)
    save_timm(case, x)
    dump(case, x, y)


# ---- LoRA ----

def lora_steps(model, x, y):
    """Gradients and ten steps of what the adapter trains, under the adapter file's names."""
    as_file = lambda tensors: peft.get_peft_model_state_dict(model, state_dict=tensors)
    logits = model(pixel_values=x).logits
    loss = F.cross_entropy(logits, y)
    model.zero_grad()
    loss.backward()
    grads = {k: p.grad.clone() for k, p in model.named_parameters() if p.requires_grad}
    assert all(p.grad is None for p in model.parameters() if not p.requires_grad)
    norm = torch.nn.utils.get_total_norm(list(grads.values())).reshape(1)
    trained, losses = copy.deepcopy(model), []
    ps = [p for p in trained.parameters() if p.requires_grad]
    opt = torch.optim.AdamW(ps, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.05)
    for _ in range(STEPS):
        step = F.cross_entropy(trained(pixel_values=x).logits, y)
        opt.zero_grad(); step.backward()
        torch.nn.utils.clip_grad_norm_(ps, 1.0)
        opt.step(); losses.append(step.detach())
    after = {k: p.detach() for k, p in trained.named_parameters() if p.requires_grad}
    return {"logits": logits.detach(), "loss": loss.detach().reshape(1), "grad_norm": norm, "adamw/losses": torch.stack(losses),
            **{"grad/" + k: v for k, v in as_file(grads).items()}, **{"adamw/param/" + k: v for k, v in as_file(after).items()}}


def old_adapter_name(k):
    """As PEFT wrote it for transformers 4, whose ViT had other module names."""
    k = k.replace(".layers.", ".encoder.layer.")
    for new, old in (("q_proj", "attention.query"), ("k_proj", "attention.key"), ("v_proj", "attention.value"), ("attention.o_proj", "attention.output.dense"),
                     ("mlp.fc1", "intermediate.dense"), ("mlp.fc2", "output.dense")):
        k = k.replace(new, old)
    return k


def make_lora(seed):
    g = torch.Generator().manual_seed(1000 * seed + 7)
    cfg = transformers.ViTConfig(hidden_size=32, num_hidden_layers=3, num_attention_heads=2, intermediate_size=64, image_size=24, patch_size=4,
                                 num_labels=CLASSES)
    base = transformers.ViTForImageClassification(cfg).eval()
    randomise(base, g)
    x, y = batch((24, 24), g)
    save_hf(Case("lora/base", base, hf_plain), x)
    with torch.no_grad():
        plain = base(pixel_values=x).logits
    for folder, kw in (("query_value", dict(target_modules=["q_proj", "v_proj"], modules_to_save=["classifier"])), ("all_linear", dict(target_modules="all-linear"))):
        out = f"{OUT}/lora/{folder}"
        model = peft.get_peft_model(copy.deepcopy(base), peft.LoraConfig(r=4, lora_alpha=8, lora_dropout=0.0, **kw)).eval()
        with torch.no_grad():
            for k, p in sorted(model.named_parameters()):
                if p.requires_grad:                                         # A, B, and in the first adapter a classifier of its own
                    p.copy_(torch.randn(p.shape, generator=g) * (0.15 if "lora_" in k else 0.2))
        model.save_pretrained(out)
        os.remove(f"{out}/README.md")
        with open(f"{out}/adapter_config.json") as f:
            config = json.load(f)
        config["target_modules"].sort()                                     # PEFT writes a set, in any order
        config["base_model_name_or_path"] = "lora/base"
        write_json(f"{out}/adapter_config.json", config)
        tensors = lora_steps(model, x, y)
        exact_model = copy.deepcopy(model).double()
        exact = lora_steps(exact_model, x.double(), y)
        gaps = {p: max((tensors[k].double() - v).abs().max().item() / v.abs().max().item() for k, v in exact.items() if k.startswith(p))
                for p in ("logits", "loss", "grad/", "adamw/losses", "adamw/param/")}
        worst = central_differences(exact_model, lambda: F.cross_entropy(exact_model(pixel_values=x.double()).logits, y))
        merged = copy.deepcopy(model).merge_and_unload()
        with torch.no_grad():
            after = merged(pixel_values=x).logits
        before = base.state_dict()
        changed = {k: v for k, v in merged.state_dict().items() if not torch.equal(v, before[k])}
        for k, v in changed.items():                                        # W + alpha / r B A, by hand
            if "classifier" in k and folder == "query_value":
                continue
            A, B = (model.get_parameter(f"base_model.model.{k.removesuffix('.weight')}.lora_{n}.default.weight") for n in "AB")
            assert (before[k] + 2.0 * B @ A - v).abs().max() < 1e-6
        some = {"merged/param/" + k: v for k, v in revert_weight_conversion(merged, changed).items() if ".0." in k or "classifier" in k}
        shared.save(f"{out}/expected.safetensors", {"images": x, "labels": y, **tensors, "base/logits": plain, "merged/logits": after, **some}, **VERSIONS,
             adamw=ADAMW, f32_against_f64={k: float(f"{e:.1e}") for k, e in gaps.items()})
        again = peft.PeftModel.from_pretrained(copy.deepcopy(base), out).eval()
        with torch.no_grad():
            assert torch.equal(again(pixel_values=x).logits, tensors["logits"])
        assert (after - tensors["logits"]).abs().max() < 1e-5 and (plain - after).abs().max() > 0.05
        if folder == "query_value":
            weights = load_file(f"{out}/adapter_model.safetensors")
            save_file({old_adapter_name(k): v for k, v in weights.items()}, make_folder(f"{out}/old_names") + "/adapter_model.safetensors", metadata={"format": "pt"})
            write_json(f"{out}/old_names/adapter_config.json", {**config, "target_modules": ["query", "value"]})
        report(f"lora/{folder}", loss=tensors["loss"].item(), last=tensors["adamw/losses"][-1].item(), central_differences=worst, f32_against_f64=gaps,
               merged_against_adapter=(after - tensors["logits"]).abs().max().item(), changed=len(changed))


def make_folder(path):
    os.makedirs(path, exist_ok=True)
    return path


def write_json(path, value):
    with open(path, "w") as f:
        json.dump(value, f, indent=2, sort_keys=True)


# ---- operations ----

def backward(f, inputs, douts):
    """f's result and the gradients of its inputs."""
    at = [t.clone().requires_grad_() for t in inputs]
    y = f(*at)
    y.backward(douts)
    return [y.detach()] + [t.grad for t in at]


def make_ops(seed):
    g = torch.Generator().manual_seed(1000 * seed + 8)
    draw = lambda *shape: torch.randn(*shape, generator=g)
    tensors = {}

    x, gamma, dy = draw(2, 19, 32), draw(32), draw(2, 19, 32)
    y, dx, dgamma = backward(lambda x, c: x * c, (x, gamma), dy)
    exact = (dy.double() * x.double()).sum((0, 1))
    tensors |= {"layer_scale/" + k: v for k, v in dict(x=x, gamma=gamma, y=y, dy=dy, dx=dx, dgamma=dgamma, dgamma_f64=exact).items()}
    assert (dgamma - exact).abs().max() < 1e-4 and torch.equal(dx, dy * gamma)

    x = torch.arange(-20, 21, dtype=torch.float64) * 0.3
    tensors["activation/x"] = x
    for name in ("quick_gelu", "gelu_pytorch_tanh", "gelu", "silu"):
        value, derivative = backward(ACT2FN[name], (x,), torch.ones_like(x))
        tensors |= {f"activation/{name}/value": value, f"activation/{name}/derivative": derivative}
    sigmoid = lambda v: 1 / (1 + math.exp(-v))
    for i, v in enumerate(x.tolist()):                                      # the closed forms, written so that nothing cancels
        c, u = math.sqrt(2 / math.pi), math.sqrt(2 / math.pi) * (v + 0.044715 * v ** 3)
        t, q, s = sigmoid(2 * u), sigmoid(1.702 * v), sigmoid(v)
        phi = math.erfc(-v / math.sqrt(2)) / 2
        for name, want in {"quick_gelu": (v * q, q + 1.702 * v * q * (1 - q)), "gelu_pytorch_tanh": (v * t, t + v * 2 * t * (1 - t) * c * (1 + 3 * 0.044715 * v * v)),
                           "gelu": (v * phi, phi + v * math.exp(-v * v / 2) / math.sqrt(2 * math.pi)), "silu": (v * s, s + v * s * (1 - s))}.items():
            got = (tensors[f"activation/{name}/value"][i].item(), tensors[f"activation/{name}/derivative"][i].item())
            assert max(abs(a - b) for a, b in zip(got, want)) < 1e-14, (name, v)

    x, dy = draw(3, 13, 22), draw(3, 13, 11)
    y, dx = backward(lambda x: F.silu(x[..., :11]) * x[..., 11:], (x,), dy)
    tensors |= {"swiglu/x": x, "swiglu/y": y, "swiglu/dy": dy, "swiglu/dx": dx}

    # rotary: 5 prefix tokens, 3 x 5 patches, 2 samples of 2 heads of width 16 that keep 13 of the 20 tokens
    D, prefix, grid = 16, 5, (3, 5)
    keep = torch.stack([torch.randperm(prefix + 15, generator=g)[:13].sort().values for _ in range(2)])
    x, dy = draw(2, 2, 13, D), draw(2, 2, 13, D)
    tensors |= {"rotary/keep": keep.int(), "rotary/x": x, "rotary/dy": dy}
    for layout in ("half", "interleaved"):
        table = RotaryEmbeddingDinoV3(D, temperature=100.0, feat_shape=grid, rotate_half=layout == "half").get_embed()
        sin, cos = torch.cat([torch.cat([torch.zeros(prefix, D), torch.ones(prefix, D)], 1), table]).chunk(2, 1)
        y, dx = backward(lambda x: apply_rot_embed_cat(x, torch.cat([sin, cos], 1)[keep].unsqueeze(1), half=layout == "half"), (x,), dy)
        tensors |= {f"rotary/{layout}/{k}": v for k, v in dict(sin=sin, cos=cos, y=y, dx=dx).items()}
        for b in range(2):                                                  # by hand: each pair of channels turned by its patch's angle
            for at in range(13):
                p = keep[b, at].item() - prefix
                place = [2 * (p // 5 + 0.5) / 3 - 1, 2 * (p % 5 + 0.5) / 5 - 1] if p >= 0 else [0, 0]
                for j in range(D // 2):
                    a = 2 * math.pi * place[j // (D // 4)] / 100 ** (4 * (j % (D // 4)) / D)
                    lo, hi = (j, j + D // 2) if layout == "half" else (2 * j, 2 * j + 1)
                    u, v, du, dv = (t[b, :, at].double() for t in (x[..., lo], x[..., hi], dy[..., lo], dy[..., hi]))
                    c, s = math.cos(a), math.sin(a)
                    for got, want in ((y[b, :, at, lo], u * c - v * s), (y[b, :, at, hi], v * c + u * s), (dx[b, :, at, lo], du * c + dv * s), (dx[b, :, at, hi], dv * c - du * s)):
                        assert (got - want).abs().max() < 1e-5
    ours = transformers.models.dinov3_vit.modeling_dinov3_vit.DINOv3ViTRopePositionEmbedding(
        transformers.DINOv3ViTConfig(hidden_size=2 * D, num_attention_heads=2, image_size=[12, 20], patch_size=4))
    for theirs, mine in zip(ours.eval()(torch.zeros(1, 3, 12, 20)), ("cos", "sin")):
        assert (theirs - tensors[f"rotary/half/{mine}"][prefix:]).abs().max() < 1e-6
    sin, cos = RotaryEmbeddingCat(D, in_pixels=False, feat_shape=grid, ref_feat_shape=(16, 16)).get_embed().chunk(2, 1)
    tensors |= {"rotary/eva02/sin": sin, "rotary/eva02/cos": cos}

    pos = draw(1, 1 + 25, 8)                                                # a class token and 5 x 5
    tensors["positions/x"] = pos
    for h, w in ((4, 4), (7, 7), (3, 6)):
        plain = F.interpolate(pos[:, 1:].reshape(1, 5, 5, 8).permute(0, 3, 1, 2), size=(h, w), mode="bicubic", align_corners=False).permute(0, 2, 3, 1).reshape(1, -1, 8)
        tensors |= {f"positions/plain/{h}x{w}": torch.cat([pos[:, :1], plain], 1),
                    f"positions/antialias/{h}x{w}": resample_abs_pos_embed(pos, [h, w], [5, 5], num_prefix_tokens=1)}
    shared.save(f"{OUT}/ops.safetensors", tensors, **VERSIONS, how="layer scale, activations (float64), packed SwiGLU, rotary positions, resampled positions")
    report("ops", plain_against_antialias={k: (tensors[f"positions/plain/{k}"] - tensors[f"positions/antialias/{k}"]).abs().max().item() for k in ("4x4", "7x7", "3x6")})


def report(name, **what):
    print(name, json.dumps(what), flush=True)


if __name__ == "__main__":
    args = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    args.add_argument("--seed", type=int, default=0)
    args.add_argument("--out", required=True)
    args = args.parse_args()
    OUT = args.out
    VERSIONS = {"torch": torch.__version__, "timm": timm.__version__, "transformers": transformers.__version__, "peft": peft.__version__, "seed": str(args.seed)}
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    for make in (make_dinov2, make_clip, make_siglip, make_dinov3, make_deit, make_swiglu, make_lora, make_ops):
        make(args.seed)
