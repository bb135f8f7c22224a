"""What the finder has to know of torch's operations: which move, scale, resample or mix the elements of a tensor."""

from __future__ import annotations

import functools
from typing import Any

SAME = frozenset(
    "view reshape view_as reshape_as flatten unflatten permute transpose t T mT H mH movedim moveaxis swapaxes "
    "swapdims squeeze unsqueeze expand expand_as broadcast_to contiguous clone detach to type type_as float half "
    "bfloat16 double cuda cpu dropout dropout1d dropout2d dropout3d feature_dropout alpha_dropout "
    "feature_alpha_dropout native_dropout identity alias positive data real conj resolve_conj _to_copy _unsafe_view "
    "unsafe_view to_copy reshape_alias lift_fresh roll flip numpy_T atleast_2d atleast_3d pin_memory requires_grad "
    "to_dense as_strided _reshape_alias _conj copy alias_copy".split()
)
"""The same numbers, perhaps in another place or precision."""

RESAMPLE = frozenset(
    "avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d max_pool1d "
    "max_pool2d max_pool3d max_pool2d_with_indices adaptive_max_pool1d adaptive_max_pool2d interpolate upsample "
    "upsample_nearest2d upsample_bilinear2d upsample_nearest upsample_bilinear pad constant_pad_nd reflection_pad2d "
    "replication_pad2d pixel_shuffle pixel_unshuffle repeat repeat_interleave tile channel_shuffle lp_pool2d".split()
)
"""The same signal on another grid; averages and maxima of windows mix as well."""

PARTS = frozenset("select narrow slice chunk split unbind tensor_split index_select split_with_sizes".split())

POOLS = frozenset(name for name in RESAMPLE if "pool" in name) | {"interpolate"}

NORMS = frozenset(
    "batch_norm layer_norm group_norm instance_norm rms_norm native_layer_norm native_batch_norm native_group_norm "
    "_native_batch_norm_legit_no_training cudnn_batch_norm local_response_norm normalize fused_rms_norm".split()
)

ACTIVATIONS = frozenset(
    "relu relu6 gelu silu sigmoid tanh hardtanh leaky_relu elu selu celu mish softplus hardswish hardsigmoid prelu "
    "clamp".split()
)

_MIXING = tuple(
    "linear conv matmul mm bmm addmm baddbmm addbmm addmv mv einsum tensordot bilinear attention lstm gru rnn fft "
    "stft sparse spmm scatter index_add embedding_bag grid_sample kron cdist qlinear thnn_conv slow_conv mkldnn inner "
    "chain_matmul multi_head unknown".split()
)

_SPELLINGS = {
    "add": "__iadd__ __add__ __radd__",
    "sub": "__isub__ __sub__ subtract",
    "rsub": "__rsub__",
    "mul": "__mul__ __rmul__ __imul__ multiply",
    "div": "true_divide divide __truediv__ __itruediv__ __idiv__",
    "rdiv": "__rdiv__ __rtruediv__",
    "matmul": "__rmatmul__ __matmul__",
    "getitem": "__getitem__",
    "setitem": "__setitem__",
    "pow": "__pow__",
}
NAMES = {spelling: name for name, spellings in _SPELLINGS.items() for spelling in spellings.split()}

SUMS = frozenset("add sub rsub lerp addcmul addcdiv addmm baddbmm addbmm addmv addr add_relu index_add scatter_add".split())

COUNTED = SUMS | {"sum", "mean"}
"""What may turn out to be a sum: a block is told by its module call and its number among these."""


def name_of(function: Any) -> str:
    """The plain name of a torch function, method, property or operator overload.

    >>> import torch
    >>> name_of(torch.Tensor.add_), name_of(torch.ops.aten.add.Tensor), name_of(torch.Tensor.mT.__get__)
    ('add', 'add', 'mT')
    """
    name = str(getattr(function, "__name__", type(function).__name__)).partition(".")[0]
    if name == "__get__":
        name = str(getattr(getattr(function, "__self__", None), "__name__", name))
    name = NAMES.get(name, name)
    stripped = name.rstrip("_") if not name.startswith("__") else name
    return NAMES.get(stripped, stripped) or name


def writes(function: Any) -> bool:
    """Whether a torch function writes into its first argument.

    >>> import torch
    >>> writes(torch.Tensor.add_), writes(torch.Tensor.add), writes(torch.Tensor.__setitem__)
    (True, False, True)
    """
    name = str(getattr(function, "__name__", "")).partition(".")[0]
    return name.endswith("_") and (not name.endswith("__") or name == "__setitem__" or name.startswith("__i"))


@functools.cache
def mixes(op: str) -> bool:
    """Whether an operation combines different elements of a tensor by products, so that it can be the work of a branch.

    >>> mixes("conv2d"), mixes("scaled_dot_product_attention"), mixes("layer_norm"), mixes("mul")
    (True, True, False, False)
    """
    return op not in RESAMPLE and "norm" not in op and any(part in op for part in _MIXING)


def indexing(index: Any, shape: tuple[int, ...]) -> str:
    """What `x[index]` is to x of this shape: "same", "resample" (strided over the whole axis) or "slice".

    >>> indexing((slice(None), None), (2, 3)), indexing((Ellipsis, slice(None, None, 2)), (2, 4)), indexing(0, (2, 4))
    ('same', 'resample', 'slice')
    """
    parts = index if isinstance(index, tuple) else (index,)
    axes = [part for part in parts if part is not None]
    if any(part is Ellipsis for part in axes):
        place = next(i for i, part in enumerate(axes) if part is Ellipsis)
        missing = len(shape) - (len(axes) - 1)
        axes = [*axes[:place], *[slice(None)] * missing, *axes[place + 1 :]]
    form = "same"
    for part, size in zip(axes, shape, strict=False):
        if not isinstance(part, slice) or any(
            bound is not None and not isinstance(bound, int) for bound in (part.start, part.stop)
        ):
            return "slice"
        start, stop, step = part.indices(size)
        if step == 1 and (start, stop) != (0, size):
            return "slice"
        if step != 1:
            form = "resample"
    return form
