"""Compiled objects on disk, so that a second start need not compile.

Knows files, keys and permissions.  Must not know LLVM's interface or what an object computes.

What is loaded from here is *executed*.  A checksum finds damage but proves no origin, so the protection is who may
write: on POSIX the folder and the entry must belong to this user, be writable by nobody else and be no symbolic
links, and both are checked on the open descriptor that is read.  Trouble with files is never an error: without a
cache everything works, only slower.

Environment: GRAPHC_CACHE=0 turns the cache off; GRAPHC_CACHE=objects keeps no programs (the default), only the objects of which
they consist, so that every process runs its own passes.  GRAPHC_CACHE_DIR names the folder itself.
"""

from __future__ import annotations

import contextlib
import os
import stat
import struct
import sys
import threading
import time
from collections.abc import Iterator
from functools import lru_cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy

from graphc.hashes import digest
from graphc.records import NamedTuple, field, record

if TYPE_CHECKING:
    from .target import Target

MAGIC = b"graphc\x00\x02"  # the last byte is the version of the file format
HEADER = struct.Struct("<8s32s32sQQ")  # magic, key, digest of the payload, bytes of metadata, bytes of data
SUFFIX = ".object"
LIMIT = 512 << 20
RESCAN = 64  # stores after which sizes are counted anew, because other processes store too
STALE = 3600.0  # seconds after which somebody's temporary file counts as abandoned
ON_DESCRIPTORS = {os.open, os.unlink, os.stat} <= os.supports_dir_fd


class Entry(NamedTuple):
    """A stored object: `meta` is what was given to `store`, a JSON object; `data` the object's bytes."""

    meta: dict[str, Any]
    data: bytes


def default_folder() -> str:
    """GRAPHC_CACHE_DIR, or ``graphc`` in the platform's folder for a user's cached files."""
    if named := os.environ.get("GRAPHC_CACHE_DIR"):
        return os.path.expanduser(named)
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or "~/AppData/Local"
    elif sys.platform == "darwin":
        base = "~/Library/Caches"
    else:
        base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return os.path.join(os.path.expanduser(base), "graphc")


def wanted() -> str:
    """What is to be kept: "programs", "objects" or "nothing"."""
    named = os.environ.get("GRAPHC_CACHE", "1").lower()
    return "nothing" if named in ("0", "off", "no", "false") else "objects" if named == "objects" else "programs"


def default() -> Cache | None:
    """The user's cache; None where GRAPHC_CACHE=0."""
    return None if wanted() == "nothing" else _open(default_folder())


@lru_cache(maxsize=8)
def _open(folder: str) -> Cache:
    return Cache(folder)


def lookup(key: bytes) -> Entry | None:
    """The entry of the user's cache under this key, or None."""
    cache = default()
    return cache.lookup(key) if cache is not None else None


def store(key: bytes, data: bytes, meta: dict[str, Any] | None = None) -> bool:
    """Keep an object in the user's cache; whether it was kept."""
    cache = default()
    return cache.store(key, data, meta) if cache is not None else False


def compiler_files() -> list[str]:
    """This package's own sources, and those that tell llvmlite's version; it is not loaded for that."""
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.realpath(__file__))))
    found = find_spec("llvmlite")
    others = [os.path.join(place, "_version.py") for place in (found.submodule_search_locations or ())] if found else []
    tops = [os.path.join(root, name) for name in ("graphc", "passes", "runtime", "ops", "nn", "optim")]
    files = [os.path.join(folder, name) for top in tops for folder, _, names in os.walk(top) for name in names]
    files += [os.path.join(root, name) for name in os.listdir(root)]
    return sorted(f for f in {*files, *others} if f.endswith(".py"))


@lru_cache(maxsize=1)
def compiler_digest() -> bytes:
    """A digest of this package's own sources and the versions of what it generates code with.

    The sources, not only a version number: whoever changes a code generator must not be served what the old one made.  What
    they say is kept under what the system says of the files, as Python keeps its bytecode.
    """
    files = compiler_files()
    cache, stamp = default(), b""
    with contextlib.suppress(OSError):
        told = [(file, s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_ino) for file in files for s in (os.stat(file),)]
        stamp = digest(MAGIC + repr((told, numpy.__version__)).encode())
        known = cache.lookup(stamp) if cache is not None else None
        if known is not None:
            return known.data
    parts = [f"numpy {numpy.__version__}\n".encode()]
    for file in files:
        with contextlib.suppress(OSError):
            parts.append(os.path.basename(file).encode() + b"\0" + digest(_content(file)))
    made = digest(b"".join(parts))
    if cache is not None and stamp:
        cache.store(stamp, made)
    return made


def _content(file: str) -> bytes:
    with open(file, "rb") as opened:
        return opened.read()


def key(kind: str, content: str | bytes, target: Target, level: int) -> bytes:
    """The 32-byte key of what is compiled from `content` for this target by this version of the compiler.

    kind: separates uses, ``"module"`` where the content is LLVM text, ``"plan"`` where it is a plan.
    """
    body = content.encode() if isinstance(content, str) else content
    return joint_key(kind.encode(), repr(target).encode(), str(level).encode(), body)


def joint_key(*parts: bytes) -> bytes:
    """The 32-byte key of what this version of the compiler makes of all these parts."""
    return digest(b"".join([MAGIC, compiler_digest(), *(struct.pack("<Q", len(part)) + part for part in parts)]))


@record()
class Cache:
    """One folder of entries, at most `limit` bytes in all; the least recently used go first."""

    folder: str | os.PathLike[str]
    limit: int = LIMIT
    _total: int | None = None
    _stores: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def lookup(self, key: bytes) -> Entry | None:
        """The entry under this key; None where there is none, or none that can be trusted.  Damaged ones go."""
        try:
            with self._directory() as directory:
                name = key.hex() + SUFFIX
                descriptor = os.open(self._path(directory, name), os.O_RDONLY | _flags("O_NOFOLLOW", "O_BINARY"),
                                     dir_fd=directory)
                with os.fdopen(descriptor, "rb") as file:
                    status = os.fstat(descriptor)
                    if not _trusted(status, stat.S_ISREG) or status.st_size > self.limit:
                        return None
                    entry = _decode(file.read(), key)
                    if entry is not None:  # used now
                        os.utime(descriptor if os.utime in os.supports_fd else self._path(None, name))
                if entry is None:
                    os.unlink(self._path(directory, name), dir_fd=directory)
                return entry
        except (OSError, ValueError):
            return None

    def store(self, key: bytes, data: bytes, meta: dict[str, Any] | None = None) -> bool:
        """Keep an object and its metadata (JSON values); whether it was kept.  Readers never see half an entry."""
        import json  # loads with the first entry: without a cache nothing asks for it

        payload = json.dumps(meta or {}, separators=(",", ":")).encode()
        content = HEADER.pack(MAGIC, key, digest(payload + data), len(payload), len(data))
        content += payload + data
        if len(content) > self.limit:
            return False
        try:
            os.makedirs(os.path.dirname(os.path.abspath(self.folder)), exist_ok=True)
            with contextlib.suppress(FileExistsError):
                os.mkdir(self.folder, 0o700)
            with self._directory() as directory:
                temporary = f"{os.urandom(8).hex()}.tmp"
                self._write(directory, temporary, content)
                try:
                    os.replace(self._path(directory, temporary), self._path(directory, key.hex() + SUFFIX),
                               src_dir_fd=directory, dst_dir_fd=directory)
                except OSError:
                    os.unlink(self._path(directory, temporary), dir_fd=directory)
                    raise
                with self._lock:
                    self._stores += 1
                    if self._total is None or self._stores % RESCAN == 0 or self._total + len(content) > self.limit:
                        self._total = self._trim(directory)
                    else:
                        self._total += len(content)
            return True
        except (OSError, ValueError):
            return False

    def entries(self) -> tuple[int, int]:
        """(number of entries, bytes in all)."""
        try:
            with self._directory() as directory:
                sizes = [status.st_size for name, status in self._scan(directory) if name.endswith(SUFFIX)]
                return len(sizes), sum(sizes)
        except OSError:
            return 0, 0

    # -- files -------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _directory(self) -> Iterator[int | None]:
        """A descriptor of the folder, checked; None where the system has no such descriptors (Windows)."""
        if not ON_DESCRIPTORS:
            yield None
            return
        descriptor = os.open(self.folder, os.O_RDONLY | _flags("O_DIRECTORY", "O_NOFOLLOW"))
        try:
            if not _trusted(os.fstat(descriptor), stat.S_ISDIR):
                raise PermissionError("others may write to the cache folder")
            yield descriptor
        finally:
            os.close(descriptor)

    def _path(self, directory: int | None, name: str) -> str:
        return name if directory is not None else os.path.join(self.folder, name)

    def _write(self, directory: int | None, name: str, content: bytes) -> None:
        descriptor = os.open(self._path(directory, name),
                             os.O_WRONLY | os.O_CREAT | os.O_EXCL | _flags("O_NOFOLLOW", "O_BINARY"), 0o600,
                             dir_fd=directory)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
        except OSError:  # a full disk
            os.unlink(self._path(directory, name), dir_fd=directory)
            raise

    def _scan(self, directory: int | None) -> list[tuple[str, os.stat_result]]:
        found = []
        for name in os.listdir(directory if directory is not None else self.folder):
            with contextlib.suppress(OSError):
                found.append((name, os.stat(self._path(directory, name), dir_fd=directory, follow_symlinks=False)))
        return found

    def _trim(self, directory: int | None) -> int:
        """Remove what is too much, the longest unused first, and abandoned temporary files; the bytes that stay."""
        entries = []
        for name, status in self._scan(directory):
            if name.endswith(".tmp") and time.time() - status.st_mtime > STALE:
                with contextlib.suppress(OSError):
                    os.unlink(self._path(directory, name), dir_fd=directory)
            elif name.endswith(SUFFIX):
                entries.append((status.st_mtime, status.st_size, name))
        total = sum(size for _, size, _ in entries)
        if total > self.limit:
            for _, size, name in sorted(entries):
                with contextlib.suppress(OSError):
                    os.unlink(self._path(directory, name), dir_fd=directory)
                    total -= size
                if total <= self.limit * 9 // 10:  # room, so that not every store has to trim
                    break
        return total


def _flags(*names: str) -> int:
    """The or of these open flags, where the system has them."""
    value = 0
    for name in names:
        value |= getattr(os, name, 0)
    return value


def _trusted(status: os.stat_result, kind: Any) -> bool:
    """Whether nobody but this user can have written it."""
    if not kind(status.st_mode):
        return False
    if not hasattr(os, "geteuid"):
        return True  # Windows: the profile's access lists keep others out
    return bool(status.st_uid == os.geteuid() and not status.st_mode & 0o022)


def _decode(content: bytes, key: bytes) -> Entry | None:
    if len(content) < HEADER.size:
        return None
    magic, stored, stored_digest, meta_bytes, data_bytes = HEADER.unpack_from(content)
    body = content[HEADER.size :]
    if magic != MAGIC or stored != key or len(body) != meta_bytes + data_bytes:
        return None
    if digest(body) != stored_digest:
        return None
    import json

    meta = json.loads(body[:meta_bytes])
    return Entry(meta, body[meta_bytes:]) if isinstance(meta, dict) else None
