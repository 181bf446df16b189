"""What distinguishes one LaVie UNet from another, as data."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace

from .metadata import Range

LATENT_CHANNELS = 4
BASE_FACTOR, UPSCALER_FACTOR = 8, 4  # pixels to a latent pixel: of SD 1.x's VAE, of the x4-upscaler's
# GroupNorm groups, the same in every stage (and in Stable Diffusion, from which all stages start).
NORM_GROUPS = 32
# Leading channels of each head that rotary positions turn (paper section 3.2).
ROTARY_DIM = 32


@dataclass(frozen=True)
class Architecture:
    """How one stage's network differs from the others besides its sizes.

    Attributes:
        prediction: what the published weights predict, ``"epsilon"`` or ``"v"``.
        temporal_name: published name of the temporal layers, ``attn_{name}`` and ``norm_{name}``.
        rotary: temporal attention turns queries and keys by rotary positions.
        position_bias: temporal attention adds a learned bias per relative distance.
        sparse_causal: spatial self-attention of a frame reads the clip's first frame and the frame before.
        temporal_last: temporal attention comes after the feed-forward, not before.
        text_first: at all levels but the deepest the first attention reads the text too, as the x4-upscaler's does.
        linear_projections: transformers begin and end with a linear layer, not a 1x1 convolution.
        temporal_convolutions: residual blocks of temporal convolutions at every transformer and after every level.
        noise_levels: entries in the embedding of the low-resolution frames' noise level; 0: none.
    """

    prediction: str = "epsilon"
    temporal_name: str = "temp"
    rotary: bool = True
    position_bias: bool = True
    sparse_causal: bool = False
    temporal_last: bool = False
    text_first: bool = False
    linear_projections: bool = False
    temporal_convolutions: bool = False
    noise_levels: int = 0


ARCHITECTURES = {
    "base": Architecture(),
    "interpolation": Architecture(rotary=False, position_bias=False, sparse_causal=True, temporal_last=True),
    "super_resolution": Architecture(
        prediction="v", temporal_name="temporal", text_first=True, linear_projections=True,
        temporal_convolutions=True, noise_levels=1000,
    ),
}  # fmt: skip
STAGES = tuple(ARCHITECTURES)
POSITIONS = {  # values of UNetConfig.positions: (rotary, position_bias)
    True: (True, True), False: (False, False), "rotary": (True, False), "bias": (False, True),
}  # fmt: skip


# What sizes may be, so that no description of a few bytes asks for more than a computer has.
SIZES = {
    "in_channels": Range(1, 64),
    "out_channels": Range(1, 64),
    "layers_per_block": Range(1, 16),
    "num_heads": Range(1, 256),
    "context_dim": Range(1, 16384),
}
LEVELS, WIDTH = Range(1, 8), Range(NORM_GROUPS, 16384)


@dataclass(frozen=True)
class UNetConfig:
    """Sizes of a LaVie UNet; the defaults are the published base model.

    Attributes:
        stage: which network of the cascade this is, one of STAGES; decides the architecture.
        in_channels, out_channels: latent channels in and out; channels beyond the noisy latent's carry conditions.
        block_channels: width of each resolution level, finest first. Multiples of 32.
        layers_per_block: residual blocks per level (one more on the way up).
        num_heads: attention heads at every level; head size = width / heads.
        context_dim: width of the text encoder's tokens.
        attention_levels: which levels carry transformers, finest first.
        positions: what temporal attention knows of them: both (true), nothing (false), "rotary" or "bias" alone;
            None: as the stage's architecture.
    """

    stage: str = "base"
    in_channels: int = 4
    out_channels: int = 4
    block_channels: tuple[int, ...] = (320, 640, 1280, 1280)
    layers_per_block: int = 2
    num_heads: int = 8
    context_dim: int = 768
    attention_levels: tuple[bool, ...] = (True, True, True, False)
    positions: bool | str | None = None

    def __post_init__(self):
        object.__setattr__(self, "block_channels", tuple(self.block_channels))
        object.__setattr__(self, "attention_levels", tuple(self.attention_levels))
        for name, allowed in SIZES.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be {allowed}, got {getattr(self, name)!r}")
        if len(self.block_channels) not in LEVELS or any(width not in WIDTH for width in self.block_channels):
            raise ValueError(f"block_channels must be {WIDTH} for each of 1 to 8 levels, got {self.block_channels}")
        if any(not isinstance(level, bool) for level in self.attention_levels):
            raise ValueError(f"attention_levels must be true or false for each level, got {self.attention_levels}")
        if self.stage not in ARCHITECTURES:
            raise ValueError(f"stage must be one of {STAGES}, got {self.stage!r}")
        if not isinstance(self.positions, (bool, str, type(None))) or self.positions not in (None, *POSITIONS):
            raise ValueError(f'positions must be true, false, "rotary" or "bias", got {self.positions!r}')
        if self.architecture == ARCHITECTURES[self.stage]:
            object.__setattr__(self, "positions", None)
        if len(self.attention_levels) != len(self.block_channels):
            raise ValueError(
                f"attention_levels has {len(self.attention_levels)} entries for {len(self.block_channels)} "
                "block_channels; give one per level"
            )
        least = ROTARY_DIM if self.architecture.rotary else 1
        for channels, attention in zip(self.block_channels, self.attention_levels, strict=True):
            if channels % NORM_GROUPS:
                raise ValueError(f"block_channels must be multiples of {NORM_GROUPS}, got {channels}")
            if attention and (channels % self.num_heads or channels // self.num_heads < least):
                raise ValueError(
                    f"a level of {channels} channels with {self.num_heads} heads has no whole head size of at least "
                    f"{least}, which its temporal attention needs; choose fewer heads or wider levels"
                )

    @classmethod
    def base(cls, **overrides) -> UNetConfig:
        """The text-to-video network: published sizes unless overridden."""
        return cls(**{"stage": "base", **overrides})

    @classmethod
    def interpolation(cls, **overrides) -> UNetConfig:
        """The temporal interpolation network: 4 noisy and 4 conditioning channels."""
        return cls(**{"stage": "interpolation", "in_channels": 8, **overrides})

    @classmethod
    def super_resolution(cls, **overrides) -> UNetConfig:
        """The video super-resolution network: 4 noisy channels and 3 of low-resolution frames, text 1024 wide."""
        sizes = {
            "in_channels": 7,
            "block_channels": (256, 512, 512, 1024),
            "context_dim": 1024,
            "attention_levels": (False, True, True, True),
        }
        return cls(**{"stage": "super_resolution", **sizes, **overrides})

    @classmethod
    def from_dict(cls, values: dict) -> UNetConfig:
        """Inverse of :meth:`to_dict`. Raises ValueError on keys it does not know."""
        unknown = sorted(set(values) - {field.name for field in fields(cls)})
        if unknown:
            raise ValueError(f"unknown UNet configuration keys {unknown}; the file may come from a newer version")
        return cls(**values)

    def to_dict(self) -> dict:
        """JSON-ready mapping, written into the metadata of checkpoints; without `positions` where they are usual."""
        return {key: value for key, value in asdict(self).items() if value is not None}

    @property
    def architecture(self) -> Architecture:
        """What follows from the stage, and from `positions`."""
        usual = ARCHITECTURES[self.stage]
        if self.positions is None:
            return usual
        rotary, position_bias = POSITIONS[self.positions]
        return replace(usual, rotary=rotary, position_bias=position_bias)

    @property
    def time_dim(self) -> int:
        """Width of the timestep embedding: four times the finest level's width."""
        return 4 * self.block_channels[0]
