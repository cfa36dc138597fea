"""Adds the pages that live beside the code: READMEs of experiments and benchmarks, notebooks, changes, options."""

import ast
import json
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
PICTURES = (".svg", ".png")
LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(([^)#\s]+)(#[^)]*)?\)")


def on_files(files: Any, config: Any) -> Any:
    """Adds generated pages and the pictures that they show."""
    pages = [*ROOT.glob("experiments/*/README.md"), ROOT / "benchmarks/README.md", ROOT / "CHANGELOG.md"]
    for path in pages:
        _add(files, config, str(path.relative_to(ROOT)), abs_src_path=str(path))
        for picture in sorted(path.parent.iterdir()) if path.parent != ROOT else ():
            if picture.suffix in PICTURES:
                _add(files, config, str(picture.relative_to(ROOT)), abs_src_path=str(picture))
    for path in sorted(ROOT.glob("experiments/notebooks/*.ipynb")):
        name = str(path.relative_to(ROOT).with_suffix(".md"))
        _add(files, config, name, content=notebook_page(path))
    _add(files, config, "reference/options.md", content=options_page(ROOT / "prefix_jax"))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Turns links to files outside the site, such as a recipe's source, into plain text."""

    def kept(link: re.Match[str]) -> str:
        text, target = link[1], link[2]
        if "://" in target:
            return link[0]
        parts = _resolved(Path(page.file.src_uri).parent, target)
        if parts.endswith(".ipynb"):
            return f"[{text}]({target.removesuffix('.ipynb')}.md)"
        return link[0] if files.get_file_from_path(parts) is not None else text

    return LINK.sub(kept, markdown)


def notebook_page(path: Path) -> str:
    """Returns a notebook as Markdown: text, code, and the text and pictures that it printed."""
    blocks = []
    for cell in json.loads(path.read_text("utf-8"))["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            blocks.append(source)
            continue
        blocks.append(f"```python\n{source}\n```")
        for output in cell["outputs"]:
            data = output.get("data", {})
            if "image/png" in data:
                blocks.append(f'<img alt="" src="data:image/png;base64,{"".join(data["image/png"]).strip()}">')
            elif "image/svg+xml" in data:
                blocks.append("".join(data["image/svg+xml"]))
            elif printed := "".join(output.get("text", data.get("text/plain", ""))):
                blocks.append(f"```text\n{printed}\n```")
    return "\n\n".join(blocks)


def options_page(package: Path) -> str:
    """Returns a table of each section's options, from their defaults and the comments above them."""
    parts = ["# Options", "Set each with `--config.SECTION.OPTION=VALUE`."]
    for path in [package / "config.py", *sorted((package / "tuning").glob("*.py"))]:
        source = path.read_text("utf-8")
        for function in ast.parse(source).body:
            rows: list[tuple[str, str, str]] = []
            if isinstance(function, ast.FunctionDef):
                rows = _options(function, source.split("\n"))
            elif isinstance(function, ast.ClassDef) and path.name != "config.py":
                rows = _fields(function)
            if rows:
                name = function.name.strip("_") if path.name == "config.py" else path.stem
                table = [f"| `{option}` | `{default}` | {meaning} |" for option, default, meaning in rows]
                head = ["| option | default | meaning |", "|---|---|---|"]
                parts += [f"## {name}", "\n".join([*head, *table])]
    return "\n\n".join(parts)


def _options(function: ast.FunctionDef, lines: list[str]) -> list[tuple[str, str, str]]:
    """Returns option, default and comment of each argument of the `dict(...)` that a function returns."""
    last = function.body[-1]
    call = last.value if isinstance(last, ast.Return) else None
    if function.args.args or not isinstance(call, ast.Call) or getattr(call.func, "id", "") != "dict":
        return []
    rows, line = [], call.lineno
    for keyword in call.keywords:
        comment = " ".join(text.strip().lstrip("# ") for text in lines[line : keyword.value.lineno - 1])
        # A pipe ends a cell, and what looks like a tag would be one.
        cell = comment.replace("|", "\\|").replace("<", "&lt;")
        rows.append((str(keyword.arg), ast.unparse(keyword.value), cell))
        line = keyword.value.end_lineno or line
    return rows


def _fields(dataclass: ast.ClassDef) -> list[tuple[str, str, str]]:
    """Returns option, default and meaning of each field of a method's options."""
    fields = [node for node in dataclass.body if isinstance(node, ast.AnnAssign) and node.value is not None]
    names = [ast.unparse(node.target) for node in fields]
    if "method" not in names:
        return []
    attributes = (ast.get_docstring(dataclass) or "").partition("Attributes:")[2].partition(">>>")[0]
    meanings = dict(re.findall(r"^  (\w+): (.*(?:\n    .*)*)", attributes, re.M))
    rows = [(name, ast.unparse(node.value)) for name, node in zip(names, fields, strict=True) if node.value is not None]
    return [(n, default, " ".join(meanings.get(n, "").split())) for n, default in rows if n != "method"]


def _add(files: Any, config: Any, name: str, **content: str) -> None:
    from mkdocs.structure.files import File

    files.append(File.generated(config, name, **content))


def _resolved(folder: Path, target: str) -> str:
    parts: list[str] = []
    for part in (folder / target).parts:
        if part == "..":
            parts = parts[:-1]
        elif part != ".":
            parts.append(part)
    return "/".join(parts)
