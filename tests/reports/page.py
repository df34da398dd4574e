"""A report as a reader's program sees it: parsed, with what a test wants to know of it."""

from dataclasses import dataclass, field
from html.parser import HTMLParser

VOID = {"meta", "img", "br", "link", "hr", "input"}

Attributes = dict[str, str]


@dataclass
class Element:
    name: str
    attributes: Attributes
    text: str = ""


@dataclass
class Page(HTMLParser):
    """Elements in the order of their beginning, the text of each being all that stands in it."""

    elements: list[Element] = field(default_factory=list)
    open: list[Element] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(convert_charrefs=True)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = Element(tag, {name: value or "" for name, value in attrs})
        self.elements.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(Element(tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        expected = self.open.pop().name
        if tag != expected:
            raise ValueError(f"</{tag}> closes <{expected}> at {self.getpos()}")

    def handle_data(self, data: str) -> None:
        for element in self.open:
            element.text += data

    def all(self, name: str, **attributes: str) -> list[Element]:
        """Elements of a name, with these attributes; `class_` stands for `class`."""
        wanted = {key.rstrip("_"): value for key, value in attributes.items()}
        return [element for element in self.elements if element.name == name and wanted.items() <= element.attributes.items()]

    def queries(self) -> dict[str, str]:
        """The SQL that is shown, by the name of its query."""
        begun: dict[str, str] = {}
        name = ""
        for element in self.elements:
            if element.name == "summary":
                name = element.text.removeprefix("SQL: ").split(" ")[0] if element.text.startswith("SQL: ") else ""
            elif element.name == "pre" and name:
                begun[name] = element.text
        return begun

    def tables(self) -> dict[str, list[list[str]]]:
        """Cells of each table's body by its caption."""
        tables: dict[str, list[list[str]]] = {}
        rows: list[list[str]] = []
        for element in self.elements:
            if element.name == "caption":
                rows = tables.setdefault(element.text, [])
            elif element.name == "tr":
                rows.append([])
            elif element.name == "td" or element.attributes.get("scope") == "row":
                rows[-1].append(element.text)
        return {caption: [row for row in rows if row] for caption, rows in tables.items()}

    def table(self, beginning: str) -> list[list[str]]:
        """The body of the one table whose caption begins so, no-break spaces as spaces."""
        (rows,) = [rows for caption, rows in self.tables().items() if caption.startswith(beginning)]
        return [[cell.replace("\u00a0", " ") for cell in row] for row in rows]


def parse(html: str) -> Page:
    """Raises ValueError where a tag is closed that is not open, or left open."""
    page = Page()
    page.feed(html)
    page.close()
    if page.open:
        raise ValueError(f"left open: {[element.name for element in page.open]}")
    return page


def plain(text: str) -> str:
    """Runs of white space, no-break spaces too, as one space."""
    return " ".join(text.split())


def heading(page: Page, anchor: str) -> str:
    """Of a section."""
    (found,) = page.all("h2", id=f"{anchor}-title")
    return plain(found.text)


def texts(page: Page, name: str) -> list[str]:
    """The text of each element of a name."""
    return [plain(element.text) for element in page.all(name)]


def values(page: Page) -> list[str]:
    """What a list says of its terms, without the words about them."""
    return [plain(element.text) for element in page.all("dd") if "class" not in element.attributes]


def alts(page: Page) -> list[str]:
    """What charts are said to show."""
    shown = [*page.all("div", role="img"), *page.all("div", role="group")]
    return [element.attributes["aria-label"] for element in shown]
