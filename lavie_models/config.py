"""What distinguishes one LaVie UNet from another, as data."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields

# GroupNorm groups, the same in every stage (and in Stable Diffusion, from which all stages start).
NORM_GROUPS = 32
# Leading channels of each head that rotary positions turn (paper section 3.2).
ROTARY_DIM = 32


@dataclass(frozen=True)
class UNetConfig:
    """Sizes of a LaVie UNet; the defaults are the published base model.

    Attributes:
        stage: which network of the cascade this is. Only ``"base"`` exists so far.
        in_channels, out_channels: latent channels in and out.
        block_channels: width of each resolution level, finest first. Multiples of 32.
        layers_per_block: residual blocks per level (one more on the way up).
        num_heads: attention heads at every level; head size = width / heads.
        context_dim: width of the text encoder's tokens.
        attention_levels: which levels carry transformers, finest first.
    """

    stage: str = "base"
    in_channels: int = 4
    out_channels: int = 4
    block_channels: tuple[int, ...] = (320, 640, 1280, 1280)
    layers_per_block: int = 2
    num_heads: int = 8
    context_dim: int = 768
    attention_levels: tuple[bool, ...] = (True, True, True, False)

    def __post_init__(self):
        object.__setattr__(self, "block_channels", tuple(self.block_channels))
        object.__setattr__(self, "attention_levels", tuple(self.attention_levels))
        if self.stage != "base":
            raise ValueError(f"stage must be 'base', got {self.stage!r}; the other stages are not supported yet")
        if len(self.attention_levels) != len(self.block_channels):
            raise ValueError(
                f"attention_levels has {len(self.attention_levels)} entries for {len(self.block_channels)} "
                "block_channels; give one per level"
            )
        for channels, attention in zip(self.block_channels, self.attention_levels, strict=True):
            if channels % NORM_GROUPS:
                raise ValueError(f"block_channels must be multiples of {NORM_GROUPS}, got {channels}")
            if attention and (channels % self.num_heads or channels // self.num_heads < ROTARY_DIM):
                raise ValueError(
                    f"a level of {channels} channels with {self.num_heads} heads has no whole head size of at least "
                    f"{ROTARY_DIM}, which rotary positions need; choose fewer heads or wider levels"
                )

    @classmethod
    def base(cls, **overrides) -> UNetConfig:
        """The text-to-video network: published sizes unless overridden."""
        return cls(**{"stage": "base", **overrides})

    @classmethod
    def from_dict(cls, values: dict) -> UNetConfig:
        """Inverse of :meth:`to_dict`. Raises ValueError on keys it does not know."""
        unknown = sorted(set(values) - {field.name for field in fields(cls)})
        if unknown:
            raise ValueError(f"unknown UNet configuration keys {unknown}; the file may come from a newer version")
        return cls(**values)

    def to_dict(self) -> dict:
        """JSON-ready mapping, written into the metadata of checkpoints."""
        return asdict(self)

    @property
    def time_dim(self) -> int:
        """Width of the timestep embedding: four times the finest level's width."""
        return 4 * self.block_channels[0]
