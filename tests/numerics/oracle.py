"""TCL written down as plainly as possible, from the authors' weights by their official names, in float64.

An oracle for tests: attention matrices in full, one head, one pixel, one pair at a time; nothing is shared with `tcl`.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

Weights = Mapping[str, Tensor]

IMAGE = "clip_image_encoder.clip_visual."
COPIED = "masker.image_encoder.backbone."
DECODER = "masker.image_encoder.decoder.decoder.net."


def layer_norm(x: Tensor, weights: Weights, name: str) -> Tensor:
    """Over the last dimension, eps 1e-5."""
    centred = x - x.mean(-1, keepdim=True)
    scaled = centred / (centred.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt()
    return scaled * weights[name + ".weight"].double() + weights[name + ".bias"].double()


def linear(x: Tensor, weights: Weights, name: str) -> Tensor:
    return x @ weights[name + ".weight"].double().T + weights[name + ".bias"].double()


def attention(x: Tensor, weights: Weights, name: str, *, seen: Tensor) -> Tensor:
    """Multi-head attention [L, C] with heads of 64 channels; token p attends to the q for which seen[p, q]."""
    length, width = x.shape
    projected = x @ weights[name + ".in_proj_weight"].double().T + weights[name + ".in_proj_bias"].double()
    heads = []
    for queries, keys, values in zip(*(part.split(64, dim=1) for part in projected.split(width, dim=1)), strict=True):
        scores = queries @ keys.T / 8
        shares = torch.zeros(length, length, dtype=torch.float64)
        for p in range(length):
            shares[p, seen[p]] = torch.softmax(scores[p, seen[p]], dim=0)
        heads.append(shares @ values)
    return linear(torch.cat(heads, dim=1), weights, name + ".out_proj")


def block(x: Tensor, weights: Weights, name: str, *, seen: Tensor) -> Tensor:
    """A residual attention block of CLIP, QuickGELU between the two linear maps."""
    x = x + attention(layer_norm(x, weights, name + ".ln_1"), weights, name + ".attn", seen=seen)
    hidden = linear(layer_norm(x, weights, name + ".ln_2"), weights, name + ".mlp.c_fc")
    return x + linear(hidden * torch.sigmoid(1.702 * hidden), weights, name + ".mlp.c_proj")


def indices(weights: Weights, prefix: str) -> list[int]:
    """The numbers behind `prefix` in the names of the weights, ascending."""
    return sorted({int(name.removeprefix(prefix).split(".")[0]) for name in weights if name.startswith(prefix)})


def text_embedding(weights: Weights, tokens: list[int]) -> Tensor:
    """[D], read at the first of the largest token ids."""
    prefix = "clip_text_encoder."
    x = weights[prefix + "token_embedding.weight"].double()[tokens] + weights[prefix + "positional_embedding"].double()
    causal = torch.ones(len(tokens), len(tokens), dtype=torch.bool).tril()
    for i in indices(weights, prefix + "transformer.resblocks."):
        x = block(x, weights, f"{prefix}transformer.resblocks.{i}", seen=causal)
    x = layer_norm(x[tokens.index(max(tokens))], weights, prefix + "ln_final")
    return x @ weights[prefix + "text_projection"].double()


def patch_tokens(weights: Weights, image: Tensor) -> tuple[Tensor, tuple[int, int]]:
    """Tokens [1 + gh*gw, C] that enter the first block, and the grid; image: [3, H, W]."""
    kernel = weights[IMAGE + "conv1.weight"].double()
    patch = kernel.shape[2]
    grid = (image.shape[1] // patch, image.shape[2] // patch)
    rows = [
        (kernel * image[:, y * patch : (y + 1) * patch, x * patch : (x + 1) * patch].double()).sum(dim=(1, 2, 3))
        for y in range(grid[0])
        for x in range(grid[1])
    ]
    positions = weights[IMAGE + "positional_embedding"].double()
    side = math.isqrt(len(positions) - 1)
    if grid != (side, side):
        square = positions[1:].T.reshape(1, -1, side, side)
        resized = torch.nn.functional.interpolate(square, size=grid, mode="bicubic", align_corners=False)
        positions = torch.cat([positions[:1], resized[0].flatten(1).T])
    x = torch.cat([weights[IMAGE + "class_embedding"].double()[None], torch.stack(rows)]) + positions
    return layer_norm(x, weights, IMAGE + "ln_pre"), grid


def towers(weights: Weights, image: Tensor) -> tuple[Tensor, Tensor]:
    """The grounder's V [D, h, w], not normalised, and MaskCLIP's map [D, gh, gw], likewise."""
    x, grid = patch_tokens(weights, image)
    everyone, nobody_else = torch.ones(len(x), len(x), dtype=torch.bool), torch.eye(len(x), dtype=torch.bool)
    frozen = indices(weights, IMAGE + "transformer.resblocks.")
    copied = indices(weights, COPIED + "transformer.resblocks.")
    outputs = []
    for i in frozen:
        x = block(x, weights, f"{IMAGE}transformer.resblocks.{i}", seen=nobody_else if i == frozen[-1] else everyone)
        outputs.append(x)
    maskclip = project(x[1:], weights, "clip_image_encoder.clip_proj").T.unflatten(1, grid)

    x = outputs[copied[0] - 1] if copied else outputs[-1]
    for i in copied:
        x = block(x, weights, f"{COPIED}transformer.resblocks.{i}", seen=nobody_else if i == frozen[-1] else everyone)
    features = x[1:].T.unflatten(1, grid)
    for level in indices(weights, DECODER):
        features = features.repeat_interleave(2, dim=1).repeat_interleave(2, dim=2)
        for branch in ("conv", "conv2"):
            features = gated_residual(features, weights, f"{DECODER}{level}.{branch}")
    projected = project(features.permute(1, 2, 0), weights, "masker.image_encoder.decoder.image_proj")
    return projected.permute(2, 0, 1), maskclip


def project(x: Tensor, weights: Weights, name: str) -> Tensor:
    return layer_norm(x, weights, name + ".ln") @ weights[name + ".proj"].double()


def gated_residual(x: Tensor, weights: Weights, name: str) -> Tensor:
    """x + tanh(gate) * conv3x3(GELU(LayerNorm(x))) of [C, h, w], tap by tap."""
    normed = layer_norm(x.permute(1, 2, 0), weights, name + ".norm")
    active = torch.nn.functional.pad(torch.nn.functional.gelu(normed), (0, 0, 1, 1, 1, 1))
    kernel = weights[name + ".conv.weight"].double()
    height, width = x.shape[1:]
    total = weights[name + ".conv.bias"].double().expand(height, width, -1)
    for dy in range(3):
        for dx in range(3):
            total = total + active[dy : dy + height, dx : dx + width] @ kernel[:, :, dy, dx].T
    return x + torch.tanh(weights[name + ".gate.gate"].double()) * total.permute(2, 0, 1)


def unit(x: Tensor, dim: int) -> Tensor:
    return x / x.norm(dim=dim, keepdim=True).clamp(min=1e-6)


def masks_of_window(weights: Weights, image: Tensor, texts: Tensor, *, kp_w: float) -> Tensor:
    """Soft masks [N, H, W] without PAMR; image: [3, H, W], sides multiples of the patch; texts: [N, D], of length 1."""
    features, maskclip = towers(weights, image)
    scale, bias = weights["masker.sim2mask.w"].double(), weights["masker.sim2mask.b"].double()
    masks = torch.sigmoid(scale * torch.einsum("dhw,nd->nhw", unit(features, 0), texts) + bias)
    prior = torch.sigmoid(10 * (torch.einsum("dhw,nd->nhw", unit(maskclip, 0), texts) - 0.25))
    mixed = kp_w * bilinear(prior, masks.shape[1:]) + (1 - kp_w) * masks
    return bilinear(mixed, image.shape[1:])


def bilinear(maps: Tensor, size: torch.Size) -> Tensor:
    """[N, h, w] -> [N, *size], align_corners False."""
    return torch.nn.functional.interpolate(maps[None], size=tuple(size), mode="bilinear", align_corners=False)[0]


def pamr(image: Tensor, masks: Tensor, *, iterations: int, dilations: tuple[int, ...]) -> Tensor:
    """Pixel-adaptive mask refinement of masks [N, h, w] by an image [3, h, w], one pixel and neighbour at a time."""
    _, height, width = image.shape
    around = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]

    def place(y: int, x: int, dy: int, dx: int, dilation: int) -> tuple[int, int]:
        return min(max(y + dy * dilation, 0), height - 1), min(max(x + dx * dilation, 0), width - 1)

    shares: dict[tuple[int, int], list[tuple[tuple[int, int], float]]] = {}
    for y in range(height):
        for x in range(width):
            everyone = [place(y, x, dy, dx, dilation) for dilation in dilations for dy, dx in around]
            others = [
                place(y, x, dy, dx, dilation) for dilation in dilations for dy, dx in around if (dy, dx) != (0, 0)
            ]
            similarity = [0.0] * len(others)
            for channel in image.double().tolist():
                values = [channel[row][column] for row, column in everyone]
                mean = sum(values) / len(values)
                deviation = math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1))
                for k, (row, column) in enumerate(others):
                    similarity[k] -= abs(channel[y][x] - channel[row][column]) / (1e-8 + 0.1 * deviation) / 3
            weights = [math.exp(value - max(similarity)) for value in similarity]
            shares[y, x] = [(other, weight / sum(weights)) for other, weight in zip(others, weights, strict=True)]
    for _ in range(iterations):
        refined = torch.empty_like(masks)
        for (y, x), neighbours in shares.items():
            refined[:, y, x] = sum(share * masks[:, row, column] for (row, column), share in neighbours)
        masks = refined
    return masks


def info_nce(cosines: list[list[float]], log_scale: float) -> float:
    """The mean of both cross-entropies of a square table: row i is image i against all texts."""
    scale = min(math.exp(log_scale), 100.0)
    size = len(cosines)

    def cross_entropy(row: list[float], positive: int) -> float:
        return math.log(sum(math.exp(scale * value) for value in row)) - scale * row[positive]

    over_texts = sum(cross_entropy(cosines[i], i) for i in range(size)) / size
    over_images = sum(cross_entropy([cosines[i][j] for i in range(size)], j) for j in range(size)) / size
    return (over_texts + over_images) / 2


def grounded_cosines(masks: Tensor, features: Tensor, texts: Tensor) -> list[list[float]]:
    """<f_ij, t_j> with f_ij the mean of V_i under the mask M_ij; masks: [B, N, h, w], features: [B, D, h, w]."""
    table = []
    for i in range(len(features)):
        row = []
        for j in range(len(texts)):
            weighted = torch.zeros(features.shape[1], dtype=torch.float64)
            for y in range(masks.shape[2]):
                for x in range(masks.shape[3]):
                    weighted += masks[i, j, y, x] * features[i, :, y, x]
            pooled = weighted / (masks[i, j].sum() + 1e-6)
            row.append(float(unit(pooled, 0) @ unit(texts[j], 0)))
        table.append(row)
    return table
