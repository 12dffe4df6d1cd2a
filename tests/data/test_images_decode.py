"""Every kind of file that a folder of images may hold, made here, decoded right or refused in one line."""

from __future__ import annotations

import io
import os
import struct
import threading
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from contralens.data.decode import content_hash, decode
from contralens.data.images import images
from contralens.errors import ImageError

GRAY16 = np.array([[0, 128, 129, 257, 32768, 65535]], np.uint16)
GRAY8 = [0, 0, 1, 1, 128, 255]  # v / 257, rounded


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, depth: int, colour: int, rows: bytes, extra: bytes = b"") -> bytes:
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + extra + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def pixels(source: object) -> np.ndarray:
    image = decode(source)
    assert image.mode == "RGB"
    assert type(image) is Image.Image
    return np.asarray(image)


def close(got: np.ndarray, want: object, within: int = 4) -> bool:
    return bool((np.abs(got.astype(int) - np.asarray(want)) <= within).all())


def corner_picture() -> Image.Image:
    """24 x 16, red in the upper left quarter, green upper right, blue lower left, white lower right."""
    image = Image.new("RGB", (24, 16), "white")
    for box, colour in (((0, 0, 12, 8), "red"), ((12, 0, 24, 8), "lime"), ((0, 8, 12, 16), "blue")):
        image.paste(Image.new("RGB", (12, 8), colour), box)
    return image


UNDO = {  # how a camera held so would have stored the upright picture
    1: [],
    2: [Image.Transpose.FLIP_LEFT_RIGHT],
    3: [Image.Transpose.ROTATE_180],
    4: [Image.Transpose.FLIP_TOP_BOTTOM],
    5: [Image.Transpose.TRANSPOSE],
    6: [Image.Transpose.ROTATE_90],
    7: [Image.Transpose.TRANSVERSE],
    8: [Image.Transpose.ROTATE_270],
}


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", UNDO)
def test_exif_orientation_is_applied(kind, orientation):
    stored = corner_picture()
    for turn in UNDO[orientation]:
        stored = stored.transpose(turn)
    exif = Image.Exif()
    exif[0x0112] = orientation
    got = pixels(saved(stored, kind, exif=exif, **({"quality": 100} if kind in ("JPEG", "WEBP") else {})))
    assert got.shape == (16, 24, 3)
    for at, colour in (((3, 5), (255, 0, 0)), ((3, 18), (0, 255, 0)), ((12, 5), (0, 0, 255)), ((12, 18), (255,) * 3)):
        assert close(got[at], colour, 12), (orientation, at, got[at])


def test_a_broken_exif_block_is_no_reason_to_refuse():
    data = saved(corner_picture(), "JPEG")
    app1 = b"\xff\xe1" + struct.pack(">H", 2 + 6 + 20) + b"Exif\0\0" + b"MM\0*" + b"\xff" * 16
    assert pixels(data[:2] + app1 + data[2:]).shape == (16, 24, 3)


def test_gray_bilevel_and_palette():
    assert close(pixels(saved(Image.new("L", (4, 4), 77), "JPEG")), 77, 1)
    assert (pixels(saved(Image.new("1", (4, 4), 1), "PNG")) == 255).all()
    palette = Image.new("RGB", (4, 4), (10, 200, 30)).convert("P", palette=Image.Palette.ADAPTIVE)
    assert (pixels(saved(palette, "PNG")) == (10, 200, 30)).all()


def test_alpha_is_laid_over_white():
    half = Image.new("RGBA", (2, 1), (200, 0, 100, 0))
    half.putpixel((1, 0), (200, 0, 100, 51))  # one fifth
    for kind in ("PNG", "TIFF"):
        assert close(pixels(saved(half, kind)), [[[255, 255, 255], [244, 204, 224]]], 1)
    assert close(pixels(saved(half, "WEBP", lossless=True, exact=True)), [[[255, 255, 255], [244, 204, 224]]], 1)
    gray = Image.new("LA", (1, 1), (100, 51))
    assert close(pixels(saved(gray, "PNG")), 224, 1)
    assert close(pixels(Image.new("PA", (1, 1), (0, 0))), 255, 0)
    for mode in ("RGBa", "La"):
        clear = Image.new("RGBA" if mode == "RGBa" else "LA", (1, 1), 0).convert(mode)
        assert close(pixels(clear), 255, 0)


def test_transparent_palette_entries_and_colours_become_white():
    image = Image.new("P", (2, 1))
    image.putpalette([9, 9, 9, 50, 60, 70])
    image.putpixel((1, 0), 1)
    for kind in ("PNG", "GIF"):
        assert pixels(saved(image, kind, transparency=0)).tolist() == [[[255, 255, 255], [50, 60, 70]]]
    partly = saved(image, "PNG", transparency=bytes([255, 0]))
    assert pixels(partly).tolist() == [[[9, 9, 9], [255, 255, 255]]]
    key = saved(Image.fromarray(np.array([[[1, 2, 3], [4, 5, 6]]], np.uint8)), "PNG", transparency=(1, 2, 3))
    assert pixels(key).tolist() == [[[255, 255, 255], [4, 5, 6]]]
    deep = png(6, 1, 16, 0, b"\0" + GRAY16.astype(">u2").tobytes(), chunk(b"tRNS", struct.pack(">H", 129)))
    assert pixels(deep)[0, :, 0].tolist() == [0, 0, 255, 1, 128, 255]


def test_cmyk_and_ycck_jpegs_have_their_true_colours():
    cmyk = Image.new("CMYK", (16, 16), (255, 0, 0, 0))
    assert close(pixels(saved(cmyk, "JPEG", quality=100)), (0, 255, 255), 3)
    assert close(pixels(saved(Image.new("CMYK", (16, 16), (0, 128, 255, 0)), "JPEG", quality=100)), (255, 127, 0), 3)
    assert close(pixels(saved(Image.new("CMYK", (16, 16), (0, 0, 0, 255)), "JPEG", quality=100)), 0, 3)
    assert close(pixels(saved(cmyk, "TIFF")), (0, 255, 255), 0)
    # YCCK: the same file with luma and chroma of the inks 255 - R, G, B in the first three, and the marker that says so
    y, cb, cr = Image.new("RGB", (1, 1), (5, 135, 245)).convert("YCbCr").getpixel((0, 0))
    data = saved(Image.new("CMYK", (16, 16), (255 - y, 255 - cb, 255 - cr, 0)), "JPEG", quality=100)
    at = data.index(b"Adobe")
    ycck = data[: at + 11] + b"\x02" + data[at + 12 :]
    assert close(pixels(ycck), (250, 120, 10), 4)


def test_sixteen_bit_gray_is_scaled_not_clipped():
    image = Image.fromarray(GRAY16)
    assert image.mode == "I;16"
    files = [png(6, 1, 16, 0, b"\0" + GRAY16.astype(">u2").tobytes()), saved(image, "TIFF"), saved(image, "PNG")]
    files.append(saved(Image.frombytes("I;16B", (6, 1), GRAY16.astype(">u2").tobytes()), "TIFF"))
    files.append(b"P5 6 1 65535\n" + GRAY16.astype(">u2").tobytes())
    for data in files:
        assert pixels(data)[0, :, 0].tolist() == GRAY8
    assert np.asarray(image.convert("RGB"))[0, 4, 0] == 255, "Pillow itself clips here; if not, our rule may go"


def test_sixteen_bit_colour_is_scaled():
    rows = b"\0" + np.repeat(GRAY16, 3).astype(">u2").tobytes()
    assert close(pixels(png(6, 1, 16, 2, rows))[0, :, 1], GRAY8, 1)
    gray_alpha = np.stack([GRAY16[0], np.full(6, 65535, np.uint16)], -1).astype(">u2").tobytes()
    assert close(pixels(png(6, 1, 16, 4, b"\0" + gray_alpha))[0, :, 0], GRAY8, 1)


def test_float_and_wide_integers():
    def tiff(values):
        return saved(Image.fromarray(np.asarray(values)[None]), "TIFF")

    unit = decode(tiff(np.array([0, 0.25, 1], np.float32)))
    assert np.asarray(unit)[0, :, 0].tolist() == [0, 64, 255]
    assert "note" not in unit.info
    wide = decode(tiff(np.array([-5, 0, np.nan, 5, np.inf], np.float32)))
    assert np.asarray(wide)[0, :, 0].tolist() == [0, 128, 0, 255, 255]
    assert wide.info["note"] == "pixel values -5..5 were stretched to 0..255"
    assert pixels(tiff(np.array([-100, 0, 100], np.int32)))[0, :, 0].tolist() == [0, 128, 255]
    assert (pixels(tiff(np.array([7.0, 7.0], np.float32))) == 0).all()
    with pytest.raises(ValueError, match="no finite pixel value"):
        decode(tiff(np.array([np.nan], np.float32)))


def test_first_frame_of_animations_and_pages():
    frames = [Image.new("RGB", (5, 4), c) for c in ("red", "blue", "lime")]
    for kind in ("GIF", "PNG", "TIFF"):
        assert (pixels(saved(frames[0], kind, save_all=True, append_images=frames[1:])) == (255, 0, 0)).all(), kind
    animated = saved(frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=True)
    assert close(pixels(animated), (255, 0, 0), 1)
    assert close(pixels(saved(frames[0], "MPO", save_all=True, append_images=frames[1:])), (255, 0, 0), 2)


@pytest.mark.parametrize("kind", ["BMP", "PPM", "JPEG2000", "AVIF", "LAB"])
def test_other_kinds(kind):
    red = Image.new("RGB", (16, 16), (250, 20, 30))
    if kind == "LAB":
        from PIL import ImageCms

        to_lab = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB")
        lab = ImageCms.applyTransform(red, to_lab)
        assert lab is not None
        assert close(pixels(saved(lab, "TIFF")), (250, 20, 30), 8)
        return
    Image.init()
    if kind not in Image.SAVE:
        pytest.skip(f"this Pillow cannot write {kind}")
    assert close(pixels(saved(red, kind)), (250, 20, 30), 8)


def whole(kind="JPEG"):
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    return saved(Image.fromarray(noise), kind)


BROKEN = {
    "empty.jpg": (b"", "empty file"),
    "text.jpg": (b"hello, world", "not an image of a known format"),
    "stub.jpg": (b"zz", "not an image of a known format"),
    "html.png": (b"<html>404</html>", "not an image of a known format"),
    "short.jpg": (whole()[:700], "truncated"),
    "short.png": (whole("PNG")[:2000], "truncated"),
    "head.png": (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 5, 5, 8, 9, 0, 0, 0)), ""),
    "cut.gif": (saved(Image.new("L", (30, 30)), "GIF")[:20], ""),
    "cut.tif": (saved(Image.new("L", (30, 30)), "TIFF")[:60], ""),
    "cut.webp": (saved(Image.new("RGB", (30, 30)), "WEBP")[:20], ""),
    "cut.bmp": (saved(Image.new("RGB", (30, 30)), "BMP")[:90], "truncated"),
    "flat.png": (png(0, 4, 8, 2, b""), ""),
    "bomb.png": (png(60_000, 60_000, 8, 2, b"\0"), "too large: 60000 x 60000 = 3,600,000,000 pixels"),
    "script.jpg": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image of a known format"),
    "noise.jp2": (b"\xff\x4f\xff\x51" + bytes(range(256)), ""),
    "flipped.jpg": (whole()[:300] + b"\xff" * 300, ""),
}


def test_each_broken_file_is_one_line_and_no_warning(tmp_path):
    for name, (data, _) in BROKEN.items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / "good.jpg").write_bytes(whole())
    found = images(tmp_path)
    assert len(found) == len(BROKEN) + 1
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        for i, name in enumerate(found.ids):
            if name == "good.jpg":
                assert found.load(i).size == (40, 40)
                continue
            with pytest.raises(ImageError) as e:
                found.load(i)
            assert str(e.value).startswith(f"{name}: ")
            assert BROKEN[name][1] in str(e.value)
            assert "\n" not in str(e.value)
            assert " at 0x" not in str(e.value)
            with pytest.raises(ImageError) as again:
                found.load(i)
            assert str(again.value) == str(e.value)
    assert len(set(found.fingerprints())) == len(found), "broken files still have contents of their own"


def test_any_cut_and_any_flipped_byte_gives_a_picture_or_an_error(tmp_path):
    random = np.random.default_rng(1)
    for kind in ("JPEG", "PNG", "GIF", "TIFF", "WEBP", "BMP", "PPM"):
        data = whole(kind)
        for i in range(40):
            bad = bytearray(data)
            if i % 2:
                bad = bad[: random.integers(len(bad))]
            else:
                for at in random.integers(min(len(bad), 400), size=3):
                    bad[at] = random.integers(256)
            (tmp_path / f"{kind}{i:02}.png").write_bytes(bad)
    found = images(tmp_path, max_pixels=10**7)
    outcomes = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # Pillow's remarks on metadata
        for i in range(len(found)):
            try:
                outcomes.append(found.load(i).mode)
            except ImageError:
                outcomes.append("error")
    assert set(outcomes) == {"RGB", "error"}


def test_the_pixel_limit(tmp_path, monkeypatch):
    Image.new("L", (400, 300)).save(tmp_path / "a.png")
    assert images(tmp_path, max_pixels=120_000).load(0).size == (400, 300)
    with pytest.raises(ImageError, match=r"a\.png: too large: 400 x 300 = 120,000 pixels, the limit is 119,999"):
        images(tmp_path, max_pixels=119_999).load(0)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50_000)  # Pillow's own limit would now stop it
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert images(tmp_path).load(0).size == (400, 300)
        image = saved(Image.new("L", (300, 200)), "GIF", save_all=True, append_images=[Image.new("L", (300, 200), 9)])
        assert decode(image).size == (300, 200)


def test_a_pipe_does_not_hang(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    Image.new("L", (2, 2)).save(tmp_path / "a.png")
    found = images(tmp_path)
    assert list(found.ids) == ["a.png"]
    assert found.ignored == {"pipe or device": 1}
    listed = images([tmp_path / "pipe.jpg"])
    with pytest.raises(ImageError, match="not a regular file"):
        listed.load(0)
    assert len(listed.fingerprints()[0]) == 32


def test_threads_decode_alike(tmp_path):
    for i in range(12):
        Image.fromarray(np.random.default_rng(i).integers(0, 256, (30, 20, 3), np.uint8)).save(tmp_path / f"{i}.png")
    found = images(tmp_path)
    once = [found.load(i).tobytes() for i in range(len(found))]
    results: dict[int, list[bytes]] = {}

    def work(t: int) -> None:
        results[t] = [found.load(i).tobytes() for i in range(len(found))]

    threads = [threading.Thread(target=work, args=(t,)) for t in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(got == once for got in results.values())


def test_arrays_and_tensors():
    torch = pytest.importorskip("torch")
    rgb = np.random.default_rng(2).integers(0, 256, (6, 5, 3), np.uint8)
    want = rgb.tolist()
    chw = torch.from_numpy(rgb).permute(2, 0, 1)
    for source in (
        rgb,
        chw,
        rgb / 255,
        chw / 255,
        chw.double() / 255,
        rgb.astype(np.int64),
        rgb.astype(np.uint16) * 257,
    ):
        assert pixels(source).tolist() == want
        assert pixels((source, 3)).tolist() == want
        assert pixels({"image": source, "label": 1}).tolist() == want
        assert content_hash(source) == content_hash(rgb)
    assert close(pixels((chw / 255).bfloat16()), want, 1)
    assert pixels(rgb[:, :, 0]).tolist() == pixels(rgb[:, :, :1]).tolist() == pixels(chw[:1]).tolist()
    assert pixels(np.array([[True, False]])).tolist() == [[[255] * 3, [0] * 3]]
    for bad in (
        chw / 255 * 5 - 2,
        np.zeros((3,)),
        np.zeros((2, 2, 7), np.uint8),
        np.full((2, 2), 300),
        np.zeros((0, 3, 3)),
    ):
        with pytest.raises(ValueError, match=r"pixels|shape"):
            decode(bad)
    with pytest.raises(TypeError, match="not a picture: int"):
        decode(5)


def test_nothing_of_the_file_stays_with_the_picture(tmp_path):
    image = corner_picture()
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "a.jpg"
    image.save(path, exif=exif, icc_profile=b"x" * 200)
    got = decode(Path(path))
    assert got.info == {}
    assert got.size == (16, 24)
    assert decode(got).tobytes() == got.tobytes(), "not turned twice"
