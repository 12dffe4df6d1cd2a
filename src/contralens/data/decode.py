"""One picture from anything that holds one: a file, its bytes, a PIL image, an array or a tensor; always upright RGB.

The rules, each of them tested:

- EXIF orientation is applied. ICC profiles are ignored: numbers are taken as sRGB. Of an animation or several pages,
  the first.
- Gray is repeated into three channels. Alpha, a transparent palette entry or a transparent colour is laid over white.
- CMYK and YCCK follow Pillow: a JPEG's are inverted (Adobe's convention), R = (1 - C)(1 - K).
- 16-bit gray (PNG, TIFF, JPEG 2000, PGM) is divided by 257 and rounded; of 16-bit colour Pillow gives the high byte.
  Where the values fill no more than 8, 10, 12 or 14 bits, as of X-ray detectors and microscopes, they are scaled by the
  greatest value of that depth, and a note says so.
- HEIC needs the extra `heif`, DICOM the extra `medical` (`contralens.data.dicom`).
- Float pixels within 0..1 are multiplied by 255; other floats, and 32-bit or signed integers, are stretched from their
  least to their greatest finite value, and `info["note"]` of the result says so.
- More than `max_pixels` pixels are refused before anything is decoded; fewer are decoded without a warning.
- The bytes decide what a file is, not its suffix, and only the kinds in `FORMATS` are ever opened (Pillow would start
  Ghostscript for an EPS file that calls itself .jpg).
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import stat
import struct
import threading
import warnings
from collections.abc import Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from contralens.checks import require
from contralens.data.dicom import PREAMBLE, is_dicom, read_dicom

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

DICOM_START = PREAMBLE + 4
"""Bytes that show whether a file is DICOM."""
MAX_PIXELS = 178_956_970
"""About 178 Mpx, where Pillow itself stops taking a picture for honest: 0.5 GB as RGB."""

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "DIB", "GIF", "TIFF", "JPEG2000", "PPM", "AVIF", "HEIF")
"""Pillow's names of what is opened; the last two where this Pillow (or a registered pillow_heif) can."""

_SUFFIXES = (
    ".jpg .jpeg .jpe .jfif .mpo .png .apng .webp .bmp .dib .gif .tif .tiff .jp2 .j2k .jpf .jpx .j2c "
    ".ppm .pgm .pbm .pnm .pfm .heic .heif .hif .dcm .dicom"
)
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
DEPTHS = (8, 10, 12, 14)
"""Bits that values in 16-bit files may really have."""
_HEIF = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
"""Brands of HEIF files, at byte 8."""
_BLOCK = 1 << 22
_GIANT = 1 << 25
_giants = threading.Lock()


def suffixes() -> frozenset[str]:
    """The lower-case file suffixes that count as images here, `.avif` only where Pillow reads it."""
    Image.init()
    able = Image.registered_extensions()
    return frozenset(_SUFFIXES.split()) | {s for s in (".avif", ".avifs") if s in able}


def decode(source: Any, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """One upright RGB picture; any exception means that it is not available (`reason` makes one line of it).

    `source`: a `Path`, file bytes, a PIL image, a numpy array (H,W), (H,W,C) or a tensor (C,H,W), C in 1..4, uint8,
    uint16, bool or float within 0..1; or a tuple whose first entry, or a mapping whose "image", is one of these.
    """
    source = picture(source)
    if isinstance(source, (str, os.PathLike)):
        with _regular(source) as file:
            return _from_file(file, max_pixels)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _from_file(io.BytesIO(source), max_pixels)
    image, note = (source, None) if isinstance(source, Image.Image) else _from_array(source)
    with _patience(image, max_pixels):
        out = _upright_rgb(image)
    if note is not None:
        out.info["note"] = note
    return out


def content_hash(source: Any) -> str:
    """32 hex digits of the content: of a file's bytes, or, where there is no file, of the decoded pixels."""
    source = picture(source)
    if isinstance(source, (str, os.PathLike)):
        with _regular(source) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()[:32]
    if isinstance(source, (bytes, bytearray, memoryview)):
        return hashlib.sha256(source).hexdigest()[:32]
    image = decode(source)
    digest = hashlib.sha256(f"pixels {image.width}x{image.height}\n".encode())
    digest.update(image.tobytes())
    return digest.hexdigest()[:32]


def picture(item: Any) -> Any:
    """The picture of a data set's item, which may carry a label beside it."""
    if isinstance(item, (tuple, list)) and item:
        return item[0]
    if isinstance(item, Mapping):
        return next((item[key] for key in ("image", "img") if key in item), item)
    return item


def reason(error: BaseException) -> str:
    """What went wrong, in one line that is the same on every run."""
    text = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
    if isinstance(error, MemoryError):
        text = "not enough memory"
    text = re.sub(r" at 0x[0-9a-fA-F]+", "", " ".join(text.split()))
    return text if len(text) <= 200 else text[:199] + "…"


@contextmanager
def _regular(path: str | os.PathLike[str]) -> Iterator[io.BufferedReader]:
    if not stat.S_ISREG(os.stat(path).st_mode):  # opening a pipe would wait for ever
        raise OSError("not a regular file")
    with open(path, "rb") as file:
        yield file


def _from_file(file: IO[bytes], max_pixels: int) -> Image.Image:
    start = file.read(DICOM_START)
    file.seek(0)
    if is_dicom(start):
        return read_dicom(file, max_pixels)
    if start[4:8] == b"ftyp" and start[8:12] in _HEIF:
        require("pillow_heif", "heif").register_heif_opener()
    image = _open(file)
    with _patience(image, max_pixels):
        return _upright_rgb(image)


def _open(file: IO[bytes]) -> Image.Image:
    """What `Image.open` does, for `FORMATS` only and without its limit on pixels, which warns or raises globally."""
    Image.init()
    start = file.read(16)
    if not start:
        raise ValueError("empty file")
    problems = []
    for kind in FORMATS:
        if kind not in Image.OPEN:
            continue
        factory, accept = Image.OPEN[kind]
        try:
            verdict = accept(start) if accept else True
        except (IndexError, struct.error):  # some read more bytes than a stub of a file has
            continue
        if isinstance(verdict, str):
            problems.append(verdict)
        elif verdict:
            file.seek(0)
            try:
                return factory(file, "")
            except (SyntaxError, IndexError, TypeError, struct.error) as e:
                problems.append(f"broken {kind}: {reason(e)}")
    raise ValueError("; ".join(problems) or f"not an image of a known format (it begins with {start[:8]!r})")


def _patience(image: Image.Image, max_pixels: int) -> AbstractContextManager[None]:
    """Refuses what is too large; lets giants through one at a time, so that threads do not multiply their memory."""
    pixels = image.width * image.height
    if not pixels:
        raise ValueError(f"no pixels: {image.width} x {image.height}")
    if pixels > max_pixels:
        raise ValueError(f"too large: {image.width} x {image.height} = {pixels:,} pixels, the limit is {max_pixels:,}")
    return _one_giant() if pixels > min(_GIANT, Image.MAX_IMAGE_PIXELS or _GIANT) else nullcontext()


@contextmanager
def _one_giant() -> Iterator[None]:
    with _giants, warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        yield


def _upright_rgb(image: Image.Image) -> Image.Image:
    colour = any(";16" in str(tile[3]) for tile in getattr(image, "tile", None) or ())
    image.load()
    try:
        turn = _TURNS.get(image.getexif().get(0x0112, 1))
    except Exception:  # a broken EXIF block does not make the pixels unreadable
        turn = None
    note = None
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PPM", "PNG")):
        values, white = np.asarray(image), image.info.get("transparency")
        scaled = image.format == "PPM"  # by Pillow, which reads the depth in its header
        top, note = (65535, None) if scaled else _depth(values, white)
        out = _from_values(values, 0, top, white)
    elif image.mode in ("I", "F"):
        out, note = _stretched(np.asarray(image))
    elif image.has_transparency_data or image.mode in ("La", "RGBa"):
        rgba = image.convert("LA") if image.mode == "La" else image
        rgba = rgba if rgba.mode == "RGBA" else rgba.convert("RGBA")
        out = Image.new("RGB", image.size, "white")
        out.paste(rgba, mask=rgba.getchannel("A"))
    else:
        out = image.convert("RGB")
    if colour and (top := int(np.asarray(out).max())) < 64 and image.mode in ("RGB", "RGBX"):
        bits = 8 + top.bit_length()
        note = f"16-bit colour of which only {bits} bits are used is dark, since Pillow keeps the high byte: use 8 bits"
    if turn is not None:
        out = out.transpose(turn)
    out.info = {} if note is None else {"note": note}
    return out


def _depth(values: NDArray[Any], white: Any = None) -> tuple[int, str | None]:
    """The greatest value of the depth that 16-bit values fill, and what to say where that is less than 16 bits."""
    counts = values if not isinstance(white, int) else values[values != white]
    greatest = int(counts.max()) if counts.size else 0
    bits = next((bits for bits in DEPTHS if greatest < 2**bits), 16)
    if not greatest or bits == 16:
        return 65535, None
    return 2**bits - 1, f"values that fill {bits} of 16 bits were scaled by {2**bits - 1}"


def _stretched(values: NDArray[Any]) -> tuple[Image.Image, str | None]:
    finite = values[np.isfinite(values)]
    if not finite.size:
        raise ValueError("no finite pixel value")
    low, high = float(finite.min()), float(finite.max())
    if values.dtype.kind == "f" and 0 <= low and high <= 1:
        return _from_values(values, 0, 1), None
    return _from_values(values, low, high), f"pixel values {low:g}..{high:g} were stretched to 0..255"


def _from_values(values: NDArray[Any], low: float, high: float, white: Any = None) -> Image.Image:
    """Gray values (H,W), `low` to black and `high` to white; those equal to `white` are transparent, hence white."""
    out = np.empty(values.shape, np.uint8)
    rows = max(1, _BLOCK // values.shape[1])
    for top in range(0, len(values), rows):  # blocks, since a giant in float64 would be eight times itself
        part = np.nan_to_num(values[top : top + rows].astype(np.float64), nan=low, posinf=high, neginf=low)
        out[top : top + rows] = np.rint((part - low) * 255 / ((high - low) or 1))
        if isinstance(white, int):
            out[top : top + rows][part == white] = 255
    return Image.fromarray(out).convert("RGB")


def _from_array(source: Any) -> tuple[Image.Image, str | None]:
    note = None
    if hasattr(source, "detach"):
        tensor = source.detach().cpu()
        values = np.asarray(tensor.float() if tensor.is_floating_point() else tensor)
        first = values.ndim == 3 and (values.shape[0] in (1, 3, 4) or values.shape[2] not in (1, 3, 4))
    elif isinstance(source, np.ndarray):
        values = source
        first = values.ndim == 3 and values.shape[2] not in (1, 2, 3, 4) and values.shape[0] in (1, 3, 4)
    else:
        raise TypeError(f"not a picture: {type(source).__name__}; expected a PIL image, an array, a tensor or a path")
    if first:
        values = values.transpose(1, 2, 0)
    if values.ndim == 3 and values.shape[2] == 1:
        values = values[:, :, 0]
    if not (values.ndim == 2 or (values.ndim == 3 and values.shape[2] in (2, 3, 4))) or 0 in values.shape:
        raise ValueError(f"not the shape of a picture: {tuple(source.shape)}")
    if values.dtype.kind == "f":
        low, high = float(values.min()), float(values.max())
        if not (low >= -1e-3 and high <= 1 + 1e-3):
            raise ValueError(f"float pixels must lie within 0..1, got {low:g}..{high:g} (without normalisation)")
        values = np.rint(values.clip(0, 1) * 255)
    elif values.dtype == np.bool_:
        values = values * np.uint8(255)
    elif values.dtype == np.uint16:
        top, note = _depth(values)
        values = np.rint(values.astype(np.float64) * 255 / top)
    elif values.dtype.kind not in "iu" or values.min() < 0 or values.max() > 255:
        raise ValueError(f"pixels of type {values.dtype} must be whole numbers within 0..255")
    return Image.fromarray(np.ascontiguousarray(values, dtype=np.uint8)), note
