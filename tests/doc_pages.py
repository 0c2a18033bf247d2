"""The documentation's pages as they are written: links, documented names, tables of calls."""

import ast
import inspect
import re
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
PAGES = REPOSITORY / "docs" / "pages"
NOTEBOOKS = REPOSITORY / "experiments" / "notebooks"
#: What stands for what in the tables: a model, its cache.
STANDS_FOR = {"model": "vitlens.HookedViT", "cache": "vitlens.ViTActivationCache", "HookedViT": "vitlens.HookedViT"}


def sources() -> dict[str, str]:
    """The text of every page by its name; a notebook is the page of its name."""
    pages = {path.name: path.read_text() for path in sorted(PAGES.glob("*.md"))}
    return pages | {f"notebooks/{path.stem}.md": path.read_text() for path in sorted(NOTEBOOKS.glob("*.ipynb"))}


def in_navigation(entry: object) -> list[str]:
    """The pages that an entry of mkdocs' `nav` names."""
    if isinstance(entry, str):
        return [entry]
    inner = entry.values() if isinstance(entry, dict) else entry
    return [page for part in inner for page in in_navigation(part)]


def links(text: str) -> list[str]:
    """What a page links to or shows, besides the network and its own headings."""
    found = re.findall(r"\]\(([^)#\s]+)[^)]*\)", text) + re.findall(r'src="([^"]+)"', text)
    return [link for link in found if "://" not in link]


def links_to_places(text: str) -> list[tuple[str, str]]:
    """The links of a page to a place on a page: the page's name, "" for the same, and the anchor."""
    return [(page, anchor) for page, anchor in re.findall(r"\]\(([\w./]*)#([^)\s]+)\)", text)]


def anchors(text: str) -> set[str]:
    """What links can lead to on a page: its headings, as the site calls them, its marks, and the names it documents."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    plain = [re.sub(r"<[^>]+>|[^\w\s-]", "", heading).strip().lower() for heading in headings]
    return (
        {re.sub(r"[-\s]+", "-", heading) for heading in plain}
        | set(re.findall(r'<a id="(.+?)"', text))
        | {*documented(text)}
    )


def documented(text: str) -> list[str]:
    return re.findall(r"^::: (\S+)$", text, re.MULTILINE)


def table_calls(text: str) -> list[str]:
    """The calls in the second column of a page's tables."""
    rows = [re.split(r"(?<!\\)\|", line)[1:-1] for line in text.splitlines() if line.startswith("|")]
    return [call for row in rows[2:] for call in re.findall(r"`([^`]+)`", row[1])]


def resolve(node: ast.expr) -> object:
    """What a dotted name means; `model` and `cache` stand for their classes.

    Raises:
        AttributeError: there is no such name.
    """
    import vitlens

    if isinstance(node, ast.Attribute):
        return getattr(resolve(node.value), node.attr)
    assert isinstance(node, ast.Name), ast.unparse(node)
    if node.id in STANDS_FOR:
        return getattr(vitlens, STANDS_FOR[node.id].removeprefix("vitlens."))
    if node.id != "vitlens":
        raise AttributeError(f"{node.id} is no name of vitlens")
    return vitlens


def check_call(call: str) -> None:
    """Raises where a name does not exist, or a function cannot be called like this."""
    import vitlens
    from vitlens.faithfulness.metrics import find_metrics
    from vitlens.heatmaps.run import find_method

    expression = ast.parse(call, mode="eval").body
    if isinstance(expression, ast.Subscript):
        resolve(expression.value)
        return
    if not isinstance(expression, ast.Call):
        resolve(expression)
        return
    function = resolve(expression.func)
    if function is vitlens.HookedViT:
        function = vitlens.HookedViT.forward
    # What is found on a class still wants its instance; a classmethod has its class already.
    wants_instance = ast.unparse(expression.func).split(".")[0] in ("model", "cache") and not inspect.ismethod(function)
    given = [None] * (len(expression.args) + wants_instance)
    inspect.signature(function).bind_partial(*given, **{keyword.arg: None for keyword in expression.keywords})
    for keyword in expression.keywords:
        if function is vitlens.heatmap and keyword.arg == "method":
            find_method(ast.literal_eval(keyword.value))
        if function is vitlens.evaluate_heatmaps and keyword.arg == "metrics":
            find_metrics(ast.literal_eval(keyword.value), has_masks=True)
