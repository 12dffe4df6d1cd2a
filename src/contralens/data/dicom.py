"""One picture from a DICOM file (extra `medical`): the window that the file names is applied, and said.

- Gray values go through the modality's rescaling and the first window (or lookup table) of the file. Without a window
  they are stretched from the least to the greatest, or, with 8 bits and no rescaling, taken as they are.
- MONOCHROME1, where the least value is white, is inverted.
- Colour is RGB, from YBR or a palette where the file has those.
- A file of several frames, or without a picture, is refused.
"""

from __future__ import annotations

import warnings
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from contralens.checks import require

PREAMBLE = 128
"""Bytes before the four that say DICM."""
CODECS = "pip install pylibjpeg pylibjpeg-libjpeg pylibjpeg-openjpeg"


def is_dicom(start: bytes) -> bool:
    """Whether a file that begins so is DICOM.

    >>> is_dicom(bytes(128) + b"DICM"), is_dicom(b"PNG")
    (True, False)
    """
    return start[PREAMBLE : PREAMBLE + 4] == b"DICM"


def read_dicom(file: IO[bytes], max_pixels: int) -> Image.Image:
    """The picture (RGB); `info["note"]` says what was done to its values. Any exception means that there is none."""
    pydicom = require("pydicom", "medical")
    warnings.filterwarnings("ignore", module="pydicom")  # of odd files, one line for each odd field
    data = pydicom.dcmread(file)
    if "PixelData" not in data and "FloatPixelData" not in data and "DoubleFloatPixelData" not in data:
        raise ValueError(f"DICOM without a picture (modality {data.get('Modality', 'unknown')})")
    if (frames := int(data.get("NumberOfFrames") or 1)) > 1:
        raise ValueError(f"DICOM of {frames} frames: save the frames that count as pictures of their own")
    height, width = int(data.Rows), int(data.Columns)
    if height * width > max_pixels:
        raise ValueError(f"too large: {width} x {height} = {height * width:,} pixels, the limit is {max_pixels:,}")
    try:
        values = np.asarray(data.pixel_array)
    except (RuntimeError, NotImplementedError) as e:
        name = data.file_meta.TransferSyntaxUID.name
        raise ValueError(f"DICOM stored as {name}, which cannot be decoded here: {CODECS}") from e
    if values.ndim == 3 and values.shape[2] == 3:
        return _picture(_eight_bits(values, int(data.get("BitsStored", 8))), None)
    if str(data.get("PhotometricInterpretation", "")) == "PALETTE COLOR":
        from pydicom.pixels import apply_color_lut

        return _picture(_eight_bits(np.asarray(apply_color_lut(values, data)), 16), None)
    return _gray(values, data)


def _gray(values: NDArray[Any], data: Any) -> Image.Image:
    from pydicom.pixels import apply_modality_lut, apply_voi_lut

    stored = values
    values = np.asarray(apply_modality_lut(values, data), np.float64)
    window = _window(data)
    if "VOILUTSequence" in data:
        table = np.asarray(apply_voi_lut(np.asarray(apply_modality_lut(stored, data)), data), np.float64)
        share, note = table / (2 ** int(data.VOILUTSequence[0].LUTDescriptor[2]) - 1), "DICOM lookup table applied"
    elif window is not None:
        centre, width, function = window
        share, note = _windowed(values, centre, width, function), f"DICOM window {centre:g}/{width:g} applied"
    elif int(data.get("BitsStored", 16)) <= 8 and np.array_equal(values, stored) and values.min() >= 0:
        share, note = values / (2 ** int(data.BitsStored) - 1), ""
    else:
        share, note = _stretched(values, stored, data)
    if str(data.get("PhotometricInterpretation", "")) == "MONOCHROME1":
        share, note = 1 - share, ", ".join(part for part in (note, "inverted (MONOCHROME1)") if part)
    return _picture(np.rint(share.clip(0, 1) * 255).astype(np.uint8), note)


def _window(data: Any) -> tuple[float, float, str] | None:
    """Centre and width of the first window, and how values go through it."""

    def first(name: str) -> float | None:
        value = data.get(name)
        value = value[0] if hasattr(value, "__getitem__") and not isinstance(value, str) else value
        return None if value in (None, "") else float(value)

    centre, width = first("WindowCenter"), first("WindowWidth")
    if centre is None or width is None or width <= 0:
        return None
    return centre, width, str(data.get("VOILUTFunction") or "LINEAR")


def _windowed(values: NDArray[np.float64], centre: float, width: float, function: str) -> NDArray[np.float64]:
    """Shares 0 to 1, as the standard's part 3, C.11.2.1.2 has it."""
    if function == "SIGMOID":
        return 1 / (1 + np.exp(-4 * (values - centre) / width))
    if function == "LINEAR_EXACT":
        return (values - centre) / width + 0.5
    return (values > centre - 0.5).astype(np.float64) if width <= 1 else (values - (centre - 0.5)) / (width - 1) + 0.5


def _stretched(values: NDArray[np.float64], stored: NDArray[Any], data: Any) -> tuple[NDArray[np.float64], str]:
    """Shares from the least to the greatest value, padding left out."""
    counts = np.isfinite(values)
    if "PixelPaddingValue" in data:
        counts &= stored != int(data.PixelPaddingValue)
    if not counts.any():
        raise ValueError("no finite pixel value")
    low, high = float(values[counts].min()), float(values[counts].max())
    share = np.where(np.isfinite(values), (values - low) / ((high - low) or 1), 0.0)
    return share, f"DICOM without a window: values {low:g}..{high:g} were stretched to 0..255"


def _eight_bits(values: NDArray[Any], bits: int) -> NDArray[np.uint8]:
    if bits <= 8:
        return values.astype(np.uint8)
    scaled: NDArray[np.uint8] = np.rint(values.astype(np.float64) * 255 / (2**bits - 1)).clip(0, 255).astype(np.uint8)
    return scaled


def _picture(values: NDArray[np.uint8], note: str | None) -> Image.Image:
    out = Image.fromarray(np.ascontiguousarray(values)).convert("RGB")
    out.info = {"note": note} if note else {}
    return out
