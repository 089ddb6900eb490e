"""A checkpoint of the reference project as our networks, with the same logits.

The file (`model_best.pth`, `latest_model.pth`) holds `model`, the weights as they train, and `ema_model`, their moving
average, which the reference evaluates and which is loaded here. Names may begin with `module.`, from data-parallel training.
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from stssl.errors import CheckpointError, StsslError, is_out_of_memory
from stssl.files import check_archive
from stssl.models.backbone import ModelConfig, build_backbone
from stssl.models.teacher_student import Networks
from stssl.training.parts import networks_of
from stssl.training.recipe import Recipe

# Where the reference keeps what; the heads within its backbones are not used.
_PARTS = {
    "joint_backbone.metainfo_pos_embed": "teacher.position",
    "joint_backbone.head.": "",
    "joint_backbone.": "teacher.backbone.",
    "joint_head.": "teacher.backbone.head.",
    "metainfo_enc.fc1.": "teacher.encoder.mlp.0.",
    "metainfo_enc.fc2.": "teacher.encoder.mlp.2.",
    "student_backbone.metainfo_pos_embed": "student.backbone.reg_token",
    "student_backbone.head.": "",
    "student_backbone.": "student.backbone.",
    "student_head.": "student.backbone.head.",
}
_SAME_DAY = 2 * math.pi / 365  # 1 January, which every image of EuroSAT has there, and of BigEarthNet with no_time
_REMEDY = "give the YAML file that it was trained with, and shards of the same data"


class Loaded(NamedTuple):
    """What a checkpoint holds.

    Attributes:
        networks: In evaluation mode.
        step: How many steps it trained.
        blank: [1, K] what CDMAD takes off the logits; None for other algorithms, and before it begins.
    """

    networks: Networks
    step: int
    blank: Tensor | None


def our_name(theirs: str) -> str | None:
    """Our name of a parameter of the reference; None for what it never uses."""
    for start, ours in _PARTS.items():
        if theirs.startswith(start):
            return ours + theirs.removeprefix(start) if ours else None
    return f"student.backbone.{theirs}"  # the plain network's names are timm's


def our_state(state: Mapping[str, Tensor], networks: Networks) -> dict[str, Tensor]:
    """The reference's weights under our names, for networks that need not have all of them.

    Where the reference has one vector for the student's token, timm has a token and its position: the position gets zeros.
    Where an image's place or date is not encoded, the reference encodes the same one for all images, which becomes part of
    a bias. Vectors for an unknown place or date, which the reference has not, are zeros.
    """
    named = {our_name(key): value for key, value in state.items()}
    ours = {key: value for key, value in named.items() if key and getattr(networks, key.split(".")[0]) is not None}
    student, teacher = networks.student, networks.teacher
    token, place = (ours.get(f"student.backbone.{key}") for key in ("reg_token", "pos_embed"))
    if student is not None and not student.registers:
        ours.pop("student.backbone.reg_token", None)
    elif token is not None and place is not None:
        ours["student.backbone.pos_embed"] = torch.cat([place[:, :1], torch.zeros_like(token), place[:, 1:]], dim=1)
    if teacher is not None:
        first = "teacher.encoder.mlp.0."
        weight, bias = ours.get(f"{first}weight"), ours.get(f"{first}bias")
        if weight is not None and bias is not None and weight.shape[1] == 4:
            located, timed = teacher.encoder.location.features > 0, teacher.encoder.time.features > 0
            if not timed:
                same = torch.tensor([math.sin(_SAME_DAY), math.cos(_SAME_DAY)], dtype=weight.dtype)
                ours[f"{first}bias"] = bias + weight[:, 2:] @ same
            ours[f"{first}weight"] = weight[:, [*range(0 if located else 2, 4 if timed else 2)]]
        for key in ("unknown_location", "unknown_time"):
            ours[f"teacher.encoder.{key}"] = torch.zeros_like(getattr(teacher.encoder, key))
    return ours


def load(path: Path | str, recipe: Recipe, channels: int, classes: int) -> Loaded:
    """Read a checkpoint.

    Args:
        path: The file.
        recipe: Made from the reference's YAML file: it says which networks there are, and whether the student has the
            further token, which the weights alone do not tell.
        channels: Number of bands.
        classes: Number of classes.

    Raises:
        CheckpointError: It is missing, damaged, something else, or holds the weights of other networks.
    """
    file = read(path)
    state = {key.removeprefix("module."): value for key, value in file["ema_model"].items()}
    both = any(key.startswith(("joint_", "student_", "metainfo_")) for key in state)
    if both == (recipe.framework == "plain"):
        holds, wants = ("a teacher and a student", "one") if both else ("one network", "a teacher and a student")
        raise CheckpointError(f"{path}: holds {holds}, but the reference config makes {wants}; {_REMEDY}")
    step = file.get("it", recipe.training.steps)
    blank = None
    with torch.random.fork_rng(devices=[]):  # first weights are drawn, and replaced
        networks = networks_of(recipe, channels, classes, pretrained=False)
        _fill(networks, our_state(state, networks), path)
        if recipe.algorithm.name == "cdmad" and step >= recipe.algorithm.debias_start:
            blank = _blank(state, networks, recipe.model.model_copy(update={"pretrained": False}), channels, classes)
    return Loaded(networks.eval(), step, blank)


@torch.no_grad()
def _blank(state: Mapping[str, Tensor], networks: Networks, model: ModelConfig, channels: int, classes: int) -> Tensor:
    """Logits [1, K] that the reference's CDMAD takes off at test time: on an image of ones.

    Of the plain network itself; but with a teacher, of its backbone through that backbone's own head, which was never trained.
    """
    backbone = networks.student.backbone if networks.student is not None else None
    if networks.teacher is not None:
        prefix = "joint_backbone."
        backbone = build_backbone(model, channels, classes)
        backbone.load_state_dict(
            {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix) and "metainfo" not in k}
        )
    assert backbone is not None
    blank: Tensor = backbone.eval()(torch.ones(1, channels, model.image_size, model.image_size))
    return blank


def read(path: Path | str) -> dict[str, Any]:
    """Read the file without running code from it; the scores in it are numpy's numbers, which is allowed.

    Raises:
        CheckpointError: Missing, damaged or something else.
    """
    scalar: Any = np.float64(0).__reduce__()[0]
    numbers: list[Any] = [np.dtype, *{type(np.dtype(kind)) for kind in "dfliq"}]
    names: list[Any] = [(scalar, f"{package}.multiarray.scalar") for package in ("numpy.core", "numpy._core")]
    try:
        check_archive(path)
        with zipfile.ZipFile(path) as archive:  # torch writes check sums but does not look at them
            if damaged := archive.testzip():
                raise ValueError(f"{damaged} fails its check sum")
        with torch.serialization.safe_globals([*numbers, *names]):
            file = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file") from None
    except StsslError as error:
        raise CheckpointError(str(error)) from None
    except PermissionError:
        raise  # which says nothing of what is in it
    except Exception as error:  # torch's reader fails in many ways on a file that is something else
        if is_out_of_memory(error):
            raise
        reason = " ".join((str(error).splitlines() or [type(error).__name__])[0].split())
        raise CheckpointError(
            f"{path}: damaged, or no checkpoint of the reference project ({reason}); give its model_best.pth"
        ) from None
    weights = file.get("ema_model") if isinstance(file, dict) else None
    tensors = isinstance(weights, dict) and all(
        isinstance(k, str) and isinstance(v, Tensor) for k, v in weights.items()
    )
    if not tensors:
        found = f"its keys are {', '.join(map(str, list(file)[:5]))}" if isinstance(file, dict) else type(file).__name__
        raise CheckpointError(
            f"{path}: holds no weights under ema_model, as the reference project writes them ({found}); "
            "give its model_best.pth or latest_model.pth"
        )
    step = file.get("it", 0)
    if isinstance(step, bool) or not isinstance(step, int) or step < 0:
        raise CheckpointError(
            f"{path}: it: expected the number of steps (got {type(step).__name__}); give its model_best.pth"
        )
    return file


def _fill(networks: Networks, state: dict[str, Tensor], path: Path | str) -> None:
    """Load weights that must be those of these networks, in names and shapes."""
    own = networks.state_dict()
    shape = {key: list(value.shape) for key, value in own.items()}
    faults = {
        "lacks": [key for key in own if key not in state],
        "has beyond them": [key for key in state if key not in own],
        "has in another shape": [
            f"{key} {list(state[key].shape)} instead of {shape[key]}"
            for key in own
            if key in state and list(state[key].shape) != shape[key]
        ],
    }
    said = [f"{what} {', '.join(k[:2])}" + f" and {len(k) - 2} more" * (len(k) > 2) for what, k in faults.items() if k]
    if said:
        raise CheckpointError(
            f"{path}: ema_model: not the weights of the networks that the reference config describes: it {'; it '.join(said)}; "
            f"{_REMEDY}"
        )
    networks.load_state_dict(state)
