"""Which networks a framework has, which of them sees metadata, and which one is used in the end."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor, nn

from stssl import plugins
from stssl.encodings.encoder import EncoderConfig, MetadataEncoder
from stssl.models.backbone import ModelConfig, build_backbone
from stssl.models.distillation import DistillationConfig, On, make_predictor, matched
from stssl.models.families import family_of
from stssl.models.injection.base import Injection, Outputs, read
from stssl.models.pairs import PACKAGE, resolve_distillation
from stssl.models.register import with_registers

Framework = Literal["plain", "metadata_input", "teacher_student"]
Role = Literal["teacher", "student"]

if TYPE_CHECKING:
    AnyInjection = Any
else:
    AnyInjection = plugins.choice_of(PACKAGE, Injection, "token")


class ImageNetwork(nn.Module):
    """A timm network that sees the image alone; its state_dict below `backbone.` is timm's own.

    Args:
        backbone: The network.
        registers: How many of its last prefix tokens are there for distillation.
    """

    def __init__(self, backbone: Any, registers: int = 0) -> None:
        super().__init__()
        self.backbone = backbone
        self.family = family_of(backbone)
        self.registers = registers

    def forward(self, images: Tensor) -> Outputs:
        """Classify images [B, C, S, S]."""
        features = self.backbone.forward_features(images)
        tokens = None
        if self.registers:
            end = self.backbone.num_prefix_tokens
            tokens = self.family.normed_tokens(self.backbone, features[:, end - self.registers : end]).flatten(1)
        return read(self.backbone, features, tokens)


class Networks(nn.Module):
    """The networks of a framework.

    | framework       | teacher (image + metadata) | student (image) | makes the targets | is used in the end |
    |-----------------|----------------------------|-----------------|-------------------|--------------------|
    | plain           | no                         | yes             | student           | student            |
    | metadata_input  | yes                        | no              | teacher           | teacher            |
    | teacher_student | yes                        | yes             | teacher           | student            |

    Attributes:
        roles: The networks there are, the one that makes the targets first.
        deployed: The role of the network that is evaluated and exported.
        distilled: What of the teacher the student matches; None without distillation.
        predictor: From the student's pooled feature to the teacher's, where that is matched.
        timm_arguments: `timm.create_model` arguments of the student (None without one).
        share: Where several processes share out a pass, what does that: called with the pass and its batch.

    Raises:
        ConfigError: timm refuses the structure.
        CheckpointError: The pretrained weights cannot be had or do not fit.
        ValueError: Parts that do not go together; a `Recipe` has been checked for that.
    """

    def __init__(
        self,
        framework: Framework,
        model: ModelConfig,
        encoding: EncoderConfig,
        injection: Any,
        distillation: DistillationConfig,
        channels: int,
        classes: int,
    ) -> None:
        super().__init__()
        self.share: Callable[..., Outputs] | None = None
        self.teacher: Injection | None = None
        self.student: ImageNetwork | None = None
        self.predictor: nn.Module | None = None
        self.timm_arguments: dict[str, Any] | None = None
        self.distilled: On | None = None
        point = plugins.find(PACKAGE, Injection)[injection.name]
        if framework == "teacher_student" and distillation.weight > 0:
            self.distilled = resolve_distillation(model, injection, distillation)
        if framework != "plain":
            backbone = build_backbone(model, channels, classes)
            encoder = MetadataEncoder(encoding, point.embedding(backbone))
            self.teacher = point(injection, backbone, encoder)
        if framework != "metadata_input":
            arguments = model.timm_arguments(channels, classes)
            backbone, registers = build_backbone(model, channels, classes), 0
            if self.distilled == "token":
                registers = point.tokens(injection)
                backbone, arguments = with_registers(backbone, arguments, model.drop_path_rate, registers)
            self.student, self.timm_arguments = ImageNetwork(backbone, registers), arguments
        if self.distilled == "pooled":
            width = backbone.head_hidden_size
            self.predictor = make_predictor(distillation.predictor, width, width + point.beside(injection))
        both: tuple[Role, ...] = ("teacher", "student")
        self.roles = tuple(role for role in both if getattr(self, role) is not None)
        self.deployed = self.roles[-1]

    def forward(self, role: Role, images: Tensor, place: Tensor, time: Tensor) -> Outputs:
        """Ask one network; the student is never shown place and time.

        Args:
            role: `teacher` or `student`.
            images: [B, C, S, S] float32, normalised.
            place: [B, 2] float32 degrees, NaN = unknown.
            time: [B] float64 days since 1970-01-01 UTC, NaN = unknown.
        """
        network = self.student if role == "student" else self.teacher
        assert network is not None
        batch = (images,) if role == "student" else (images, place, time)
        outputs: Outputs = network(*batch) if self.share is None else self.share(network, *batch)
        return outputs

    def to_match(self, role: Role, outputs: Outputs) -> Tensor:
        """What distillation compares, [B, D]: the student's through the predictor where there is one."""
        assert self.distilled is not None
        feature = matched(self.distilled, outputs)
        return self.predictor(feature) if role == "student" and self.predictor is not None else feature
