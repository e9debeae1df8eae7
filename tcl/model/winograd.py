"""Residual 3x3 convolutions in fewer multiplications, on a processor (Winograd's filtering; Lavin and Gray, CVPR 2016).

A convolution's 2x2 neighbouring outputs are made of T x T products of transformed inputs and a transformed kernel; the
transforms add and subtract. With T = 4 it takes 16 multiplications for 36. Where the input is upsampled x2 (nearest),
T = 3 and tiles of the small grid do: 9 for 36. Rounding is that of the direct convolution or better.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

CHANNELS = 128
"""From so many input channels on the products outweigh the transforms."""

TILES = 256
"""Tiles at a time: enough rows for the matrix products, few enough for the cache."""

Matrix = tuple[tuple[float, ...], ...]
Activation = Callable[[Tensor], Tensor]
Weights = Callable[[], tuple[Tensor, Tensor]]
Parameters = Iterable[nn.Parameter]


class Form(NamedTuple):
    """How a tile d of the padded input gives 2x2 outputs: A ((K w K^T) * (D d D^T)) A^T, summed over the channels.

    inputs: D [T, side of d]; outputs: A [2, T]; both of -1, 0 and 1, and A's column 1 of ones. kernels: K [T, 3].
    stride: from one tile to the next.
    """

    inputs: Matrix
    outputs: Matrix
    kernels: Matrix
    stride: int


PLAIN = Form(
    inputs=((1, 0, -1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, -1, 0, 1)),
    outputs=((1, 1, 1, 0), (0, 1, -1, 1)),
    kernels=((1, 0, 0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0, 0, 1)),
    stride=2,
)
"""The convolution of an input of even height and width: [B, C, h, w] -> [B, C, h, w]."""

UPSAMPLED = Form(
    inputs=((1, -1, 0), (0, 1, 0), (0, -1, 1)),
    outputs=((1, 1, 0), (0, 1, 1)),
    kernels=((1, 0, 0), (1, 1, 1), (0, 0, 1)),
    stride=1,
)
"""The convolution of the nearest x2 upsampling of the input: [B, C, h, w] -> [B, C, 2h, 2w]."""


def worthwhile(x: Tensor) -> bool:
    """Whether `residual` suits x: on a processor, in full precision, not traced, of many channels."""
    eager = not torch.compiler.is_compiling() and not torch.is_autocast_enabled("cpu")
    return eager and x.device.type == "cpu" and x.dtype.itemsize >= 4 and x.shape[1] >= CHANNELS


def residual(form: Form, activation: Activation, weights: Weights, x: Tensor, parameters: Parameters) -> Tensor:
    """x, or its upsampling, + conv3x3(activation(x), *weights()) with zero padding 1: the shape that `form` says.

    activation: of each pixel apart. parameters: all that activation and weights use. For the gradient x alone is kept;
    the activation is made again, of a few images at a time.
    """
    result: Tensor = _Residual.apply(form, activation, weights, x, *parameters)
    return result


@torch.no_grad()
def add_residual_(activation: Activation, weights: Weights, x: Tensor) -> Tensor:
    """`residual` of the form `PLAIN`, without a gradient, written over x."""
    _write_residual(PLAIN, activation, weights, x, _tiled(x, PLAIN.stride))
    return x


class _Residual(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, form: Form, activation: Activation, weights: Weights, x: Tensor, *parameters: nn.Parameter
    ) -> Tensor:
        ctx.form, ctx.activation, ctx.weights, ctx.parameters = form, activation, weights, parameters
        ctx.save_for_backward(x)
        batch, channels, height, width = x.shape
        scale = 2 // form.stride
        result = x.new_empty(batch, scale * height, scale * width, channels).permute(0, 3, 1, 2)
        _write_residual(form, activation, weights, x, _tiled(result, 2))
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        form, (x,), (x_needed, *needed) = ctx.form, ctx.saved_tensors, ctx.needs_input_grad[3:]
        wanted = [each for each, need in zip(ctx.parameters, needed, strict=True) if need]
        with torch.enable_grad():
            weight, bias = ctx.weights()
        kernel = _kernel(form, weight.detach())
        of_kernel, of_bias = torch.zeros_like(kernel), torch.zeros_like(bias)
        of_x, of_parameters = torch.zeros_like(x), [torch.zeros_like(each) for each in wanted]
        of_added = _tiled(of_x, form.stride)
        rows, columns = of_added.shape[1:4:2]
        for images in _groups(len(x), rows * columns):
            part = x[images].detach().requires_grad_()
            with torch.enable_grad():
                activation = ctx.activation(part)
            whole = _tiled(gradient[images].contiguous(memory_format=torch.channels_last), 2)
            of_added[images] = whole.sum_to_size(of_added[images].shape)
            of_activation = _gradients(form, _padded(activation.detach()), kernel, whole, of_kernel, of_bias)
            found = _pulled_back([activation], [part, *wanted], [of_activation])
            _accumulate([of_x[images], *of_parameters], found)
        of_weight = (of_kernel.flatten(1).T @ _taps(form, kernel)).view_as(weight)
        if weight.requires_grad:
            _accumulate(of_parameters, _pulled_back([weight, bias], wanted, [of_weight, of_bias]))
        results = iter(of_parameters)
        return None, None, None, of_x if x_needed else None, *(next(results) if need else None for need in needed)


def _pulled_back(outputs: list[Tensor], inputs: list[Tensor], gradients: list[Tensor]) -> tuple[Tensor | None, ...]:
    """The inputs' gradients, given the outputs'; None of what they do not use."""
    return torch.autograd.grad(outputs, inputs, gradients, allow_unused=True)


def _accumulate(sums: list[Tensor], found: Sequence[Tensor | None]) -> None:
    for total, each in zip(sums, found, strict=True):
        if each is not None:
            total += each


def _tiled(x: Tensor, side: int) -> Tensor:
    """A view of [B, C, h, w] by squares of pixels: [B, rows, side, columns, side, C]."""
    return x.permute(0, 2, 3, 1).unflatten(2, (-1, side)).unflatten(1, (-1, side))


def _write_residual(form: Form, activation: Activation, weights: Weights, x: Tensor, result: Tensor) -> None:
    """Write all 2x2 outputs [B, rows, 2, columns, 2, C], which may be x itself."""
    weight, bias = weights()
    kernel = _kernel(form, weight)
    del weight
    added = _tiled(x, form.stride)
    rows, columns = result.shape[1:4:2]
    for images in _groups(len(x), rows * columns):
        for top, bottom, padded in _padded_bands(form, activation, x[images], rows, columns):
            outputs = _convolve(form, padded, kernel, bias)
            torch.add(outputs, added[images, top:bottom], out=result[images, top:bottom])


def _padded(x: Tensor) -> Tensor:
    """[B, C, h, w] -> [B, h + 2, w + 2, C], zeros around."""
    batch, channels, height, width = x.shape
    padded = x.new_zeros(batch, height + 2, width + 2, channels)
    padded[:, 1:-1, 1:-1] = x.permute(0, 2, 3, 1)
    return padded


def _padded_bands(
    form: Form, activation: Activation, x: Tensor, rows: int, columns: int
) -> Iterator[tuple[int, int, Tensor]]:
    """From which to which row of tiles, and what `_padded(activation(x))` has under them, valid until the next ones."""
    bands = list(_bands(rows, columns))
    padded = x.new_zeros(len(x), form.stride * bands[0][1] + 2, x.shape[3] + 2, x.shape[1])
    last = padded[:, :2]  # the pixels that a band shares with the one before
    for top, bottom in bands:
        band = padded[:, : form.stride * (bottom - top) + 2]
        band[:, :2] = last.clone()
        fresh = x[:, :, form.stride * top + 1 if top else 0 : form.stride * bottom + 1]
        start = 2 if top else 1
        band[:, start : start + fresh.shape[2], 1:-1] = activation(fresh).permute(0, 2, 3, 1)
        band[:, start + fresh.shape[2] :] = 0
        last = band[:, -2:]
        yield top, bottom, band


def _kernel(form: Form, weight: Tensor) -> Tensor:
    """The transformed kernel [T * T, O, C] of a weight [O, C, 3, 3]."""
    return (_taps(form, weight) @ weight.reshape(-1, 9).T).view(-1, *weight.shape[:2])


def _taps(form: Form, like: Tensor) -> Tensor:
    """What a kernel's 9 taps add to the transformed kernel: [T * T, 9]; rows come after columns, as in `_tiles`."""
    matrix = like.new_tensor(form.kernels)
    return torch.einsum("ap,bq->bapq", matrix, matrix).reshape(-1, 9)


def _convolve(form: Form, padded: Tensor, kernel: Tensor, bias: Tensor) -> Tensor:
    """The 2x2 outputs of tiles [B, rows, 2, columns, 2, O]."""
    tiles = _tiles(form, padded)
    products = torch.bmm(_matrices(tiles), kernel.mT).view(*tiles.shape[:-1], -1)
    products[1, 1] += bias
    return _assemble(form, products)


def _gradients(
    form: Form, padded: Tensor, kernel: Tensor, gradient: Tensor, of_kernel: Tensor, of_bias: Tensor
) -> Tensor:
    """The input's gradient [B, C, h, w], given the result's; those of kernel and bias are added to."""
    of_padded = torch.zeros_like(padded)
    for top, bottom in _bands(*gradient.shape[1:4:2]):
        of_products = _assemble_adjoint(form, gradient[:, top:bottom])
        of_bias += of_products[1, 1].sum((0, 1, 2))
        tiles = _tiles(form, _band(form, padded, top, bottom))
        of_kernel.baddbmm_(_matrices(of_products).mT, _matrices(tiles))
        torch.bmm(_matrices(of_products), kernel, out=_matrices(tiles))
        _tiles_adjoint(form, tiles, _band(form, of_padded, top, bottom))
    return of_padded[:, 1:-1, 1:-1].permute(0, 3, 1, 2)


def _groups(batch: int, tiles: int) -> Iterator[slice]:
    """Images to take at a time, of so many tiles each."""
    images = max(TILES // tiles, 1)
    return (slice(start, start + images) for start in range(0, batch, images))


def _bands(rows: int, columns: int) -> Iterator[tuple[int, int]]:
    """From which to which row of tiles to go at a time."""
    height = max(TILES // columns, 1)
    return ((top, min(top + height, rows)) for top in range(0, rows, height))


def _band(form: Form, padded: Tensor, top: int, bottom: int) -> Tensor:
    """The pixels under some rows of tiles."""
    return padded[:, form.stride * top : form.stride * (bottom - 1) + len(form.inputs[0])]


def _count(form: Form, side: int) -> int:
    """Tiles along a side of the padded input."""
    return (side - len(form.inputs[0])) // form.stride + 1


def _matrices(tiles: Tensor) -> Tensor:
    """[T, T, B, rows, columns, C] -> [T * T, tiles, C], a view."""
    return tiles.view(tiles.shape[0] ** 2, -1, tiles.shape[-1])


def _places(form: Form, x: Tensor, dim: int) -> list[Tensor]:
    """For each place in a tile, the pixels of all tiles that lie there along `dim`: views."""
    last = form.stride * (_count(form, x.shape[dim]) - 1) + 1
    places = range(len(form.inputs[0]))
    return [x.movedim(dim, 0)[place : place + last : form.stride].movedim(0, dim) for place in places]


def _tiles(form: Form, padded: Tensor) -> Tensor:
    """Transformed tiles [T, T, B, rows, columns, C] of [B, h, w, C]."""
    return _transformed(form.inputs, _places(form, _transformed(form.inputs, _places(form, padded, 1)), 3))


def _tiles_adjoint(form: Form, tiles: Tensor, padded: Tensor) -> None:
    """Add a gradient of `_tiles` to that of its input."""
    back = _transposed(form.inputs)
    halfway = padded.new_zeros(len(tiles), *padded.shape[:1], tiles.shape[3], *padded.shape[2:])
    _add(back, tiles.unbind(), _places(form, halfway, 3))
    _add(back, halfway.unbind(), _places(form, padded, 1))


def _assemble(form: Form, products: Tensor) -> Tensor:
    """The 2x2 outputs [B, rows, 2, columns, 2, O] of products [T, T, B, rows, columns, O]."""
    batch, rows, columns, channels = products.shape[2:]
    result = products.new_empty(batch, rows, 2, columns, 2, channels)
    halfway = _transformed(form.outputs, products.unbind())
    _write(form.outputs, halfway.unbind(1), result.permute(4, 2, 0, 1, 3, 5).unbind(1))
    return result


def _assemble_adjoint(form: Form, result: Tensor) -> Tensor:
    """The products' gradient, given that of the 2x2 outputs."""
    back = _transposed(form.outputs)
    halfway = _transformed(back, result.unbind(2))
    return _transformed(back, halfway.unbind(4))


def _transposed(matrix: Matrix) -> Matrix:
    return tuple(zip(*matrix, strict=True))


def _transformed(matrix: Matrix, parts: Sequence[Tensor]) -> Tensor:
    """The matrix times the parts: [rows of the matrix, *shape of a part]."""
    result = parts[0].new_empty(len(matrix), *parts[0].shape)
    _write(matrix, parts, result.unbind())
    return result


def _write(matrix: Matrix, parts: Sequence[Tensor], targets: Sequence[Tensor]) -> None:
    """targets[i] = sum over j of matrix[i][j] * parts[j]; each row has a 1."""
    for row, target in zip(matrix, targets, strict=True):
        (_, first), *others = sorted(_terms(row, parts), key=lambda term: -term[0])
        if not others:
            target.copy_(first)
        for factor, part in others:
            torch.add(first, part, alpha=factor, out=target)
            first = target


def _add(matrix: Matrix, parts: Sequence[Tensor], targets: Sequence[Tensor]) -> None:
    """targets[i] += sum over j of matrix[i][j] * parts[j]; targets may overlap."""
    for row, target in zip(matrix, targets, strict=True):
        for factor, part in _terms(row, parts):
            target.add_(part, alpha=factor)


def _terms(row: tuple[float, ...], parts: Sequence[Tensor]) -> list[tuple[float, Tensor]]:
    return [(factor, part) for factor, part in zip(row, parts, strict=True) if factor]
