"""The model card of an exported student."""

from __future__ import annotations

import re
from typing import Any

from stssl import __version__
from stssl.data.dataset import Dataset
from stssl.training.recipe import Recipe

_USE = """```python
import json
import timm, torch
from safetensors.torch import load_file

model = json.load(open("model.json"))
student = timm.create_model(**model["timm"])
student.load_state_dict(load_file("student.safetensors"))
student.eval()

# x: [B, C, H, W] float, raw pixel values of the bands below, already {size} by {size} pixels
mean, std = (torch.tensor(model[key]).view(-1, 1, 1) for key in ("band_mean", "band_std"))
x = ((x - (mean - 2 * std)) / (4 * std)).clamp(0, 1)
logits = student((x - 0.5) / 0.25)
```"""


_MARKS = re.compile(r"[\\`*|~$#]|\](?=[(\[:]|$)|(?<!\w)_|_(?!\w)|&(?=#?\w+;)|^[-+=](?!\w)|^\d+(?=[.)])")
_INVISIBLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def escaped(text: object) -> str:
    """Text from data as one line of Markdown that shows it as it is: no markup, no HTML, no line breaks."""
    line = _INVISIBLE.sub("\N{REPLACEMENT CHARACTER}", " ".join(str(text).split()))
    line = _MARKS.sub(lambda found: f"{found[0]}\\" if found[0].isdigit() else f"\\{found[0]}", line)
    return line.replace("<", "&lt;").replace(">", "&gt;")


def model_card(model: dict[str, Any], recipe: Recipe, dataset: Dataset, origin: str, facts: list[str]) -> str:
    """Markdown: what it is, how it was made, how to use it, what it is not for."""
    card, split = dataset.store.card, dataset.split
    name, bands, classes = escaped(card.name), *(", ".join(map(escaped, model[key])) for key in ("bands", "classes"))
    made = {
        "plain": "one network that sees the image alone",
        "teacher_student": "a teacher that also sees place and date",
    }
    cut = "whole spatial blocks" if recipe.data.split.by == "blocks" else "the authors' own splits"
    per_image = "one" if model["task"] == "single" else "several"
    return "\n".join(
        [
            f"# {model['timm']['model_name']} for {name}",
            "",
            f"{escaped(origin)} Weights: moving average (decay {recipe.training.ema_decay}) after {model['step']} steps. "
            f"Made with stssl {__version__}, recipe {model['recipe']}, data fingerprint {card.fingerprint[:12]}.",
            "",
            "## What it is",
            "",
            f"- A timm network that maps {len(model['bands'])} bands ({bands}, in this order) "
            f"at {model['image_size']} px to {len(model['classes'])} classes ({per_image} per image): {classes}.",
            f"- Trained by {recipe.algorithm.name}, framework {recipe.framework} ({made[recipe.framework]}), on "
            f"{len(split.labeled)} labeled images among {len(split.unlabeled)} training images. It needs no metadata.",
            *[f"- {escaped(fact)}" for fact in facts],
            "",
            "## How to use it",
            "",
            _USE.replace("{size}", str(model["image_size"])),
            "",
            "## Limits",
            "",
            f"- Validation ({len(split.validation)} images) and test ({len(split.test)} images) are {cut} of the "
            "same data set. Other sensors, processing levels, seasons and regions are untested.",
            f"- {card.count} images in all: with few test images the scores above have wide intervals.",
            "",
            "## Data",
            "",
            f"{name}: {escaped(card.attribution)}. Licence: {escaped(card.licence)}.",
            "",
        ]
    )
