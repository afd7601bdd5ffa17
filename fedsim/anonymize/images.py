"""Images without what a camera or an editor wrote beside the picture.

EXIF (place, time, camera, owner), XMP, IPTC, comments, thumbnails and text are removed. JPEG, PNG
and WebP are taken apart and put together again without touching the coded picture, so that its
pixels stay what they were; TIFF, and pictures that EXIF turns, are coded again without loss where
the format can (a turned JPEG cannot: it is coded again at quality 95, and `Stripped.is_recoded`
says so). What the picture itself shows stays, faces and name tags included: nothing here looks for
them. `Region`s that a person gives are covered.

JPEG segments: ITU-T T.81, annex B. PNG chunks: W3C PNG specification, third edition. RIFF chunks of
WebP: RFC 9649.
"""

import io
import struct
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from fedsim.errors import ConfigError, DataError, Problem, SetupError
from fedsim.files import replacing

if TYPE_CHECKING:
    from PIL.Image import Image, Transpose

__all__ = ["SUFFIXES", "Region", "Stripped", "strip", "strip_file", "strip_folder"]

#: the files that `strip_folder` takes for images
SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".webp")
_FORMATS = ("JPEG", "PNG", "TIFF", "WEBP")
_MOST_PIXELS = 2**28  # a picture of a gigabyte: larger ones are refused before they are unpacked
_ORIENTATION = 0x0112

# Chunks of PNG that tell how the picture looks; all others go. acTL, fcTL, fdAT: animation.
_PNG_KEPT = frozenset(
    (b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS", b"gAMA", b"cHRM", b"sRGB", b"sBIT", b"bKGD",
     b"pHYs", b"cICP", b"mDCV", b"cLLI", b"acTL", b"fcTL", b"fdAT")
)  # fmt: skip
_WEBP_KEPT = frozenset((b"VP8 ", b"VP8L", b"VP8X", b"ALPH", b"ANIM", b"ANMF"))


@dataclass(frozen=True, slots=True)
class Region:
    """A box of the picture to cover, in pixels from the top left, after turning it upright.

    `how`: "fill" paints it black and "pixelate" leaves at most 4 x 4 blocks of one colour; neither
    can be undone. "blur" looks better and is weak: text and faces have been recognized in blurred
    pictures (McPherson et al., "Defeating Image Obfuscation with Deep Learning", 2016).
    """

    left: int
    top: int
    right: int
    bottom: int
    how: Literal["fill", "pixelate", "blur"] = "fill"

    def __post_init__(self) -> None:
        """Raise `ConfigError` for an empty box, one outside of any picture, an unknown way."""
        problems = []
        if not 0 <= self.left < self.right or not 0 <= self.top < self.bottom:
            box = (self.left, self.top, self.right, self.bottom)
            problems.append(Problem("region", box, "0 <= left < right and 0 <= top < bottom"))
        if self.how not in ("fill", "pixelate", "blur"):
            problems.append(Problem("region.how", self.how, "one of fill, pixelate, blur"))
        if problems:
            raise ConfigError(problems)


@dataclass(frozen=True, slots=True)
class Stripped:
    """An image without metadata: its bytes, its format, and whether its pixels were coded again."""

    content: bytes
    format: str
    is_recoded: bool


def strip(
    content: bytes,
    *,
    regions: Sequence[Region] = (),
    keep_colour_profile: bool = False,
    name: str = "image",
) -> Stripped:
    """Return an image without metadata, upright, with regions covered.

    `keep_colour_profile`: leave the ICC profile, which colours may depend on and which can name a
    device. Raise `DataError` for what is no JPEG, PNG, TIFF or WebP, is damaged, or has more pixels
    than fit into memory, and `ConfigError` for a region outside of the picture.
    """
    with warnings.catch_warnings(action="ignore"):  # Pillow's, of metadata that is broken
        return _stripped(content, regions, keep_colour_profile, name)


def _stripped(
    content: bytes, regions: Sequence[Region], keep_colour_profile: bool, name: str
) -> Stripped:
    image = _opened(content, name)
    kind, orientation = str(image.format), _orientation(image)
    if kind == "MPO":  # a JPEG with more pictures behind it, which go
        kind, content = "JPEG", _taken_apart(content, "JPEG", keep_colour_profile, name)
        image = _opened(content, name)
    if not regions and orientation == 1 and kind != "TIFF":
        stripped = _taken_apart(content, kind, keep_colour_profile, name)
        _pixels(_opened(stripped, name), name)  # what was put together can be read
        return Stripped(stripped, kind, is_recoded=False)
    return _recoded(image, kind, orientation, regions, keep_colour_profile, name)


def _taken_apart(content: bytes, kind: str, keep_colour_profile: bool, name: str) -> bytes:
    """Return a file without the parts that hold metadata."""
    parts = {"JPEG": _jpeg, "PNG": _png, "WEBP": _webp}[kind]
    try:
        return b"".join(parts(content, keep_colour_profile))
    except (struct.error, IndexError, ValueError) as error:
        raise DataError(f"{name}: a damaged {kind} file ({error})") from error


def strip_file(
    path: Path,
    target: Path | None = None,
    *,
    regions: Sequence[Region] = (),
    keep_colour_profile: bool = False,
) -> Stripped:
    """Strip a file into `target`, by default in its place: whole or not at all.

    Raise as `strip` does, and `SetupError` for a file that cannot be read or written.
    """
    try:
        content = path.read_bytes()
        stripped = strip(
            content, regions=regions, keep_colour_profile=keep_colour_profile, name=str(path)
        )
        with replacing(path if target is None else target) as file:
            file.write(stripped.content)
    except OSError as error:
        raise SetupError(f"cannot strip {path}: {error.strerror or error}") from error
    return stripped


def strip_folder(
    source: Path,
    target: Path,
    *,
    keep_colour_profile: bool = False,
    advance: Callable[[Path], None] | None = None,
) -> dict[Path, Stripped]:
    """Strip every image under a folder into another one, under the same names.

    Files that are no images by name are not copied: they may hold anything. All images are checked
    before the first one is written; `advance` is told of each one that is. Raise `DataError` that
    names every file that cannot be stripped, and `SetupError` where there is nothing to strip.
    """
    if not source.is_dir():
        raise SetupError(f"{source} is no folder")
    paths = sorted(p for p in source.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
    if not paths:
        raise SetupError(f"no images in {source}: files that end with {', '.join(SUFFIXES)}")
    _refuse_broken(paths)
    done = {}
    for path in paths:
        goal = target / path.relative_to(source)
        try:
            goal.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SetupError(f"cannot make {goal.parent}: {error.strerror or error}") from error
        done[goal] = strip_file(path, goal, keep_colour_profile=keep_colour_profile)
        if advance is not None:
            advance(goal)
    return done


def _refuse_broken(paths: Iterable[Path]) -> None:
    """Raise `DataError` with every file that is no image, before anything is written."""
    problems = []
    for path in paths:
        try:
            strip(path.read_bytes(), name=str(path))
        except DataError as error:
            problems.append(str(error))
        except OSError as error:
            problems.append(f"{path}: {error.strerror or error}")
    if problems:
        raise DataError("\n".join(problems))


def _opened(content: bytes, name: str) -> "Image":
    from PIL import Image, UnidentifiedImageError

    try:
        image = Image.open(io.BytesIO(content), formats=_FORMATS)
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError) as error:
        raise DataError(f"{name}: no JPEG, PNG, TIFF or WebP image that can be read") from error
    except Image.DecompressionBombError as error:
        raise DataError(f"{name}: too many pixels for one picture") from error
    if image.width * image.height > _MOST_PIXELS:
        raise DataError(f"{name}: {image.width} x {image.height} pixels, at most 2^28 are read")
    return image


def _pixels(image: "Image", name: str) -> None:
    """Decode a picture; raise `DataError` where it is cut off or damaged."""
    try:
        image.load()
    except (OSError, ValueError, SyntaxError, EOFError, struct.error) as error:
        raise DataError(f"{name}: a damaged {image.format} file ({error})") from error


def _orientation(image: "Image") -> int:
    try:
        found = image.getexif().get(_ORIENTATION, 1)
    except (OSError, ValueError, SyntaxError, KeyError, TypeError, struct.error):
        return 1  # broken EXIF goes with the rest
    return found if isinstance(found, int) and 1 <= found <= 8 else 1


def _jpeg(content: bytes, keep_colour_profile: bool) -> Iterator[bytes]:
    """Yield a JPEG's segments without APPn and COM; JFIF and Adobe's say how to read colours.

    Whatever follows the end of the image, such as a second picture or a video, is left out. JFIF's
    own thumbnail is left out too.
    """
    yield content[:2]
    at = 2
    while True:
        if content[at] != 0xFF:
            raise ValueError("no marker where one should be")
        marker = content[at + 1]
        if marker == 0xD9:
            yield content[at : at + 2]
            return
        if marker == 0xFF:  # a fill byte
            at += 1
            continue
        size = int(struct.unpack_from(">H", content, at + 2)[0])
        end = at + 2 + size
        if marker == 0xDA:
            end = _end_of_scan(content, end)
            yield content[at:end]
        else:
            yield _kept_segment(marker, content[at:end], keep_colour_profile)
        at = end


def _kept_segment(marker: int, segment: bytes, keep_colour_profile: bool) -> bytes:
    """Return what stays of a segment between the markers of a picture, or nothing."""
    body = segment[4:]
    if marker == 0xE0 and body.startswith(b"JFIF\0"):
        return segment[:2] + struct.pack(">H", 16) + body[:12] + b"\0\0"
    if marker == 0xEE and body.startswith(b"Adobe"):
        return segment[:2] + struct.pack(">H", 14) + body[:12]
    is_profile = marker == 0xE2 and body.startswith(b"ICC_PROFILE\0")
    is_metadata = 0xE0 <= marker <= 0xEF or marker == 0xFE
    return b"" if is_metadata and not (is_profile and keep_colour_profile) else segment


def _end_of_scan(content: bytes, at: int) -> int:
    """Return where coded data ends: at a marker that is no stuffed byte and no restart."""
    while True:
        at = content.index(b"\xff", at)
        if content[at + 1] != 0 and not 0xD0 <= content[at + 1] <= 0xD7:
            return at
        at += 2


def _png(content: bytes, keep_colour_profile: bool) -> Iterator[bytes]:
    """Yield the signature and the chunks that make the picture; nothing after its end."""
    kept = _PNG_KEPT | {b"iCCP"} if keep_colour_profile else _PNG_KEPT
    yield content[:8]
    at = 8
    while True:
        size, kind = struct.unpack_from(">I4s", content, at)
        if kind in kept:
            yield content[at : at + 12 + size]
        at += 12 + size
        if kind == b"IEND":
            return


def _webp(content: bytes, keep_colour_profile: bool) -> Iterator[bytes]:
    """Yield RIFF chunks that make the picture, with the flags of those that are gone cleared."""
    kept = _WEBP_KEPT | {b"ICCP"} if keep_colour_profile else _WEBP_KEPT
    length = min(len(content), 8 + int(struct.unpack_from("<I", content, 4)[0]))
    at, chunks = 12, []
    while at + 8 <= length:
        kind, size = struct.unpack_from("<4sI", content, at)
        chunk = content[at : at + 8 + size + size % 2]
        if kind == b"VP8X":
            flags = chunk[8] & ~(0x08 | 0x04 | (0 if keep_colour_profile else 0x20))
            chunk = chunk[:8] + bytes([flags]) + chunk[9:]
        if kind in kept:
            chunks.append(chunk)
        at += 8 + size + size % 2
    body = b"WEBP" + b"".join(chunks)
    yield b"RIFF" + struct.pack("<I", len(body)) + body


def _recoded(
    image: "Image",
    kind: str,
    orientation: int,
    regions: Sequence[Region],
    keep_colour_profile: bool,
    name: str,
) -> Stripped:
    """Code a picture again, upright and covered, from nothing but its pixels."""
    from PIL import Image

    count = getattr(image, "n_frames", 1)
    if count > 1:
        raise DataError(
            f"{name}: {count} pictures in one {kind} file, which can only be coded again one by "
            "one. Split it into files of one picture"
        )
    _pixels(image, name)
    if kind == "TIFF":  # Pillow turns these while it reads them
        orientation = 1
    turn = _turns().get(orientation)
    upright = image if turn is None else image.transpose(turn)
    clean = Image.frombytes(upright.mode, upright.size, upright.tobytes())
    if upright.mode == "P":
        clean.putpalette(upright.getpalette("RGB") or [], "RGB")
    options: dict[str, object] = dict(_CODING[kind])
    if keep_colour_profile and "icc_profile" in image.info:
        options["icc_profile"] = image.info["icc_profile"]
    if kind == "PNG" and "transparency" in image.info and not regions:
        options["transparency"] = image.info["transparency"]
    target = io.BytesIO()
    try:
        for region in regions:
            clean = _covered(clean, region, name)
        clean.save(target, kind, **options)
    except (OSError, ValueError) as error:
        raise DataError(f"{name}: {kind} cannot hold this picture again ({error})") from error
    return Stripped(target.getvalue(), kind, is_recoded=True)


_CODING: dict[str, dict[str, object]] = {
    "JPEG": {"quality": 95, "subsampling": 0},
    "PNG": {},
    "TIFF": {"compression": "tiff_deflate"},
    "WEBP": {"lossless": True, "exact": True},
}


def _turns() -> dict[int, "Transpose"]:
    """Return what makes a picture upright, by EXIF's orientation (CIPA DC-008, 4.6.4)."""
    from PIL.Image import Transpose

    return {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }


def _covered(image: "Image", region: Region, name: str) -> "Image":
    """Return a picture with a region covered; one with a palette has its colours written out."""
    from PIL import Image, ImageFilter

    if region.right > image.width or region.bottom > image.height:
        box = (region.left, region.top, region.right, region.bottom)
        raise ConfigError(
            [Problem("region", box, f"inside {image.width} x {image.height} pixels ({name})")]
        )
    if image.mode in ("P", "1"):
        image = image.convert("RGB" if image.mode == "P" else "L")
    place = (region.left, region.top, region.right, region.bottom)
    piece = image.crop(place)
    if region.how == "fill":
        piece = Image.new(image.mode, piece.size, _black(image.mode))
    elif region.how == "pixelate":
        blocks = (min(4, piece.width), min(4, piece.height))
        piece = piece.resize(blocks, Image.Resampling.BOX).resize(
            piece.size, Image.Resampling.NEAREST
        )
    else:
        piece = piece.filter(ImageFilter.GaussianBlur(max(piece.size) / 8))
    image.paste(piece, place)
    return image


def _black(mode: str) -> int | tuple[int, ...]:
    """Return black, opaque where the mode has transparency."""
    return {"RGBA": (0, 0, 0, 255), "LA": (0, 255), "CMYK": (0, 0, 0, 255)}.get(mode, 0)
