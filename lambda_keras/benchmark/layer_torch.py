"""Lambda layers of others, on torch, with the weights of ours.

The listing is the paper's pseudo-code and its lambda convolution, written as
one would who has the paper before them. timm's layer is imported from where
it is installed.
"""

import importlib
import importlib.util
import os
import sys
import types

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from lambda_keras.benchmark.layer_candidates import COMPILED
from lambda_keras.benchmark.layer_candidates import TIMM
from lambda_keras.benchmark.layer_candidates import Candidate
from lambda_keras.benchmark.layer_reference import COTANGENT
from lambda_keras.benchmark.layer_reference import INPUTS
from lambda_keras.benchmark.layer_reference import OUTPUT
from lambda_keras.benchmark.layer_reference import TRAINING
from lambda_keras.benchmark.layer_reference import Arrays
from lambda_keras.benchmark.layer_reference import gradient_name
from lambda_keras.benchmark.layer_shapes import KEY_DIM
from lambda_keras.benchmark.layer_shapes import NUM_HEADS
from lambda_keras.benchmark.layer_shapes import LayerShape

_EPSILON = 1e-5


class Listing(nn.Module):
    """The layer of the paper's listing, with what it leaves to the reader.

    Global position lambdas are those of the listing, with embeddings read
    from a table of relative ones. Local ones are the paper's convolution, in
    which the value depth is one more spatial axis. A causal layer cuts the
    table at the middle and sums the content lambdas up along the sequence.

    Args:
        shape: What it is for: inputs of `(batch, *sizes, channels)`.
    """

    def __init__(self, shape: LayerShape):
        super().__init__()
        self.value_dim = shape.channels // NUM_HEADS
        self.depth = shape.intra_depth
        self.causal = shape.causal
        self.field = shape.receptive_field
        channels = shape.channels
        self.query = nn.Linear(channels, NUM_HEADS * KEY_DIM, bias=False)
        self.key = nn.Linear(channels, self.depth * KEY_DIM, bias=False)
        self.value = nn.Linear(
            channels, self.depth * self.value_dim, bias=False
        )
        self.query_norm = nn.BatchNorm1d(NUM_HEADS * KEY_DIM, eps=_EPSILON)
        self.value_norm = nn.BatchNorm1d(
            self.depth * self.value_dim, eps=_EPSILON
        )
        if self.field is not None:
            kernel = (KEY_DIM, self.depth, *[self.field] * len(shape.sizes), 1)
            self.embeddings = nn.Parameter(torch.empty(kernel))
        else:
            taps = [2 * size - 1 for size in shape.sizes]
            table = (*taps, KEY_DIM, self.depth)
            self.embeddings = nn.Parameter(torch.empty(table))
            self.register_buffer("index", _relative_index(shape.sizes))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        batch, *sizes, channels = inputs.shape
        x = inputs.reshape(-1, channels)
        queries = self.query_norm(self.query(x))
        queries = queries.view(batch, -1, NUM_HEADS, KEY_DIM)
        keys = self.key(x).view(batch, -1, self.depth, KEY_DIM)
        values = self.value_norm(self.value(x))
        values = values.view(batch, -1, self.depth, self.value_dim)

        content = self._causal_content if self.causal else self._content
        outputs = content(queries, keys, values)
        lambdas = self._position_lambdas(values, sizes)
        outputs = outputs + torch.einsum("bnhk,bnkv->bnhv", queries, lambdas)
        return outputs.reshape(inputs.shape)

    def _content(self, queries, keys, values):
        keys = torch.softmax(keys, dim=1)
        content_lambda = torch.einsum("bmuk,bmuv->bkv", keys, values)
        return torch.einsum("bnhk,bkv->bnhv", queries, content_lambda)

    def _causal_content(self, queries, keys, values):
        weights = torch.exp(keys - keys.amax(dim=1, keepdim=True))
        products = torch.einsum("bmuk,bmuv->bmukv", weights, values)
        sums = weights.cumsum(dim=1)[..., None]
        lambdas = (products.cumsum(dim=1) / sums).sum(dim=2)
        return torch.einsum("bnhk,bnkv->bnhv", queries, lambdas)

    def _position_lambdas(self, values, sizes):
        if self.field is None:
            pairs = self.embeddings.flatten(0, len(sizes) - 1)[self.index]
            if self.causal:
                seen = torch.ones_like(self.index).tril()
                pairs = pairs * seen[..., None, None]
            return torch.einsum("nmku,bmuv->bnkv", pairs, values)
        images = values.transpose(1, 2).unflatten(2, sizes)
        kernel, around = self.embeddings, self.field // 2
        if self.causal:
            kernel = kernel[:, :, : around + 1]
            images = functional.pad(images, (0, 0, around, 0))
            padding = [0] * (len(sizes) + 1)
        else:
            padding = [*[around] * len(sizes), 0]
        convolve = _CONVOLUTIONS[len(sizes) + 1]
        lambdas = convolve(images, kernel, padding=padding)
        return lambdas.flatten(2, -2).transpose(1, 2)


_CONVOLUTIONS = {2: functional.conv2d, 3: functional.conv3d}


def _relative_index(sizes):
    """Returns where a flat table has the pair of each query and context."""
    index = torch.zeros(1, 1, dtype=torch.long)
    for size in sizes:
        places = torch.arange(size)
        offsets = places[None, :] - places[:, None] + size - 1
        index = index[:, None, :, None] * (2 * size - 1)
        index = (index + offsets[None, :, None]).flatten(2, 3).flatten(0, 1)
    return index


class _ListingPort:
    """The listing, and how its arrays relate to those of our layer."""

    def __init__(self, shape: LayerShape):
        self.module = Listing(shape)
        self._is_local = shape.receptive_field is not None

    def from_ours(self, array: np.ndarray) -> np.ndarray:
        """Lays inputs out as the module takes them."""
        return array

    to_ours = from_ours

    def state(self, weights: Arrays) -> dict[str, np.ndarray]:
        """Returns the module's parameters and statistics."""
        table = weights["position_embeddings"]
        if self._is_local:
            table = np.moveaxis(table, (-2, -1), (0, 1))[..., None]
        return {
            **{
                f"{name}.weight": weights[f"{name}_kernel"].T
                for name in ("query", "key", "value")
            },
            "embeddings": table,
            **_norm_state(weights, "query_norm", "query_norm"),
            **_norm_state(weights, "value_norm", "value_norm"),
        }

    def weights(self, state: Arrays) -> dict[str, np.ndarray]:
        """Returns what `state` of it has the module's names."""
        table = state["embeddings"]
        if self._is_local:
            table = np.moveaxis(table[..., 0], (0, 1), (-2, -1))
        return {
            **{
                f"{name}_kernel": state[f"{name}.weight"].T
                for name in ("query", "key", "value")
            },
            "position_embeddings": table,
            **_norm_weights(state, "query_norm", "query_norm"),
            **_norm_weights(state, "value_norm", "value_norm"),
        }


class _TimmPort:
    """timm's layer, and how its arrays relate to those of our layer.

    Its convolution is relieved of the bias, which the paper's has not.
    """

    def __init__(self, shape: LayerShape):
        self.module = _import_timm_layer()(
            shape.channels,
            feat_size=shape.sizes,
            num_heads=NUM_HEADS,
            dim_head=KEY_DIM,
            r=shape.receptive_field,
        )
        self._is_local = shape.receptive_field is not None
        if self._is_local:
            self.module.conv_lambda.register_parameter("bias", None)

    def from_ours(self, array: np.ndarray) -> np.ndarray:
        """Lays inputs out as the module takes them."""
        return np.ascontiguousarray(np.moveaxis(array, -1, 1))

    def to_ours(self, array: np.ndarray) -> np.ndarray:
        """Lays outputs out as ours."""
        return np.moveaxis(array, 1, -1)

    def state(self, weights: Arrays) -> dict[str, np.ndarray]:
        """Returns the module's parameters and statistics."""
        kernels = [
            weights[f"{name}_kernel"].T for name in ("query", "key", "value")
        ]
        table = weights["position_embeddings"]
        if self._is_local:
            name = "conv_lambda.weight"
            table = np.moveaxis(table, (-2, -1), (0, 1))[..., None]
        else:
            name, table = "pos_emb", table[..., 0]
        return {
            "qkv.weight": np.concatenate(kernels)[..., None, None],
            name: table,
            **_norm_state(weights, "query_norm", "norm_q"),
            **_norm_state(weights, "value_norm", "norm_v"),
        }

    def weights(self, state: Arrays) -> dict[str, np.ndarray]:
        """Returns what `state` of it has the module's names."""
        kernels = state["qkv.weight"][..., 0, 0].T
        ends = (NUM_HEADS * KEY_DIM, (NUM_HEADS + 1) * KEY_DIM)
        query, key, value = np.split(kernels, ends, axis=1)
        if self._is_local:
            table = state["conv_lambda.weight"][..., 0]
            table = np.moveaxis(table, (0, 1), (-2, -1))
        else:
            table = state["pos_emb"][..., None]
        return {
            "query_kernel": query,
            "key_kernel": key,
            "value_kernel": value,
            "position_embeddings": table,
            **_norm_weights(state, "query_norm", "norm_q"),
            **_norm_weights(state, "value_norm", "norm_v"),
        }


_NORMS = {
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}


def _norm_state(weights, ours, theirs):
    return {
        f"{theirs}.{name}": weights[f"{ours}/{own}"]
        for own, name in _NORMS.items()
    }


def _norm_weights(state, ours, theirs):
    return {
        f"{ours}/{own}": state[f"{theirs}.{name}"]
        for own, name in _NORMS.items()
        if f"{theirs}.{name}" in state
    }


def _import_timm_layer():
    """Imports the layer's module without the packages that it is in.

    They would import all models of timm, and torchvision, which it does not
    need.
    """
    if TIMM not in sys.modules:
        (folder,) = importlib.util.find_spec(TIMM).submodule_search_locations
        for name, path in (
            (TIMM, folder),
            (f"{TIMM}.layers", os.path.join(folder, "layers")),
        ):
            sys.modules[name] = types.ModuleType(name)
            sys.modules[name].__path__ = [path]
    return importlib.import_module(f"{TIMM}.layers.lambda_layer").LambdaLayer


class TorchStep:
    """One step of a lambda layer of others, as a `layer_steps.LayerStep`.

    Args:
        candidate: timm's layer or the listing, and whether it is compiled.
        shape: What it is for.
        mode: `FORWARD` or `TRAINING`.
        arrays: Inputs, cotangent and our weights.
        is_bf16: Whether it computes in bfloat16, its weights being float32.
    """

    def __init__(
        self,
        candidate: Candidate,
        shape: LayerShape,
        mode: str,
        arrays: Arrays,
        is_bf16: bool = False,
    ):
        # As the other engines do by default, where there is such a thing.
        if os.environ.get("NVIDIA_TF32_OVERRIDE") != "0":
            torch.set_float32_matmul_precision("high")
        self._device = torch.device(
            "cuda" if torch.cuda.is_available() else "cpu"
        )
        port = _TimmPort if candidate.layer == TIMM else _ListingPort
        self._port = port(shape)
        module = self._port.module
        state = self._port.state(arrays)
        module.load_state_dict(
            {name: torch.tensor(array) for name, array in state.items()},
            # It counts batches, and the listing has its index.
            strict=False,
        )
        module.to(self._device).train(mode == TRAINING)
        self._is_training = mode == TRAINING
        self._is_bf16 = is_bf16
        self._names, self._weights = zip(*module.named_parameters())
        self._call = module
        if candidate.run == COMPILED:
            self._call = torch.compile(module)
        dtype = torch.bfloat16 if is_bf16 else torch.float32
        self._inputs, self._cotangent = (
            torch.tensor(self._port.from_ours(arrays[name]))
            .to(self._device, dtype)
            .requires_grad_(name == INPUTS and self._is_training)
            for name in (INPUTS, COTANGENT)
        )

    def run(self):
        with (
            torch.set_grad_enabled(self._is_training),
            torch.autocast(
                self._device.type, torch.bfloat16, enabled=self._is_bf16
            ),
        ):
            outputs = self._call(self._inputs)
        gradients = ()
        if self._is_training:
            gradients = torch.autograd.grad(
                outputs,
                [self._inputs, *self._weights],
                self._cotangent.to(outputs.dtype),
            )
        if self._device.type == "cuda":
            torch.cuda.synchronize()
        return outputs, gradients

    def read(self, results):
        outputs, gradients = results
        arrays = {OUTPUT: self._port.to_ours(_array(outputs))}
        if gradients:
            of_inputs, *others = map(_array, gradients)
            arrays[gradient_name(INPUTS)] = self._port.to_ours(of_inputs)
            of_weights = self._port.weights(dict(zip(self._names, others)))
            arrays |= {
                gradient_name(name): array for name, array in of_weights.items()
            }
        return arrays

    def device_memory(self, restart=False):
        if self._device.type != "cuda":
            return None
        if restart:
            torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated(), torch.cuda.max_memory_allocated()


def _array(tensor):
    return tensor.detach().float().cpu().numpy()
