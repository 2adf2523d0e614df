"""What the contractions of a lambda layer cost, and which one to take."""

import dataclasses
import math

from lambda_keras.layers.blocks import block_counts
from lambda_keras.layers.contractions import BLOCK_SIZES
from lambda_keras.layers.contractions import block_shape
from lambda_keras.layers.fused import CHIPS
from lambda_keras.layers.fused import supports as supports_fused
from lambda_keras.layers.targets import Target
from lambda_keras.layers.targets import current_target


@dataclasses.dataclass(frozen=True)
class Problem:
    """The static shapes that decide what a contraction costs.

    Attributes:
        batch: The batch size.
        query_shape: The spatial shape of the queries.
        context_shape: The spatial shape of the context.
        taps: The spatial shape of the relative table.
        num_heads: The number of queries per position.
        key_dim: The key depth.
        value_dim: The value depth.
        intra_depth: The intra-depth.
        itemsize: Bytes per number.
    """

    batch: int
    query_shape: tuple[int, ...]
    context_shape: tuple[int, ...]
    taps: tuple[int, ...]
    num_heads: int
    key_dim: int
    value_dim: int
    intra_depth: int = 1
    itemsize: int = 4


@dataclasses.dataclass(frozen=True)
class Cost:
    """What one way of applying the lambdas to a batch takes.

    Attributes:
        flops: Floating point operations of matrix products and convolutions,
            two for each multiply-add.
        bytes: Bytes of the intermediate tensors: embeddings, and lambdas or
            scores.
    """

    flops: int
    bytes: int


@dataclasses.dataclass(frozen=True)
class Rates:
    """How fast a target is: coefficients of the cost model.

    Attributes:
        products: FLOPs of matrix products, a second.
        convolutions: FLOPs of convolutions, a second. Their kernels have
            `intra_depth` input and `key_dim` output channels, too few to fill
            matrix units.
        convolution_gradients: FLOPs a second of their gradients, for each
            input channel.
        memory: Bytes a second of intermediate tensors, written or read.
        block_sizes: The length of a block along each axis, by rank.
        block_gradients: How much more the gradients of blocks move than they
            would have to: more than 1 where slices and what is done with them
            are not fused.
        score_bytes: The most bytes of scores of blocks at a time; `None` is
            no limit.
        training_score_bytes: The same where gradients are wanted, which have
            several such arrays at a time; `None` is no other.
        tile: The last two axes of an array are filled up to multiples of it.
    """

    products: float
    convolutions: float
    convolution_gradients: float
    memory: float
    block_sizes: tuple[int, int, int] = BLOCK_SIZES
    block_gradients: float = 1
    score_bytes: int | None = None
    training_score_bytes: int | None = None
    tile: tuple[int, int] = (1, 1)


# For counting alone.
COUNTING = Rates(1, 1, 1, 1)

# Fitted to steps of single layers, float32, on 2 cores of an AMD EPYC with
# TensorFlow 2.21.0 and JAX 0.10.2, 2026-11-22; torch's are guessed.
_CPU = {
    ("tensorflow", True): Rates(
        products=150e9,
        convolutions=60e9,
        convolution_gradients=10e9,
        memory=10e9,
        block_sizes=(64, 4, 4),
        score_bytes=8 * 2**20,
        training_score_bytes=2**20,
    ),
    ("tensorflow", False): Rates(
        products=150e9,
        convolutions=150e9,
        convolution_gradients=16e9,
        memory=10e9,
        block_gradients=2,
        score_bytes=512 * 2**20,
    ),
    ("jax", True): Rates(
        products=120e9,
        convolutions=19e9,
        convolution_gradients=10e9,
        memory=5e9,
        block_sizes=(64, 4, 4),
        score_bytes=8 * 2**20,
        training_score_bytes=2**20,
    ),
    ("torch", False): Rates(
        products=120e9,
        convolutions=150e9,
        convolution_gradients=16e9,
        memory=5e9,
    ),
}
_ACCELERATORS = {
    # For all TPUs those of a v3 core, where the compiler's estimate (libtpu
    # 0.0.52) is the bytes that are moved, lanes filled up, at this rate.
    "tpu": Rates(
        products=60e12,
        convolutions=5e12,
        convolution_gradients=1e12,
        memory=430e9,
        score_bytes=512 * 2**20,
        tile=(8, 128),
    ),
    # Of the order of an A100's published peaks; nothing was measured.
    "gpu": Rates(
        products=300e12,
        convolutions=30e12,
        convolution_gradients=10e12,
        memory=2e12,
        score_bytes=512 * 2**20,
    ),
}


def content_cost(problem: Problem) -> Cost:
    """Counts what the content lambda takes, in any implementation."""
    p = problem
    n, m = math.prod(p.query_shape), math.prod(p.context_shape)
    lambdas = p.key_dim * p.value_dim
    return Cost(
        flops=2 * p.batch * lambdas * (m * p.intra_depth + n * p.num_heads),
        bytes=p.itemsize * p.batch * lambdas,
    )


def position_costs(
    problem: Problem, rates: Rates = COUNTING, fused: bool = False
) -> dict[str, Cost]:
    """Counts what the position lambdas take, for each implementation.

    Args:
        problem: The shapes.
        rates: Of the target, which decide about blocks and padding.
        fused: Whether a kernel keeps the scores of `query_first` on its chip.

    Returns:
        The costs of a forward pass.
    """
    p = problem
    n, m = math.prod(p.query_shape), math.prod(p.context_shape) * p.intra_depth
    block, window = block_shape(p.taps, p.query_shape, _block_size(p, rates))
    reach, size = math.prod(window) * p.intra_depth, math.prod(block)
    blocks = p.batch * math.prod(block_counts(p.query_shape, block))
    heads, key_dim, value_dim = p.num_heads, p.key_dim, p.value_dim
    apply = n * key_dim * value_dim * heads
    pair = heads * (key_dim + value_dim)
    taps = math.prod(p.taps) * p.intra_depth
    embeddings = n, key_dim, m

    def cost(multiply_adds, *arrays):
        numbers = sum(math.prod(_fill(shape, rates.tile)) for shape in arrays)
        return Cost(flops=2 * multiply_adds, bytes=p.itemsize * numbers)

    return {
        "lambda_first": cost(
            p.batch * (n * m * key_dim * value_dim + apply),
            embeddings,
            (p.batch, n, key_dim, value_dim),
        ),
        "query_first": cost(
            p.batch * n * m * pair,
            embeddings,
            *([] if fused else [(n, heads, p.batch, m)]),
        ),
        "convolution": cost(
            p.batch * (n * taps * key_dim * value_dim + apply),
            (p.batch, value_dim, n, key_dim),
        ),
        "blocked": cost(
            blocks * size * reach * pair,
            (size, key_dim, reach),
            (blocks, reach, value_dim),
            (size, blocks, heads, reach),
        ),
    }


def _block_size(problem, rates):
    return rates.block_sizes[len(problem.taps) - 1]


def _fill(shape, tile):
    """Fills the last axes up to whole tiles, as TPUs do."""
    last = (-(-size // each) * each for size, each in zip(shape[-2:], tile))
    return *shape[:-2], *last


def layer_flops(
    problem: Problem,
    channels: int,
    context_channels: int,
    use_content: bool = True,
    use_position: bool = True,
) -> int:
    """Counts the floating point operations of a lambda layer.

    Position lambdas count as a convolution with the taps that are in reach,
    as the paper counts them, whatever the plan is.

    Args:
        problem: The shapes.
        channels: The channels of the inputs.
        context_channels: The channels of the context.
        use_content: Whether there are content lambdas.
        use_position: Whether there are position lambdas.

    Returns:
        Integer. The number of operations for the batch of `problem`.
    """
    p = problem
    queries = math.prod(p.query_shape) * p.num_heads * p.key_dim
    dims = p.value_dim + (p.key_dim if use_content else 0)
    context = math.prod(p.context_shape) * p.intra_depth * dims
    total = 2 * p.batch * (queries * channels + context * context_channels)
    if use_content:
        total += content_cost(p).flops
    if use_position:
        total += position_costs(p)["convolution"].flops
    return total


def _can_fuse(problem, target):
    """Tells whether the kernel works, and pays, for the shapes."""
    p = problem
    positions = math.prod(p.query_shape)
    reach = math.prod(p.context_shape) * p.intra_depth
    if max(positions, reach) > CHIPS.get(target.chip, 0):
        return False
    dtype = {2: "bfloat16", 4: "float32"}.get(p.itemsize)
    queries_shape = p.batch, positions, p.num_heads, p.key_dim
    return supports_fused(queries_shape, p.value_dim, dtype)


# Embeddings of all pairs, and lambdas of all positions, that take more are
# avoided.
_MOST_BYTES = 256 * 2**20


def _allowed(problem, rates, target):
    """Returns the implementations to choose from."""
    p = problem
    n, m = math.prod(p.query_shape), math.prod(p.context_shape) * p.intra_depth
    embeddings = n * m * p.key_dim * p.itemsize
    lambdas = p.batch * n * p.key_dim * p.value_dim * p.itemsize
    largest = {
        "lambda_first": max(embeddings, lambdas),
        "query_first": embeddings,
        "convolution": lambdas,
        "blocked": 0,
    }
    if target.device == "tpu":
        # Its compiler takes minutes for the gradient of one.
        del largest["convolution"]
    # What blocks cannot do without: scores of one, or else of all of them.
    block, window = block_shape(p.taps, p.query_shape, _block_size(p, rates))
    pairs = math.prod(block) * math.prod(window) * p.intra_depth
    scores = p.batch * pairs * p.num_heads * p.itemsize
    if rates.score_bytes is None:
        scores *= math.prod(block_counts(p.query_shape, block))
    most = max(scores, _MOST_BYTES)
    return [name for name, size in largest.items() if size <= most]


def find_rates(target: Target) -> Rates:
    """Returns the coefficients for a target."""
    if target.device == "cpu":
        key = target.engine, target.jit_compile
        return _CPU.get(key, _CPU["tensorflow", False])
    return _ACCELERATORS[target.device]


@dataclasses.dataclass(frozen=True)
class Plan:
    """The implementation chosen for a problem, and why.

    Attributes:
        implementation: A key of `contractions.IMPLEMENTATIONS`.
        reason: One sentence for people.
        costs: What each implementation would take; empty if sizes are
            unknown.
        options: Further arguments of the implementation.
    """

    implementation: str
    reason: str
    costs: dict[str, Cost] = dataclasses.field(default_factory=dict)
    options: dict[str, int | None] = dataclasses.field(default_factory=dict)


def estimate_seconds(
    name: str,
    cost: Cost,
    rates: Rates,
    intra_depth: int = 1,
    training: bool = False,
) -> float:
    """Estimates how long an implementation takes.

    Args:
        name: The implementation.
        cost: What it takes.
        rates: Of the target.
        intra_depth: The intra-depth.
        training: Whether gradients are wanted, which take two more products
            for each, and move twice as much.

    Returns:
        Seconds.
    """
    # What is written is read.
    moving = 2 * cost.bytes / rates.memory
    computing = gradients = cost.flops / rates.products
    if name == "convolution":
        computing = cost.flops / rates.convolutions
        rate = rates.convolution_gradients * intra_depth
        gradients = cost.flops / rate
    seconds = moving + computing
    if training:
        more = rates.block_gradients if name == "blocked" else 1
        seconds += 2 * (more * moving + gradients)
    return seconds


def plan(
    problem: Problem | None,
    training: bool = False,
    target: Target | None = None,
    implementation: str = "auto",
) -> Plan:
    """Picks an implementation for the position lambdas from static shapes.

    Args:
        problem: The shapes, or `None` if spatial sizes are unknown.
        training: Whether gradients are wanted.
        target: What for; by default what programs are traced for now.
        implementation: The one to take, if not the best.

    Returns:
        A `Plan`.

    Example:

    >>> problem = Problem(32, (14, 14), (14, 14), (23, 23), 4, 16, 64)
    >>> plan(problem).implementation
    'query_first'
    """
    target = target or current_target()
    rates = find_rates(target)
    fused = problem is not None and _can_fuse(problem, target)
    costs: dict[str, Cost] = {}
    seconds: dict[str, float] = {}
    if problem is not None:
        costs = position_costs(problem, rates, fused)
        seconds = {
            name: estimate_seconds(
                name, costs[name], rates, problem.intra_depth, training
            )
            for name in _allowed(problem, rates, target)
        }
    if implementation != "auto":
        name, reason = implementation, "asked for"
    elif problem is None:
        name = "blocked"
        reason = "spatial sizes are unknown, and blocks have a known size"
    else:
        name, *others = sorted(seconds, key=seconds.__getitem__)
        reason = (
            f"{costs[name].flops / 1e9:.3g} GFLOP and "
            f"{costs[name].bytes / 2**20:.3g} MiB of intermediate tensors"
        )
        if others:
            times = seconds[others[0]] / seconds[name]
            reason += f", estimated {times:.2g} times faster than {others[0]}"
    options: dict[str, int | None] = {}
    if name == "query_first" and fused:
        options = {"fused": True}
        reason += ", in one kernel"
    elif name == "blocked" and problem is not None:
        options = {
            "block_size": _block_size(problem, rates),
            "score_bytes": (training and rates.training_score_bytes)
            or rates.score_bytes,
        }
    return Plan(name, f"{name}: {reason}", costs, options)
