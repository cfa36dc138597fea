"""The documentation: its commands parse, its imports exist, its pages are complete."""

import ast
import importlib
import importlib.util
import re
import shlex
from pathlib import Path

import pytest

import prefix_jax
from prefix_jax import __main__ as front_door
from prefix_jax import cli
from prefix_jax.config import default_config
from prefix_jax.models import FAMILIES
from prefix_jax.models.families import __main__ as families
from prefix_jax.options import flat
from tests.conftest import ROOT

PAGES = [
    ROOT / "README.md",
    ROOT / "WORKSPACE.md",
    *sorted(ROOT.glob("docs/*.md")),
    *sorted(ROOT.glob("*/*/README.md")),
]
COMMAND = re.compile(r"python -m ((?:prefix_jax|experiments|benchmarks)[\w.]*)([^\n`]*)")
PLACEHOLDER = re.compile(r"\$|\.NAME|NAME\.py|configs/\.\.\.| \.\.\.|\[")


ONE_NAME = re.compile(r"^prefix-jax (\w+)([^\n`]*)", re.M)


def commands() -> list[tuple[str, str, list[str]]]:
    """Returns page, module and arguments of each command that a page shows."""
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8").replace("\\\n", " ")
        named = [(f"prefix_jax.{front_door.COMMANDS[name][0]}", rest) for name, rest in ONE_NAME.findall(text)]
        for module, rest in [*COMMAND.findall(text), *named]:
            if not PLACEHOLDER.search(module + rest):
                words = shlex.split(rest.partition(" # ")[0].partition(" && ")[0].replace(" | ", " "), comments=True)
                found.append((str(page.relative_to(ROOT)), module, words))
    return found


def test_every_command_parses(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    shown = commands()
    assert len(shown) > 40
    for page, module, words in shown:
        assert importlib.util.find_spec(module) is not None, f"{page}: there is no module {module}"
        if module.startswith("prefix_jax.") and hasattr(found := importlib.import_module(module), "define_flags"):
            words = [word for word in words if module != "prefix_jax.runs"]  # takes folders
            code = cli.call(lambda options: None, found.define_flags, words)
            assert code == 0, f"{page}: python -m {module} {shlex.join(words)}: {capsys.readouterr().err}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_import_exists(page: Path):
    for block in re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.S):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("prefix_jax"):
                module = importlib.import_module(str(node.module))
                for name in node.names:
                    path = f"{node.module}.{name.name}"
                    assert hasattr(module, name.name) or importlib.util.find_spec(path), path


def hooks():
    spec = importlib.util.spec_from_file_location("docs_hooks", ROOT / "docs" / "hooks.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_options_page_has_every_option():
    page = hooks().options_page(ROOT / "prefix_jax")
    sections = {part.split("\n")[0]: part for part in page.split("## ")[1:]}
    for path in flat(default_config().to_dict()):
        section, _, option = path.partition(".")
        if option and section != "infix":  # a prefix's section
            assert f"| `{option.split('.')[0]}` |" in sections[section], path


def test_every_page_is_in_the_navigation():
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("nav:")[2]
    for page in [*ROOT.glob("docs/*.md"), *ROOT.glob("docs/reference/*.md")]:
        assert str(page.relative_to(ROOT / "docs")) in navigation, page.name
    for page in ROOT.glob("experiments/*/README.md"):
        assert str(page.relative_to(ROOT)) in navigation


def test_the_changelog_begins_with_this_version():
    first = next(line for line in (ROOT / "CHANGELOG.md").open(encoding="utf-8") if line.startswith("## "))
    assert first.split()[1] == prefix_jax.__version__


def test_the_citation_names_this_version():
    assert f"version: {prefix_jax.__version__}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")


def test_the_table_of_families_is_that_of_the_code():
    shown = (ROOT / "docs" / "families.md").read_text(encoding="utf-8")
    between = shown.partition("<!-- families -->")[2].partition("<!-- end of families -->")[0]
    assert between.strip() == families.table(), "python -m prefix_jax.models.families prints it"
    assert f"[{len(FAMILIES)} model families](docs/families.md)" in (ROOT / "README.md").read_text(encoding="utf-8")
