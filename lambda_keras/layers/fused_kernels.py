"""The kernels of `fused`, in Pallas for TPUs.

Without a softmax in between, gradients fall into two kernels that have
nothing to compute twice:

    forward          S = Q E,  output = S V
    backward_values  S = Q E,  dV = S^T dO
    backward_scores  dS = dO V^T,  dQ = dS E^T,  dE = Q^T dS

Two things fill the matrix units. The `k` numbers of a query are too few for
the 128 rows of a unit, so that a product takes a group of `128 / k` positions
at a time: their embeddings fill the rows, and each query stands at the place
of its position, with zeros elsewhere. And a product of a group serves eight
examples, which share the embeddings.

Arrays are position-major, `(n, b, ...)`, as the TPU compiler lays images out,
so that it copies nothing around the kernels. Examples are then neighbours in
a register, and the rows of one are read with a stride.

Kernels compute in float32; matrix units round operands to bfloat16, as they
do elsewhere. JAX is imported where it is used: other engines do without.
"""

import dataclasses
import functools

from lambda_keras.layers.precision import itemsize

LANES = 128
# Examples in a step of the grid: those that fill a register's rows.
EXAMPLES = 8
# The most turns of a loop that are compiled side by side.
_UNROLL = 5


@dataclasses.dataclass(frozen=True)
class Sizes:
    """What the kernels are made for.

    `reach` is the context positions, `tile` the positions of queries in a
    step, `memory` the bytes that a step may take.
    """

    batch: int
    positions: int
    reach: int
    heads: int
    key_dim: int
    value_dim: int
    dtype: str
    tile: int = 0
    memory: int = 0

    @property
    def lanes(self):
        """Context positions, filled up to whole registers."""
        return -(-self.reach // LANES) * LANES

    @property
    def group(self):
        """Positions whose embeddings fill the rows of a matrix unit."""
        return LANES // self.key_dim

    @property
    def groups(self):
        return self.tile // self.group

    @property
    def tiles(self):
        return -(-self.positions // self.tile)


def fit(sizes, memory):
    """Returns the sizes with the largest tile that fits into memory."""
    groups = -(-sizes.positions // sizes.group)
    for tiles in range(1, groups + 1):
        tile = -(-groups // tiles) * sizes.group
        rows = tile * sizes.heads * EXAMPLES
        embeddings = tile * sizes.key_dim * sizes.lanes
        context = sizes.lanes * EXAMPLES * LANES
        # Scratch in float32; then what is fetched for the next step while
        # this one computes, and so is there twice. The kernel that takes the
        # most is that of queries and table.
        numbers = rows * (2 * LANES + sizes.lanes) + context + 2 * embeddings
        fetched = embeddings + context + 2 * rows * LANES
        needed = 4 * numbers + 2 * itemsize(sizes.dtype) * fetched
        # What the compiler needs besides is less than an eighth.
        if needed * 9 / 8 <= memory:
            break
    return dataclasses.replace(sizes, tile=tile, memory=memory)


@functools.cache
def make_kernels(sizes, interpret):
    """Returns the three kernels.

    Rows of scores are ordered by group, head, position in the group, and
    example; a group's are `group_rows`.
    """
    import jax
    import jax.numpy as jnp
    from jax.experimental import pallas as pl
    from jax.experimental.pallas import tpu as pltpu

    heads, key_dim, value_dim = sizes.heads, sizes.key_dim, sizes.value_dim
    group, groups, tile = sizes.group, sizes.groups, sizes.tile
    reach = sizes.lanes
    head_rows = group * EXAMPLES
    group_rows = heads * head_rows
    float32 = jnp.float32

    def dot(x, y, contract=(1, 0)):
        dimensions = ((contract[:1], contract[1:]), ((), ()))
        return jax.lax.dot_general(
            x, y, dimensions, preferred_element_type=float32
        )

    # Not % and //, which want to know the device's kind.
    def divide(x, by):
        return jax.lax.div(x, jnp.int32(by))

    def remainder(x, by):
        return jax.lax.rem(x, jnp.int32(by))

    def index(shape, axis):
        return jax.lax.broadcasted_iota(jnp.int32, shape, axis)

    def repetition():
        """Repeats the numbers of each head until they fill the lanes."""
        shape = heads * key_dim, heads * LANES
        row, column = index(shape, 0), index(shape, 1)
        same_head = divide(row, key_dim) == divide(column, LANES)
        same_key = remainder(row, key_dim) == remainder(column, key_dim)
        return (same_head & same_key).astype(float32)

    def at_own_place(x):
        """Keeps of a query what stands at the place of its position."""
        position = remainder(divide(index(x.shape, 0), EXAMPLES), group)
        place = divide(remainder(index(x.shape, 1), LANES), key_dim)
        return jnp.where(position == place, x, 0)

    def load(ref, count, axis_tile=0):
        """Reads a tile, with zeros where it is beyond the array's count."""
        x = ref[...].astype(float32)
        if count % ref.shape[0] == 0:
            return x
        left = count - axis_tile * ref.shape[0]
        return jnp.where(index(x.shape, 0) < left, x, 0)

    def for_each(count, body):
        unroll = max(i for i in range(1, _UNROLL + 1) if count % i == 0)
        jax.lax.fori_loop(0, count, lambda i, _: body(i), None, unroll=unroll)

    # Scratch is rows of one register's lanes, several stretches of them where
    # there are more lanes. In a stretch, an example has every eighth row.

    def of_example(example, stretch, count):
        start = stretch * count * EXAMPLES + example
        return pl.ds(start, count, stride=EXAMPLES), slice(None)

    def of_group(i, stretch):
        start = stretch * groups * group_rows + i * group_rows
        return pl.ds(start, group_rows), slice(None)

    def lanes_of(x, i, width=LANES):
        return x[..., i * width : (i + 1) * width]

    def read_scores(scores, rows):
        stretches = [scores[rows(i)] for i in range(reach // LANES)]
        return jnp.concatenate(stretches, 1)

    def write_scores(scores, rows, x):
        for i in range(reach // LANES):
            scores[rows(i)] = lanes_of(x, i)

    def scores_of(example):
        return lambda i: of_example(example, i, tile * heads)

    def to_rows(x, rows):
        """Writes `(positions, examples, lanes)`, each head as a stretch."""
        size = x.shape[0] * EXAMPLES
        for head in range(x.shape[2] // value_dim):
            y = lanes_of(x, head, value_dim)
            y = jnp.pad(y, ((0, 0), (0, 0), (0, LANES - value_dim)))
            rows[pl.ds(head * size, size), :] = y.reshape(size, LANES)

    def from_rows(rows, ref):
        size = ref.shape[0] * EXAMPLES
        for head in range(ref.shape[2] // value_dim):
            x = rows[pl.ds(head * size, size), :]
            x = x.reshape(-1, EXAMPLES, LANES)[..., :value_dim]
            lanes = slice(head * value_dim, (head + 1) * value_dim)
            ref[:, :, lanes] = x.astype(ref.dtype)

    def gradient_of(rows, example):
        """Returns an example's gradient in the order of its scores."""
        x = [rows[of_example(example, head, tile)] for head in range(heads)]
        x = [each.reshape(groups, group, LANES) for each in x]
        return jnp.stack(x, 1).reshape(tile * heads, LANES)

    def place_queries(queries, placed, axis_tile):
        x = load(queries, sizes.positions, axis_tile)
        x = dot(x.reshape(tile * EXAMPLES, heads * key_dim), repetition())
        x = at_own_place(x)
        for head in range(heads):
            rows = pl.ds(head * head_rows, head_rows)
            placed[:, rows, :] = lanes_of(x, head).reshape(groups, -1, LANES)

    def embeddings_of(embeddings, i):
        return embeddings[pl.ds(i * LANES, LANES), :].astype(float32)

    def compute_scores(queries, embeddings, placed, scores, axis_tile):
        place_queries(queries, placed, axis_tile)

        def body(i):
            x = dot(placed[i], embeddings_of(embeddings, i))
            write_scores(scores, functools.partial(of_group, i), x)

        for_each(groups, body)

    def forward(queries, embeddings, values, output, *scratch):
        placed, scores, context, rows = scratch
        compute_scores(queries, embeddings, placed, scores, pl.program_id(0))
        to_rows(load(values, sizes.reach), context)

        def body(example):
            x = read_scores(scores, scores_of(example))
            x = dot(x, context[of_example(example, 0, reach)])
            x = x.reshape(groups, heads, group, LANES)
            for head in range(heads):
                y = x[:, head].reshape(tile, LANES)
                rows[of_example(example, head, tile)] = y

        for_each(EXAMPLES, body)
        from_rows(rows, output)

    def backward_values(queries, embeddings, gradient, d_values, *scratch):
        placed, scores, context, rows = scratch
        axis_tile = pl.program_id(1)
        compute_scores(queries, embeddings, placed, scores, axis_tile)
        to_rows(load(gradient, sizes.positions, axis_tile), rows)

        @pl.when(axis_tile == 0)
        def _():
            context[...] = jnp.zeros(context.shape, float32)

        def body(example):
            # The smaller of the two operands is the one to transpose.
            x = read_scores(scores, scores_of(example))
            x = dot(gradient_of(rows, example), x, (0, 0))
            context[of_example(example, 0, reach)] += x.T

        for_each(EXAMPLES, body)

        @pl.when(axis_tile == sizes.tiles - 1)
        def _():
            from_rows(context, d_values)

    def backward_scores(
        queries, embeddings, values, gradient, d_queries, d_embeddings, *scratch
    ):
        placed, scores, context, rows = scratch
        axis_tile = pl.program_id(0)
        place_queries(queries, placed, axis_tile)
        to_rows(load(values, sizes.reach), context)
        to_rows(load(gradient, sizes.positions, axis_tile), rows)

        def each_example(example):
            x = context[of_example(example, 0, reach)]
            x = dot(gradient_of(rows, example), x, (1, 1))
            write_scores(scores, scores_of(example), x)

        for_each(EXAMPLES, each_example)

        @pl.when(pl.program_id(1) == 0)
        def _():
            d_embeddings[...] = jnp.zeros(d_embeddings.shape, float32)

        def each_group(i):
            x = read_scores(scores, functools.partial(of_group, i))
            y = dot(placed[i], x, (0, 0))
            d_embeddings[pl.ds(i * LANES, LANES), :] += y
            placed[i] = dot(x, embeddings_of(embeddings, i), (1, 1))

        for_each(groups, each_group)
        x = [
            placed[:, pl.ds(head * head_rows, head_rows), :]
            for head in range(heads)
        ]
        x = [each.reshape(tile * EXAMPLES, LANES) for each in x]
        x = dot(at_own_place(jnp.concatenate(x, 1)), repetition(), (1, 1))
        d_queries[...] = x.reshape(d_queries.shape).astype(d_queries.dtype)

    def kernel(body, arguments, results, tiles_first=True):
        # What is summed over the inner axis stays on the chip meanwhile.
        axes = (0, 1) if tiles_first else (1, 0)

        def spec(name):
            block, place = blocks[name]
            return pl.BlockSpec(block, lambda *i: place(i[axes[0]], i[axes[1]]))

        grid = sizes.tiles, sizes.batch // EXAMPLES
        call = pl.pallas_call(
            body,
            grid=[grid[axis] for axis in axes],
            in_specs=[spec(name) for name in arguments],
            out_specs=[spec(name) for name in results],
            out_shape=[shapes[name] for name in results],
            scratch_shapes=[pltpu.VMEM(rows, float32) for rows in scratch],
            compiler_params=pltpu.CompilerParams(vmem_limit_bytes=sizes.memory),
            interpret=interpret,
            name=f"lambda_{body.__name__}",
        )
        return lambda *arrays: [x.astype(sizes.dtype) for x in call(*arrays)]

    # Of each array, its block and which one a step has, by its tile of
    # positions and its eight examples.
    example_blocks = tile, EXAMPLES
    blocks = {
        "queries": ((*example_blocks, heads * key_dim), lambda i, j: (i, j, 0)),
        "embeddings": ((tile * key_dim, reach), lambda i, j: (i, 0)),
        "values": ((reach, EXAMPLES, value_dim), lambda i, j: (0, j, 0)),
        "output": (
            (*example_blocks, heads * value_dim),
            lambda i, j: (i, j, 0),
        ),
    }
    n, b = sizes.positions, sizes.batch
    shape = jax.ShapeDtypeStruct
    shapes = {
        "queries": shape((n, b, heads * key_dim), sizes.dtype),
        # Sums of many.
        "embeddings": shape((sizes.tiles * tile * key_dim, reach), float32),
        "values": shape((sizes.reach, b, value_dim), sizes.dtype),
        "output": shape((n, b, heads * value_dim), sizes.dtype),
    }
    scratch = [
        (groups, group_rows, LANES),
        (reach // LANES * groups * group_rows, LANES),
        (reach * EXAMPLES, LANES),
        (heads * tile * EXAMPLES, LANES),
    ]
    arrays = "queries", "embeddings", "values"
    return (
        kernel(forward, arrays, ["output"]),
        kernel(
            backward_values,
            ["queries", "embeddings", "output"],
            ["values"],
            tiles_first=False,
        ),
        kernel(backward_scores, [*arrays, "output"], arrays[:2]),
    )
