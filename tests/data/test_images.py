"""One picture: what is decoded, to which pixels, and what is refused."""

import io
import struct
import threading
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simplejpeg
import torch
from PIL import Image, ImageOps, features

from resvision.data import images
from resvision.data.images import (
    MAX_PIXELS,
    cropped,
    decode,
    decode_pixels,
    from_array,
    read_header,
    resized,
    square,
    to_input,
)
from resvision.errors import PictureError
from resvision.measure import now, peak_memory_bytes
from resvision.preprocess import Preprocess

COLOUR = Preprocess(size=8)
GREY = Preprocess(size=8, channels=1, mean=(0.5,), std=(0.5,))


def encode(picture: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def smooth(height: int, width: int) -> np.ndarray:
    """A picture that survives JPEG nearly unchanged, no two corners alike."""
    y, x = np.mgrid[0:height, 0:width]
    planes = (200 * x / width, 200 * y / height, 100 * x / width + 100 * y / height)
    return np.stack(planes, axis=2).astype(np.uint8)


def pixels(data: bytes, preprocess: Preprocess = COLOUR, min_side: int | None = None) -> np.ndarray:
    picture = np.asarray(decode(data, "a picture", preprocess, min_side))
    short_way = decode_pixels(data, "a picture", preprocess, min_side)
    assert short_way.dtype == np.uint8
    np.testing.assert_array_equal(short_way, picture.reshape(*picture.shape[:2], preprocess.channels))
    return picture


def png(width: int, height: int, depth: int, kind: int, rows: list[bytes]) -> bytes:
    """A PNG, chunk by chunk; without rows it ends after its header."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows)))
    return b"\x89PNG\r\n\x1a\n" + header + body + (chunk(b"IEND", b"") if rows else b"")


# ---- formats ----


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("PNG", {}),
        ("BMP", {}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("WEBP", {"lossless": True}),
        ("PPM", {}),
    ],
)
def test_lossless_formats_give_back_every_pixel(kind: str, options: dict[str, Any]) -> None:
    array = noise(9, 7)
    data = encode(Image.fromarray(array), kind, **options)
    decoded = decode(data, "a picture", COLOUR)
    assert decoded.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(decoded), array)
    assert read_header(data, "a picture") == (7, 9, False)


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow has no AVIF")
def test_avif() -> None:
    array = smooth(40, 56)
    data = encode(Image.fromarray(array), "AVIF", quality=95)
    assert np.abs(pixels(data).astype(int) - array).mean() < 3
    assert read_header(data, "a picture")[:2] == (56, 40)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0, "quality": 95}])
def test_jpeg_agrees_with_pillow(options: dict[str, Any]) -> None:
    array = smooth(40, 56)
    data = encode(Image.fromarray(array), "JPEG", **options)
    decoded = pixels(data)
    assert decoded.shape == array.shape
    assert np.abs(decoded.astype(int) - np.asarray(Image.open(io.BytesIO(data)))).max() <= 1
    assert np.abs(decoded.astype(int) - array).mean() < 3


@pytest.mark.parametrize(("kind", "options"), [("GIF", {}), ("WEBP", {"lossless": True}), ("PNG", {}), ("TIFF", {})])
def test_the_first_frame_counts(kind: str, options: dict[str, Any]) -> None:
    frames = [Image.new("RGB", (6, 4), colour) for colour in ((255, 0, 0), (0, 0, 255), (0, 255, 0))]
    data = encode(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    assert Image.open(io.BytesIO(data)).n_frames == 3  # type: ignore[attr-defined]
    np.testing.assert_array_equal(pixels(data), np.full((4, 6, 3), (255, 0, 0)))


def test_the_content_decides_and_not_the_extension() -> None:
    array = noise(5, 6)
    decoded = decode(encode(Image.fromarray(array), "PNG"), "a.jpg", COLOUR)
    np.testing.assert_array_equal(np.asarray(decoded), array)


def test_a_format_that_is_not_listed_is_refused() -> None:
    data = encode(Image.fromarray(noise(5, 6)), "TGA")
    with pytest.raises(
        PictureError, match=r"^a\.png: not a picture of a known format \(JPEG, PNG, WEBP, AVIF, GIF, BMP"
    ):
        decode(data, "a.png", COLOUR)


def test_plain_ppm_is_refused() -> None:
    """Pillow's reader of it takes half a minute over a megabyte of comments."""
    for data in (b"P1 2 1 0 1", b"P2 2 1 255 7 8 ", b"P3 1 1 255 7 8 9 " + b"#\n" * 500_000):
        with pytest.raises(
            PictureError, match=r"^a\.ppm: .*only the binary kinds \(P4, P5, P6\) are read: convert it$"
        ):
            read_header(data, "a.ppm")
        with pytest.raises(PictureError, match=r"^a\.ppm: of PPM"):
            decode(data, "a.ppm", COLOUR)


def test_a_ppm_is_no_larger_than_other_pictures() -> None:
    with pytest.raises(PictureError, match=r"20000 x 5001 pixels are more than"):
        read_header(b"P6 20000 5001 255\n", "a.ppm")
    with pytest.raises(PictureError, match=r"^a\.ppm: cannot be decoded"):
        decode(b"P6 20 20 255\n" + bytes(100), "a.ppm", COLOUR)


# ---- modes ----


def test_grey_becomes_three_equal_channels_or_stays_one() -> None:
    values = np.arange(48, dtype=np.uint8).reshape(6, 8) * 5
    data = encode(Image.fromarray(values), "PNG")
    assert read_header(data, "a picture").grey
    np.testing.assert_array_equal(pixels(data), np.stack([values] * 3, axis=2))
    np.testing.assert_array_equal(pixels(data, GREY), values)


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
@pytest.mark.parametrize(("colour", "luma"), [((255, 0, 0), 76), ((0, 255, 0), 150), ((0, 0, 255), 29)])
def test_colour_becomes_grey_by_its_luma(kind: str, colour: tuple[int, int, int], luma: int) -> None:
    data = encode(Image.new("RGB", (8, 8), colour), kind)  # 0.299 R + 0.587 G + 0.114 B
    grey = pixels(data, GREY)
    assert grey.shape == (8, 8)
    assert np.abs(grey.astype(int) - luma).max() <= (kind == "JPEG")


def test_grey_jpeg() -> None:
    values = smooth(16, 24)[..., 0]
    data = encode(Image.fromarray(values), "JPEG", quality=95)
    assert read_header(data, "a picture") == (24, 16, True)
    assert np.abs(pixels(data, GREY).astype(int) - values).max() <= 4
    np.testing.assert_array_equal(pixels(data), np.stack([pixels(data, GREY)] * 3, axis=2))


def palette_picture() -> Image.Image:
    """One row of the palette's entries: black, red, green, blue."""
    picture = Image.fromarray(np.array([[0, 1, 2, 3]], dtype=np.uint8), "L").convert("P")
    picture.putdata([0, 1, 2, 3])
    picture.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0, 0, 0, 255])
    return picture


@pytest.mark.parametrize("kind", ["PNG", "GIF", "BMP", "TIFF"])
def test_palette(kind: str) -> None:
    data = encode(palette_picture(), kind)
    assert pixels(data).tolist() == [[[0, 0, 0], [255, 0, 0], [0, 255, 0], [0, 0, 255]]]
    assert not read_header(data, "a picture").grey


@pytest.mark.parametrize("kind", ["PNG", "GIF"])
def test_the_transparent_entry_of_a_palette_shows_the_background(kind: str) -> None:
    data = encode(palette_picture(), kind, transparency=1)
    assert pixels(data).tolist() == [[[0, 0, 0], [255, 255, 255], [0, 255, 0], [0, 0, 255]]]
    violet = Preprocess(size=8, background=(90, 0, 200))
    assert pixels(data, violet).tolist() == [[[0, 0, 0], [90, 0, 200], [0, 255, 0], [0, 0, 255]]]


def test_a_palette_with_several_degrees_of_transparency() -> None:
    data = encode(palette_picture(), "PNG", transparency=bytes((0, 51, 255, 255)))
    assert pixels(data).tolist() == [[[255, 255, 255], [255, 204, 204], [0, 255, 0], [0, 0, 255]]]


@pytest.mark.parametrize(("kind", "options"), [("PNG", {}), ("WEBP", {"lossless": True, "exact": True}), ("TIFF", {})])
def test_alpha_is_blended_with_white(kind: str, options: dict[str, Any]) -> None:
    row = [[10, 20, 30, 255], [10, 20, 30, 0], [255, 0, 0, 51], [0, 0, 0, 51], [0, 0, 0, 204]]
    data = encode(Image.fromarray(np.array([row], dtype=np.uint8)), kind, **options)
    # One part of five of the colour and four of white: 0.2 x 255 + 0.8 x 255, and 0.2 x 0 + 0.8 x 255 = 204.
    white = [255, 255, 255]
    assert pixels(data).tolist() == [[[10, 20, 30], white, [255, 204, 204], [204, 204, 204], [51, 51, 51]]]


def test_alpha_is_blended_with_any_background() -> None:
    data = encode(Image.fromarray(np.array([[[255, 0, 0, 51], [0, 0, 0, 0]]], dtype=np.uint8)), "PNG")
    preprocess = Preprocess(size=8, background=(100, 50, 0))
    assert pixels(data, preprocess).tolist() == [[[131, 40, 0], [100, 50, 0]]]  # 0.2 x 255 + 0.8 x 100 = 131


def test_grey_with_alpha() -> None:
    data = encode(Image.fromarray(np.array([[[0, 51], [0, 0], [77, 255]]], dtype=np.uint8), "LA"), "PNG")
    assert read_header(data, "a picture").grey
    assert pixels(data, GREY).tolist() == [[204, 255, 77]]
    assert pixels(data).tolist() == [[[204] * 3, [255] * 3, [77] * 3]]


def test_one_colour_marked_as_transparent() -> None:
    colours = Image.fromarray(np.array([[[255, 0, 0], [0, 0, 255]]], dtype=np.uint8))
    assert pixels(encode(colours, "PNG", transparency=(255, 0, 0))).tolist() == [[[255, 255, 255], [0, 0, 255]]]
    greys = Image.fromarray(np.array([[7, 8]], dtype=np.uint8))
    assert pixels(encode(greys, "PNG", transparency=7), GREY).tolist() == [[255, 8]]


@pytest.mark.parametrize(("kind", "tolerance"), [("TIFF", 0), ("JPEG", 2)])
@pytest.mark.parametrize(
    ("inks", "colour"),
    [
        ((0, 0, 0, 0), (255, 255, 255)),
        ((255, 0, 0, 0), (0, 255, 255)),
        ((0, 255, 255, 0), (255, 0, 0)),
        ((0, 0, 0, 255), (0, 0, 0)),
    ],
)
def test_cmyk(kind: str, tolerance: int, inks: tuple[int, ...], colour: tuple[int, int, int]) -> None:
    decoded = pixels(encode(Image.new("CMYK", (8, 8), inks), kind))
    assert np.abs(decoded.astype(int) - colour).max() <= tolerance


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM"])
def test_one_bit(kind: str) -> None:
    picture = Image.fromarray(np.array([[True, False, True], [False, False, True]]))
    data = encode(picture, kind)
    assert Image.open(io.BytesIO(data)).mode == "1"
    assert pixels(data, GREY).tolist() == [[255, 0, 255], [0, 0, 255]]
    assert read_header(data, "a picture").grey


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_16_bits_are_scaled_and_not_clipped(kind: str) -> None:
    levels = np.arange(256, dtype=np.uint16).reshape(16, 16)
    data = encode(Image.fromarray(levels * 257), kind)
    assert read_header(data, "a picture") == (16, 16, True)
    np.testing.assert_array_equal(pixels(data, GREY), levels)
    np.testing.assert_array_equal(pixels(data), np.stack([levels] * 3, axis=2))


def test_16_bits_are_rounded_to_the_nearest_level() -> None:
    values = np.array([[0, 128, 129, 385, 386, 32896, 65534, 65535]], dtype=np.uint16)
    assert pixels(encode(Image.fromarray(values), "PNG"), GREY).tolist() == [[0, 0, 1, 1, 2, 128, 255, 255]]


def test_16_bits_stored_big_end_first() -> None:
    values = np.array([[0, 257, 25700, 65535]], dtype=np.uint16)
    picture = Image.frombytes("I;16B", (4, 1), values.astype(">u2").tobytes())
    assert pixels(encode(picture, "TIFF"), GREY).tolist() == [[0, 1, 100, 255]]


def test_10_bits_of_a_pgm_are_scaled() -> None:
    data = b"P5 3 1 1023\n" + struct.pack(">3H", 0, 512, 1023)
    assert pixels(data, GREY).tolist() == [[0, 128, 255]]  # 512 / 1023 x 255 = 127.6


@pytest.mark.parametrize("options", [{}, {"compression": "tiff_lzw"}])
@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_a_negative_is_turned_over(kind: type, options: dict[str, Any]) -> None:
    """TIFF may say that 0 is white."""
    levels = np.arange(256, dtype=kind).reshape(16, 16)
    stored = encode(Image.fromarray(levels * 257 if kind is np.uint16 else levels), "TIFF", **options)
    black_is_zero, white_is_zero = (struct.pack("<HHIHH", 262, 3, 1, value, 0) for value in (1, 0))
    assert stored.count(black_is_zero) == 1
    np.testing.assert_array_equal(pixels(stored, GREY), levels)
    data = stored.replace(black_is_zero, white_is_zero)
    np.testing.assert_array_equal(pixels(data, GREY), 255 - levels)
    np.testing.assert_array_equal(pixels(data), np.stack([255 - levels] * 3, axis=2))


def tiff(bits: int, samples: bytes, width: int) -> bytes:
    """One row of grey samples, as no library here writes them."""
    tags = {256: width, 257: 1, 258: bits, 259: 1, 262: 1, 273: 0, 277: 1, 278: 1, 279: len(samples)}
    tags[273] = 8 + 2 + 12 * len(tags) + 4  # where the samples begin
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return struct.pack("<2sHIH", b"II", 42, 8, len(tags)) + entries + struct.pack("<I", 0) + samples


def test_12_bits_of_a_tiff_are_scaled() -> None:
    data = tiff(12, bytes.fromhex("000800fff010"), 4)  # 0, 2048, 4095 and 16
    assert read_header(data, "a picture") == (4, 1, True)
    assert pixels(data, GREY).tolist() == [[0, 128, 255, 1]]


def test_the_transparent_value_of_16_bits_is_background() -> None:
    values = np.array([[0, 25700, 65535, 25701]], dtype=np.uint16)
    data = encode(Image.fromarray(values), "PNG", transparency=25700)
    assert pixels(data, GREY).tolist() == [[0, 255, 255, 100]]


def test_16_bits_in_each_channel() -> None:
    levels = [0, 1, 100, 200, 254, 255]
    data = png(2, 1, 16, 2, [struct.pack(">6H", *(257 * level for level in levels))])
    assert pixels(data).tolist() == [[levels[:3], levels[3:]]]


def test_32_bit_samples_are_refused() -> None:
    for values in (
        np.array([[0, 70000]], dtype=np.int32),
        np.array([[0, 200]], dtype=np.int32),  # of which nobody knows what is white
        np.array([[0.0, 1.0]], dtype=np.float32),
    ):
        data = encode(Image.fromarray(values), "TIFF")
        with pytest.raises(PictureError, match=r"^deep\.tif: 32-bit samples have no known range"):
            decode(data, "deep.tif", COLOUR)


# ---- EXIF orientation ----

UPRIGHT = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),  # a quarter turn to the right
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a, 1),
}


def oriented(array: np.ndarray, orientation: int, kind: str, **options: Any) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encode(Image.fromarray(array), kind, exif=exif, **options)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_jpeg_is_turned_upright(orientation: int) -> None:
    data = oriented(smooth(16, 40), orientation, "JPEG")
    stored = pixels(data, Preprocess(size=8, exif=False))
    assert stored.shape == (16, 40, 3)
    turned = pixels(data)
    np.testing.assert_array_equal(turned, UPRIGHT[orientation](stored))
    by_pillow = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    assert turned.shape == np.asarray(by_pillow).shape
    assert np.abs(turned.astype(int) - np.asarray(by_pillow)).max() <= 1
    grey = pixels(data, GREY)
    assert grey.shape == turned.shape[:2]
    assert np.abs(grey - turned @ [0.299, 0.587, 0.114]).max() < 3


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(("kind", "options"), [("PNG", {}), ("WEBP", {"lossless": True}), ("TIFF", {})])
def test_other_formats_are_turned_upright(orientation: int, kind: str, options: dict[str, Any]) -> None:
    array = noise(3, 5)
    data = oriented(array, orientation, kind, **options)
    np.testing.assert_array_equal(pixels(data), UPRIGHT[orientation](array))
    if kind != "TIFF":  # whose orientation is a part of the format itself
        np.testing.assert_array_equal(pixels(data, Preprocess(size=8, exif=False)), array)


def test_a_jpeg_decoded_small_is_turned_upright_too() -> None:
    data = oriented(smooth(160, 320), 6, "JPEG")
    assert pixels(data, min_side=40).shape == (80, 40, 3)


@pytest.mark.parametrize("orientation", [0, 9, 1000])
def test_an_orientation_that_does_not_exist_changes_nothing(orientation: int) -> None:
    array = noise(3, 5)
    np.testing.assert_array_equal(pixels(oriented(array, orientation, "PNG")), array)


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "JPEG"])
def test_exif_that_is_cut_off_neither_stops_nor_warns(kind: str) -> None:
    cut_off = b"Exif\0\0II*\0\x08\0\0\0\x05\0\x12\x01\x03\0\x01"  # says five entries, holds half of one
    data = encode(Image.fromarray(smooth(16, 24)), kind, exif=cut_off)
    assert pixels(data).shape == (16, 24, 3)


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "JPEG"])
@pytest.mark.parametrize("broken", [b"Exif\0\0II*\0", b"Exif\0\0" + bytes(20), b"Exif\0\0II"])
def test_exif_without_a_head_says_nothing(kind: str, broken: bytes) -> None:
    data = encode(Image.fromarray(smooth(16, 24)), kind, exif=broken, **({"dpi": (72, 72)} if kind == "JPEG" else {}))
    assert pixels(data).shape == (16, 24, 3)


# ---- what is refused ----


@pytest.mark.parametrize("size", [(20_000, 20_000), (10_001, 10_000), (2**31 - 1, 2**31 - 1)])
def test_too_many_pixels_are_refused_before_they_are_decoded(size: tuple[int, int]) -> None:
    data = png(*size, 8, 2, [])
    begin, memory = now(), peak_memory_bytes()
    for function in (lambda: decode(data, "huge.png", COLOUR), lambda: read_header(data, "huge.png")):
        with pytest.raises(PictureError, match=r"^huge\.png: .*100,000,000"):
            function()
    assert now() - begin < 1
    if memory is not None:
        after = peak_memory_bytes()
        assert after is not None
        assert after - memory < 50 << 20


def test_the_most_pixels_that_are_allowed() -> None:
    assert MAX_PIXELS == 10_000 * 10_000
    assert read_header(png(10_000, 10_000, 8, 2, []), "large.png") == (10_000, 10_000, False)


def test_a_large_header_without_a_picture_is_one_error() -> None:
    with pytest.raises(PictureError, match=r"^large\.png: cannot be decoded"):
        decode(png(3000, 3000, 8, 2, []), "large.png", COLOUR)


def test_threads_that_decode_leave_warnings_as_they_were() -> None:
    before, inside, left = list(warnings.filters), threading.Event(), threading.Event()

    def second() -> None:
        with images._SILENCE:
            inside.set()
            left.wait(10)

    with images._SILENCE:
        thread = threading.Thread(target=second)
        thread.start()
        assert inside.wait(10)
        warnings.warn("nobody hears this", stacklevel=1)
    left.set()
    thread.join()
    assert list(warnings.filters) == before
    with pytest.warns(UserWarning, match="this is heard"):
        warnings.warn("this is heard", stacklevel=1)


def test_a_chunk_that_pillow_stumbles_over_is_one_error() -> None:
    good = encode(Image.new("RGB", (4, 4)), "PNG")
    chunk = struct.pack(">I", 0) + b"iCCP" + struct.pack(">I", zlib.crc32(b"iCCP"))
    end = good.index(b"IEND") - 4
    with pytest.raises(PictureError, match="cannot be decoded"):
        decode(good[:end] + chunk + good[end:], "a.png", COLOUR)


def test_a_file_without_an_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "MAX_BYTES", 3 << 20)
    with pytest.raises(PictureError, match="is larger than the 3 MB that are allowed"):
        images.read_file(Path("/dev/zero"), "zero")
    with pytest.raises(PictureError, match=r"cannot be read .*null byte"):
        images.read_file(Path("a\0b.png"), "a")


def test_an_empty_file() -> None:
    with pytest.raises(PictureError, match=r"^a\.png: the file is empty$") as caught:
        decode(b"", "a.png", COLOUR)
    assert (caught.value.name, caught.value.reason) == ("a.png", "the file is empty")


def test_text_that_is_called_a_picture() -> None:
    for function in (lambda d, n: decode(d, n, COLOUR), read_header):
        with pytest.raises(PictureError, match=r"^b/a\.jpg: not a picture of a known format") as caught:
            function(b"<html>not found</html>\n" * 10, "b/a.jpg")
        assert caught.value.name == "b/a.jpg"


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "TIFF"])
@pytest.mark.parametrize("min_side", [None, 8])
def test_half_a_picture_cannot_be_decoded(kind: str, min_side: int | None) -> None:
    data = encode(Image.fromarray(noise(64, 64)), kind)
    with pytest.raises(PictureError, match=r"^cats/7\.img: ") as caught:
        decode(data[: len(data) // 2], "cats/7.img", COLOUR, min_side)
    assert caught.value.name == "cats/7.img"


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("JPEG", {}),
        ("PNG", {}),
        ("WEBP", {}),
        ("GIF", {}),
        ("BMP", {}),
        ("TIFF", {}),
        ("TIFF", {"compression": "jpeg"}),
    ],
)
def test_a_picture_cut_off_anywhere_is_whole_or_refused_by_name(kind: str, options: dict[str, Any]) -> None:
    data = encode(Image.fromarray(noise(20, 17)), kind, **options)
    refused = []
    for length in range(0, len(data), max(1, len(data) // 97)):
        try:
            assert pixels(data[:length]).shape == (20, 17, 3)
        except PictureError as error:
            refused.append(error.name)
    assert len(refused) > 30
    assert set(refused) == {"a picture"}
    assert pixels(data).shape == (20, 17, 3)


def test_stray_bytes_in_a_jpeg_are_passed_over() -> None:
    data = encode(Image.fromarray(smooth(32, 48)), "JPEG")
    stray = data[:-2] + b"\0" * 8 + data[-2:]
    with pytest.raises(ValueError, match="extraneous bytes"):
        simplejpeg.decode_jpeg(stray)  # which is why there is a second way to read it
    assert np.abs(pixels(stray).astype(int) - pixels(data)).max() <= 1
    assert np.abs(pixels(stray, GREY).astype(int) - pixels(data, GREY)).max() <= 1
    np.testing.assert_array_equal(pixels(data + b"more"), pixels(data))


# ---- decoding at a smaller size ----


def test_scaled_decoding_keeps_the_shorter_side() -> None:
    data = encode(Image.fromarray(smooth(200, 300)), "JPEG")
    whole = decode(data, "a picture", COLOUR)
    assert whole.size == (300, 200)
    for min_side in (1, 24, 25, 26, 49, 50, 51, 99, 100, 101, 150, 199, 200, 201, 1000):
        small = decode(data, "a picture", COLOUR, min_side)
        assert min(small.size) >= min(min_side, 200)
        assert small.size[0] / small.size[1] == pytest.approx(1.5, abs=0.03)
        shrunk = np.asarray(whole.resize(small.size, Image.Resampling.BOX), dtype=int)
        assert np.abs(np.asarray(small) - shrunk).mean() < 2
    assert decode(data, "a picture", COLOUR, 25).size == (38, 25)  # an eighth, rounded up
    assert decode(data, "a picture", COLOUR, 50).size == (75, 50)
    assert decode(data, "a picture", COLOUR, 100).size == (150, 100)


def test_only_jpeg_is_decoded_smaller() -> None:
    data = encode(Image.fromarray(noise(64, 64)), "PNG")
    np.testing.assert_array_equal(pixels(data, min_side=8), noise(64, 64))


# ---- the square ----


def striped(width: int, height: int) -> Image.Image:
    """Column x has the value 10 x, row y the value y in another channel."""
    y, x = np.mgrid[0:height, 0:width]
    return Image.fromarray(np.stack([10 * x, y, np.zeros_like(x)], axis=2).astype(np.uint8))


def test_the_square_is_the_middle_of_the_picture() -> None:
    four = Preprocess(size=4)
    wide = square(striped(12, 4), four)
    assert wide.shape == (4, 4, 3)
    assert wide.dtype == np.uint8
    assert wide[..., 0].tolist() == [[40, 50, 60, 70]] * 4
    assert wide[:, 0, 1].tolist() == [0, 1, 2, 3]
    tall = square(striped(4, 10), four)
    assert tall[..., 0].tolist() == [[0, 10, 20, 30]] * 4
    assert tall[:, 0, 1].tolist() == [3, 4, 5, 6]


def test_a_cut_between_two_pixels_averages_them() -> None:
    assert square(striped(5, 4), Preprocess(size=4))[0, :, 0].tolist() == [5, 15, 25, 35]


def test_crop_keeps_a_part_of_the_shorter_side() -> None:
    half = square(striped(12, 8), Preprocess(size=4, crop=0.5))  # a square of 4 pixels, 4 from the left, 2 from the top
    assert half[0, :, 0].tolist() == [40, 50, 60, 70]
    assert half[:, 0, 1].tolist() == [2, 3, 4, 5]


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic", "lanczos"])
def test_a_picture_of_the_right_size_is_not_touched(interpolation: Any) -> None:
    array = noise(8, 8)
    preprocess = Preprocess(size=8, interpolation=interpolation)
    np.testing.assert_array_equal(square(Image.fromarray(array), preprocess), array)
    grey = Preprocess(size=8, channels=1, mean=(0.5,), std=(0.5,), interpolation=interpolation)
    np.testing.assert_array_equal(square(Image.fromarray(array[..., 0]), grey), array[..., :1])


def test_resizing_does_not_alias() -> None:
    checks = Image.fromarray((np.indices((64, 64)).sum(axis=0) % 2 * 255).astype(np.uint8))
    smoothed = square(checks, GREY).astype(int)
    assert np.abs(smoothed - 127.5).max() <= 8
    nearest = Preprocess(size=8, channels=1, mean=(0.5,), std=(0.5,), interpolation="nearest")
    assert set(np.unique(square(checks, nearest))) <= {0, 255}


def test_resized_takes_its_box() -> None:
    part = resized(striped(12, 12), (2, 5, 6, 9), Preprocess(size=4))
    assert part[0, :, 0].tolist() == [20, 30, 40, 50]
    assert part[:, 0, 1].tolist() == [5, 6, 7, 8]
    of_the_same_size = resized(striped(4, 4), (0, 0, 2, 2), Preprocess(size=4, interpolation="nearest"))
    assert of_the_same_size[0, :, 0].tolist() == [0, 0, 10, 10]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("box", [(0, 0, 90, 70), (11, 5, 30, 64), (40, 40, 50, 44), (3, 3, 4, 4)], ids=str)
@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic", "lanczos"])
def test_a_training_crop_is_that_of_pillow(interpolation: Any, box: tuple[int, int, int, int], channels: int) -> None:
    preprocess = Preprocess(size=24, interpolation=interpolation)
    if channels == 1:
        preprocess = Preprocess(size=24, interpolation=interpolation, channels=1, mean=(0.5,), std=(0.5,))
    array = noise(70, 90)[..., :channels]
    expected = resized(from_array(array, "noise").crop(box), (0, 0, box[2] - box[0], box[3] - box[1]), preprocess)
    found = cropped(array, box, preprocess)
    assert (found.shape, found.dtype) == ((24, 24, channels), np.uint8)
    apart = np.abs(found.astype(int) - expected)
    assert apart.max() <= {"bilinear": 1, "bicubic": 8}.get(interpolation, 0)  # in noise; less in photographs
    assert apart.mean() < 0.5


# ---- to the network ----


def test_to_input_normalises_each_channel() -> None:
    preprocess = Preprocess(size=2, mean=(0.5, 0.0, 0.2), std=(0.25, 1.0, 0.1))
    squares = torch.tensor([[[[255, 255, 51], [0, 0, 0]], [[51, 51, 255], [102, 102, 102]]]], dtype=torch.uint8)
    result = to_input(squares, preprocess)
    assert result.dtype == torch.float32
    assert result.shape == (1, 3, 2, 2)
    expected = [
        [[2.0, -2.0], [-1.2, -0.4]],  # (v / 255 - 0.5) / 0.25
        [[1.0, 0.0], [0.2, 0.4]],
        [[0.0, -2.0], [8.0, 2.0]],  # (v / 255 - 0.2) / 0.1
    ]
    torch.testing.assert_close(result[0], torch.tensor(expected), rtol=0, atol=1e-6)


def test_to_input_is_channels_last() -> None:
    squares = torch.arange(2 * 4 * 4 * 3, dtype=torch.uint8).reshape(2, 4, 4, 3)
    result = to_input(squares, Preprocess(size=4, mean=(0, 0, 0), std=(1, 1, 1)))
    assert result.is_contiguous(memory_format=torch.channels_last)
    assert result[1, 2, 3, 0].item() == pytest.approx(squares[1, 3, 0, 2].item() / 255)
    halved = Preprocess(size=4, channels=1, mean=(0,), std=(2,))
    grey = to_input(torch.full((5, 4, 4, 1), 255, dtype=torch.uint8), halved)
    torch.testing.assert_close(grey, torch.full((5, 1, 4, 4), 0.5))


# ---- arrays ----


def test_from_array_takes_the_usual_shapes() -> None:
    array = np.random.default_rng(1).integers(0, 256, (5, 6, 4), dtype=np.uint8)
    for channels, mode in ((3, "RGB"), (4, "RGBA")):
        picture = from_array(array[..., :channels], "an array")
        assert picture.mode == mode
        np.testing.assert_array_equal(np.asarray(picture), array[..., :channels])
        tensor = torch.from_numpy(array[..., :channels].transpose(2, 0, 1).copy())
        np.testing.assert_array_equal(np.asarray(from_array(tensor, "a tensor")), array[..., :channels])
    for grey in (array[..., 0], array[..., :1], torch.from_numpy(array[..., 0]), torch.from_numpy(array[None, ..., 0])):
        picture = from_array(grey, "an array")
        assert picture.mode == "L"
        np.testing.assert_array_equal(np.asarray(picture), array[..., 0])


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64, np.int8, np.uint16, np.bool_])
def test_from_array_refuses_other_types(dtype: type) -> None:
    with pytest.raises(PictureError, match=rf"^picture 3: holds {np.dtype(dtype)}: give uint8 values in 0\.\.255"):
        from_array(np.zeros((4, 4, 3), dtype=dtype), "picture 3")


@pytest.mark.parametrize(
    "tensor",
    [
        torch.zeros(3, 4, 4),
        torch.zeros(3, 4, 4, dtype=torch.float16),
        torch.zeros(3, 4, 4, dtype=torch.bfloat16),
        torch.zeros(3, 4, 4, requires_grad=True),
    ],
    ids=["float32", "float16", "bfloat16", "requires_grad"],
)
def test_from_array_refuses_other_tensors(tensor: torch.Tensor) -> None:
    with pytest.raises(PictureError, match=r"^picture 3: holds .*float.*: give uint8"):
        from_array(tensor, "picture 3")


@pytest.mark.parametrize("shape", [(), (4,), (4, 4, 2), (3, 4, 6), (4, 4, 5), (1, 4, 4, 3), (0, 4, 3), (4, 0)])
def test_from_array_refuses_other_shapes(shape: tuple[int, ...]) -> None:
    with pytest.raises(PictureError, match=r"^picture 3: has shape \(.*\): give (a tensor|an array) \(H, W\)"):
        from_array(np.zeros(shape, dtype=np.uint8), "picture 3")
