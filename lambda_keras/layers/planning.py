"""What the contractions of a lambda layer cost, and which one to take."""

import dataclasses
import math

from lambda_keras.layers.blocks import block_counts
from lambda_keras.layers.contractions import block_shape


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


def content_cost(problem: Problem) -> Cost:
    """Counts what the content lambda takes, in any implementation."""
    p = problem
    n, m = math.prod(p.query_shape), math.prod(p.context_shape)
    lambdas = p.key_dim * p.value_dim
    return Cost(
        flops=2 * p.batch * lambdas * (m * p.intra_depth + n * p.num_heads),
        bytes=p.itemsize * p.batch * lambdas,
    )


def position_costs(problem: Problem) -> dict[str, Cost]:
    """Counts what the position lambdas take, for each implementation."""
    p = problem
    n, m = math.prod(p.query_shape), math.prod(p.context_shape)
    block, window = block_shape(p.taps, p.query_shape)
    reach = math.prod(window)
    blocks = math.prod(block_counts(p.query_shape, block))
    padded = blocks * math.prod(block)
    lambdas = n * p.key_dim * p.value_dim
    apply = 2 * lambdas * p.num_heads
    pair = 2 * p.intra_depth * p.num_heads * (p.key_dim + p.value_dim)
    embedding = p.key_dim * p.intra_depth
    scores = p.num_heads * p.intra_depth

    def cost(flops, per_example, shared):
        return Cost(
            flops=p.batch * flops,
            bytes=p.itemsize * (p.batch * per_example + shared),
        )

    return {
        "lambda_first": cost(
            2 * lambdas * m * p.intra_depth + apply, lambdas, n * m * embedding
        ),
        "query_first": cost(n * m * pair, n * m * scores, n * m * embedding),
        "convolution": cost(
            2 * lambdas * math.prod(p.taps) * p.intra_depth + apply, lambdas, 0
        ),
        "blocked": cost(
            padded * reach * pair,
            padded * reach * scores,
            math.prod(block) * reach * embedding,
        ),
    }


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


@dataclasses.dataclass(frozen=True)
class Plan:
    """The implementation chosen for a problem, and why.

    Attributes:
        implementation: A key of `contractions.IMPLEMENTATIONS`.
        reason: One sentence for people.
        costs: What each implementation would take; empty if sizes are
            unknown.
    """

    implementation: str
    reason: str
    costs: dict[str, Cost] = dataclasses.field(default_factory=dict)


# FLOPs that take as long as moving one byte: 2 CPU cores do about 10, and
# accelerators more, but there, too, the intermediate tensors are what counts.
_FLOPS_PER_BYTE = 16

# How much longer a FLOP of a convolution takes than one of a matrix product.
# Its kernels have `intra_depth` input and `key_dim` output channels, too few
# to fill matrix units, and its gradient is worse.
_CONVOLUTION_PENALTY = 4


def plan(problem: Problem | None) -> Plan:
    """Picks an implementation for the position lambdas from static shapes.

    Args:
        problem: The shapes, or `None` if spatial sizes are unknown.

    Returns:
        A `Plan`.

    Example:

    >>> problem = Problem(32, (14, 14), (14, 14), (23, 23), 4, 16, 64)
    >>> plan(problem).implementation
    'query_first'
    """
    if problem is None:
        return Plan(
            "blocked",
            "blocked: spatial sizes are unknown, and blocks have a known size",
        )
    costs = position_costs(problem)

    def estimate(name):
        cost = costs[name]
        penalty = _CONVOLUTION_PENALTY if name == "convolution" else 1
        return penalty * cost.flops + _FLOPS_PER_BYTE * cost.bytes

    name, second = sorted(costs, key=estimate)[:2]
    chosen = costs[name]
    return Plan(
        name,
        f"{name}: {chosen.flops / 1e9:.3g} GFLOP and "
        f"{chosen.bytes / 2**20:.3g} MiB of intermediate tensors, estimated "
        f"{estimate(second) / estimate(name):.2g} times faster than {second}",
        costs,
    )
