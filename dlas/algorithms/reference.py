"""The oracle: 2-D convolution in NumPy, written to be read, in float64."""

from __future__ import annotations

import numpy as np

from dlas.algorithms.convolution import Conv2d


def conv2d(x: np.ndarray, weight: np.ndarray, conv: Conv2d) -> np.ndarray:
    """Cross-correlate x (N, CI, H, W) with weight (CO, CI/groups, KH, KW).

    Returns float64 (N, CO, OH, OW).
    """
    top, left, bottom, right = conv.padding
    padded = np.pad(x.astype("float64"), ((0, 0), (0, 0), (top, bottom), (left, right)))
    (sh, sw), (dh, dw) = conv.stride, conv.dilation
    out = np.zeros((conv.N, conv.CO, conv.OH, conv.OW))
    for g in range(conv.groups):
        reads = slice(g * conv.CG, (g + 1) * conv.CG)
        writes = slice(g * conv.OG, (g + 1) * conv.OG)
        for kh in range(conv.KH):
            for kw in range(conv.KW):
                h, w = kh * dh, kw * dw
                window = padded[:, reads, h : h + conv.OH * sh : sh, w : w + conv.OW * sw : sw]
                out[:, writes] += np.einsum(
                    "nchw,oc->nohw", window, weight[writes, :, kh, kw].astype("float64")
                )
    return out
