"""What every family of backbones is: timm's own layers, called one step at a time so that metadata can enter between."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor, nn


class Film(NamedTuple):
    """Shape of the modulation of one block (Perez et al., AAAI 2018): γ, β and, where there is one, the branch's gain a."""

    branches: int
    parts: int  # 2: γ, β; 3: γ, β, a
    channels: int


class Family:
    """The way of the images through one family of timm networks.

    Stateless: every method is given the network, whose weights and code stay timm's. Calling `stem`, `block` for
    every block, `end` and timm's `forward_head` is the same computation as timm's `forward`.

    A block number counts all blocks of all stages. x is what flows between them: [B, N, D] tokens, [B, C, H, W] or
    (Swin) [B, H, W, C]. `rope` are the rotary positions, None in families without.

    Attributes:
        name: For messages.
        modules: The timm modules whose networks these are.
        classes: Their classes.
        sized: `timm.create_model` takes `img_size`, and the size must be a multiple of the patch size.
        structured: It takes patch_size, embed_dim, depth and num_heads.
        tokens: x are tokens, of which the first `net.num_prefix_tokens` are no patches.
        register: The argument of `timm.create_model` for learnable register tokens; None where there are none.
    """

    name: str
    modules: tuple[str, ...]
    classes: tuple[type, ...]
    sized = False
    structured = False
    tokens = False

    def register(self, net: Any) -> str | None:
        return None

    def stem(self, net: Any, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Images [B, C, S, S] to what enters the first block, and rotary positions."""
        raise NotImplementedError

    def blocks(self, net: Any) -> list[nn.Module]:
        """All blocks in order."""
        raise NotImplementedError

    def block(self, net: Any, number: int, x: Tensor, rope: Tensor | None, film: Tensor | None = None) -> Tensor:
        """One block, with the downsampling before it where a stage begins.

        Args:
            net: The network.
            number: Which block.
            x: What flows.
            rope: Rotary positions.
            film: [B, branches, parts, channels] as `film` says; None = timm's block untouched.
        """
        raise NotImplementedError

    def end(self, net: Any, x: Tensor) -> Tensor:
        """After the last block: what timm's `forward_features` returns."""
        raise NotImplementedError

    def stem_width(self, net: Any) -> int:
        """Channels of what enters the first block."""
        raise NotImplementedError

    def width(self, net: Any, number: int) -> int:
        """Channels of what leaves a block."""
        raise NotImplementedError

    def film(self, net: Any, number: int) -> Film | None:
        """How a block can be modulated; None where it cannot."""
        return None

    def spread(self, vector: Tensor, x: Tensor) -> Tensor:
        """[B, C] so that it can be added to every position of x."""
        return vector[:, :, None, None]

    def positions(self, x: Tensor) -> Tensor:
        """What flows as [B, N, C]."""
        return x.flatten(2).transpose(1, 2)

    def back(self, positions: Tensor, x: Tensor) -> Tensor:
        """[B, N, C] in the shape of x; undoes `positions`."""
        return positions.transpose(1, 2).reshape(x.shape)

    def append(self, x: Tensor, rope: Tensor | None, tokens: Tensor) -> tuple[Tensor, Tensor | None]:
        """Put tokens [B, n, D] after all others, where no position says that they are patches; only where x are tokens."""
        raise NotImplementedError

    def normed_tokens(self, net: Any, tokens: Tensor) -> Tensor:
        """Tokens [B, n, D] of timm's features after the last norm; only where x are tokens."""
        raise NotImplementedError


class Staged(Family):
    """Blocks in stages, each with a downsampling before its first block."""

    def stages(self, net: Any) -> Any:
        """The stages in order."""
        raise NotImplementedError

    def blocks(self, net: Any) -> list[nn.Module]:
        return [block for stage in self.stages(net) for block in stage.blocks]

    def entering(self, net: Any, block: nn.Module, x: Tensor) -> Tensor:
        """X as a block gets it: downsampled if it is the first of its stage."""
        for stage in self.stages(net):
            if block is stage.blocks[0]:
                return stage.downsample(x)
        return x


def normed(x: Tensor, film: Tensor, last: bool = True) -> Tensor:
    """x·(1+γ) + β, for channels in the last or the second dimension; film [B, parts, C]."""
    gamma, beta = film[:, 0], film[:, 1]
    return x * (1 + _to(gamma, x, last)) + _to(beta, x, last)


def gained(x: Tensor, film: Tensor, last: bool = True) -> Tensor:
    """A residual branch times (1+a)."""
    return x * (1 + _to(film[:, 2], x, last))


def _to(vector: Tensor, x: Tensor, last: bool) -> Tensor:
    ones = [1] * (x.ndim - 2)
    return vector.reshape(len(vector), *ones, -1) if last else vector.reshape(len(vector), -1, *ones)
