import dataclasses
import json

import keras
import numpy as np
import pytest

from lambda_keras.benchmark import steps
from lambda_keras.benchmark import tpu_compiler
from lambda_keras.benchmark.steps import Step
from lambda_keras.benchmark.tpu_compiler import build_without_weights
from lambda_keras.benchmark.tpu_compiler import compile_for_tpu
from lambda_keras.benchmark.tpu_compiler import count_collectives
from lambda_keras.benchmark.tpu_compiler import parse_shortage
from lambda_keras.benchmark.tpu_compiler import shapes_of
from lambda_keras.layers import contractions
from lambda_keras.layers.targets import current_target
from tests.benchmark import models
from tests.benchmark.tpu_programs import estimate_of

GIB = 2**30

on_jax = pytest.mark.skipif(
    keras.backend.backend() != "jax", reason="about JAX"
)

# Lines as the compiler writes them, shortened.
PROGRAM = """
  %all-reduce = f32[64]{0:T(128)S(1)} all-reduce(%get-tuple-element.43), id=1
  %copy-start = (f32[64]{0}, f32[64]{0}, u32[]{:S(2)}) copy-start(%all-reduce)
  %fusion = f32[64]{0} fusion(%all-reduce), metadata={op_name="all-reduce(x)"}
  %all-reduce.12 = (f32[]{:T(128)}, bf16[64,10]{0,1:T(8,128)}, \
/*index=2*/s8[3]{0}) all-reduce(%a, %b, %c), channel_id=3
  %get-tuple-element.8 = f32[64]{0} get-tuple-element(%all-reduce.12), index=0
  %all-gather = f32[8,16]{1,0} all-gather(%p), dimensions={0}
  %all-gather-start = (f32[2,16]{1,0}, f32[8,16]{1,0}) all-gather-start(%p)
  %all-gather-done = f32[8,16]{1,0} all-gather-done(%all-gather-start)
  ROOT %collective-permute-start = (bf16[4]{0}, bf16[4]{0}, u32[], u32[]) \
collective-permute-start(%p)
"""


def test_collectives_are_counted_by_kind_with_their_bytes():
    assert count_collectives(PROGRAM) == {
        "all-reduce": {"count": 2, "bytes": 64 * 4 + (4 + 640 * 2 + 3)},
        "all-gather": {"count": 2, "bytes": 2 * 8 * 16 * 4},
        "collective-permute": {"count": 1, "bytes": 4 * 2},
    }


def test_a_program_of_one_device_has_no_collectives():
    assert count_collectives("  %add = f32[64]{0} add(%a, %b)") == {}


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (
            "RESOURCE_EXHAUSTED: E1000: CompileTimeHbmOom: Ran out of memory "
            "on HBM, the total memory required for HLO temporaries (17.25G) "
            "exceeds available HBM (15.75G). HLO module: jit_train.",
            (17.25 * GIB, 15.75 * GIB),
        ),
        (
            "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of "
            "memory in memory space hbm. Used 2.50T of 95.75G hbm. Exceeded "
            "hbm capacity by 2.41T.",
            (2.5 * 1024 * GIB, 95.75 * GIB),
        ),
        ("RESOURCE_EXHAUSTED: (900) exceeds available HBM (512)", (900, 512)),
    ],
)
def test_the_shortage_is_read_off_the_refusal(message, expected):
    assert parse_shortage(message) == expected


@pytest.mark.parametrize(
    "message",
    [
        "INVALID_ARGUMENT: the shape (2G) exceeds available HBM (1G)",
        "RESOURCE_EXHAUSTED: too many open files",
        "RESOURCE_EXHAUSTED: (20.00M) exceeds available VMEM (16.00M)",
    ],
)
def test_other_errors_are_no_shortage(message):
    assert parse_shortage(message) is None


def test_the_cache_is_the_users(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    directory = tmp_path / "lambda_keras" / "preflight"
    assert tpu_compiler.cache_directory() == directory
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    directory = tmp_path / "home" / ".cache" / "lambda_keras" / "preflight"
    assert tpu_compiler.cache_directory() == directory


def take_home_away(monkeypatch):
    def home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr("pathlib.Path.home", home)


def test_who_has_no_home_has_no_cache(monkeypatch):
    take_home_away(monkeypatch)
    assert tpu_compiler.cache_directory() is None


def product(state, batch):
    """One matrix product, and its gradient step."""
    import jax

    def loss(kernel):
        return ((batch[0] @ kernel) ** 2).mean()

    value, gradient = jax.value_and_grad(loss)(state[0])
    return value, [state[0] - gradient]


def factor(state, batch):
    """Has an operation that the compiler cannot estimate."""
    import jax.numpy as jnp

    return jnp.linalg.cholesky(batch[0] @ batch[0].T + state[0]), state


KERNEL = np.zeros((256, 256), "float32")


def batch_of(size, width=256):
    return (((size, width), np.dtype("float32")),)


@on_jax
@pytest.mark.tpu_backend
def test_figures_are_those_of_one_device(tpu):
    one = compile_for_tpu(Step(product, [KERNEL]), batch_of(128), "v3-1")
    all_of_it = compile_for_tpu(Step(product, [KERNEL]), batch_of(1024), "v3-8")
    assert one.fits and all_of_it.fits
    # Forward and the kernel's gradient, 128 rows for each core.
    flops = 2 * 2 * 128 * 256 * 256
    assert one.flops == pytest.approx(flops, rel=0.1)
    assert all_of_it.flops == pytest.approx(flops, rel=0.1)
    assert one.collectives == {}
    # The gradient and the loss.
    exchanged = all_of_it.collectives["all-reduce"]["bytes"]
    assert exchanged == 4 * (256 * 256 + 1)
    for program in (one, all_of_it):
        # What a core of 16 GiB leaves to programs.
        assert 15 * GIB < program.available_bytes < 16 * GIB
        assert program.needed_bytes is None
        # The kernel and 128 rows; the kernel is donated.
        assert program.argument_bytes == 4 * 256 * (256 + 128)
        assert program.alias_bytes == 4 * 256 * 256
        assert program.peak_memory_bytes > program.argument_bytes
        assert 0 < program.optimal_seconds < 1e-3
        assert program.loops == 0
        assert set(program.versions) == {"jax", "jaxlib", "libtpu"}


@on_jax
@pytest.mark.tpu_backend
def test_what_does_not_fit_is_a_result(tpu):
    huge = compile_for_tpu(Step(product, [KERNEL]), batch_of(2**30), "v5e-1")
    assert not huge.fits
    assert 15 * GIB < huge.available_bytes < 16 * GIB
    assert huge.needed_bytes >= 4 * 256 * 2**30
    assert huge.flops is None and huge.peak_memory_bytes is None


@on_jax
@pytest.mark.tpu_backend
def test_layers_are_traced_as_for_a_tpu(tpu):
    devices = []

    def noting(state, batch):
        devices.append(current_target().device)
        return product(state, batch)

    compile_for_tpu(Step(noting, [KERNEL]), batch_of(128), "v5e-1")
    assert devices == ["tpu"]
    assert current_target().device != "tpu"


@on_jax
@pytest.mark.tpu_backend
def test_a_batch_in_parts_saves_a_copy_of_the_scores(tpu, monkeypatch):
    shape = (13, 13), (14, 14), (14, 14)  # Center, query, context shape.
    sizes = [(128, 196, 4, 16), (128, 196, 128, 1), (128, 16, 128)]
    batch = tuple((size, np.dtype("float32")) for size in sizes)

    def count_bytes():
        import jax

        def loss(table, batch):
            output = contractions.query_first(*batch, table, *shape)
            return (output**2).sum()

        step = jax.grad(loss, argnums=(0, 1))
        table = np.zeros((27, 27, 16, 1), "float32")
        return compile_for_tpu(Step(step, table), batch, "v3-1").bytes

    in_parts = count_bytes()
    monkeypatch.setattr(contractions, "_split_batch", lambda _: (1, 1, 128))
    # In lanes of 128 the scores themselves take more, their copy is worse.
    assert count_bytes() - in_parts > 128 * 196 * 4 * 196 * 4


@on_jax
@pytest.mark.tpu_backend
def test_what_has_no_estimate_counts_minus_one(tpu):
    program = compile_for_tpu(
        Step(factor, [np.eye(256, dtype="float32")]), batch_of(256), "v3-1"
    )
    assert program.optimal_seconds < 0


@on_jax
@pytest.mark.tpu_backend
def test_several_chips_have_an_estimate_too(tpu):
    # The sum of a kernel's gradients over the chips may be unknown.
    kernel = np.zeros((512, 512), "float32")
    program = compile_for_tpu(
        Step(product, [kernel]), batch_of(1024, 512), "v5e-8"
    )
    assert program.collectives["all-reduce"]["count"] > 0
    estimate = estimate_of(program)
    assert estimate.unknown_operations < 2
    assert estimate.seconds == pytest.approx(estimate.roofline_seconds, rel=0.5)


@on_jax
@pytest.mark.tpu_backend
def test_programs_are_compiled_once(tpu):
    def compile_again(topology="v5e-1", size=128, **arguments):
        return compile_for_tpu(
            Step(product, [KERNEL]), batch_of(size), topology, **arguments
        )

    first = compile_again()
    assert not first.cached
    (entry,) = tpu.iterdir()
    second = compile_again()
    assert second == dataclasses.replace(first, cached=True)
    assert not compile_again(use_cache=False).cached
    # Another program, and another TPU
    assert not compile_again(size=64).cached
    assert not compile_again("v6e-1").cached
    assert len(list(tpu.iterdir())) == 3
    for damaged in ("", "{", "[]", '{"topology": "v5e-1"}', '{"other": 1}'):
        entry.write_text(damaged)
        assert not compile_again().cached, damaged
        assert json.loads(entry.read_text())["flops"] == first.flops


@on_jax
@pytest.mark.tpu_backend
def test_a_cache_that_cannot_be_written_is_done_without(
    tpu, monkeypatch, tmp_path
):
    file = tmp_path / "file"
    file.touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(file))
    assert compile_for_tpu(Step(product, [KERNEL]), batch_of(128), "v5e-1").fits
    take_home_away(monkeypatch)
    assert compile_for_tpu(Step(product, [KERNEL]), batch_of(128), "v5e-1").fits


@on_jax
@pytest.mark.tpu_backend
def test_a_compiler_need_not_say_how_much_memory_there_is(tpu, monkeypatch):
    # As if it refused in other words
    monkeypatch.setattr(tpu_compiler, "parse_shortage", lambda message: None)
    program = compile_for_tpu(Step(product, [KERNEL]), batch_of(128), "v5e-1")
    assert program.fits and program.available_bytes is None


@on_jax
@pytest.mark.parametrize("mode", ["train", "infer"])
def test_a_step_without_weights_is_the_same_program(mode):
    import jax

    def build():
        return models.plain((8, 8, 3))

    def text_of(model, make_step):
        if mode == "train":
            steps.compile_model(model)
        step = make_step(lambda: steps.jax_step(model, mode))
        batch = [
            jax.ShapeDtypeStruct(*one)
            for one in steps.batch_shapes(model, mode, 4)
        ]
        lowered = jax.jit(step.function).lower(step.state, tuple(batch))
        return lowered.as_text(), step.state

    bare, shapes = text_of(build_without_weights(build), shapes_of)
    real, values = text_of(build(), lambda make_step: make_step())
    assert bare == real
    bare_leaves, real_leaves = jax.tree.leaves(shapes), jax.tree.leaves(values)
    assert len(bare_leaves) == len(real_leaves) > 3
    for shape, value in zip(bare_leaves, real_leaves):
        assert isinstance(shape, jax.ShapeDtypeStruct)
        assert (shape.shape, shape.dtype) == (value.shape, value.dtype)


@on_jax
def test_an_unknown_tpu_is_refused():
    with pytest.raises(ValueError, match=r"v5e-4.*Received: topology=v5e-3"):
        compile_for_tpu(Step(product, [KERNEL]), batch_of(128), "v5e-3")
