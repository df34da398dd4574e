"""Pictures of a sample: the image, its maps on the image, and the maps alone."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Layer:
    """A drawing that lies in a picture.

    id: by which other pictures of the page refer to it, empty where none does. uri: its address, empty where an earlier picture
    of the page holds it. is_greyed: shown grey and dark, so that what lies on it stands out.
    """

    uri: str
    id: str = ""
    is_greyed: bool = False


@dataclass(frozen=True)
class Picture:
    """A picture with its name and its description in words. layers: the lowest first; none where the file is missing."""

    name: str
    alt: str
    layers: tuple[Layer, ...]


@dataclass(frozen=True)
class Drawn:
    """A drawing in a file or a data URI. kind: unique among a sample's drawings. uri: empty where the drawing is missing."""

    kind: str
    name: str
    alt: str
    uri: str


def plain(drawn: Drawn) -> Picture:
    return Picture(drawn.name, drawn.alt, (Layer(drawn.uri),) if drawn.uri else ())


def drawing_id(sample: int, kind: str) -> str:
    return f"drawn-{sample}-{kind}"


def lay_again(sample: int, image_kind: str, drawn: Drawn) -> Picture:
    """A translucent map on the greyed image, both of which are drawn elsewhere in the page, by `lay_out`."""
    layers = (Layer("", drawing_id(sample, image_kind), is_greyed=True), Layer("", drawing_id(sample, drawn.kind)))
    return Picture(drawn.name, drawn.alt, layers)


def lay_out(sample: int, image: Drawn, maps: Sequence[Drawn]) -> list[Picture]:
    """The image, the translucent maps on the greyed image, and the maps alone, each drawing once in the page.

    sample: a number unique within the page. Where the image is missing, only the maps alone are shown.
    """
    if not image.uri:
        return [plain(image), *(plain(drawn) for drawn in maps)]
    below = Layer("", drawing_id(sample, image.kind), is_greyed=True)
    on_image = [
        Picture(
            f"{drawn.name}, on the image",
            drawn.alt,
            (below, Layer(drawn.uri, drawing_id(sample, drawn.kind))) if drawn.uri else (),
        )
        for drawn in maps
    ]
    alone = [
        Picture(f"{drawn.name}, alone", f"The {drawn.name} alone.", (Layer("", drawing_id(sample, drawn.kind)),))
        for drawn in maps
        if drawn.uri
    ]
    return [Picture(image.name, image.alt, (Layer(image.uri, below.id),)), *on_image, *alone]
