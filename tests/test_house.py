"""The house: rooms import only from the floors below, recipes build, and what is documented is there."""

import ast
import importlib
import re
import sys
from pathlib import Path

import jax
import pytest

from prefix_jax.models import FAMILIES, from_hf
from prefix_jax.tasks import TASKS
from tests.conftest import ROOT

FLOORS = (
    "errors", "extras", "lean_imports", "plugins", "options", "disk", "schema", "workdir_schemas", "workdir",
    "verdict", "checksums", "cache", "compile_cache", "dependencies", "hub", "models", "tuning",
    "config", "data", "metrics", "tasks", "parallel", "training", "decoding", "reporting", "planning", "evaluation",
    "inference", "serving", "inspection", "distillation", "sharing", "sweeping",
)  # fmt: skip
PACKAGE = ROOT / "prefix_jax"


def imported(path: Path) -> set[str]:
    """Returns the rooms that a module imports, wherever in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            whole = [node.module] if node.module != "prefix_jax" else [f"prefix_jax.{a.name}" for a in node.names]
        elif isinstance(node, ast.Import):
            whole = [alias.name for alias in node.names]
        else:
            continue
        names |= {name.split(".")[1] for name in whole if name.startswith("prefix_jax.")}
    return names


@pytest.mark.parametrize("floor", FLOORS)
def test_imports_go_down_the_floors(floor: str):
    path = PACKAGE / floor
    modules = sorted(path.rglob("*.py")) if path.is_dir() else [path.with_suffix(".py")]
    assert modules
    entry = {"__main__.py"}  # a room's command line may use the ceiling's helpers
    ceiling = {path.stem for path in PACKAGE.glob("*.py")} - set(FLOORS) - {"__init__"} | {"api"}
    above = set(FLOORS[FLOORS.index(floor) + 1 :]) | ceiling
    for module in modules:
        if module.name not in entry:
            assert not imported(module) & above, f"{module.relative_to(ROOT)} imports from a higher floor"


def import_graph(package: str) -> dict[str, set[str]]:
    """Returns the modules of a package that each of its modules imports, wherever in it, but for type checking."""
    paths = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in (ROOT / package).rglob("*.py")}
    paths = {name.removesuffix(".__init__"): path for name, path in paths.items()}
    graph: dict[str, set[str]] = {}
    for name, path in paths.items():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        typing_only = [n for n in ast.walk(tree) if isinstance(n, ast.If) and ast.unparse(n.test) == "TYPE_CHECKING"]
        skipped = {id(inner) for node in typing_only for inner in ast.walk(node)}
        found: set[str] = set()
        for node in ast.walk(tree):
            if id(node) in skipped:
                continue
            if isinstance(node, ast.ImportFrom) and node.module:
                inner = {f"{node.module}.{alias.name}" for alias in node.names}
                found |= {one if one in paths else node.module for one in inner}
            elif isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
        # A package's `__init__` re-exports its modules, which may import one another through it.
        graph[name] = {one for one in found & set(paths) if paths[one].name != "__init__.py"} - {name}
    return graph


def circle(graph: dict[str, set[str]]) -> list[str]:
    """Returns modules that import one another in a circle, [] if there are none."""
    left = {name: set(found) for name, found in graph.items()}
    while free := {name for name, found in left.items() if not found & set(left)}:
        left = {name: found for name, found in left.items() if name not in free}
    return sorted(left)


@pytest.mark.parametrize("package", ["prefix_jax", "experiments"])
def test_imports_go_in_no_circle(package: str):
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": set()}) == ["a", "b", "c"]
    graph = import_graph(package)
    assert sum(map(len, graph.values())) > 20
    assert not circle(graph)


def test_the_svg_kit_stands_alone():
    """`reporting/svg/` draws numbers: it imports neither JAX nor another room."""
    modules = sorted((PACKAGE / "reporting" / "svg").glob("*.py"))
    assert len(modules) > 5
    for path in modules:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            for name in names:
                own = name.startswith("prefix_jax.reporting.svg.")
                assert own or name.split(".")[0] in sys.stdlib_module_names, f"{path.relative_to(ROOT)} imports {name}"


def test_nothing_outside_models_knows_a_family():
    """A family is a file and a row in `models.families`: what others want to know stands in its row or its spec."""
    names = {name for f in FAMILIES.values() for name in (f.model_config.family, *f.readers, f.model_config.__name__)}
    for path in PACKAGE.rglob("*.py"):
        if PACKAGE / "models" in path.parents:
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            place = f"{path.relative_to(ROOT)}, line {getattr(node, 'lineno', 0)}"
            if isinstance(node, ast.Constant):
                assert node.value not in names, f"{place} names a family"
            if isinstance(node, ast.Name):
                assert node.id not in names, f"{place} names a family's class"
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("getattr", "hasattr", "isinstance"):
                assert "model_config" not in ast.unparse(node.args[0]), f"{place} asks what a model config is"


FILES_OF_A_RUN = re.compile(
    r"(metrics|samples)\.jsonl|(scores|inspection|sweep)\.json|prefix\.(json|safetensors)|report\.html|table\.md|wandb_id"
)
FILES_AND_OTHERS = ("config.json", "tuned", "checkpoints", "tensorboard", "runs", "together", "jobs")


def spelled_files(tree: ast.Module) -> list[str]:
    """Returns the names of a run's or a sweep's files that a module's code spells, with lines; not its docstrings."""
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    joined = [node.right for node in ast.walk(tree) if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div)]
    paths = {"Path", "joinpath", "join"}
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    joined += [x for c in calls if getattr(c.func, "id", getattr(c.func, "attr", "")) in paths for x in c.args]
    found = [x for x in joined if isinstance(x, ast.Constant) and str(x.value).split("/")[0] in FILES_AND_OTHERS]
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            found += [node] if FILES_OF_A_RUN.search(node.value) else []
    return [f"line {node.lineno}: {node.value!r}" for node in found]


def test_one_module_names_the_files_of_a_run():
    """Elsewhere their names come from `prefix_jax.workdir`; a model's own config.json is another file."""
    models = [PACKAGE / "models", PACKAGE / "tuning" / "formats"]
    for path in PACKAGE.rglob("*.py"):
        found = spelled_files(ast.parse(path.read_text(encoding="utf-8")))
        if path == PACKAGE / "workdir.py":
            assert len(found) > 5
        elif path == PACKAGE / "convert.py":  # it reads the config.json of a model
            assert [line.split(": ")[1] for line in found] == ["'config.json'"]
        elif not set(models) & set(path.parents):
            assert not found, f"{path.relative_to(ROOT)} spells a run's file in {found[0]}"
    spelt = 'x = f"{workdir}/scores.json"; y = workdir / "tuned"; z = Path(workdir, "checkpoints")'
    assert len(spelled_files(ast.parse(spelt))) == 3


def test_nothing_outside_tasks_names_a_task():
    """A task is a file and a row in `tasks`. The words "text", "table", "translation", "perplexity" (a metric) and
    "chat" (a command) mean other things too: where they are compared with a task, they name one.
    """
    words = {"text", "table", "translation", "perplexity", "chat"}
    names = {*TASKS, "table"}
    for path in PACKAGE.rglob("*.py"):
        # The grammar writes the embedded set: sentences about lighthouses.
        if PACKAGE / "tasks" in path.parents or path == PACKAGE / "data" / "grammar.py":
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        default = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.keyword) and node.arg == "task"}
        for node in ast.walk(tree):
            place = f"{path.relative_to(ROOT)}, line {getattr(node, 'lineno', 0)}"
            if isinstance(node, ast.Constant) and node.value in names - words:
                assert path.name == "config.py" and id(node) in default, f"{place} names a task"
            if isinstance(node, (ast.Compare, ast.Subscript, ast.keyword)):
                parts = {part.value for part in ast.walk(node) if isinstance(part, ast.Constant)}
                asked = [getattr(part, "attr", getattr(part, "id", "")) for part in ast.walk(node)]
                about = "task" in asked or "TASKS" in asked or (isinstance(node, ast.keyword) and node.arg == "task")
                assert not (about and parts & words), f"{place} asks what a task is"


def test_the_project_names_no_path_outside_itself():
    for path in [*PACKAGE.rglob("*.py"), *(ROOT / "configs").rglob("*.py"), ROOT / "README.md", ROOT / "Makefile"]:
        assert not re.search(r"(?<![\w.])/(work|tmp)/|\.\./shared", path.read_text(encoding="utf-8")), path


ODD = re.compile(
    r"\b(mend(s|ed)?|goes on with|gone on with|go on with|held (to|against)|brings (what|it|a|the)|lest"
    r"|made again|goes on to|brought|is another|to be called|looked (at|for)|that there (is|are)|that (is|are) there"
    r"|is no (kind|dtype|plot|table|fixed|spec|dictionary|topology|run directory|multiple|Python))\b"
)


def test_texts_are_written_as_the_field_writes():
    """`docs/glossary.md` has the terms. A phrase here means: fix, resume, verified against, download, is not a."""
    modules = [path for path in PACKAGE.rglob("*.py")]
    for path in [
        *modules,
        *ROOT.glob("configs/*.py"),
        *ROOT.glob("experiments/*.py"),
        ROOT / "README.md",
        ROOT / "WORKSPACE.md",
        ROOT / "CHANGELOG.md",
        *ROOT.glob("docs/*.md"),
    ]:
        for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), 1):
            found = ODD.search(line)
            assert not found, f'{path.relative_to(ROOT)}, line {number}: "{found[0] if found else ""}"'


RECIPES = sorted(p.stem for p in (ROOT / "configs").glob("*.py") if p.stem not in ("__init__", "gpt2_paper"))


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_build_and_take_a_step(name: str, tiny_models, tmp_path, monkeypatch):
    """Each recipe as it stands, but for the weights (tiny ones of its family) and the rows (a few, where its own are
    absent).
    """
    from prefix_jax.training import session
    from prefix_jax.training.step import initial_state, make_step
    from prefix_jax.training.trainer import prepare
    from tests import tiny

    module = importlib.import_module(f"configs.{name}")
    assert "python -m prefix_jax.train --config" in module.__doc__ and "evaluate" in module.__doc__
    assert not hasattr(module, "sweep") or "python -m prefix_jax.sweep --config" in module.__doc__
    config = module.get_config()
    family = "t5" if "t5" in config.model.source else "gpt2" if "gpt2" in config.model.source else "llama"
    config.model.source = str(tiny_models[family])
    rows = str(tiny.save_rows(tmp_path / "rows.jsonl", 40))
    config.data.update(task="text", path=rows, source_column="source")
    monkeypatch.setenv("PREFIX_JAX_CACHE", str(tmp_path / "cache"))
    trainer = prepare(session.open_session(config), tmp_path / "run", [])
    options = config.training
    state = initial_state(trainer.method, trainer.session.base, trainer.hyper, options.seed, options.ema)
    step = make_step(trainer.session.model, trainer.method, options.loss == "examples", options.ema)
    before = jax.tree.map(lambda x: x.copy(), state.trainable)
    state, metrics = step(trainer.session.base, trainer.hyper, state, trainer.batches.batch_at(0))
    assert float(metrics["loss"]) > 0
    assert any(
        bool((a != b).any()) for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(state.trainable), strict=True)
    )


@pytest.mark.parametrize("size", [("gpt2-medium", 24, 1024, 16)])
def test_gpt2_medium_prefix_of_the_paper_fits_its_spec(size):
    name, layers, width, heads = size
    model_config = from_hf(dict(model_type="gpt2", n_layer=layers, n_embd=width, n_head=heads, vocab_size=50257))
    assert (model_config.head_dim, model_config.site_layers("decoder"), model_config.context_length) == (
        64,
        24,
        1024,
    ), name


def test_shapes_in_signatures_are_checked():
    from jaxtyping import TypeCheckError

    from prefix_jax.models.attention import KVSource, attend

    key = jax.numpy.ones((2, 3, 4))
    with pytest.raises(TypeCheckError):
        attend(jax.numpy.ones((3, 4)), (KVSource(key, key),), 1.0, "float32")


def test_lines_end_at_line_ends_alone():
    """`str.splitlines` also splits at U+2028, U+0085 and others, which a line of JSON or of text may hold:
    `disk.lines` and `disk.read_json_lines` do not, and `errors.first_line` is for what others print.
    """
    modules = [path for room in (PACKAGE, ROOT / "experiments", ROOT / "benchmarks") for path in room.rglob("*.py")]
    assert len(modules) > 100
    for path in modules:
        nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
        used = [node.lineno for node in nodes if isinstance(node, ast.Attribute) and node.attr == "splitlines"]
        assert not used, f"{path.relative_to(ROOT)} uses splitlines in line {used[0]}"


def test_no_file_is_opened_to_read_text():
    """Its line ends would be translated, "\\r" within a line too: files are read as bytes, then split."""
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "open":
                modes = [value.value for value in node.args[1:2] if isinstance(value, ast.Constant)]
                assert modes and modes[0] not in ("r", "rt"), f"{path.relative_to(ROOT)}, line {node.lineno}"


# Where JSON is read otherwise: rows of data, whose numbers may be long; what other processes send; the verified cache.
OWN_JSON = {"disk.py", "json_files.py", "conversations.py", "rows.py", "distributed.py", "audit.py", "loading.py"}


def test_json_of_outside_is_read_in_one_way():
    """`disk.from_json` also refuses what is nested too deeply, and numbers that no program here writes."""
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "json.loads" and path.name not in OWN_JSON:
                copied = re.match(r"json\.dumps\(|.*\.to_json\(\)$", ast.unparse(node.args[0]))
                assert copied, f"{path.relative_to(ROOT)}, line {node.lineno}: use disk.from_json"
