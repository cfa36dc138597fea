"""Reading of text files, optionally compressed by gzip or zstd, with errors that name the problem."""

import gzip
import zlib
from pathlib import Path

from prefix_jax.errors import UserError, first_line

# UTF-32 first: its little-endian byte order mark begins with that of UTF-16.
_MARKS = (
    (b"\xff\xfe\x00\x00", "UTF-32"),
    (b"\x00\x00\xfe\xff", "UTF-32"),
    (b"\xff\xfe", "UTF-16"),
    (b"\xfe\xff", "UTF-16"),
)


_COMPRESSED = (".gz", ".zst")


def kind(path: Path) -> str:
    """Returns the suffix of the file format: `.csv` for `rows.CSV`, `rows.csv.gz` and `rows.csv.zst`."""
    return Path(_uncompressed(path)).suffix


def stem(path: Path) -> str:
    """Returns a file name without the suffix of its format, in lower case."""
    return Path(_uncompressed(path)).stem


def _uncompressed(path: Path) -> str:
    name = path.name.lower()
    return next((name.removesuffix(suffix) for suffix in _COMPRESSED if name.endswith(suffix)), name)


def read_bytes(path: Path) -> bytes:
    """Returns a file's bytes, decompressed if its name ends in `.gz` or `.zst`; UserError if it cannot be read."""
    try:
        raw = path.read_bytes()
        if path.suffix.lower() == ".zst":
            return _of_zstd(raw, path)
        return gzip.decompress(raw) if path.suffix.lower() == ".gz" else raw
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(f"{path} cannot be decompressed by gzip ({error}); replace the file.") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error}); give a readable file.") from None


def _of_zstd(raw: bytes, path: Path) -> bytes:
    import pyarrow

    try:
        with pyarrow.CompressedInputStream(pyarrow.BufferReader(raw), "zstd") as stream:
            return stream.read()
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"{path} cannot be decompressed by zstd ({first_line(error)}); replace the file.") from None


def read_text(path: Path, holding: str = "at least one row") -> str:
    """Returns a UTF-8 file's text (a byte order mark is dropped).

    Args:
      holding: what it should hold, for the message of an empty one.

    Raises:
      UserError: the file is missing, empty, not UTF-8, or contains a NUL byte.
    """
    raw = read_bytes(path)
    for mark, name in _MARKS:
        if raw.startswith(mark):
            raise UserError(f'{path} is {name} (Excel calls it "Unicode text"), not UTF-8; save it as UTF-8.')
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        # `error.start` and `error.object` begin after a byte order mark.
        line = error.object.count(b"\n", 0, error.start) + 1
        byte = error.object[error.start]
        raise UserError(
            f"{path} is not UTF-8: line {line} holds the byte 0x{byte:02x}; convert the file, for instance with iconv."
        ) from None
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise UserError(f"{path} holds a NUL byte in line {line}, as UTF-16 or damaged files do; save it as UTF-8.")
    if not text.strip():
        raise UserError(f"{path} is empty; give a file with {holding}.")
    return text
