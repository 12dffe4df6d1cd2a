"""Pictures of cameras, detectors and scanners: DICOM, HEIC, and 12 bits in 16-bit files."""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from coloured import COLOURS, ColourEncoder, ColourNet, to_pixels
from PIL import Image

import contralens
from contralens.data.decode import decode
from contralens.data.images import images
from contralens.errors import ImageError

RAMP = np.linspace(0, 4095, 64).reshape(8, 8).round().astype(np.uint16)


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def red(source: Any) -> np.ndarray:
    return np.asarray(decode(source))[:, :, 0]


def dicom(values: np.ndarray, **fields: Any) -> bytes:
    """A DICOM file of these pixels."""
    pydicom = pytest.importorskip("pydicom")
    from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

    data = pydicom.Dataset()
    data.file_meta = pydicom.dataset.FileMetaDataset()
    data.file_meta.TransferSyntaxUID = fields.pop("syntax", ExplicitVRLittleEndian)
    data.file_meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = generate_uid(entropy_srcs=["x"])
    data.SOPClassUID, data.Modality = SecondaryCaptureImageStorage, "CT"
    frames = values.ndim == 3 and values.shape[2] != 3
    data.Rows, data.Columns = values.shape[1:] if frames else values.shape[:2]
    data.SamplesPerPixel = 3 if values.ndim == 3 and not frames else 1
    if data.SamplesPerPixel == 3:
        data.PlanarConfiguration = 0
    data.PhotometricInterpretation = "RGB" if data.SamplesPerPixel == 3 else "MONOCHROME2"
    data.BitsAllocated = 8 * values.dtype.itemsize
    data.BitsStored = data.BitsAllocated
    data.PixelRepresentation = int(values.dtype.kind == "i")
    data.PixelData = values.tobytes()
    if frames:
        data.NumberOfFrames = len(values)
    for name, value in fields.items():
        setattr(data, name, value)
    data.HighBit = data.BitsStored - 1
    out = io.BytesIO()
    pydicom.dcmwrite(out, data, enforce_file_format=True)
    return out.getvalue()


@pytest.mark.parametrize("bits", [8, 10, 12, 14])
def test_values_that_fill_fewer_bits_are_scaled_by_them(bits: int) -> None:
    top = 2**bits - 1
    values = np.array([[0, top // 2, top - top // 8, top]], np.uint16)
    want = np.rint(values.astype(float) * 255 / top)
    files = [saved(Image.fromarray(values), kind) for kind in ("PNG", "TIFF")]
    files.append(saved(Image.frombytes("I;16B", (4, 1), values.astype(">u2").tobytes()), "TIFF"))
    for source in (*files, values, np.stack([values] * 3, -1)):
        picture = decode(source)
        assert np.asarray(picture)[:, :, 0].tolist() == want.tolist()
        assert picture.info["note"] == f"values that fill {bits} of 16 bits were scaled by {top}"
        assert red(source).max() == 255


def test_values_that_fill_all_bits_and_black_are_as_they_were() -> None:
    full = decode(saved(Image.fromarray(np.array([[0, 257, 65535]], np.uint16)), "PNG"))
    assert np.asarray(full)[0, :, 0].tolist() == [0, 1, 255]
    assert "note" not in full.info
    black = decode(np.zeros((2, 2), np.uint16))
    assert int(np.asarray(black).max()) == 0
    assert "note" not in black.info
    dark = decode(b"P5 2 1 4095\n" + np.array([0, 1000], ">u2").tobytes())
    assert np.asarray(dark)[0, :, 0].tolist() == [0, 62], "a PGM says what its greatest value is"


def test_twelve_bit_colour_says_that_it_is_dark() -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    import zlib

    rows = b"\0" + np.array([[0, 0, 0], [4095, 2000, 100]], ">u2").tobytes()
    head = struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    assert decode(data).info["note"].startswith("16-bit colour of which only 12 bits are used is dark")


def test_a_run_tells_what_was_done_to_its_pictures(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    random = np.random.default_rng(0)
    for i in range(12):
        values = random.integers(0, 4096, (32, 32)).astype(np.uint16)
        values[0, 0] = 4095
        Image.fromarray(values).save(tmp_path / "images" / f"{i}.png")
    for i in range(12):
        Image.fromarray(random.normal(i, 5, (32, 32)).astype(np.float32)).save(tmp_path / "images" / f"f{i}.tif")
    given: dict[str, Any] = {"layer": "relu", "preprocess": to_pixels, "k": 12, "cache": tmp_path / "cache"}
    runs = [
        contralens.label(ColourNet(), tmp_path / "images", ColourEncoder(), list(COLOURS), scorers="csp", **given)
        for _ in range(2)
    ]
    told = [note for note in runs[0].manifest["notes"] if "pictures of exemplars" in note]
    assert any("values that fill 12 of 16 bits were scaled by 4095" in note for note in told)
    assert any("were stretched to 0..255, or the like" in note for note in told)
    assert runs[1].manifest["notes"] == runs[0].manifest["notes"], "from the cache, too"


def test_windows_are_applied_and_said() -> None:
    data = dicom(RAMP, BitsStored=12, WindowCenter=2048, WindowWidth=4096)
    want = np.rint(((RAMP - 2047.5) / 4095 + 0.5).clip(0, 1) * 255)
    picture = decode(data)
    assert np.asarray(picture)[:, :, 0].tolist() == want.tolist()
    assert picture.info["note"] == "DICOM window 2048/4096 applied"
    scale = {"RescaleSlope": 1, "RescaleIntercept": -1024}
    picture = decode(dicom(RAMP.astype(np.int16), **scale, WindowCenter=[40, 300], WindowWidth=[400, 1500]))
    assert picture.info["note"] == "DICOM window 40/400 applied", "the first of several"
    values = RAMP.astype(float) - 1024
    assert np.asarray(picture)[:, :, 0].tolist() == np.rint(((values - 39.5) / 399 + 0.5).clip(0, 1) * 255).tolist()
    exact = decode(dicom(RAMP, WindowCenter=1000, WindowWidth=500, VOILUTFunction="LINEAR_EXACT"))
    assert np.asarray(exact)[:, :, 0].tolist() == np.rint(((RAMP - 1000.0) / 500 + 0.5).clip(0, 1) * 255).tolist()
    smooth = red(dicom(RAMP, WindowCenter=2000, WindowWidth=900, VOILUTFunction="SIGMOID"))
    assert smooth[0, 0] < 5
    assert smooth[-1, -1] > 250
    assert (np.diff(smooth.flatten().astype(int)) >= 0).all()


def test_without_a_window_values_are_stretched_and_padding_does_not_count() -> None:
    picture = decode(dicom(RAMP[:, :4] + 100, BitsStored=12))
    assert np.asarray(picture).min() == 0
    assert np.asarray(picture).max() == 255
    assert picture.info["note"] == "DICOM without a window: values 100..3935 were stretched to 0..255"
    padded = RAMP.astype(np.int16)
    padded[0] = -2000
    picture = decode(dicom(padded, PixelPaddingValue=-2000))
    assert picture.info["note"] == "DICOM without a window: values 520..4095 were stretched to 0..255"
    assert (np.asarray(picture)[0] == 0).all()
    eight = decode(dicom((RAMP // 16).astype(np.uint8)))
    assert np.asarray(eight)[:, :, 0].tolist() == (RAMP // 16).tolist()
    assert eight.info == {}


def test_white_that_is_least_is_inverted() -> None:
    window = {"WindowCenter": 2048, "WindowWidth": 4096}
    plain, inverted = (decode(dicom(RAMP, PhotometricInterpretation=f"MONOCHROME{n}", **window)) for n in (2, 1))
    assert (np.asarray(plain).astype(int) + np.asarray(inverted) - 255).max() <= 1
    assert inverted.info["note"] == "DICOM window 2048/4096 applied, inverted (MONOCHROME1)"


def test_colour_and_compression(tmp_path: Path) -> None:
    pydicom = pytest.importorskip("pydicom")
    from pydicom.pixels import convert_color_space
    from pydicom.uid import RLELossless

    rgb = np.random.default_rng(1).integers(0, 256, (8, 6, 3), np.uint8)
    assert np.asarray(decode(dicom(rgb))).tolist() == rgb.tolist()
    ybr = convert_color_space(rgb, "RGB", "YBR_FULL")
    assert np.abs(np.asarray(decode(dicom(ybr, PhotometricInterpretation="YBR_FULL"))).astype(int) - rgb).max() <= 3
    file = pydicom.dcmread(io.BytesIO(dicom(RAMP, WindowCenter=2048, WindowWidth=4096)))
    file.compress(RLELossless)
    file.save_as(tmp_path / "rle.dcm")
    assert red(tmp_path / "rle.dcm").tolist() == red(dicom(RAMP, WindowCenter=2048, WindowWidth=4096)).tolist()


def test_what_is_no_single_picture_is_one_line() -> None:
    pydicom = pytest.importorskip("pydicom")
    with pytest.raises(ValueError, match="DICOM of 3 frames: save the frames that count as pictures of their own"):
        decode(dicom(np.zeros((3, 4, 5), np.uint16)))
    with pytest.raises(ValueError, match="too large: 8 x 8"):
        decode(dicom(RAMP), max_pixels=63)
    bare = pydicom.dcmread(io.BytesIO(dicom(RAMP)))
    del bare.PixelData
    bare.Modality = "RTSTRUCT"
    out = io.BytesIO()
    bare.save_as(out)
    with pytest.raises(ValueError, match=r"DICOM without a picture \(modality RTSTRUCT\)"):
        decode(out.getvalue())


def test_a_folder_of_scans(tmp_path: Path) -> None:
    """With the suffix, without one, or with the end of an identifier for one, as scanners write them."""
    window = {"WindowCenter": 2048, "WindowWidth": 4096}
    for i, name in enumerate(("a.dcm", "IM-0001", "1.2.840.113619.2")):
        (tmp_path / name).write_bytes(dicom(RAMP + i, **window))
    (tmp_path / "README").write_text("text")
    (tmp_path / "DICOMDIR").write_bytes(bytes(128) + b"DICM")
    (tmp_path / "broken.dcm").write_bytes(bytes(128) + b"DICM" + b"\xff" * 40)
    found = images(tmp_path)
    assert list(found.ids) == ["1.2.840.113619.2", "IM-0001", "a.dcm", "broken.dcm"]
    assert found.load(0).size == (8, 8)
    with pytest.raises(ImageError, match=r"broken\.dcm: "):
        found.load(3)


def test_heic(tmp_path: Path) -> None:
    pillow_heif = pytest.importorskip("pillow_heif")
    picture = Image.new("RGB", (64, 48), (200, 60, 30))
    picture.paste((20, 40, 220), (0, 0, 32, 48))
    exif = Image.Exif()
    exif[0x0112] = 6
    heif = pillow_heif.from_pillow(picture)
    heif.save(tmp_path / "plain.heic", quality=95)
    heif.save(tmp_path / "turned.HEIC", quality=95, exif=exif.tobytes())
    found = images(tmp_path)
    assert list(found.ids) == ["plain.heic", "turned.HEIC"]
    got = np.asarray(found.load(0)).astype(int)
    assert np.abs(got - np.asarray(picture)).mean() < 6
    assert found.load(1).size in ((64, 48), (48, 64))


def test_packages_that_are_not_there_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib

    def gone(name: str) -> Any:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr(importlib, "import_module", gone)
    (tmp_path / "a.dcm").write_bytes(bytes(128) + b"DICM" + bytes(9))
    (tmp_path / "b.heic").write_bytes(bytes(4) + b"ftypheic" + bytes(99))
    found = images(tmp_path)
    for at, words in enumerate(("package pydicom.*'contralens.medical.'", "package pillow_heif.*'contralens.heif.'")):
        with pytest.raises(ImageError, match=words):
            found.load(at)
