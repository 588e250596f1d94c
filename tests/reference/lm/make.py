"""Writes the language-model reference vectors in lm/: what PyTorch and transformers compute for a tiny GPT-2 and BERT.

    python -m pip install torch==2.13.0 transformers==5.23.0 safetensors numpy
    python make.py --seed 0 --out OUT_FOLDER

Files are float32 safetensors (integers int64), made on the CPU with deterministic algorithms; lm/README.md lists the tensors:
    gpt2/, bert/                           folders as save_pretrained writes them, with expected.safetensors beside the weights
    gpt2_random_ltd/, bert_random_ltd/     the same weights and batch under random-LTD, with the kept indices
    generation/  ops.safetensors  schedules.json
The script checks what it writes and stops at the first check that fails: the block loop used for random-LTD gives
transformers' own logits bit for bit when every token is kept, autograd agrees with central differences in float64, the
cached and the uncached greedy continuation agree, and the schedules give the published totals.
"""
import argparse, copy, json, math, os, sys
from fractions import Fraction
import torch, transformers
import torch.nn.functional as F
from transformers.activations import ACT2FN

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import shared

STEPS = 10
ADAMW = "lr 1e-3 betas .9 .999 eps 1e-8, no clipping; wd .01 on every parameter of two axes (embeddings too, a tied one once), 0 on the rest"


def is_embedding(name):
    return "embeddings.weight" in name or name.split(".")[-2] in ("wte", "wpe")


def randomise(model, g):
    """Give every parameter, zeros and ones included, a value that a wrong gradient would show up in."""
    with torch.no_grad():
        for name, p in sorted(model.named_parameters()):
            noise = torch.randn(p.shape, generator=g) * (0.3 if is_embedding(name) else 0.15 if p.dim() > 1 else 0.1)
            p.copy_(noise + (1.0 if name.endswith("weight") and p.dim() == 1 else 0.0))


# ---- the two models as block loops, so that a block can be given fewer tokens ----

def causal_mask(n, dtype):
    """[1, 1, n, n], added to the scores: 0 where key <= query, the most negative finite number elsewhere."""
    return torch.full((n, n), torch.finfo(dtype).min, dtype=dtype).triu(1)[None, None]


def padding_mask(attention_mask, dtype):
    """[B, 1, T, T], added to the scores: hides padded keys from every query; padded queries still look at the real keys."""
    hide = torch.zeros(attention_mask.shape, dtype=dtype).masked_fill(attention_mask == 0, torch.finfo(dtype).min)
    return hide[:, None, None, :].expand(-1, 1, hide.shape[1], -1)


def take_rows_and_columns(mask, idx):
    """Mask [1 or B, 1, T, T] at the kept tokens idx [B, r], as queries and as keys: [B, 1, r, r]."""
    mask = mask.expand(idx.shape[0], -1, -1, -1)
    mask = mask.gather(2, idx[:, None, :, None].expand(-1, -1, -1, mask.shape[3]))
    return mask.gather(3, idx[:, None, None, :].expand(-1, -1, mask.shape[2], -1))


def run_blocks(h, layers, mask, keep):
    """Every block's output; block i sees only the tokens keep[i] (int64[B, r]), the others skip it unchanged."""
    trace = [h]
    for i, layer in enumerate(layers):
        if i in keep:
            rows = keep[i].unsqueeze(-1).expand(-1, -1, h.shape[-1])
            h = h.scatter(1, rows, layer(h.gather(1, rows), attention_mask=take_rows_and_columns(mask, keep[i])))
        else:
            h = layer(h, attention_mask=mask)
        trace.append(h)
    return trace


def gpt2_forward(model, x, keep):
    body, T = model.transformer, x["input_ids"].shape[1]
    h = body.wte(x["input_ids"]) + body.wpe(torch.arange(T))
    trace = run_blocks(h, body.h, causal_mask(T, h.dtype), keep)
    logits = model.lm_head(body.ln_f(trace[-1]))
    return logits, F.cross_entropy(logits[:, :-1].flatten(0, 1), x["labels"][:, 1:].flatten(), ignore_index=-100), trace


def bert_forward(model, x, keep):
    h = model.bert.embeddings(input_ids=x["input_ids"], token_type_ids=x["token_type_ids"])
    trace = run_blocks(h, model.bert.encoder.layer, padding_mask(x["attention_mask"], h.dtype), keep)
    logits = model.cls(trace[-1])
    return logits, F.cross_entropy(logits.flatten(0, 1), x["labels"].flatten(), ignore_index=-100), trace


# ---- references ----

def gradients(model, forward, x, keep):
    logits, loss, trace = forward(model, x, keep)
    model.zero_grad()
    loss.backward()
    return {"logits": logits.detach(), "loss": loss.detach().reshape(1), **{f"hidden/{i}": h.detach() for i, h in enumerate(trace)},
            **{"grad/" + k: p.grad.clone() for k, p in model.named_parameters()},
            "grad_norm": torch.nn.utils.get_total_norm([p.grad for p in model.parameters()]).reshape(1)}


def ten_steps(model, forward, x, keeps):
    """keeps[t] is what step t keeps; the model itself is left as it was."""
    model = copy.deepcopy(model)
    ps = list(model.parameters())
    opt = torch.optim.AdamW([{"params": [p for p in ps if p.dim() > 1], "weight_decay": 0.01},
                             {"params": [p for p in ps if p.dim() <= 1], "weight_decay": 0.0}], lr=1e-3, betas=(0.9, 0.999), eps=1e-8)
    losses = []
    for keep in keeps:
        loss = forward(model, x, keep)[1]
        opt.zero_grad(); loss.backward(); opt.step()
        losses.append(loss.detach())
    return {"adamw/losses": torch.stack(losses), **{"adamw/param/" + k: p.detach().clone() for k, p in model.named_parameters()}}


def dump(folder, model, forward, x, keeps=None, blocks=()):
    """keeps: int64[steps, len(blocks), B, r], or None for the plain model."""
    sets = [{b: keeps[t, j] for j, b in enumerate(blocks)} if keeps is not None else {} for t in range(STEPS)]
    tensors = {**gradients(model, forward, x, sets[0]), **ten_steps(model, forward, x, sets)}
    exact_model = copy.deepcopy(model).double()
    exact = {**gradients(exact_model, forward, x, sets[0]), **ten_steps(exact_model, forward, x, sets)}
    error, noise = {}, []
    for k, v in exact.items():                      # how far float32 itself is from float64: what a tolerance can be measured by
        group = next((p for p in ("hidden/", "grad/", "adamw/param/") if k.startswith(p)), k)
        gap = (tensors[k].double() - v).abs().max().item()
        if group == "adamw/param/" and gap > 1e-5:
            noise.append([k, gap])
        elif v.abs().max() > 1e-12:
            error[group] = max(error.get(group, 0.0), gap / v.abs().max().item())
    check_model(model, exact_model, forward, x, sets[0], tensors, exact)
    extra = {"keep": keeps} if keeps is not None else {}
    shared.save(f"{OUT}/{folder}/expected.safetensors", {**x, **extra, **tensors}, **VERSIONS, adamw=ADAMW, ltd_blocks=list(blocks),
         f32_against_f64={k: float(f"{e:.1e}") for k, e in error.items()}, adamw_param_off_by_more_than_1e_5={k: float(f"{e:.1e}") for k, e in noise})
    report(folder, loss=tensors["loss"].item(), last=tensors["adamw/losses"][-1].item(), f32_against_f64=error, noise=noise)


def check_model(model, exact_model, forward, x, keep, tensors, exact):
    T = x["input_ids"].shape[1]
    layers = model.transformer.h if hasattr(model, "transformer") else model.bert.encoder.layer
    seen = []                                                       # the mask that transformers hands to a block is ours
    hook = layers[0].register_forward_pre_hook(lambda m, a, kw: seen.extend(
        v for v in [*a, *kw.values()] if isinstance(v, torch.Tensor) and v.dim() == 4), with_kwargs=True)
    theirs = model(**x)
    hook.remove()
    ours = causal_mask(T, torch.float32) if hasattr(model, "transformer") else padding_mask(x["attention_mask"], torch.float32)
    assert len(seen) == 1 and torch.equal(seen[0], ours.expand_as(seen[0]))
    everything = {i: torch.arange(T).expand(x["input_ids"].shape[0], -1) for i in range(len(layers))}
    for kept in ({}, everything):                                   # r = T is the plain model, bit for bit
        logits, loss, _ = forward(model, x, kept)
        assert torch.equal(logits, theirs.logits) and abs(loss.item() - theirs.loss.item()) < 1e-6
    for b, idx in keep.items():
        dropped = torch.ones(idx.shape[0], T, dtype=torch.bool).scatter(1, idx, False)
        assert torch.equal(tensors[f"hidden/{b}"][dropped], tensors[f"hidden/{b + 1}"][dropped])
        assert not torch.isclose(tensors[f"hidden/{b}"][~dropped], tensors[f"hidden/{b + 1}"][~dropped]).all()
        assert (idx[:, 1:] > idx[:, :-1]).all()
        if hasattr(model, "transformer"):
            assert torch.equal(take_rows_and_columns(ours, idx), causal_mask(idx.shape[1], torch.float32).expand(idx.shape[0], -1, -1, -1))
        else:
            valid = x["attention_mask"].gather(1, idx).sum(1)
            assert (valid > 0).all() and (valid < idx.shape[1]).any()
    g, worst = torch.Generator().manual_seed(1), 0.0
    for k, p in exact_model.named_parameters():                     # central differences, two elements of every parameter
        for at in torch.randint(0, p.numel(), (2,), generator=g).tolist():
            flat, h = p.data.view(-1), 1e-4
            old = flat[at].item()
            side = []
            for d in (h, -h):
                flat[at] = old + d
                with torch.no_grad():
                    side.append(forward(exact_model, x, keep)[1].item())
            flat[at] = old
            got = exact["grad/" + k].view(-1)[at].item()
            worst = max(worst, abs((side[0] - side[1]) / (2 * h) - got) / (abs(got) + 1e-3))
    assert worst < 1e-5, worst
    report("  central differences", worst_relative=worst)


def draw(blocks, batch, tokens, r, g):
    one = lambda: torch.randperm(tokens, generator=g)[:r].sort().values
    return torch.stack([torch.stack([torch.stack([one() for _ in range(batch)]) for _ in blocks]) for _ in range(STEPS)])


def save_hf(model, folder):
    model.save_pretrained(f"{OUT}/{folder}")
    extra = f"{OUT}/{folder}/generation_config.json"
    if os.path.exists(extra):
        os.remove(extra)


def make_gpt2(g):
    cfg = transformers.GPT2Config(vocab_size=211, n_positions=48, n_embd=48, n_layer=4, n_head=3, n_inner=96, bos_token_id=210, eos_token_id=210,
                                  resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, attn_implementation="eager")
    model = transformers.GPT2LMHeadModel(cfg).eval()
    randomise(model, g)
    save_hf(model, "gpt2")
    ids = torch.randint(0, 211, (3, 37), generator=g)
    labels = ids.clone()
    labels[0, :5] = -100                                            # a prompt that is not learnt
    labels[1, torch.randperm(37, generator=g)[:9]] = -100           # scattered
    labels[2, 30:] = -100                                           # a tail
    x = {"input_ids": ids, "labels": labels}
    dump("gpt2", model, gpt2_forward, x)
    dump("gpt2_random_ltd", model, gpt2_forward, x, draw((1, 2), 3, 37, 20, g), (1, 2))
    make_generation(model, g)


def make_bert(g):
    cfg = transformers.BertConfig(vocab_size=199, hidden_size=32, num_hidden_layers=4, num_attention_heads=2, intermediate_size=128,
                                  max_position_embeddings=64, type_vocab_size=2, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
                                  attn_implementation="eager")
    model = transformers.BertForMaskedLM(cfg).eval()
    randomise(model, g)
    save_hf(model, "bert")
    pad, cls, sep, mask, first = 0, 1, 2, 3, 5
    ids, labels = torch.full((3, 29), pad), torch.full((3, 29), -100)
    types, valid = torch.zeros(3, 29, dtype=torch.long), torch.zeros(3, 29, dtype=torch.long)
    for b, (length, cut) in enumerate([(29, 15), (21, 8), (14, 14)]):      # at most 15 padded tokens, so that 17 kept ones hold a real one
        ids[b, :length] = torch.randint(first, 199, (length,), generator=g)
        ids[b, 0], ids[b, cut - 1], ids[b, length - 1] = cls, sep, sep
        types[b, cut:length], valid[b, :length] = 1, 1
        words = (ids[b, :length] >= first).nonzero().flatten()
        chosen = words[torch.randperm(len(words), generator=g)[:max(3, length // 5)]]
        labels[b, chosen] = ids[b, chosen]
        ids[b, chosen] = mask
        ids[b, chosen[0]] = torch.randint(first, 199, (1,), generator=g)   # one replaced by a random word, one left as it is
        ids[b, chosen[1]] = labels[b, chosen[1]]
    x = {"input_ids": ids, "attention_mask": valid, "token_type_ids": types, "labels": labels}
    dump("bert", model, bert_forward, x)
    dump("bert_random_ltd", model, bert_forward, x, draw((1, 2), 3, 29, 17, g), (1, 2))


@torch.no_grad()
def greedy(model, prompt, n):
    """Without a cache: the n tokens, and the logits [n, V] each was the largest of."""
    ids, logits = prompt, []
    for _ in range(n):
        logits.append(model(input_ids=ids).logits[0, -1])
        ids = torch.cat([ids, logits[-1].argmax().reshape(1, 1)], 1)
    return ids[0, prompt.shape[1]:], torch.stack(logits)


@torch.no_grad()
def make_generation(model, g):
    tensors, gap, lead = {}, 0.0, math.inf
    for i, length in enumerate((5, 11)):
        while True:                                                 # random weights like to repeat themselves: a prompt with a varied continuation
            prompt = torch.randint(0, 210, (1, length), generator=g)
            tokens, logits = greedy(model, prompt, 12)
            top = logits.topk(2).values
            if len(tokens.unique()) >= 6 and (top[:, 0] - top[:, 1]).min() > 0.02:
                break
        out = model(input_ids=prompt, use_cache=True)               # the same with a cache, one token at a time
        for t in range(12):
            gap = max(gap, (out.logits[0, -1] - logits[t]).abs().max().item())
            out = model(input_ids=tokens[t].reshape(1, 1), past_key_values=out.past_key_values, use_cache=True)
        theirs = model.generate(prompt, max_new_tokens=12, min_new_tokens=12, do_sample=False, pad_token_id=210)
        assert torch.equal(theirs[0, length:], tokens) and gap < 1e-5
        tensors |= {f"prompt/{i}": prompt[0], f"tokens/{i}": tokens, f"logits/{i}": logits}
        lead = min(lead, (top[:, 0] - top[:, 1]).min().item())
    shared.save(f"{OUT}/generation/expected.safetensors", tensors, **VERSIONS, how="greedy, weights of gpt2/, the end token does not stop it",
         smallest_lead_of_the_chosen_token=lead, cached_against_uncached=gap)
    report("generation", tokens=[tensors[f"tokens/{i}"].tolist() for i in (0, 1)], smallest_lead=lead, cached_against_uncached=gap)


def make_ops(g):
    x = torch.arange(-20, 21, dtype=torch.float64) * 0.3
    tensors = {"gelu/x": x}
    for name in ("gelu_new", "gelu"):
        at = x.clone().requires_grad_()
        y = ACT2FN[name](at)
        y.sum().backward()
        tensors |= {f"{name}/value": y.detach(), f"{name}/derivative": at.grad}
    for i, v in enumerate(x.tolist()):                              # the closed forms, written so that nothing cancels
        c, u = math.sqrt(2 / math.pi), math.sqrt(2 / math.pi) * (v + 0.044715 * v ** 3)
        s = 1 / (1 + math.exp(-2 * u))
        want = {"gelu_new": (v * s, s + v * 2 * s * (1 - s) * c * (1 + 3 * 0.044715 * v * v)),
                "gelu": (v * math.erfc(-v / math.sqrt(2)) / 2, math.erfc(-v / math.sqrt(2)) / 2 + v * math.exp(-v * v / 2) / math.sqrt(2 * math.pi))}
        for name, (value, derivative) in want.items():
            assert abs(tensors[f"{name}/value"][i].item() - value) < 1e-14 and abs(tensors[f"{name}/derivative"][i].item() - derivative) < 1e-14
    ids = torch.randint(0, 29, (5, 23), generator=g)
    ids[torch.rand(5, 23, generator=g) < 0.4] = 7                   # one id in nearly half of the places
    ids[ids == 11] = 0                                              # and one nowhere
    weight, doutput = torch.randn(29, 10, generator=g), torch.randn(5, 23, 10, generator=g)
    tensors |= {"embedding/weight": weight, "embedding/ids": ids, "embedding/output": F.embedding(ids, weight), "embedding/doutput": doutput}
    for name, dtype, pad in (("dweight", torch.float32, None), ("dweight_f64", torch.float64, None), ("dweight_padding_idx_0", torch.float32, 0)):
        w = weight.to(dtype).clone().requires_grad_()
        F.embedding(ids, w, padding_idx=pad).backward(doutput.to(dtype))
        tensors["embedding/" + name] = w.grad
    sums = torch.zeros(29, 10, dtype=torch.float64)
    for b in range(5):
        for t in range(23):
            sums[ids[b, t]] += doutput[b, t].double()
    assert (sums - tensors["embedding/dweight_f64"]).abs().max() < 1e-13 and (sums[11] == 0).all()
    shared.save(f"{OUT}/ops.safetensors", tensors, **VERSIONS, how="gelu_new is the tanh form, gelu the erf form; both float64")
    report("ops", ids_7=(ids == 7).sum().item(), f32_against_f64=(tensors["embedding/dweight"] - sums).abs().max().item())


# ---- schedules: no torch from here on ----

def mslg(c, raw):
    """Kept length when raw tokens have been seen."""
    return min(c["start_length"] + c["increment"] * (raw // c["interval_tokens"]), c["full_length"])


def layer_tokens(c, r):
    """Layer tokens of one sequence."""
    return r * c["ltd_blocks"] + c["full_length"] * (c["total_blocks"] - c["ltd_blocks"])


def plan(c):
    n, K, L = c["full_length"], c["ltd_blocks"], c["total_blocks"]
    R = Fraction(n - c["start_length"], c["increment"]) * c["interval_tokens"]
    total = R * K * Fraction(n + c["start_length"], 2 * n) + R * (L - K) + (c["total_tokens"] - R) * L
    W = c["warmup_tokens"] * L
    return {"raw_tokens_until_full_length": float(R), "total_layer_tokens": float(total), "warmup_layer_tokens": W, "decay_end_layer_tokens": float(total - W)}


def lr(c, p, N, curve):
    W, D = p["warmup_layer_tokens"], p["decay_end_layer_tokens"]
    if N <= W:
        return c["lr_max"] * N / W
    if N > D:
        return c["lr_min"]
    q = (N - W) / (D - W)
    return c["lr_min"] + (c["lr_max"] - c["lr_min"]) * (1 - q if curve == "linear" else (1 + math.cos(math.pi * q)) / 2)


def table(c, points):
    """One row a point: what holds just before optimiser step `step`, that is after `step` steps."""
    p, rows, N, averaged = plan(c), [], 0, 0
    steps = c["total_tokens"] // (c["batch"] * c["full_length"])
    wanted = {round(i * steps / (points - 1)) for i in range(points)}
    before = None
    for s in range(steps + 1):
        raw = s * c["batch"] * c["full_length"]
        r = mslg(c, raw)
        state = (r, N <= p["warmup_layer_tokens"], N > p["decay_end_layer_tokens"])
        if s in wanted or (before is not None and state[1:] != before[1:]):             # and the first step of each branch of the curve
            rows.append({"step": s, "raw_tokens": raw, "kept_length": r, "layer_tokens": N, "layer_averaged_tokens": averaged,
                         "lr_linear": lr(c, p, N, "linear"), "lr_cosine": lr(c, p, N, "cosine")})
        before = state
        N += c["batch"] * layer_tokens(c, r)
        averaged += c["batch"] * (layer_tokens(c, r) // c["total_blocks"])
    edges = sorted({e for k in range(0, 9) for e in (k * c["interval_tokens"] - 1, k * c["interval_tokens"], k * c["interval_tokens"] + 1) if e >= 0})
    at = [0, 1, p["warmup_layer_tokens"] - 1, p["warmup_layer_tokens"], p["warmup_layer_tokens"] + 1, math.floor(p["decay_end_layer_tokens"]),
          math.floor(p["decay_end_layer_tokens"]) + 1, math.floor(p["total_layer_tokens"])]
    return {"settings": c, "plan": p, "rows": rows, "kept_length_at": [[e, mslg(c, e)] for e in edges],
            "lr_at_layer_tokens": [[N, lr(c, p, N, "linear"), lr(c, p, N, "cosine")] for N in at]}


def fixed_linear(lo, hi, require, per, steps):
    """DeepSpeed's kept length at each optimiser step from 0."""
    r = lo
    for t in range(steps):
        if r < hi:
            v = math.floor(t / require * (hi - lo) + lo)
            r = min(v - v % per, hi)
        yield r


def consumed(lo, hi, require, per, L, K, batch, steps):
    return sum(batch * (r * K + hi * (L - K)) for r in fixed_linear(lo, hi, require, per, steps))


def stop_rule(lo, hi, require, per, L, K, micro, accumulate, budget):
    """Micro-steps and layer-averaged tokens when the budget is first reached."""
    seen = count = 0
    for r in fixed_linear(lo, hi, require, per, 10 ** 6):
        for _ in range(accumulate):
            seen, count = seen + micro * ((hi * (L - K) + r * K) // L), count + 1
            if seen >= budget:
                return count, seen


def saving(c, steps):
    """Share of the full model's layer tokens that MSLG saves, summed step by step in integers."""
    per_step, spent, raw = c["batch"] * c["full_length"], 0, 0
    for _ in range(steps):
        spent += c["batch"] * layer_tokens(c, mslg(c, raw))
        raw += per_step
    return 1 - Fraction(spent, c["total_blocks"] * per_step * steps)


def first_full_step(c):
    step = c["batch"] * c["full_length"]
    s = -(-((c["full_length"] - c["start_length"]) // c["increment"] * c["interval_tokens"]) // step)
    assert mslg(c, s * step) == c["full_length"] > mslg(c, (s - 1) * step)
    return s


def make_schedules(seed):
    s = seed % 3                                    # other seeds, other settings
    n = 128 + 32 * s
    small = {"full_length": n, "start_length": 32, "increment": 16, "interval_tokens": 20 * 8 * n, "total_blocks": 6 + s, "ltd_blocks": 4, "batch": 8,
             "total_tokens": 200 * 8 * n, "warmup_tokens": 20 * 8 * n, "lr_max": 1e-3, "lr_min": 1e-5}
    # nothing divides anything: the length ends on a short increment, the interval and the warm-up fall between steps
    awkward = {"full_length": 100 + 7 * s, "start_length": 24 + 5 * s, "increment": 16, "interval_tokens": 7001 + 13 * s, "total_blocks": 5 + s,
               "ltd_blocks": 3 + s, "batch": 3, "total_tokens": 60000, "warmup_tokens": 5050 + 37 * s, "lr_max": 6e-4, "lr_min": 6e-5}
    bert = {"full_length": 512, "start_length": 128, "increment": 16, "interval_tokens": 38 * 10 ** 9, "total_blocks": 24, "ltd_blocks": 22, "batch": 1024}
    gpt3 = {"full_length": 2048, "start_length": 128, "increment": 16, "interval_tokens": 175 * 10 ** 7, "total_blocks": 24, "ltd_blocks": 22, "batch": 512}
    oracles = []

    def oracle(name, settings, expected, recomputed, digits=None):
        same = expected == (round(recomputed, digits) if digits is not None else recomputed)
        oracles.append({"name": name, "settings": settings, "expected": expected, "recomputed": recomputed, "matches": same})
        assert same, (name, expected, recomputed)

    keys = ("min_value", "max_value", "require_steps", "seq_per_step", "total_layer_num", "random_ltd_layer_num", "batch", "steps")
    for name, s, want in (("CIFAR-10 ViT-B/16, consumed layer tokens", (32, 197, 3910, 8, 12, 10, 32, 5474), 305784192),
                          ("GPT-2 124M, consumed layer tokens", (256, 1024, 400, 8, 12, 10, 4, 524), 19534848),
                          ("GPT-2 355M, consumed layer tokens", (128, 1024, 400, 8, 24, 22, 4, 524), 35567104)):
        oracle(name, dict(zip(keys, s)), want, consumed(*s))
    keys = keys[:6] + ("micro_batch", "gradient_accumulation_steps", "token_budget")
    for name, s, want in (("GPT-2 124M, [micro-steps, layer-averaged tokens] at the stop", (128, 1024, 400, 8, 12, 10, 2, 2, 2146304), [1344, 2148032]),
                          ("GPT-2 355M, [micro-steps, layer-averaged tokens] at the stop", (128, 1024, 400, 8, 24, 22, 2, 2, 2146304), [1373, 2147024])):
        oracle(name, dict(zip(keys, s)), want, list(stop_rule(*s)))
    share = saving(bert, 2_000_000)
    oracle("BERT-large, MSLG, saved layer tokens in %", {**bert, "steps": 2_000_000}, 31.14, 100 * float(share), 2)
    oracle("BERT-large, MSLG, first step at full length", bert, 1739502, first_full_step(bert))
    steps = 300 * 10 ** 9 // (512 * 2048)
    oracle("GPT-3 1.3B, MSLG, saved layer tokens in %", {**gpt3, "steps": steps}, 30.3, 100 * float(saving(gpt3, steps)), 1)

    tables = [table(small, 25), table(awkward, 25)]
    for t in tables:
        assert t["rows"][-1]["lr_linear"] == t["settings"]["lr_min"], "the tables should reach the end of the decay"
    big = [{"settings": c, "kept_length_at": [[e, mslg(c, e)] for k in (0, 1, 2, 7, 23, 24, 119, 120, 121) for e in (k * c["interval_tokens"] - 1, k * c["interval_tokens"]) if e >= 0]}
           for c in (bert, gpt3)]
    os.makedirs(OUT, exist_ok=True)
    with open(f"{OUT}/schedules.json", "w") as f:
        json.dump({"about": "README.md beside this file says what each entry means. Floats are float64, printed so that they read back exactly.",
                   "layer_token_lr": tables, "mslg_large": big, "oracles": oracles}, f, indent=1)
    report("schedules", rows=[len(t["rows"]) for t in tables], oracles=[[o["name"], o["recomputed"], o["matches"]] for o in oracles])


def report(name, **what):
    print(name, json.dumps(what))


if __name__ == "__main__":
    args = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    args.add_argument("--seed", type=int, default=0)
    args.add_argument("--out", required=True)
    args = args.parse_args()
    OUT = args.out
    VERSIONS = {"torch": torch.__version__, "transformers": transformers.__version__, "seed": str(args.seed)}
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(1)
    g = torch.Generator().manual_seed(args.seed)
    make_gpt2(g)
    make_bert(g)
    make_ops(g)
    make_schedules(args.seed)
