"""The table of operations: each of torch's by what it does to values.

Whoever follows values through a network asks :func:`meaning_of`, and keeps no list of its own.
"""

from __future__ import annotations

from functools import lru_cache
from math import inf
from typing import Any

from torch import Tensor

from spikeloom.observe.dialects import name_of, spellings
from spikeloom.observe.operation import EVERY, Effect, Operation
from spikeloom.observe.particular import casts, of_bits, quotient, reread, window_sums

__all__ = ["meaning_of", "names_of", "register"]

_TABLE: dict[str, Operation] = {}


def meaning_of(operation: Any) -> Operation | None:
    """What an operation does to values; None for one that is not known.

    Args:
        operation: A function or method of torch, an operator of Python's, an overload, or a name
            in any of these dialects.

    Example:
        >>> import operator, torch
        >>> from spikeloom.observe import meaning_of
        >>> meaning_of(torch.nn.functional.relu) is meaning_of("aten::relu_")
        True
        >>> meaning_of(operator.add).effect.name, meaning_of(torch.Tensor.__radd__).name
        ('ADDS', 'add')
        >>> meaning_of(torch.fft.fft) is None
        True
    """
    return _found(operation)


@lru_cache(maxsize=4096)
def _found(operation: Any) -> Operation | None:
    return next((_TABLE[name] for name in spellings(operation) if name in _TABLE), None)


def register(operation: Operation, *others: str) -> None:
    """Say what an operation does, one of your own or one of torch's that is not known.

    Args:
        operation: The operation, by its name.
        others: Further names of it.

    Raises:
        TypeError: If it is no :class:`Operation`.
        ValueError: If a name is taken by an operation that does something else, in whatever
            spelling, or is not spelled as operations are looked up.

    Example:
        >>> import torch
        >>> from spikeloom.observe import Effect, Operation, meaning_of, register
        >>> @torch.library.custom_op("mylib::spike", mutates_args=())
        ... def spike(x: torch.Tensor) -> torch.Tensor:
        ...     return (x > 0).float()
        >>> register(Operation("mylib::spike", Effect.ROUNDS))
        >>> meaning_of(torch.ops.mylib.spike).effect.name
        'ROUNDS'
    """
    if not isinstance(operation, Operation):
        raise TypeError(f"operation: must be an Operation, got {type(operation).__name__}")
    names = (operation.name, *others)
    for name in names:
        if name_of(name) != name:
            raise ValueError(f"operation: {name!r} is looked up as {name_of(name)!r}; write that")
        if (known := meaning_of(name)) not in (None, operation):
            raise ValueError(f"operation: {name!r} is known already, as {known}; take another name")
    _enter(operation, *names)


def _enter(operation: Operation, *names: str) -> None:
    _TABLE.update(dict.fromkeys(names, operation))
    _found.cache_clear()


def names_of(effect: Effect) -> list[str]:
    """All names of the operations that have an effect.

    Args:
        effect: The effect.
    """
    return [name for name, operation in _TABLE.items() if operation.effect is effect]


def _rows(effect: Effect, words: str, **traits: Any) -> None:
    """Enter operations that do the same; a word is a name, and after ``=`` its other names."""
    for word in words.split():
        name, *others = word.split("=")
        _enter(Operation(name, effect, **traits), name, *others)


# --- Values stay what they are -------------------------------------------------------------------

_rows(
    Effect.KEEPS,
    """
    clone contiguous detach alias lift_fresh float double half bfloat16 cpu cuda
    requires_grad_ positive=pos as_tensor=asarray nan_to_num resolve_conj resolve_neg conj
    """,
    addends=EVERY,
)
_rows(Effect.KEEPS, "to=_to_copy=type type_as", addends=(0,), ignores=(1,), in_call=casts)
_rows(Effect.KEEPS, "copy", addends=(1,), ignores=(0,))
_rows(
    Effect.MOVES,
    """
    reshape=_unsafe_view=_reshape_alias flatten unflatten ravel squeeze unsqueeze atleast_1d
    atleast_2d atleast_3d permute transpose=swapaxes=swapdims t movedim=moveaxis T mT H mH adjoint
    numpy_T matrix_H expand broadcast_to repeat tile roll flip=reversed fliplr flipud rot90 select
    slice narrow unfold diagonal split=split_with_sizes=unsafe_split_with_sizes chunk
    tensor_split unbind=iter broadcast_tensors hsplit vsplit dsplit pixel_shuffle pixel_unshuffle
    channel_shuffle real view_as_real view_as_complex reflection_pad1d reflection_pad2d
    reflection_pad3d replication_pad1d replication_pad2d replication_pad3d _pad_circular
    upsample_nearest1d upsample_nearest2d
    upsample_nearest3d _upsample_nearest_exact1d _upsample_nearest_exact2d
    _upsample_nearest_exact3d
    """,
    addends=EVERY,
)
_rows(Effect.MOVES, "view", addends=EVERY, in_call=reread)
_rows(Effect.MOVES, "as_strided", addends=EVERY, by_memory=True)
_rows(
    Effect.MOVES,
    """
    getitem index index_select gather take take_along_dim repeat_interleave masked_select
    """,
    addends=(0,),
)
_rows(Effect.MOVES, "expand_as reshape_as view_as", addends=(0,), ignores=(1,))
_rows(
    Effect.PADS,
    """
    pad constant_pad_nd im2col=functional.unfold tril triu diag diagflat diag_embed block_diag
    """,
    addends=EVERY,
)
_rows(
    Effect.JOINS,
    """
    cat=concat=concatenate stack hstack vstack=row_stack dstack column_stack
    """,
    addends=EVERY,
)
_rows(Effect.PLACES, "zero fill", addends=EVERY)
_rows(Effect.PLACES, "setitem index_put", addends=(0, 2))
_rows(Effect.PLACES, "slice_scatter select_scatter diagonal_scatter", addends=(0, 1))
_rows(Effect.PLACES, "index_copy index_fill scatter", addends=(0, 3))
_rows(Effect.PLACES, "masked_scatter", addends=(0, 2))

# --- Sums and products ---------------------------------------------------------------------------

_rows(
    Effect.ADDS,
    "add sub=subtract rsub neg=negative sum nansum cumsum diff trace sum_to_size",
    addends=EVERY,
)
_rows(Effect.ADDS, "col2im=functional.fold", addends=EVERY)
_rows(Effect.ADDS, "index_add scatter_add", addends=(0, 3))
_rows(
    Effect.AVERAGES,
    """
    mean nanmean avg_pool1d adaptive_avg_pool1d
    adaptive_avg_pool2d=_adaptive_avg_pool2d adaptive_avg_pool3d=_adaptive_avg_pool3d
    upsample_linear1d upsample_bilinear2d upsample_trilinear3d upsample_bicubic2d
    _upsample_bilinear2d_aa _upsample_bicubic2d_aa interpolate
    """,
    addends=EVERY,
)
_rows(Effect.AVERAGES, "avg_pool2d avg_pool3d", addends=EVERY, in_call=window_sums)
_rows(Effect.AVERAGES, "lerp", addends=(0, 1))
_rows(Effect.MULTIPLIES, "mul=multiply outer=ger kron cross", factors=(0, 1))
_rows(Effect.MULTIPLIES, "addcmul addr", addends=(0,), factors=(1, 2))
_rows(
    Effect.MULTIPLIES,
    "div=divide=true_divide=truediv=itruediv=idiv",
    addends=(0,),
    is_partial=True,
    in_call=quotient,
)
_rows(Effect.MULTIPLIES, "addcdiv", addends=(0, 1), is_partial=True)
_rows(
    Effect.WEIGHS,
    """
    linear convolution conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d
    """,
    addends=(2,),
    factors=(0, 1),
)
_rows(
    Effect.WEIGHS, "mm bmm mv dot matmul vdot vecdot inner grouped_mm=_grouped_mm", factors=(0, 1)
)
_rows(Effect.WEIGHS, "addmm baddbmm addmv addbmm", addends=(0,), factors=(1, 2))
_rows(Effect.WEIGHS, "einsum tensordot chain_matmul multi_dot", factors=EVERY)
_rows(Effect.WEIGHS, "bilinear", factors=(0, 1, 2))
_rows(Effect.ATTENDS, "scaled_dot_product_attention multi_head_attention_forward")

# --- Functions -----------------------------------------------------------------------------------

_rows(Effect.ACTIVATES, "relu", bounds=(0.0,))
_rows(Effect.ACTIVATES, "relu6", bounds=(0.0, 6.0))
_rows(Effect.ACTIVATES, "hardtanh", bounds=(-1.0, 1.0))
_rows(Effect.ACTIVATES, "clamp=clip clamp_min clamp_max", bounds=())
_rows(
    Effect.ACTIVATES,
    """
    leaky_relu prelu=_prelu_kernel elu selu celu gelu silu mish softplus hardswish hardsigmoid
    hardshrink softshrink tanhshrink softsign threshold=_threshold glu sigmoid=expit
    log_sigmoid=logsigmoid=log_sigmoid_forward tanh erf erfc sinc sin cos atan=arctan atan2=arctan2
    asinh=arcsinh abs=absolute copysign square softmax=_softmax=_safe_softmax softmin
    log_softmax=_log_softmax logaddexp logaddexp2 hypot ndtr log_ndtr
    """,
)
_rows(
    Effect.ACTIVATES,
    """
    pow=rpow=float_power reciprocal=rdiv=rtruediv exp exp2 expm1 tan sinh cosh lgamma digamma i0
    """,
    is_partial=True,
)
for _words, _domain in {
    "sqrt rsqrt log log2 log10": (0, 0.0, inf),
    "log1p": (0, -1.0, inf),
    "logit": (0, 0.0, 1.0),
    "acos=arccos asin=arcsin atanh=arctanh erfinv": (0, -1.0, 1.0),
    "acosh=arccosh": (0, 1.0, inf),
    "xlogy": (1, 0.0, inf),
    "xlog1py": (1, -1.0, inf),
}.items():
    _rows(Effect.ACTIVATES, _words, is_partial=True, domain=_domain)
_rows(
    Effect.SELECTS,
    """
    max min median nanmedian mode cummax cummin
    max_pool1d max_pool2d=mkldnn_max_pool2d max_pool3d=mkldnn_max_pool3d
    adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d
    """,
    positions=(1,),
)
_rows(Effect.SELECTS, "amax amin maximum minimum fmax fmin aminmax")
_rows(Effect.SELECTS, "topk sort kthvalue", ranks=True, positions=(1,))
_rows(Effect.SELECTS, "msort", ranks=True)
_rows(Effect.SELECTS, "where", addends=(1, 2))
_rows(Effect.SELECTS, "Tensor.where", addends=(0, 2))  # the condition stands second
_rows(Effect.SELECTS, "masked_fill", addends=(0, 2))
_rows(
    Effect.REDUCES,
    """
    var std var_mean std_mean norm vector_norm matrix_norm prod cumprod
    logsumexp logcumsumexp cosine_similarity pairwise_distance cdist=_cdist_forward dist
    pdist=_pdist_forward quantile nanquantile lp_pool1d lp_pool2d lp_pool3d
    """,
)
# Affine by the statistics of earlier batches, as in evaluation.
_rows(Effect.NORMALISES, "batch_norm=cudnn_batch_norm", addends=(0,))
_rows(Effect.NORMALISES, "batch_norm=_native_batch_norm_legit", addends=(0,))
_rows(Effect.NORMALISES, "batch_norm=_native_batch_norm_legit_no_training", addends=(0,))
_rows(
    Effect.NORMALISES,
    """
    layer_norm group_norm rms_norm=_fused_rms_norm instance_norm local_response_norm normalize
    renorm
    """,
)

# --- Steps, conditions and positions -------------------------------------------------------------

_rows(
    Effect.ROUNDS,
    """
    sign sgn signbit heaviside round floor ceil trunc=fix frac floor_divide=floordiv remainder=mod
    fmod int long short char byte
    """,
)
_rows(Effect.ORDERS, "gt=greater ge=greater_equal lt=less le=less_equal")
_rows(
    Effect.TESTS,
    """
    eq ne=not_equal isnan isinf isfinite isposinf isneginf isreal isclose isin any all bool
    nonzero=argwhere count_nonzero logical_and logical_or logical_xor logical_not
    """,
)
_rows(
    Effect.TESTS,
    "bitwise_and=and=__rand__ bitwise_or=or bitwise_xor=xor bitwise_not=invert",
    in_call=of_bits,
)
_rows(Effect.RANKS, "argmax argmin argsort searchsorted bucketize", ranks=True)
_rows(Effect.FIRES, "scan")

# --- Chance, tables and losses -------------------------------------------------------------------

_rows(
    Effect.DRAWS,
    """
    bernoulli binomial cauchy exponential geometric gumbel_softmax log_normal multinomial normal
    poisson random rrelu rrelu_with_noise uniform fractional_max_pool2d fractional_max_pool3d
    """,
)
_rows(
    Effect.DROPS,
    """
    dropout dropout1d dropout2d dropout3d alpha_dropout feature_dropout feature_alpha_dropout
    """,
    addends=(0,),
)
_rows(Effect.LOOKS_UP, "embedding embedding_bag one_hot")
_rows(
    Effect.SCORES,
    """
    cross_entropy cross_entropy_loss nll_loss binary_cross_entropy binary_cross_entropy_with_logits
    mse_loss l1_loss smooth_l1_loss huber_loss kl_div ctc_loss cosine_embedding_loss
    """,
)

# --- What is no value of a signal ----------------------------------------------------------------

_rows(
    Effect.MAKES,
    """
    zeros ones empty full rand randn empty_strided randint randperm arange linspace logspace eye
    scalar_tensor
    """,
)
# Of the first argument, these take the shape and the dtype alone.
_rows(
    Effect.MAKES,
    """
    zeros_like ones_like empty_like full_like rand_like randn_like randint_like
    new_zeros new_ones new_empty new_full new_rand new_randn new_empty_strided
    """,
    ignores=(0,),
)
_rows(
    Effect.DESCRIBES,
    """
    size=shape dim=ndim=ndimension numel=nelement=len stride storage_offset sym_size sym_numel
    sym_stride sym_storage_offset dtype device layout requires_grad grad grad_fn names nbytes
    itemsize element_size get_device output_nr retains_grad result_type _version __dir__ __format__
    __hash__ __repr__
    """,
)
_rows(Effect.DECIDES, "__bool__ __contains__ allclose equal is_nonzero")
_rows(
    Effect.DESCRIBES,
    # Questions such as is_floating_point, as far as torch does not look at values for them.
    " ".join(name for name in dir(Tensor) if name.startswith("is_") and name != "is_nonzero"),
)
_rows(Effect.READS, "item=_local_scalar_dense __float__ __int__ __index__ __complex__")
_rows(
    Effect.LEAVES,
    """
    numpy tolist __array__ __dlpack__ __cuda_array_interface__ data_ptr untyped_storage storage
    _typed_storage share_memory_ __reduce_ex__ apply_ map_ map2_ data
    """,
)
