"""Lists of words: what texts are chosen from where parts of a network are named."""

import csv
import io
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from vitlens.arguments import checked
from vitlens.errors import InputError, nearest
from vitlens.files import as_path

#: The lists that come with the package: the name of each is that of its file.
SHIPPED = Path(__file__).parent / "vocabularies"
VOCABULARY_COLUMNS = ["category", "text"]
#: Files of text whose lines are no texts.
OTHER_TABLES = (".json", ".jsonl", ".tsv")


class Vocabulary(list[str]):
    """Texts, each once, as a list; `category_of` says which category each belongs to, where the file has categories."""

    def __init__(self, texts: Iterable[str], category_of: dict[str, str] | None = None) -> None:
        super().__init__(texts)
        self.category_of = dict(category_of or {})

    @property
    def categories(self) -> list[str]:
        """The categories in their order."""
        return list(dict.fromkeys(self.category_of.values()))


@checked
def load_vocabulary(name_or_path: str | Path = "plain", category: str | None = None) -> Vocabulary:
    """Words and short phrases for naming: the list that comes with vitlens, or one from a file.

    "plain" has 2,796 of them in 37 categories: colours, textures, patterns, shapes, materials, garments, animals, plants,
    food, tools, vehicles, buildings, places, weather, people, parts of the body and of things, actions, counts, positions,
    kinds of photos and of art, moods, light. It was written for vitlens.

    Args:
        name_or_path: "plain", or a file: one text in a line, or a CSV file with a column "text" and perhaps one called
            "category".
        category: only the texts of this one.

    Returns:
        Vocabulary: a list of texts, whose `category_of` gives the category of each.

    Raises:
        InputError: no such file or category; an empty file, or one that is no text; a text that is there twice.

    Examples:
        >>> import vitlens
        >>> words = vitlens.text.load_vocabulary()
        >>> len(words), words.category_of["polka dots"]
        (2796, 'pattern')
        >>> vitlens.text.load_vocabulary(category="count")[:3]
        ['nothing', 'one thing', 'two things']
    """
    shipped = {path.stem: path for path in sorted(SHIPPED.glob("*.csv"))}
    path = shipped.get(str(name_or_path), as_path(name_or_path))
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            written = file.read()
    except (OSError, ValueError) as error:
        why = (error.strerror or str(error)) if isinstance(error, OSError) else "it is no text in UTF-8"
        raise InputError(
            f"{name_or_path} is no list of words that comes with vitlens ({', '.join(shipped)}), and as a file it cannot be "
            f"read: {why}"
        ) from None
    if "\0" in written or path.suffix.lower() in OTHER_TABLES:
        raise InputError(f'{path} is no list of texts: one in each line, or a CSV file with a column "text"')
    rows = _rows(path, written)
    texts = [text for _, text in rows]
    if not texts:
        raise InputError(f"{path} has no texts: write one in each line")
    for text, n in Counter(texts).items():
        if n > 1:
            raise InputError(f"{path} has the text {text!r} {n} times: keep it once")
    category_of = {text: name for name, text in rows if name}
    if category is not None:
        known = list(dict.fromkeys(category_of.values()))
        if category not in known:
            there = f"; the nearest are {nearest(category, known)}" if known else ": the file has none"
            raise InputError(f"{name_or_path} has no category {category!r}{there}")
        category_of = {text: name for text, name in category_of.items() if name == category}
        texts = list(category_of)
    return Vocabulary(texts, category_of)


def _rows(path: Path, written: str) -> list[tuple[str, str]]:
    """Category, or "", and text of each row.

    Raises:
        InputError: a CSV file without a column of texts.
    """
    if path.suffix.lower() != ".csv":
        return [("", line.strip()) for line in written.splitlines() if line.strip()]
    table = csv.DictReader(io.StringIO(written, newline=""))
    try:
        if VOCABULARY_COLUMNS[1] not in (table.fieldnames or ()):
            raise InputError(f"{path} has no column called {VOCABULARY_COLUMNS[1]!r}: its first line names the columns")
        # A text that was broken into lines is one line.
        rows = [[" ".join((row.get(column) or "").split()) for column in VOCABULARY_COLUMNS] for row in table]
    except csv.Error as error:
        raise InputError(f"{path} cannot be read as a CSV file: {error}") from None
    return [(category, text) for category, text in rows if text]
