"""What every injection point is."""

from __future__ import annotations

from typing import Annotated, Any, Literal, NamedTuple, get_args

from pydantic import BeforeValidator
from torch import Tensor, nn

from stssl.encodings.encoder import MetadataEncoder
from stssl.errors import short_repr
from stssl.models.families import Family, family_of

Span = Literal["all", "first_half", "last_half", "first", "last"]
SPANS = get_args(Span)


def _as_blocks(value: Any) -> Any:
    numbers = isinstance(value, list | tuple) and all(type(number) is int for number in value)
    if not numbers and value not in SPANS:
        raise ValueError(
            f"expected one of {', '.join(SPANS)}, or a list of block numbers from 0, got {short_repr(value)}"
        )
    return value


Blocks = Annotated[Span | tuple[int, ...], BeforeValidator(_as_blocks)]


class Outputs(NamedTuple):
    """What a network says about a batch."""

    logits: Tensor  # [B, K]
    pooled: Tensor  # [B, D], what the classifier sees
    tokens: Tensor | None = None  # [B, n·D], what leaves the n metadata tokens or registers, where there are any


class Injection(nn.Module):
    """A timm backbone that is also told place and time.

    A subclass names its configuration in `Config`, makes its layers and overrides one or more of the steps below. It
    walks through the backbone by the backbone's family and never copies its code, so that timm's weights load.

    Attributes:
        starts_blind: At first the logits are those of the backbone alone.
        blind_features: The pooled feature knows nothing of place and date, so only logits or tokens can be distilled.

    Args:
        backbone: A timm network of a known family.
        encoder: Place and time to e, [B, E] with E as `embedding` says.
    """

    starts_blind = True
    blind_features = False

    def __init__(self, backbone: Any, encoder: MetadataEncoder) -> None:
        super().__init__()
        self.backbone = backbone
        self.encoder = encoder
        self.family = family_of(backbone)

    @classmethod
    def refusal(cls, config: Any, family: Family, backbone: Any) -> str | None:
        """Why this cannot work with a backbone, and what would; None where it can."""
        return None

    @classmethod
    def embedding(cls, backbone: Any) -> int:
        """E, the width of the embedded metadata; bounded, as wide convolutional networks would make a huge teacher."""
        return min(int(backbone.num_features), 384)

    @classmethod
    def tokens(cls, config: Any) -> int:
        """How many metadata tokens there are."""
        return 0

    @classmethod
    def beside(cls, config: Any) -> int:
        """How much wider than the backbone's the pooled feature is."""
        return 0

    def before(self, number: int, x: Tensor, rope: Tensor | None, e: Tensor) -> tuple[Tensor, Tensor | None]:
        """What enters block `number`, and the rotary positions from there on."""
        return x, rope

    def film(self, number: int, e: Tensor) -> Tensor | None:
        """How block `number` is modulated, as `Family.block` wants it."""
        return None

    def after(self, number: int, x: Tensor, e: Tensor) -> Tensor:
        """What leaves block `number`."""
        return x

    def answer(self, features: Tensor, e: Tensor) -> Outputs:
        """From timm's features."""
        return read(self.backbone, features)

    def forward(self, images: Tensor, place: Tensor, time: Tensor) -> Outputs:
        """Classify images with their metadata.

        Args:
            images: [B, C, S, S] float32, normalised.
            place: [B, 2] float32 degrees (latitude, longitude), NaN = unknown.
            time: [B] float64 days since 1970-01-01 UTC, NaN = unknown.
        """
        e = self.encoder(place, time)
        x, rope = self.family.stem(self.backbone, images)
        for number in range(len(self.family.blocks(self.backbone))):
            x, rope = self.before(number, x, rope, e)
            x = self.family.block(self.backbone, number, x, rope, self.film(number, e))
            x = self.after(number, x, e)
        return self.answer(self.family.end(self.backbone, x), e)


def read(backbone: Any, features: Tensor, tokens: Tensor | None = None) -> Outputs:
    """What the backbone's own head makes of its features."""
    return Outputs(backbone.forward_head(features), backbone.forward_head(features, pre_logits=True), tokens)


def chosen(blocks: Blocks, depth: int) -> tuple[int, ...]:
    """The numbers of the chosen blocks, of `depth`; a middle block belongs to the last half."""
    if not isinstance(blocks, str):
        return blocks
    spans = {
        "all": (0, depth),
        "first_half": (0, max(1, depth // 2)),
        "last_half": (depth // 2, depth),
        "first": (0, 1),
        "last": (depth - 1, depth),
    }
    return tuple(range(*spans[blocks]))


def unknown_blocks(blocks: Blocks, depth: int) -> str | None:
    """What is wrong with the chosen blocks; None where all is well."""
    if not isinstance(blocks, str) and (len(set(blocks)) < len(blocks) or not blocks):
        return "blocks must name at least one block, and each only once"
    beyond = [number for number in chosen(blocks, depth) if not 0 <= number < depth]
    return f"blocks {beyond} do not exist; its {depth} blocks are 0 to {depth - 1}" if beyond else None


def zeroed(layer: nn.Linear) -> nn.Linear:
    """The layer with weights of 0, so that at first it adds nothing."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer
