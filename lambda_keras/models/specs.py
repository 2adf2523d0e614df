"""The named models as data: one frozen spec each."""

import dataclasses
import difflib
import math
from typing import Any

from lambda_keras.models.figures import FIGURES
from lambda_keras.models.paper_rows import PAPER_ROWS
from lambda_keras.models.paper_rows import PaperRow

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

MIXERS = ("lambda", "global_attention", "axial_attention", "local_attention")

# Stems as (filters in parts of the width, kernel size, stride).
_RESNET_STEM = ((1, 7, 2),)
_RESNET_RS_STEM = ((0.5, 3, 2), (0.5, 3, 1), (1, 3, 1), (1, 3, 2))
_TINY_STEM = ((1, 3, 1),)
# timm's "tiered" stem: 24, 32 and 64 filters.
_TIERED_STEM = ((0.375, 3, 2), (0.5, 3, 1), (1, 3, 1))

INTERPOLATIONS = ("bilinear", "bicubic")


@dataclasses.dataclass(frozen=True)
class ModelSpec:
    """The architecture of a residual network with mixing layers.

    A mixing layer (a lambda layer or self-attention) stands in the place of
    the 3x3 convolution of a bottleneck block. `dataclasses.replace` makes a
    variant of a named spec, which `build_model` takes as it takes a name; the
    fields `parameters`, `flops` and `paper` then still describe the original.

    Attributes:
        name: The name of the model.
        depths: The number of blocks in each stage, c2 first.
        strides: The stride of each stage's first block.
        width: The number of channels inside the blocks of c2. Each stage has
            twice as many as the one before, a block's output four times as
            many as its inside.
        stem: The stem's convolutions, each as its filters in parts of the
            width, kernel size and stride. ResNet-RS, which the LambdaResNets
            are built on (the paper compares with it and has its author), has
            ResNet-D's three 3x3 convolutions and in the place of the max-pool
            one of stride 2 (`tensorflow/tpu`, `resnet_rs`). The parameters
            of the paper's 350-epoch baselines (44.6 and 60.2 million) have
            this stem; those of its 90-epoch tables have ResNet v1's.
        max_pool: Whether a 3x3 max-pool of stride 2 follows the stem.
        average_pool_shortcut: Whether a strided shortcut is ResNet-D's, a 2x2
            average pool and a 1x1 convolution, rather than a strided one.
        mixer: The mixing layer: one of `MIXERS`, or `None`.
        mixer_blocks: For each stage, the zero-based indices of the blocks
            with a mixing layer. In c4 of the LambdaResNets there are 1 (50),
            3 (101), 6 (152, 200, 270, 350) and 8 (420), evenly spaced: the
            counts are quoted from the paper in lucidrains/lambda-networks
            issue 9, the indices are not in any source that we could read
            (titu1994/lambda_networks_pt counts the same numbers from one).
            That all blocks of c5 have one follows from the parameters: the
            paper's 36.9 and 51.4 million cannot be reached from c4 alone.
        num_heads: The number of heads of the mixing layer.
        key_dim: The depth of a query. 16 is the paper's default for lambda
            layers; `None`, for self-attention alone, is that of its values.
        intra_depth: The number of keys and values per position of a lambda
            layer. Default 1; the paper's hybrids of 36.9 and 51.4 million
            parameters are fitted better by 4 with a receptive field of 7
            (37.1 and 51.2) than by 1 with 23 (36.2 and 50.3).
        receptive_field: The window of a lambda layer's position lambdas or of
            local self-attention, `None` for global. 23 is the paper's default
            for lambda layers, 7 that of local self-attention.
        position_bias: Whether position lambdas have a learned bias, as those
            of timm's local lambda layers have.
        mixer_pool_size: The height and width of the average pool after a
            mixing layer with a stride: 3, padded by 1, as in the public ports
            of the paper's models, or the stride, not padded, as in timm's.
        se_ratio: The bottleneck ratio of squeeze-and-excitation at the end of
            the convolutional blocks; 0 leaves it out. 0.25 as in ResNet-RS.
            The paper's table at 350 epochs has no such layer in the models
            with lambda layers, but its speed-accuracy curve at 152 layers and
            256 pixels is both slower (2,100 against 2,400 examples per
            second) and better (83.75 against 83.4 percent), so the models on
            the curve are taken to have it. Blocks with a mixing layer never
            do.
        activation: The activation function.
        epsilon: Added to the variance in batch normalization.
        momentum: Of batch normalization's moving statistics. The paper's
            90-epoch models used 0.9999, which needs an ImageNet-sized
            training run; 0.9 is that of the public ports.
        drop_path_rate: The stochastic depth rate of the last stage; see
            `stage_drop_path_rate`. As in ResNet-RS for the same depth.
        dropout_rate: The rate of dropout before the classifier. As in
            ResNet-RS for the same depth and image size.
        image_size: The default height and width of the images: for 50, 101
            and 152 layers that of the paper's tables, for 200 that of
            ResNet-RS, from 270 on the largest that the paper's speed-accuracy
            curve is labelled with.
        mean: The mean of each channel that preprocessing subtracts, with
            pixels scaled to 0-1.
        std: The standard deviation that it divides by.
        crop: The part of the shorter side of a photograph that evaluation
            shows; `None` is `image_size / (image_size + 32)`, at least 7/8.
        interpolation: How evaluation resizes a photograph: `"bilinear"` or
            `"bicubic"`, the latter with a filter against aliasing.
        parameters: The number of parameters, with 1,000 classes and `mean`'s
            channels, moving statistics not counted.
        flops: The floating point operations for an image of the default size,
            two per multiply-add, as `count_flops` counts them.
        paper: The rows of the paper's tables about this configuration.

    Raises:
        ValueError: If the fields do not fit together.

    Example:

    >>> spec = get_spec("lambda_resnet_tiny")
    >>> model = build_model(dataclasses.replace(spec, intra_depth=4))
    >>> model.output.shape
    (None, 1000)
    """

    name: str
    depths: tuple[int, ...]
    strides: tuple[int, ...] = (1, 2, 2, 2)
    width: int = 64
    stem: tuple[tuple[float, int, int], ...] = _RESNET_RS_STEM
    max_pool: bool = False
    average_pool_shortcut: bool = True
    mixer: str | None = None
    mixer_blocks: tuple[tuple[int, ...], ...] = ((), (), (), ())
    num_heads: int = 4
    key_dim: int | None = 16
    intra_depth: int = 1
    receptive_field: int | None = 23
    position_bias: bool = False
    mixer_pool_size: int = 3
    se_ratio: float = 0.0
    activation: str = "relu"
    epsilon: float = 1e-5
    momentum: float = 0.9
    drop_path_rate: float = 0.0
    dropout_rate: float = 0.0
    image_size: int = 224
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    crop: float | None = None
    interpolation: str = "bilinear"
    parameters: int | None = None
    flops: int | None = None
    paper: tuple[PaperRow, ...] = ()

    def __post_init__(self):
        if not len(self.depths) == len(self.strides) == len(self.mixer_blocks):
            raise ValueError(
                "`depths`, `strides` and `mixer_blocks` must have one entry "
                f"for each stage. Received: depths={self.depths}, "
                f"strides={self.strides}, mixer_blocks={self.mixer_blocks}"
            )
        if self.mixer not in (None, *MIXERS):
            raise ValueError(
                f"`mixer` must be None or one of {MIXERS}. "
                f"Received: mixer={self.mixer!r}"
            )
        if self.mixer is None and any(self.mixer_blocks):
            raise ValueError(
                "`mixer_blocks` needs a `mixer`. Received: mixer=None, "
                f"mixer_blocks={self.mixer_blocks}"
            )
        for stage, blocks in enumerate(self.mixer_blocks):
            if not set(blocks) <= set(range(self.depths[stage])):
                raise ValueError(
                    "`mixer_blocks` must be indices of blocks, from 0 to one "
                    "less than the stage's depth. Received: mixer_blocks="
                    f"{self.mixer_blocks}, depths={self.depths}"
                )
            if blocks and self.filters(stage) % self.num_heads:
                raise ValueError(
                    "The channels inside a block with a mixing layer, "
                    f"{self.filters(stage)}, must be a multiple of "
                    f"`num_heads`. Received: width={self.width}, "
                    f"num_heads={self.num_heads}"
                )
        for name in ("drop_path_rate", "dropout_rate"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(
                    f"`{name}` must be at least 0 and less than 1. "
                    f"Received: {name}={getattr(self, name)}"
                )
        if self.crop is not None and not 0 < self.crop <= 1:
            raise ValueError(
                "`crop` must be None or above 0 and at most 1. "
                f"Received: crop={self.crop}"
            )
        if self.interpolation not in INTERPOLATIONS:
            raise ValueError(
                f"`interpolation` must be one of {INTERPOLATIONS}. "
                f"Received: interpolation={self.interpolation!r}"
            )
        if self.mixer_pool_size not in (2, 3):
            raise ValueError(
                "`mixer_pool_size` must be 2 or 3. "
                f"Received: mixer_pool_size={self.mixer_pool_size}"
            )
        if len(self.mean) != len(self.std):
            raise ValueError(
                "`mean` and `std` must have one entry for each channel. "
                f"Received: mean={self.mean}, std={self.std}"
            )

    @property
    def total_stride(self) -> int:
        """By how much the last stage is smaller than the image."""
        stem = math.prod(stride for _, _, stride in self.stem)
        return stem * (2 if self.max_pool else 1) * math.prod(self.strides)

    @property
    def needs_image_size(self) -> bool:
        """Whether the weights depend on the height and width of the images."""
        is_global = self.receptive_field is None and self.mixer == "lambda"
        return is_global or self.mixer in (
            "global_attention",
            "axial_attention",
        )

    def filters(self, stage: int) -> int:
        """Returns the channels inside the blocks of a stage, from zero."""
        return self.width * 2**stage

    def stage_drop_path_rate(self, stage: int) -> float:
        """Returns the stochastic depth rate of a stage, counted from zero.

        Rates grow by stage to 2/5, 3/5, 4/5 and 5/5 of `drop_path_rate`, as
        in ResNet-RS' official code.
        """
        return self.drop_path_rate * (stage + 2) / (len(self.depths) + 1)


def get_spec(name: str) -> ModelSpec:
    """Looks a named model up.

    Args:
        name: The name of a model. Case and underscores are ignored, so that
            `"LambdaResNet50"` is `"lambda_resnet_50"`.

    Returns:
        Its `ModelSpec`.

    Raises:
        ValueError: If there is no such model.
    """
    spec = _SPECS_BY_KEY.get(_key(name))
    if spec is None:
        closest = difflib.get_close_matches(name, MODEL_SPECS, cutoff=0)
        raise ValueError(
            "Expected the name of a model, one of `MODEL_SPECS`. The closest "
            f"are {', '.join(closest)}. Received: name={name!r}"
        )
    return spec


def _key(name: str) -> str:
    return name.lower().replace("_", "")


_DEPTHS = {
    26: (2, 2, 2, 2),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
    200: (3, 24, 36, 3),
    270: (4, 29, 53, 4),
    350: (4, 36, 72, 4),
    420: (4, 44, 87, 4),
}
_LAMBDA_BLOCKS_IN_C4 = {
    50: (3,),
    101: (6, 12, 18),
    152: (5, 10, 15, 20, 25, 30),
    200: (5, 10, 15, 20, 25, 30),
    270: (8, 16, 24, 32, 40, 48),
    350: (10, 20, 30, 40, 50, 60),
    420: (10, 20, 30, 40, 50, 60, 70, 80),
}
_IMAGE_SIZES = {
    50: 224, 101: 224, 152: 256, 200: 256, 270: 256, 350: 320, 420: 320
}  # fmt: skip
_ATTENTION: dict[str, dict[str, Any]] = {
    # The paper's memory table counts eight heads.
    mixer: {"num_heads": 8, "key_dim": None, "receptive_field": window}
    for mixer, window in [
        ("global_attention", None),
        ("axial_attention", None),
        ("local_attention", 7),
    ]
}
# Key depth, heads and intra-depth in the order of the paper's ablation.
_ABLATED_SIZES = (
    (8, 2, 1), (8, 16, 1), (2, 4, 1), (4, 4, 1), (8, 4, 1), (32, 4, 1),
    (2, 8, 1), (4, 8, 1), (8, 8, 1), (16, 8, 1), (32, 8, 1),
    (8, 8, 4), (8, 8, 8), (16, 4, 4),
)  # fmt: skip


def _every_block(depths: tuple[int, ...], stages: str) -> dict[str, Any]:
    """Reads the paper's notation: `ccll` has lambda layers in c4 and c5."""
    return {
        "mixer_blocks": tuple(
            tuple(range(depth)) if letter == "l" else ()
            for depth, letter in zip(depths, stages, strict=True)
        )
    }


def _resnet_rs(name: str, depth: int, **fields: Any) -> ModelSpec:
    """A model of the paper's 350-epoch setup, built on ResNet-RS."""
    return _spec(
        name,
        depths=_DEPTHS[depth],
        image_size=_IMAGE_SIZES[depth],
        dropout_rate=0.4 if depth >= 350 else 0.25,
        drop_path_rate=0.1 if depth >= 200 else 0.0,
        **fields,
    )


def _lambda_resnet(
    name: str, depth: int, mixer: str = "lambda", **fields: Any
) -> ModelSpec:
    """A hybrid: mixing layers in some blocks of c4 and in all of c5."""
    depths = _DEPTHS[depth]
    blocks = ((), (), _LAMBDA_BLOCKS_IN_C4[depth], tuple(range(depths[3])))
    return _resnet_rs(
        name, depth, **{"mixer": mixer, "mixer_blocks": blocks, **fields}
    )


def _resnet_v1(name: str, stages: str = "cccc", **fields: Any) -> ModelSpec:
    """A model of the paper's 90-epoch tables, built on plain ResNet-50."""
    if "l" in stages:
        fields = {"mixer": "lambda", **fields}
    return _spec(
        name,
        depths=_DEPTHS[50],
        stem=_RESNET_STEM,
        max_pool=True,
        average_pool_shortcut=False,
        **_every_block(_DEPTHS[50], stages),
        **fields,
    )


def _timm(name: str, depth: int, **fields: Any) -> ModelSpec:
    """A model that timm has weights of, which follows no table of the paper.

    Source: `timm/models/byoanet.py`, version 1.0.31.
    """
    return _spec(
        name,
        depths=_DEPTHS[depth],
        stem=_TIERED_STEM,
        max_pool=True,
        average_pool_shortcut=False,
        mixer="lambda",
        mixer_pool_size=2,
        image_size=256,
        interpolation="bicubic",
        **fields,
    )


def _tiny(name: str, **fields: Any) -> ModelSpec:
    """A model for the 8x8 scanned digits, in grey levels from 0 to 255."""
    return _spec(
        name,
        depths=(1, 1, 1, 1),
        strides=(1, 1, 2, 1),
        width=16,
        stem=_TINY_STEM,
        image_size=8,
        mean=(0.5,),
        std=(0.5,),
        **fields,
    )


def _spec(name: str, **fields: Any) -> ModelSpec:
    parameters, flops = FIGURES.get(name, (None, None))
    return ModelSpec(
        name,
        parameters=parameters,
        flops=flops,
        paper=PAPER_ROWS.get(name, ()),
        **fields,
    )


def _all_specs() -> list[ModelSpec]:
    specs = []
    for depth in _IMAGE_SIZES:
        name = f"resnet_{depth}"
        specs += [
            _lambda_resnet(f"lambda_{name}", depth, se_ratio=0.25),
            _resnet_rs(name, depth),
            _resnet_rs(f"se_{name}", depth, se_ratio=0.25),
        ]
    for depth in (50, 101, 152):
        specs += [
            _lambda_resnet(
                f"{mixer}_resnet_{depth}", depth, mixer, se_ratio=0.25, **fields
            )
            for mixer, fields in _ATTENTION.items()
        ]
    # The rows of the paper's table of squeeze-and-excitation against lambda
    # layers, with the intra-depth and window that come closest.
    closest: dict[str, Any] = {"intra_depth": 4, "receptive_field": 7}
    for depth in (101, 152):
        name = f"lambda_resnet_{depth}"
        everywhere = _every_block(_DEPTHS[depth], "llll")
        specs += [
            _lambda_resnet(f"{name}_u4", depth, **closest),
            _lambda_resnet(f"{name}_llll_u4", depth, **closest, **everywhere),
        ]
    specs += [
        _resnet_v1("resnet_v1_50"),
        _resnet_v1("se_resnet_v1_50", se_ratio=1 / 16),
        _resnet_v1("lambda_resnet_v1_50", "llll"),
    ]
    specs += [
        _resnet_v1(f"lambda_resnet_v1_50_{stages}", stages)
        for stages in ("lccc", "llcc", "lllc", "clll", "ccll", "cccl")
    ]
    for key_dim, num_heads, intra_depth in _ABLATED_SIZES:
        specs.append(
            _resnet_v1(
                f"lambda_resnet_v1_50_k{key_dim}_h{num_heads}_u{intra_depth}",
                "llll",
                key_dim=key_dim,
                num_heads=num_heads,
                intra_depth=intra_depth,
                # The printed counts with more than one key per position have
                # a window of 7, the others one of 23.
                receptive_field=23 if intra_depth == 1 else 7,
            )
        )
    specs += [
        _resnet_v1(f"{mixer}_resnet_v1_50", "llll", mixer=mixer, **fields)
        for mixer, fields in _ATTENTION.items()
    ]
    local: dict[str, Any] = {"receptive_field": 9, "position_bias": True}
    in_26 = ((), (), (1,), (0, 1))
    specs += [
        _timm("lambda_resnet_26t", 26, mixer_blocks=in_26, crop=0.94, **local),
        _timm(
            "lambda_resnet_26rpt",
            26,
            mixer_blocks=in_26,
            crop=0.94,
            receptive_field=None,
        ),
        _timm(
            "lambda_resnet_50ts",
            50,
            mixer_blocks=((), (3,), (1, 3, 5), (1,)),
            crop=0.95,
            activation="silu",
            **local,
        ),
    ]
    last_stages = ((), (), (0,), (0,))
    specs += [
        _tiny("resnet_tiny"),
        _tiny(
            "lambda_resnet_tiny",
            mixer="lambda",
            mixer_blocks=last_stages,
            receptive_field=7,
        ),
        _tiny(
            "attention_tiny",
            mixer="global_attention",
            mixer_blocks=last_stages,
            **_ATTENTION["global_attention"],
        ),
    ]
    return specs


MODEL_SPECS: dict[str, ModelSpec] = {spec.name: spec for spec in _all_specs()}

_SPECS_BY_KEY = {_key(name): spec for name, spec in MODEL_SPECS.items()}
