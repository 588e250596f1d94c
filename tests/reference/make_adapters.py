"""Adapters of small models of several families, as PEFT writes them, and the logits that they bring about.

    python make_adapters.py [NAMES]

The bases are those in `vision/` and `lm/` (README.md). Random values everywhere, B too, so that an adapter that is read wrongly shows. Beside
each adapter lies `expected.safetensors`: the logits of the base's pictures or, of a model without a head, tokens after the last norm;
of a language model those of two samples of eleven tokens, of which token t of sample b is (7 b + 3 t) modulo the vocabulary.
"""

import json
import sys
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import (
    BertForMaskedLM,
    CLIPForImageClassification,
    DeiTForImageClassificationWithTeacher,
    Dinov2ForImageClassification,
    DINOv3ViTModel,
    GPT2LMHeadModel,
    SiglipForImageClassification,
)

HERE = Path(__file__).parent
MODELS = {
    "hf_clip": (CLIPForImageClassification, ["q_proj", "v_proj", "out_proj", "fc1"], ["classifier"]),
    "hf_siglip": (SiglipForImageClassification, r".*encoder\.layers\..*(k_proj|v_proj|fc2)", ["classifier"]),
    "hf_dinov3": (DINOv3ViTModel, ["q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj"], None),
    "hf_dinov3_gated": (DINOv3ViTModel, ["q_proj", "o_proj", "gate_proj", "up_proj", "down_proj"], None),
    "hf_dinov2_swiglu": (Dinov2ForImageClassification, ["v_proj", "up_proj", "down_proj"], ["classifier"]),
    "hf_deit_distilled": (
        DeiTForImageClassificationWithTeacher,
        ["q_proj", "v_proj", "o_proj", "cls_classifier"],
        ["distillation_classifier"],
    ),
    "gpt2": (GPT2LMHeadModel, ["c_attn", "c_proj"], None),
    "bert": (BertForMaskedLM, r"bert\.encoder\.layer\..*(query|value|dense)", None),
}


def make(name, architecture, targets, saved):
    generator = torch.Generator().manual_seed(len(name))
    is_text = name in ("gpt2", "bert")
    base = architecture.from_pretrained(HERE / ("lm" if is_text else "vision") / name).eval()
    config = LoraConfig(r=2, lora_alpha=6, target_modules=targets, modules_to_save=saved)
    model = get_peft_model(base, config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    folder = HERE / "adapters" / name
    model.save_pretrained(folder)
    (folder / "README.md").unlink()
    settings = json.loads((folder / "adapter_config.json").read_text())
    settings["base_model_name_or_path"] = name
    if isinstance(settings["target_modules"], list):
        settings["target_modules"].sort()
    (folder / "adapter_config.json").write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n")
    if is_text:
        ids = (7 * torch.arange(2)[:, None] + 3 * torch.arange(11)[None, :]) % base.config.vocab_size
        inputs = {"input_ids": ids}
    else:
        inputs = {"pixel_values": load_file(HERE / "vision" / name / "expected.safetensors")["images"]}
    with torch.no_grad():
        out = model(**inputs)
    expected = {"features": out.last_hidden_state.contiguous()} if name.startswith("hf_dinov3") else {"logits": out.logits}
    save_file(expected, folder / "expected.safetensors")


for name in sys.argv[1:] or MODELS:
    make(name, *MODELS[name])
