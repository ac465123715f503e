"""A stored value: a 16-byte header, then the embedding.

Header, little-endian: format version u8, dtype u8, dim u16, day i32 (days since 1970-01-01), the first 8 bytes of the
model digest. Body: `dim` float16, little-endian.
"""

import struct

import numpy as np

from stores.errors import StoreError

FORMAT_VERSION = 1
FLOAT16 = 1
HEADER = np.dtype([("version", "u1"), ("dtype", "u1"), ("dim", "<u2"), ("day", "<i4"), ("digest", "V8")])
_DAY = slice(4, 8)  # bytes of a header
_FIXED = np.r_[0:4, 8:16]  # those that all values of one model have alike


def digest_head(model_digest: str) -> bytes:
    """The 8 bytes of a model digest that a value carries."""
    return bytes.fromhex(model_digest[:16])


def encode_values(embeddings: np.ndarray, days: np.ndarray, model_digest: str) -> list[bytes]:
    """Packs embeddings as values.

    Args:
        embeddings: float16 [N, d].
        days: int32 [N], days since 1970-01-01.
        model_digest: Hex.
    """
    count, dim = embeddings.shape
    packed = np.empty((count, HEADER.itemsize + 2 * dim), np.uint8)
    header = np.empty(count, HEADER)
    header["version"], header["dtype"], header["dim"], header["day"] = FORMAT_VERSION, FLOAT16, dim, days
    header["digest"] = np.void(digest_head(model_digest))
    packed[:, : HEADER.itemsize] = header.view(np.uint8).reshape(count, HEADER.itemsize)
    packed[:, HEADER.itemsize :] = np.ascontiguousarray(embeddings, "<f2").view(np.uint8)
    data, size = packed.tobytes(), packed.shape[1]
    return [data[start : start + size] for start in range(0, len(data), size)]


def decode_values(values: list[bytes], model_digest: str) -> tuple[np.ndarray, np.ndarray]:
    """Unpacks values that a store holds under one model.

    Args:
        values: At least one; none missing.
        model_digest: Hex; what every value must be of.

    Returns:
        float16 [N, d]; day int32 [N].

    Raises:
        StoreError: a value of another size, format or model.
    """
    size = len(values[0])
    if size <= HEADER.itemsize or any(len(value) != size for value in values):
        raise StoreError("the key-value store holds values of different or impossible sizes; publish the release again")
    packed = np.frombuffer(b"".join(values), np.uint8).reshape(len(values), size)
    dim = (size - HEADER.itemsize) // 2
    # One comparison where all is well, which a look-up of one user feels.
    expected = struct.pack("<BBH8s", FORMAT_VERSION, FLOAT16, dim & 0xFFFF, digest_head(model_digest))
    if (
        size == HEADER.itemsize + 2 * dim
        and dim >> 16 == 0
        and (packed[:, _FIXED] == np.frombuffer(expected, np.uint8)).all()
    ):
        return packed[:, HEADER.itemsize :].copy().view("<f2"), packed[:, _DAY].copy().view("<i4")[:, 0]
    header = packed[:, : HEADER.itemsize].copy().view(HEADER)[:, 0]
    fits = (header["version"] == FORMAT_VERSION) & (header["dtype"] == FLOAT16) & (header["dim"] == dim)
    if not fits.all():
        raise StoreError(
            f"the key-value store holds values of a format this version does not read (format {header['version'][0]}, "
            f"dtype {header['dtype'][0]}, dim {header['dim'][0]} in {size} bytes)"
        )
    raise StoreError("the key-value store holds vectors of another model than it says; publish the release again")


def decode_what_can_be(values: list[bytes], model_digest: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """As `decode_values`, where some of the values were damaged: they cost their own rows and no other.

    Returns:
        float16 [N, d] and day int32 [N], zeros where a value was damaged; bool [N], whether it was not. d is that of
        most values.

    Raises:
        StoreError: not one can be read, and one at least is whole: it is the store that is of another model or format.
    """
    try:
        return *decode_values(values, model_digest), np.ones(len(values), bool)
    except StoreError:
        pass
    rows: dict[int, tuple[np.ndarray, int]] = {}
    failed: StoreError | None = None
    for number, value in enumerate(values):
        try:
            vector, day = decode_values([value], model_digest)
            rows[number] = vector[0], int(day[0])
        except StoreError as error:
            failed = error if _is_whole(value) else failed
    if not rows and failed is not None:
        raise failed
    sizes = [len(vector) for vector, _ in rows.values()]
    dim = max(set(sizes), key=sizes.count) if sizes else 0
    vectors, days = np.zeros((len(values), dim), np.float16), np.zeros(len(values), np.int32)
    good = np.zeros(len(values), bool)
    for number, (vector, of_day) in rows.items():
        if len(vector) == dim:
            vectors[number], days[number], good[number] = vector, of_day, True
    return vectors, days, good


def _is_whole(value: bytes) -> bool:
    """Whether a value is as long as its header says, whatever else that says."""
    if len(value) <= HEADER.itemsize:
        return False
    return len(value) == HEADER.itemsize + 2 * int(np.frombuffer(value[: HEADER.itemsize], HEADER)["dim"][0])
