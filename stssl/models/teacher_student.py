"""Which networks a framework has, which of them sees metadata, and which one is used in the end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from stssl import plugins
from stssl.encodings.encoder import EncoderConfig, MetadataEncoder
from stssl.models.backbone import ModelConfig, build_backbone, token_of, with_register
from stssl.models.injection.base import Injection, Outputs

Framework = Literal["plain", "metadata_input", "teacher_student"]
Role = Literal["teacher", "student"]

if TYPE_CHECKING:
    AnyInjection = Any
else:
    AnyInjection = plugins.choice_of("stssl.models.injection", Injection, "token")


class ImageNetwork(nn.Module):
    """A timm network that sees the image alone; its state_dict below `backbone.` is timm's own.

    The features are the output at the register token where there is one, else at the class token.
    """

    def __init__(self, backbone: VisionTransformer) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, images: Tensor) -> Outputs:
        """Classify images [B, C, S, S]."""
        tokens = self.backbone.forward_features(images)
        return Outputs(self.backbone.forward_head(tokens), tokens[:, max(token_of(self.backbone), 0)])


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
        timm_arguments: `timm.create_model` arguments of the student (None without one).
    """

    def __init__(
        self,
        framework: Framework,
        model: ModelConfig,
        encoding: EncoderConfig,
        injection: Any,
        distilled: bool,
        channels: int,
        classes: int,
    ) -> None:
        super().__init__()
        self.teacher: Injection | None = None
        self.student: ImageNetwork | None = None
        self.timm_arguments: dict[str, Any] | None = None
        if framework != "plain":
            backbone = build_backbone(model, channels, classes)
            encoder = MetadataEncoder(encoding, backbone.embed_dim)
            self.teacher = plugins.build("stssl.models.injection", Injection, injection, backbone, encoder)
        if framework != "metadata_input":
            arguments = model.timm_arguments(channels, classes)
            backbone = build_backbone(model, channels, classes)
            if framework == "teacher_student" and distilled:
                backbone, arguments = with_register(backbone, arguments, model.drop_path_rate)
            self.student, self.timm_arguments = ImageNetwork(backbone), arguments
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
        if role == "student":
            assert self.student is not None
            return self.student(images)
        assert self.teacher is not None
        return self.teacher(images, place, time)
