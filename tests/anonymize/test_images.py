"""Images made here with metadata in every place that their format has for it."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from fedsim.anonymize.images import Region, strip, strip_file, strip_folder
from fedsim.errors import ConfigError, DataError, SetupError

SECRET = b"Jane Doe 52.5200N 13.4050E"
ORIENTATIONS = range(1, 9)


def picture(width=32, height=24, mode="RGB", seed=0) -> Image.Image:
    rng = np.random.default_rng(seed)
    channels = {"RGB": 3, "RGBA": 4, "L": 1}[mode]
    smooth = rng.integers(0, 256, (height // 8, width // 8, channels), dtype=np.uint8)
    pixels = smooth.repeat(8, axis=0).repeat(8, axis=1)
    return Image.fromarray(pixels.squeeze())


def exif(orientation: int = 1) -> Image.Exif:
    found = Image.Exif()
    found[0x0112] = orientation
    found[0x010E] = SECRET.decode()  # ImageDescription
    found[0x013B] = SECRET.decode()  # Artist
    found.get_ifd(0x8825)[1] = "N"  # GPSLatitudeRef
    found.get_ifd(0x8825)[2] = (52.0, 31.0, 12.0)
    return found


def xmp() -> bytes:
    return b"<x:xmpmeta xmlns:x='adobe:ns:meta/'>" + SECRET + b"</x:xmpmeta>"


def segment(marker: int, body: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body


def jpeg(image: Image.Image, orientation: int = 1, **options) -> bytes:
    """A JPEG with EXIF, XMP, IPTC, a comment, an ICC profile and a trailing file."""
    target = io.BytesIO()
    image.save(target, "JPEG", exif=exif(orientation), icc_profile=b"profile " + SECRET, **options)
    content = target.getvalue()
    extra = segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + xmp())
    extra += segment(0xED, b"Photoshop 3.0\0" + SECRET) + segment(0xFE, SECRET)
    return content[:2] + extra + content[2:] + b"trailer " + SECRET


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(image: Image.Image, orientation: int = 1) -> bytes:
    """A PNG with text in three kinds of chunks, EXIF, XMP, a time and an unknown chunk."""
    texts = PngImagePlugin.PngInfo()
    texts.add_text("Author", SECRET.decode())
    texts.add_text("Comment", SECRET.decode(), zip=True)
    texts.add_itxt("XML:com.adobe.xmp", xmp().decode())
    target = io.BytesIO()
    image.save(target, "PNG", pnginfo=texts, exif=exif(orientation), dpi=(300, 300))
    content = target.getvalue()
    place = content.index(b"IDAT") - 4
    extra = chunk(b"tIME", bytes(7)) + chunk(b"prVt", SECRET)
    return content[:place] + extra + content[place:] + b"trailer " + SECRET


def webp(image: Image.Image, orientation: int = 1, **options) -> bytes:
    target = io.BytesIO()
    image.save(target, "WEBP", exif=exif(orientation).tobytes(), xmp=xmp(), **options)
    return target.getvalue()


def tiff(image: Image.Image, orientation: int = 1) -> bytes:
    target = io.BytesIO()
    image.save(target, "TIFF", exif=exif(orientation), compression="tiff_lzw")
    return target.getvalue()


def pixels(content: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(content)) as image:
        return np.asarray(image)


def assert_is_clean(content: bytes) -> None:
    for word in (SECRET, b"Exif", b"xmpmeta", b"Photoshop", b"ICC_PROFILE", b"trailer", b"tEXt"):
        assert word not in content
    with Image.open(io.BytesIO(content)) as image:
        image.load()
        assert set(image.getexif()) <= set(range(0x100, 0x160)) - {0x10E, 0x13B}  # TIFF's layout
        assert not image.getexif().get_ifd(0x8825)
        assert not getattr(image, "text", {})
        assert "comment" not in image.info
        assert "xmp" not in image.info
        assert "icc_profile" not in image.info


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"quality": 100}], ids=str)
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_a_jpeg_keeps_its_coded_picture(mode, options):
    content = jpeg(picture(mode=mode), **options)
    assert content.count(SECRET) >= 5
    stripped = strip(content)
    assert not stripped.is_recoded
    assert_is_clean(stripped.content)
    np.testing.assert_array_equal(pixels(stripped.content), pixels(content))
    scan = content[content.index(b"\xff\xda") : content.index(b"\xff\xd9") + 2]
    assert scan in stripped.content


def test_cmyk_keeps_the_marker_that_says_how_to_read_it():
    target = io.BytesIO()
    picture().convert("CMYK").save(target, "JPEG", comment=SECRET)
    stripped = strip(target.getvalue())
    np.testing.assert_array_equal(pixels(stripped.content), pixels(target.getvalue()))
    assert_is_clean(stripped.content)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L"])
def test_a_png_keeps_its_coded_picture(mode):
    content = png(picture(mode=mode))
    stripped = strip(content)
    assert not stripped.is_recoded
    assert_is_clean(stripped.content)
    np.testing.assert_array_equal(pixels(stripped.content), pixels(content))
    with Image.open(io.BytesIO(stripped.content)) as image:
        assert image.info["dpi"] == pytest.approx((300, 300), abs=0.01)


@pytest.mark.parametrize("options", [{"lossless": True}, {"quality": 80}], ids=str)
@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_a_webp_keeps_its_coded_picture(mode, options):
    content = webp(picture(mode=mode), **options)
    assert SECRET in content
    stripped = strip(content)
    assert not stripped.is_recoded
    assert_is_clean(stripped.content)
    np.testing.assert_array_equal(pixels(stripped.content), pixels(content))


def test_a_tiff_is_coded_again_without_loss():
    content = tiff(picture())
    assert SECRET in content
    stripped = strip(content)
    assert stripped.is_recoded
    assert_is_clean(stripped.content)
    np.testing.assert_array_equal(pixels(stripped.content), pixels(content))


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("make", [png, webp, tiff, jpeg], ids=lambda make: make.__name__)
def test_pictures_are_turned_upright_before_the_note_that_says_so_goes(make, orientation):
    options = {"lossless": True} if make is webp else {"quality": 100} if make is jpeg else {}
    content = make(picture(), orientation, **options)
    raw = pixels(jpeg(picture(), 1, quality=100)) if make is jpeg else np.asarray(picture())
    # The eight ways of EXIF, written out independently of Pillow's own table.
    upright = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.swapaxes(0, 1),
        6: lambda a: a[::-1].swapaxes(0, 1),
        7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
        8: lambda a: a[:, ::-1].swapaxes(0, 1),
    }[orientation](raw)
    stripped = strip(content)
    assert_is_clean(stripped.content)
    found = pixels(stripped.content)
    assert found.shape == upright.shape
    # Coding a JPEG again at quality 95 moves these saturated colours by up to 13 of 255; a wrong
    # turn by more than 100.
    loss = 16 if make is jpeg and orientation > 1 else 0
    assert np.abs(found.astype(int) - upright.astype(int)).max() <= loss


def test_a_colour_profile_stays_where_it_is_asked_for():
    content = jpeg(picture())
    kept = strip(content, keep_colour_profile=True)
    with Image.open(io.BytesIO(kept.content)) as image:
        assert image.info["icc_profile"] == b"profile " + SECRET
    assert b"Exif" not in kept.content


def test_a_palette_and_its_transparent_colour_survive_being_turned():
    image = picture().convert("P", palette=Image.Palette.ADAPTIVE, colors=8)
    target = io.BytesIO()
    image.save(target, "PNG", transparency=3, exif=exif(3))
    stripped = strip(target.getvalue())
    with (
        Image.open(io.BytesIO(stripped.content)) as found,
        Image.open(io.BytesIO(target.getvalue())) as before,
    ):
        assert found.info["transparency"] == 3
        turned = np.asarray(before.convert("RGBA"))[::-1, ::-1]
        np.testing.assert_array_equal(np.asarray(found.convert("RGBA")), turned)


def test_thumbnails_go_with_jfif():
    body = b"JFIF\0\1\1\0" + struct.pack(">HH", 1, 1) + b"\2\2" + bytes(12)
    content = jpeg(picture())
    assert content[2:4] != b"\xff\xe0"
    with_thumbnail = content[:2] + segment(0xE0, body) + content[2:]
    stripped = strip(with_thumbnail).content
    assert stripped[2:20] == segment(0xE0, body[:12] + b"\0\0")


@pytest.mark.parametrize("how", ["fill", "pixelate", "blur"])
@pytest.mark.parametrize("make", [png, webp, tiff], ids=lambda make: make.__name__)
def test_a_region_is_covered_and_nothing_else(make, how):
    rng = np.random.default_rng(1)
    image = Image.fromarray(rng.integers(0, 256, (24, 32, 3), dtype=np.uint8))
    content = make(image, lossless=True) if make is webp else make(image)
    found = pixels(strip(content, regions=[Region(8, 4, 24, 20, how)]).content)
    before = np.asarray(image)
    outside = np.ones((24, 32), bool)
    outside[4:20, 8:24] = False
    np.testing.assert_array_equal(found[outside], before[outside])
    inside = found[4:20, 8:24]
    colours = len(np.unique(inside.reshape(-1, 3), axis=0))
    if how == "fill":
        assert not inside.any()
    elif how == "pixelate":
        assert colours <= 16
        assert np.array_equal(inside[0, 0], inside[3, 3])
    else:
        assert inside.std() < before[4:20, 8:24].std() / 2


def test_pixelating_is_the_mean_of_each_block():
    image = np.zeros((8, 8, 3), np.uint8)
    image[:, 4:] = 200
    content = io.BytesIO()
    Image.fromarray(image).save(content, "PNG")
    region = Region(0, 0, 8, 8, "pixelate")
    np.testing.assert_array_equal(
        pixels(strip(content.getvalue(), regions=[region]).content), image
    )


@pytest.mark.parametrize("box", [(0, 0, 33, 10), (0, 0, 10, 25)])
def test_a_region_outside_is_refused(box):
    with pytest.raises(ConfigError, match="inside 32 x 24"):
        strip(png(picture()), regions=[Region(*box)])


def test_an_impossible_region_is_refused():
    with pytest.raises(ConfigError, match="left < right"):
        Region(5, 0, 5, 3)
    with pytest.raises(ConfigError, match="pixelate"):
        Region(0, 0, 5, 3, "smear")


@pytest.mark.parametrize(
    "content",
    [b"", b"GIF89a", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF\0\0\0\0WEBP", b"II*\0"],
)
def test_what_is_no_image_is_refused(content):
    with pytest.raises(DataError, match="scan"):
        strip(content, name="scan")


@pytest.mark.parametrize("make", [png, webp, jpeg, tiff], ids=lambda make: make.__name__)
def test_a_file_that_is_cut_off_is_refused(make):
    content = make(picture(64, 64, seed=2))
    end = content.index(b"trailer") if b"trailer" in content else len(content)
    for stop in (end // 2, end - 40):
        with pytest.raises(DataError):
            strip(content[:stop])


def test_several_pictures_in_one_file_are_not_silently_one():
    frames = [picture(seed=1), picture(seed=2)]
    target = io.BytesIO()
    frames[0].save(target, "TIFF", save_all=True, append_images=frames[1:])
    with pytest.raises(DataError, match="2 pictures"):
        strip(target.getvalue())


def test_an_animation_stays_one():
    frames = [picture(seed=1), picture(seed=2)]
    for kind in ("PNG", "WEBP"):
        target = io.BytesIO()
        frames[0].save(target, kind, save_all=True, append_images=frames[1:], lossless=True)
        stripped = strip(target.getvalue())
        with Image.open(io.BytesIO(stripped.content)) as image:
            assert image.n_frames == 2


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "a.jpg"
    path.write_bytes(jpeg(picture()))
    strip_file(path)
    assert_is_clean(path.read_bytes())
    (tmp_path / "b.jpg").write_bytes(b"no image")
    with pytest.raises(DataError):
        strip_file(tmp_path / "b.jpg")
    assert (tmp_path / "b.jpg").read_bytes() == b"no image"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.jpg", "b.jpg"]
    with pytest.raises(SetupError, match=r"c\.jpg"):
        strip_file(tmp_path / "c.jpg")


def test_a_folder_is_stripped_into_another(tmp_path):
    source = tmp_path / "in"
    (source / "deep").mkdir(parents=True)
    (source / "a.JPG").write_bytes(jpeg(picture()))
    (source / "deep" / "b.png").write_bytes(png(picture()))
    (source / "notes.txt").write_bytes(SECRET)
    seen = []
    done = strip_folder(source, tmp_path / "out", advance=seen.append)
    written = sorted(p for p in (tmp_path / "out").rglob("*") if p.is_file())
    assert written == sorted(done) == sorted(seen)
    assert [p.name for p in written] == ["a.JPG", "b.png"]
    for path in written:
        assert_is_clean(path.read_bytes())


def test_a_folder_with_a_broken_image_writes_nothing(tmp_path):
    source = tmp_path / "in"
    source.mkdir()
    (source / "a.jpg").write_bytes(jpeg(picture()))
    (source / "b.jpg").write_bytes(b"broken")
    (source / "c.png").write_bytes(b"broken too")
    with pytest.raises(DataError) as caught:
        strip_folder(source, tmp_path / "out")
    assert "b.jpg" in str(caught.value)
    assert "c.png" in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_folder_without_images_says_so(tmp_path):
    with pytest.raises(SetupError, match="no images"):
        strip_folder(tmp_path, tmp_path / "out")
    with pytest.raises(SetupError, match="no folder"):
        strip_folder(tmp_path / "missing", tmp_path / "out")
