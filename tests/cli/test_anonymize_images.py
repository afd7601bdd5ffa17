"""`fedsim anonymize images`: pictures written anew, the source untouched."""

import json

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from fedsim.cli.anonymize import app
from fedsim.errors import ConfigError

MARK = b"Ulm, 3 May 2021"


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "in" / "deep" / "ward.jpg"
    path.parent.mkdir(parents=True)
    noise = np.random.default_rng(1).integers(0, 255, (40, 60, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x010E] = MARK.decode()
    Image.fromarray(noise).save(path, quality=95, exif=exif)
    assert MARK in path.read_bytes()
    return path


def call(*arguments):
    result = CliRunner().invoke(app, ["images", *map(str, arguments)], catch_exceptions=True)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


def test_a_folder_is_written_under_the_same_names(picture, tmp_path):
    before = picture.read_bytes()
    out = tmp_path / "out"
    answer = json.loads(call(tmp_path / "in", "-o", out, "--json").splitlines()[-1])
    made = out / "deep" / "ward.jpg"
    assert answer["images"] == [str(made)]
    assert answer["coded_again"] == []
    assert MARK not in made.read_bytes()
    assert picture.read_bytes() == before
    np.testing.assert_array_equal(np.asarray(Image.open(made)), np.asarray(Image.open(picture)))


def test_a_region_of_one_picture_is_covered(picture, tmp_path):
    out = tmp_path / "covered.jpg"
    assert "coded again" in call(picture, "-o", out, "--cover", "8,8,24,24")
    pixels = np.asarray(Image.open(out)).astype(int)
    assert pixels[12:20, 12:20].max() < 30  # black, but for what JPEG makes of it
    assert pixels[:, 40:].mean() > 80


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--cover", "1,2,3"], "four whole numbers"),
        (["--cover", "5,5,5,9"], "left < right"),
        (["--cover", "1,1,9,9:smear"], "fill, pixelate, blur"),
    ],
    ids=["three", "empty", "unknown"],
)
def test_regions_that_are_none_are_refused(picture, tmp_path, options, words):
    out = tmp_path / "out.jpg"
    with pytest.raises(ConfigError, match=words):
        call(picture, "-o", out, *options)
    assert not out.exists()


def test_the_source_is_never_overwritten_and_many_have_no_common_box(picture, tmp_path):
    with pytest.raises(ConfigError, match="SOURCE"):
        call(picture, "-o", picture)
    with pytest.raises(ConfigError, match="one image"):
        call(tmp_path / "in", "-o", tmp_path / "out", "--cover", "1,1,9,9")
