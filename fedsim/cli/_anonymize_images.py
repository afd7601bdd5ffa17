"""`fedsim anonymize images`: pictures without metadata, with regions covered."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedsim.cli._output import Json, print_json

if TYPE_CHECKING:
    from fedsim.anonymize.images import Region, Stripped

__all__ = ["images"]


def images(
    source: Annotated[Path, typer.Argument(metavar="SOURCE", help="An image, or a folder.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="PATH", help="The file or folder to write.")
    ],
    cover: Annotated[
        list[str] | None,
        typer.Option(
            metavar="L,T,R,B[:HOW]",
            help="A region of one image, in pixels: fill (the default), pixelate, or blur (weak).",
        ),
    ] = None,
    keep_colour_profile: Annotated[
        bool, typer.Option("--keep-colour-profile", help="It can name a device.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Remove what a camera or an editor wrote beside the picture: place, time, owner, thumbnails.

    JPEG, PNG, WebP and TIFF. What a picture shows stays: nothing here looks for faces.
    """
    from fedsim.anonymize.images import strip_file, strip_folder
    from fedsim.errors import ConfigError, Problem

    regions = [_region(text) for text in cover or []]
    if output.resolve() == source.resolve():
        accepted = "another place than SOURCE, which stays as it is"
        raise ConfigError([Problem("--output", str(output), accepted)])
    if source.is_dir():
        if regions:
            raise ConfigError([Problem("--cover", cover, "one image: not the same box in many")])
        found = strip_folder(source, output, keep_colour_profile=keep_colour_profile, advance=_say)
    else:
        one = strip_file(source, output, regions=regions, keep_colour_profile=keep_colour_profile)
        found = {output: one}
    _report(found, as_json)


def _region(text: str) -> "Region":
    from fedsim.anonymize.images import Region
    from fedsim.errors import ConfigError, Problem

    box, _, how = text.partition(":")
    edges = box.split(",")
    if len(edges) != 4 or not all(edge.strip().isdecimal() for edge in edges):
        accepted = "four whole numbers: left,top,right,bottom, and perhaps :fill, :pixelate, :blur"
        raise ConfigError([Problem("--cover", text, accepted)])
    left, top, right, bottom = map(int, edges)
    return Region(left, top, right, bottom, how or "fill")  # type: ignore[arg-type]


def _say(path: Path) -> None:
    typer.echo(str(path), err=True)


def _report(found: "dict[Path, Stripped]", as_json: bool) -> None:
    again = [str(path) for path, one in found.items() if one.is_recoded]
    if as_json:
        facts = {"images": [str(path) for path in found], "coded_again": again}
        print_json({"status": "ok", "exit_code": 0, **facts})
        return
    print(f"{len(found)} images without metadata")
    if again:
        print(f"coded again, since they were turned, covered or TIFF: {', '.join(again)}")
