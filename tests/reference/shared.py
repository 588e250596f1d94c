"""What the scripts share that make the references: how tensors are written."""

import json
import os

from safetensors.torch import save_file


def save(path, tensors, **meta):
    """Writes tensors with texts beside them; other values of `meta` as JSON. A rerun gives the same bytes."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    save_file({k: v.detach().contiguous().clone() for k, v in tensors.items()}, path, metadata={
        k: v if isinstance(v, str) else json.dumps(v) for k, v in meta.items()})
    with open(path, "rb") as f:                     # safetensors writes the metadata in a random order: sort it
        raw = f.read()
    n = int.from_bytes(raw[:8], "little")
    head = json.loads(raw[8:8 + n])
    head["__metadata__"] = dict(sorted(head["__metadata__"].items()))
    text = json.dumps(head, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as f:
        f.write(len(text).to_bytes(8, "little") + text + raw[8 + n:])
