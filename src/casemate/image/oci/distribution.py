"""The OCI distribution protocol: manifests and blobs, from and to a registry.

A download that was cut goes on at the end of what is there, an upload where the registry says.

Source: OCI Distribution Specification 1.1; specs/sealed-image-artifact.md.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TypeVar

from casemate.errors import MalformedError, NotGenuineError, UsageError
from casemate.image.oci.http import (
    PassingError,
    RegistryClient,
    Response,
    expect,
    malformed,
    pieces,
    unreachable,
)
from casemate.image.oci.reference import Reference
from casemate.image.oci.store import INDEX_TYPE, MANIFEST_TYPE, blob_name, check_digest
from casemate.image.workers import Progress
from casemate.image.writing import writing

_ACCEPTED = ", ".join(
    (
        MANIFEST_TYPE,
        INDEX_TYPE,
        "application/vnd.docker.distribution.manifest.v2+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
    )
)
_ATTEMPTS = 5
_LEAST, _LEAST_SECONDS = 1 << 16, 60.0  # a blob comes at least at this pace
_PIECE = 1 << 20
_UPLOAD = 16 << 20
_PART = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
_RANGE = re.compile(r"bytes (\d{1,19})-\d{1,19}/(?:\d{1,19}|\*)")
_UPLOADED = re.compile(r"(?:bytes=)?0-(\d{1,19})")
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Blob:
    """A blob's name and size, as a manifest promises them."""

    digest: str
    size: int


def blob_of(descriptor: Mapping[str, object]) -> Blob:
    """The blob that a descriptor names.

    Raises:
        MalformedError: ``registry.malformed``, ``container.digest``.
    """
    digest, size = descriptor.get("digest"), descriptor.get("size")
    if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size < 1 << 62:
        raise malformed("size", "a number of bytes", ascii(size)[:40])
    if not isinstance(digest, str):
        raise malformed("digest", "a SHA-256", type(digest).__name__)
    blob_name(digest)
    return Blob(digest=digest, size=size)


@dataclass(frozen=True, slots=True, kw_only=True)
class Repository:
    """A repository of a registry.

    Args:
        client: speaks to the registry.
        name: of the repository.
        pause: waits between attempts, in seconds.
    """

    client: RegistryClient
    name: str
    pause: Callable[[float], None] = time.sleep

    def manifest(self, reference: Reference) -> tuple[str, bytes, str]:
        """A manifest or an index.

        Returns:
            Its digest, its bytes, its media type as the registry says it.

        Raises:
            NotGenuineError: ``container.changed``; UnavailableError, MalformedError:
            ``registry.*``.
        """
        url = self._url(f"manifests/{reference.wanted}")
        data, headers = self._trying(
            lambda: self.client.document(
                url, scope=self._scope("pull"), headers={"Accept": _ACCEPTED}
            )
        )
        promised = reference.digest or headers.get("Docker-Content-Digest", "")
        if promised.startswith("sha256:"):
            check_digest("the manifest", promised, hashlib.sha256(data).digest())
        found = f"sha256:{hashlib.sha256(data).hexdigest()}"
        return found, data, headers.get("Content-Type", "").partition(";")[0].strip()

    def download(self, blob: Blob, part: Path, progress: Progress | None = None) -> None:
        """Fetch a blob into a file; what is there already counts, and is hashed again.

        Args:
            blob: which.
            part: the file; it has the whole blob afterwards. After an error it keeps what came,
                unless that was wrong: then it is gone.
            progress: called with (bytes there, bytes in all).

        Raises:
            NotGenuineError: ``container.changed``; UnavailableError, MalformedError:
            ``registry.*``; UsageError: ``image.unwritable``.
        """
        with writing(part):
            part.parent.mkdir(parents=True, exist_ok=True)
            try:
                self._download(blob, part, progress)
            except (MalformedError, NotGenuineError):
                part.unlink()
                raise

    def _download(self, blob: Blob, part: Path, progress: Progress | None) -> None:
        # Not through a link, which somebody else may have put there.
        with os.fdopen(os.open(part, _PART, 0o644), "a+b") as file:
            file.seek(0)
            hashed, done = hashlib.sha256(), 0
            while piece := file.read(_PIECE):
                hashed.update(piece)
                done += len(piece)
            if done > blob.size:
                hashed, done = hashlib.sha256(), 0
                file.truncate(0)
            state = _Download(blob=blob, file=file, hashed=hashed, done=done, progress=progress)
            self._until_done(state)
        check_digest("a blob", blob.digest, state.hashed.digest())

    def _until_done(self, state: _Download) -> None:
        failures = 0
        while state.done < state.blob.size:
            before = state.done
            try:
                self._fetch(state)
                why = "the answer ends early"
            except PassingError as error:
                why = str(error)
            # What counts is progress: a large blob may well be cut more often than that.
            failures = 0 if state.done - before >= _LEAST else failures + 1
            if state.done < state.blob.size:
                if failures >= _ATTEMPTS:
                    raise unreachable(self.client.host, why)
                self.pause(0.2 * 2**failures)

    def _fetch(self, state: _Download) -> None:
        url = self._url(f"blobs/{state.blob.digest}")
        headers = {"Range": f"bytes={state.done}-"} if state.done else {}
        with self.client.ask(
            "GET", url, scope=self._scope("pull"), headers=headers, follow=True
        ) as response:
            expect(response, 200, 206)
            if response.status == 200:
                state.restart()
            elif _start(response) != state.done:
                raise malformed("range", f"bytes from {state.done}", "others")
            end, counted = time.monotonic() + _LEAST_SECONDS, state.done
            for piece in pieces(response):
                state.take(piece)
                if time.monotonic() > end:
                    if state.done - counted < _LEAST:
                        raise PassingError(f"less than {_LEAST} bytes in {_LEAST_SECONDS:.0f} s")
                    end, counted = time.monotonic() + _LEAST_SECONDS, state.done

    def has(self, digest: str) -> bool:
        """Whether the registry has a blob."""

        def ask() -> bool:
            url = self._url(f"blobs/{digest}")
            scope = self._scope("pull,push")
            with self.client.ask("HEAD", url, scope=scope, follow=True) as response:
                if response.status == 404:
                    return False
                expect(response, 200)
                return True

        return self._trying(ask)

    def upload(
        self, blob: Blob, open_file: Callable[[], IO[bytes]], progress: Progress | None = None
    ) -> None:
        """Send a blob, in pieces, unless it is there.

        Args:
            blob: its digest and size.
            open_file: opens its content; seekable.
            progress: called with (bytes sent, bytes in all).

        Raises:
            UnavailableError, MalformedError: ``registry.*``.
        """
        if self.has(blob.digest):
            return
        location = self._trying(self._begin)
        sent, failures = 0, 0
        with open_file() as file:
            while sent < blob.size:
                try:
                    location, sent = self._send(location, file, sent, blob.size)
                    failures = 0
                    if progress is not None:
                        progress(sent, blob.size)
                except PassingError as error:
                    failures += 1
                    if failures >= _ATTEMPTS:
                        raise unreachable(self.client.host, str(error)) from error
                    self.pause(0.2 * 2**failures)
                    location, sent = self._trying(lambda at=location: self._sent(at))  # type: ignore[misc]
        self._trying(lambda: self._finish(location, blob.digest))

    def _begin(self) -> str:
        url = self._url("blobs/uploads/")
        with self.client.ask(
            "POST", url, scope=self._scope("pull,push"), headers={"Content-Length": "0"}
        ) as response:
            expect(response, 202)
            return self._location(response)

    def _send(self, location: str, file: IO[bytes], start: int, size: int) -> tuple[str, int]:
        file.seek(start)
        piece = file.read(min(_UPLOAD, size - start))
        if not piece:
            raise changed_while_sending()
        headers = {
            "Content-Type": "application/octet-stream",
            "Content-Range": f"{start}-{start + len(piece) - 1}",
        }
        with self.client.ask(
            "PATCH", location, scope=self._scope("pull,push"), headers=headers, body=piece
        ) as response:
            if response.status == 416:  # it has another part of it than we believe
                raise PassingError("another range is wanted")
            expect(response, 202)
            return self._location(response), start + len(piece)

    def _sent(self, location: str) -> tuple[str, int]:
        """How far an upload came that was cut."""
        with self.client.ask("GET", location, scope=self._scope("pull,push")) as response:
            expect(response, 204)
            found = _UPLOADED.fullmatch(response.headers.get("Range", "0-0"))
            end = int(found[1]) if found else 0
            return self._location(response), end + 1 if end else 0

    def _finish(self, location: str, digest: str) -> None:
        joint = "&" if "?" in location else "?"
        with self.client.ask(
            "PUT", f"{location}{joint}digest={digest}", scope=self._scope("pull,push"),
            headers={"Content-Length": "0"},
        ) as response:  # fmt: skip
            # An attempt before this one may have ended it, and its answer been lost.
            if response.status != 404 or not self.has(digest):
                expect(response, 201)

    def put_manifest(self, reference: Reference, data: bytes) -> str:
        """Give the repository a manifest; its blobs must be there.

        Returns:
            Its digest.
        """
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        url = self._url(f"manifests/{reference.tag or digest}")

        def put() -> None:
            with self.client.ask(
                "PUT", url, scope=self._scope("pull,push"), headers={"Content-Type": MANIFEST_TYPE},
                body=data,
            ) as response:  # fmt: skip
                expect(response, 201)

        self._trying(put)
        return digest

    def _location(self, response: Response) -> str:
        return self.client.url(response.headers.get("Location", ""))

    def _url(self, rest: str) -> str:
        return self.client.url(f"/v2/{self.name}/{rest}")

    def _scope(self, actions: str) -> str:
        return f"repository:{self.name}:{actions}"

    def _trying(self, ask: Callable[[], T]) -> T:
        why = ""
        for attempt in range(_ATTEMPTS):
            if attempt:
                self.pause(0.2 * 2**attempt)
            try:
                return ask()
            except PassingError as error:
                why = str(error)
        raise unreachable(self.client.host, why)


@dataclass(slots=True, kw_only=True)
class _Download:
    """How far a download is."""

    blob: Blob
    file: IO[bytes]
    hashed: hashlib._Hash
    done: int
    progress: Progress | None

    def restart(self) -> None:
        """From the beginning: the server doesn't know ranges."""
        if self.done:
            self.file.truncate(0)
            self.hashed, self.done = hashlib.sha256(), 0

    def take(self, piece: bytes) -> None:
        """The next bytes.

        Raises:
            MalformedError: ``registry.malformed`` where they are more than was promised.
        """
        self.done += len(piece)
        if self.done > self.blob.size:
            raise malformed("size", f"a blob of {self.blob.size} bytes", "more")
        self.file.write(piece)
        self.hashed.update(piece)
        if self.progress is not None:
            self.progress(self.done, self.blob.size)


@contextmanager
def alone(part: Path) -> Iterator[None]:
    """Within, nobody else who asks for the same fetches into a file; who comes second waits.

    Two that write to one file would spoil it for both. It's there afterwards, unless it got another
    name meanwhile.

    Raises:
        UsageError: ``image.unwritable``.
    """
    with writing(part):
        part.parent.mkdir(parents=True, exist_ok=True)
        descriptor = _locked(part)
    try:
        yield
    finally:
        os.close(descriptor)


def _locked(part: Path) -> int:
    while True:
        descriptor = os.open(part, _PART, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(part.stat(), os.fstat(descriptor)):
                    return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # whoever had it has given it its name, or removed it


def _start(response: Response) -> int:
    found = _RANGE.fullmatch(response.headers.get("Content-Range", ""))
    return int(found[1]) if found else -1


def changed_while_sending() -> UsageError:
    """The file became shorter."""
    return UsageError(
        "image.changed-while-sealing",
        "the file became shorter while it was sent",
        field="file",
        expected="a file that stays",
        got="fewer bytes",
    )


def file_digest(path: Path) -> Blob:
    """A file's size and SHA-256."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        return Blob(digest=f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}", size=size)
