"""One picture: from the bytes of a file, an array or a tensor to the uint8 square that a Preprocess describes."""

from __future__ import annotations

import io
import struct
import threading
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import simplejpeg
import torch
import torch.nn.functional as F
from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

from resvision.data.transfer import sent
from resvision.errors import PictureError
from resvision.preprocess import Preprocess

FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "GIF", "BMP", "TIFF", "PPM")
EXTENSIONS = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".avif", ".gif", ".bmp", ".tif", ".tiff"),
    *(".ppm", ".pgm", ".pbm", ".pnm"),
)
# Of pictures that are not read. They count as pictures all the same, so that a folder does not shrink without a word.
OTHER_EXTENSIONS = (
    *(".heic", ".heif", ".jxl", ".jp2", ".j2k", ".tga", ".ico", ".psd", ".svg"),
    *(".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf", ".rw2"),
)
MAX_PIXELS = 100_000_000  # a larger picture is refused before it is decoded (300 MB as RGB)
MAX_BYTES = 1 << 30  # a larger file is no picture
PIECE_BYTES = 1 << 20
EXIF_ORIENTATION = 0x0112
BITS_PER_SAMPLE, PHOTOMETRIC, WHITE_IS_ZERO = 0x0102, 0x0106, 0  # of TIFF
PPM_BINARY = (b"P4", b"P5", b"P6")
# What Pillow raises, by format.
UNDECODABLE = (
    *(OSError, ValueError, SyntaxError, EOFError, MemoryError, RuntimeError, struct.error),
    *(LookupError, TypeError, AttributeError, ArithmeticError, Image.DecompressionBombError),
)
APP1 = b"\xff\xe1"  # the marker before EXIF and XMP in a JPEG; pixels never hold it

UInt8Array = npt.NDArray[np.uint8]

_RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


_TURNS = {  # from what EXIF's orientation says to upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class PictureHeader(NamedTuple):
    """What is known of a picture before it is decoded: its size in pixels, and whether it has no colours."""

    width: int
    height: int
    grey: bool


def may_be_picture(head: bytes) -> bool:
    """Whether a file that begins with these bytes may be of a known format, as Pillow's decoders say."""
    Image.init()
    accepting = (Image.OPEN[name][1] for name in FORMATS if name in Image.OPEN)
    return any(accept is None or accept(head) is not False for accept in accepting)


class _Silence:
    """No warnings as long as anybody decodes.

    `catch_warnings` alone belongs to one thread: where two of them overlap, the one that leaves last puts back the
    filters of the other, and the process stays silent for good.
    """

    def __init__(self) -> None:
        self.lock, self.inside = threading.Lock(), 0
        self.warnings = warnings.catch_warnings(action="ignore")

    def __enter__(self) -> None:
        with self.lock:
            self.inside += 1
            if self.inside == 1:
                self.warnings = warnings.catch_warnings(action="ignore")
                self.warnings.__enter__()

    def __exit__(self, *_: object) -> None:
        with self.lock:
            self.inside -= 1
            if not self.inside:
                self.warnings.__exit__(None, None, None)


_SILENCE = _Silence()


def read_file(path: Path, name: str) -> bytes:
    """The content of a picture file.

    In pieces, since what is no picture may have no end.

    Raises:
        PictureError: it cannot be read, or is too large.
    """
    data = bytearray()
    if path.parts[:1] in (("http:",), ("https:",)):
        raise PictureError(name, "is a web address: fetch the picture first, and give the file")
    try:
        with path.open("rb") as file:
            while piece := file.read(PIECE_BYTES):
                data += piece
                if len(data) > MAX_BYTES:
                    raise PictureError(name, f"is larger than the {MAX_BYTES >> 20:,} MB that are allowed")
    except (OSError, ValueError) as error:
        raise PictureError(name, f"cannot be read ({getattr(error, 'strerror', None) or error})") from error
    return bytes(data)


def read_header(data: bytes, name: str) -> PictureHeader:
    """The header of a picture file; nothing is decoded.

    Raises:
        PictureError: the content is not a picture of a known format, or it is too large.
    """
    with _SILENCE:
        picture = _open(data, name)
    return PictureHeader(*picture.size, grey=picture.mode in ("1", "L", "LA") or picture.mode.startswith("I"))


def decode(data: bytes, name: str, preprocess: Preprocess, min_side: int | None = None) -> Image.Image:
    """Decodes a picture file, upright, on the background, as mode "L" or "RGB".

    Args:
        data: the whole file; its content decides the format.
        name: for messages.
        preprocess: gives channels, EXIF rule and background.
        min_side: allows a JPEG to be decoded at half of its size or less while its shorter side stays at least this
            many pixels; for training only, since it is not quite what full decoding and resizing gives.

    Raises:
        PictureError: the picture cannot be read.
    """
    with _SILENCE:  # of broken EXIF, which must not keep the pixels from being used
        picture = _open(data, name)
        try:
            if picture.format in ("JPEG", "MPO") and picture.mode in ("L", "RGB"):
                picture = _decode_jpeg(data, picture, preprocess, min_side)
            return upright(picture, name, preprocess)
        except UNDECODABLE as error:
            raise PictureError(name, f"cannot be decoded ({error})") from error


def decode_pixels(data: bytes, name: str, preprocess: Preprocess, min_side: int | None = None) -> UInt8Array:
    """What `decode` gives, as an array (H, W, C); an upright JPEG takes the short way, without Pillow."""
    if data.startswith(b"\xff\xd8") and APP1 not in data:
        try:
            height, width, colorspace, _ = simplejpeg.decode_jpeg_header(data)
            if height * width <= MAX_PIXELS and colorspace in ("Gray", "YCbCr", "RGB"):
                return _jpeg_pixels(data, preprocess, min_side)
        except ValueError:
            pass  # Pillow mends it, or says what is wrong
    return whole(decode(data, name, preprocess, min_side), preprocess)


def _open(data: bytes, name: str) -> Image.Image:
    if not data:
        raise PictureError(name, "the file is empty")
    try:
        picture = Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise PictureError(name, f"has more than the {MAX_PIXELS:,} pixels that are allowed") from error
    except UNDECODABLE as error:
        raise PictureError(name, f"not a picture of a known format ({', '.join(FORMATS)}): convert it") from error
    # Over a plain one, written in decimal digits, Pillow may take half a minute a megabyte: where it is all comments.
    if picture.format == "PPM" and not data.startswith(PPM_BINARY):
        raise PictureError(name, "of PPM, PGM and PBM only the binary kinds (P4, P5, P6) are read: convert it")
    width, height = picture.size
    if width * height > MAX_PIXELS:
        raise PictureError(name, f"{width} x {height} pixels are more than the {MAX_PIXELS:,} that are allowed")
    return picture


def _decode_jpeg(data: bytes, header: Image.Image, preprocess: Preprocess, min_side: int | None) -> Image.Image:
    """The pixels by libjpeg-turbo, about twice as fast as through Pillow; the EXIF orientation stays to be applied."""
    try:
        pixels = _jpeg_pixels(data, preprocess, min_side)
    except ValueError:  # simplejpeg also refuses what can be mended, such as stray bytes; Pillow tells them apart
        return header
    picture = Image.fromarray(pixels[..., 0] if preprocess.channels == 1 else pixels)
    if (orientation := _orientation(header)) != 1:
        picture.getexif()[EXIF_ORIENTATION] = orientation
    return picture


def _jpeg_pixels(data: bytes, preprocess: Preprocess, min_side: int | None) -> UInt8Array:
    """(H, W, C) as stored; ValueError where the file is not in order."""
    pixels: UInt8Array = simplejpeg.decode_jpeg(
        data,
        "GRAY" if preprocess.channels == 1 else "RGB",
        min_height=min_side or 0,
        min_width=min_side or 0,
        min_factor=2,  # 5/8, 6/8 and 7/8 take longer than the whole picture
    )
    return pixels


def upright(picture: Image.Image, name: str, preprocess: Preprocess) -> Image.Image:
    """Any picture, turned as its EXIF orientation asks, as mode "L" or "RGB". Raises PictureError."""
    if 0 in picture.size:
        raise PictureError(name, "has no pixels")
    try:
        picture.load()  # Pillow opens lazily; a PNG's EXIF may stand at its end, and a TIFF is turned in here
        if preprocess.exif and (turn := _TURNS.get(_orientation(picture))) is not None:
            picture = picture.transpose(turn)
        return flatten(picture, name, preprocess)
    except UNDECODABLE as error:
        raise PictureError(name, f"cannot be decoded ({error})") from error


def _orientation(picture: Image.Image) -> int:
    """What EXIF says of it; broken EXIF says nothing, and must not keep the pixels from being used."""
    try:
        orientation = picture.getexif().get(EXIF_ORIENTATION, 1)
    except UNDECODABLE:
        return 1
    return orientation if isinstance(orientation, int) else 1


def flatten(picture: Image.Image, name: str, preprocess: Preprocess) -> Image.Image:
    """Any mode as "L" or "RGB": 12 and 16 bits scaled to 8, transparent parts filled with the background.

    Raises:
        PictureError: the samples are 32 bits wide.
    """
    mode = "L" if preprocess.channels == 1 else "RGB"
    if picture.mode in ("I", "F") or picture.mode.startswith("I;16"):
        tags = picture.tag_v2 if isinstance(picture, TiffImageFile) else {}
        values, transparent = np.asarray(picture), picture.info.get("transparency")
        levels = _to_8_bits(values, tags.get(BITS_PER_SAMPLE, (16,))[0], name)
        # Pillow turns negatives of 8 bits over, and not those of 16.
        picture = Image.fromarray(255 - levels if tags.get(PHOTOMETRIC) == WHITE_IS_ZERO else levels)
        if transparent is not None:  # one of the 65,536 values
            picture.putalpha(Image.fromarray(np.where(values == transparent, 0, 255).astype(np.uint8)))
    if picture.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in picture.info:
        background = Image.new("RGBA", picture.size, preprocess.background)
        picture = Image.alpha_composite(background, picture.convert("RGBA"))
    return picture if picture.mode == mode else picture.convert(mode)


def _to_8_bits(values: npt.NDArray[np.generic], bits: int, name: str) -> UInt8Array:
    """Samples of 12 or 16 bits; what says nothing of its bits and has larger ones has 32."""
    if values.dtype.kind == "f" or bits > 16 or (values.size and (values.min() < 0 or values.max() > 65535)):
        raise PictureError(name, "32-bit samples have no known range: store the picture with 8 or 16 bits")
    return np.rint(values.astype(np.float32) * 255 / ((1 << bits) - 1)).astype(np.uint8)


def whole(picture: Image.Image, preprocess: Preprocess) -> UInt8Array:
    """All pixels of a flattened picture, (H, W, C)."""
    pixels = np.array(picture)
    return pixels.reshape(*pixels.shape[:2], preprocess.channels)


def square(picture: Image.Image, preprocess: Preprocess) -> UInt8Array:
    """The uint8 square (S, S, C) that the network sees of a flattened picture: what every evaluation uses."""
    width, height = picture.size
    side = min(width, height) * preprocess.crop
    left, top = (width - side) / 2, (height - side) / 2
    return resized(picture, (left, top, left + side, top + side), preprocess)


def resized(picture: Image.Image, box: tuple[float, float, float, float], preprocess: Preprocess) -> UInt8Array:
    """The part `box` (left, top, right, bottom, in pixels) of a picture, resized with antialiasing to (S, S, C)."""
    target = (preprocess.size, preprocess.size)
    if picture.size != target or box != (0, 0, *target):
        picture = picture.resize(target, _RESAMPLING[preprocess.interpolation], box=box)
    pixels = np.asarray(picture)
    return pixels.reshape(*pixels.shape[:2], preprocess.channels)


def cropped(pixels: UInt8Array, box: tuple[int, int, int, int], preprocess: Preprocess) -> UInt8Array:
    """The part `box` (left, top, right, bottom) of pixels (H, W, C), resized with antialiasing to (S, S, C).

    For training: PyTorch's bilinear filter gives Pillow's values within one level, in a third of the time.
    """
    left, top, right, bottom = box
    part = pixels[top:bottom, left:right]
    if preprocess.interpolation in ("bilinear", "bicubic"):
        return scaled(part, preprocess.size, preprocess.size, preprocess.interpolation)
    return resized(from_array(part, "a training picture"), (0, 0, right - left, bottom - top), preprocess)


def scaled(pixels: UInt8Array, height: int, width: int, interpolation: str = "bilinear") -> UInt8Array:
    """Pixels (H, W, C) resized with antialiasing to (height, width, C)."""
    whole = torch.from_numpy(pixels).permute(2, 0, 1)[None]  # (1, C, H, W)
    result = F.interpolate(whole, (height, width), mode=interpolation, antialias=True)
    return result[0].permute(1, 2, 0).numpy()


def from_array(array: npt.NDArray[np.generic] | torch.Tensor, name: str) -> Image.Image:
    """A picture from a uint8 array (H, W) or (H, W, C), or from a uint8 tensor (C, H, W), C in 1, 3 or 4.

    Raises:
        PictureError: another type or shape.
    """
    if array.dtype not in (np.uint8, torch.uint8):
        raise PictureError(name, f"holds {array.dtype}: give uint8 values in 0..255")
    is_tensor = isinstance(array, torch.Tensor)
    channels = 1 if array.ndim == 2 else array.shape[0 if is_tensor else -1] if array.ndim == 3 else 0
    if 0 in array.shape or channels not in (1, 3, 4):
        wanted = "a tensor (H, W) or (C, H, W)" if is_tensor else "an array (H, W) or (H, W, C)"
        raise PictureError(name, f"has shape {tuple(array.shape)}: give {wanted}, C in 1, 3, 4")
    if isinstance(array, torch.Tensor):
        array = (array.permute(1, 2, 0) if array.ndim == 3 else array).cpu().numpy()
    if array.ndim == 3 and channels == 1:
        array = array[..., 0]
    return Image.fromarray(np.ascontiguousarray(array))


def blank(preprocess: Preprocess, count: int) -> torch.Tensor:
    """Black uint8 squares (count, S, S, C), for timings.

    NumPy makes them: filling a tensor wakes PyTorch's threads, which go on spinning for some milliseconds beside
    whatever is timed. OpenVINO took 8.1 ms then for what takes it 4.4.
    """
    return torch.from_numpy(np.zeros((count, preprocess.size, preprocess.size, preprocess.channels), dtype=np.uint8))


def to_input(squares: torch.Tensor, preprocess: Preprocess) -> torch.Tensor:
    """Normalises uint8 squares (N, S, S, C) to the network's float32 input (N, C, S, S), stored channels last."""
    # Whole rows of pixels at once: over three channels alone a processor's vector units would stay empty.
    count, height, width, channels = squares.shape
    scale = sent(torch.tensor([1 / (255 * s) for s in preprocess.std] * width), squares.device)
    shifts = [-m / s for m, s in zip(preprocess.mean, preprocess.std, strict=True)]
    offset = sent(torch.tensor(shifts * width), squares.device)
    rows = squares.reshape(count, height, width * channels).float()
    return torch.addcmul(offset, rows, scale, out=rows).view(squares.shape).permute(0, 3, 1, 2)
