"""Random numbers that belong to an image, not to a process.

Every draw is a pure function of (seed, survey and class, image index, name of the quantity, element), computed with the
counter-based generator Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3", SC'11). So image
i has the same parameters whatever the batch size, worker, shard or device, and adding a parameter to a survey does not
change the others.
"""

import zlib

import numpy as np

_M0, _M1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_W0, _W1 = 0x9E3779B9, 0xBB67AE85
_LOW, _SHIFT = np.uint64(0xFFFFFFFF), np.uint64(32)


def name_word(name: str) -> int:
    """Returns the 32-bit word that stands for a name in a counter (CRC-32)."""
    return zlib.crc32(name.encode())


def philox4x32(
    counter: tuple[np.ndarray | np.uint64, ...], key: tuple[int, int]
) -> tuple[np.ndarray, ...]:
    """Philox4x32-10: four 32-bit random words for each counter.

    Args:
        counter: Four uint64 arrays or numbers that broadcast together, each holding 32-bit words.
        key: Two 32-bit words.

    Returns:
        Four uint64 arrays of the broadcast shape, each holding 32-bit words.
    """
    c0, c1, c2, c3 = np.broadcast_arrays(*counter)
    k0, k1 = key
    for _ in range(10):
        p0, p1 = _M0 * c0, _M1 * c2
        c0, c1, c2, c3 = (
            (p1 >> _SHIFT) ^ c1 ^ np.uint64(k0),
            p1 & _LOW,
            (p0 >> _SHIFT) ^ c3 ^ np.uint64(k1),
            p0 & _LOW,
        )
        k0, k1 = (k0 + _W0) & 0xFFFFFFFF, (k1 + _W1) & 0xFFFFFFFF
    return c0, c1, c2, c3


def seed_key(seed: int) -> tuple[int, int]:
    """Splits a seed of up to 64 bits into the two words of a Philox key."""
    return seed & 0xFFFFFFFF, (seed >> 32) & 0xFFFFFFFF


def uniform(
    seed: int, stream: np.ndarray, index: np.ndarray, name: str, size: int = 1
) -> np.ndarray:
    """Uniform draws in the open interval (0, 1), 52 bits each.

    Args:
        seed: The dataset's seed, 0 ≤ seed < 2⁶⁴.
        stream: (B,) words that stand for (survey, class), from :func:`name_word`.
        index: (B,) indices of the images within their class, below 2³².
        name: The quantity that is drawn.
        size: Number of draws per image.

    Returns:
        (B, size) float64.
    """
    elements = np.arange(size, dtype=np.uint64)
    counter = (
        np.asarray(index, dtype=np.uint64)[:, None],
        elements,
        np.uint64(name_word(name)),
        np.asarray(stream, dtype=np.uint64)[:, None],
    )
    w0, w1, _, _ = philox4x32(counter, seed_key(seed))
    bits = (w0 << np.uint64(20)) | (
        w1 >> np.uint64(12)
    )  # 52 bits: the half-step below is then exact in float64
    return (bits.astype(np.float64) + 0.5) * 2.0**-52


def noise_words(seed: int, stream: np.ndarray, index: np.ndarray, band: int = 0) -> np.ndarray:
    """One 64-bit word per image from which its noise in one band is drawn, as (B,) uint64; the only band of an image is number 0."""
    counter = (
        np.asarray(index, dtype=np.uint64),
        np.uint64(band),
        np.uint64(name_word("noise")),
        np.asarray(stream, dtype=np.uint64),
    )
    w0, w1, _, _ = philox4x32(counter, seed_key(seed))
    result: np.ndarray = (w0 << _SHIFT) | w1
    return result
