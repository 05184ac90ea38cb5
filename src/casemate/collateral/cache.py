"""A cache of what vendors' services said, on disk, shared by processes.

 1. What is stored was checked before; it is checked again each time it is read, so a changed or
    damaged entry is as good as none.
 2. An entry is written beside and renamed: a reader sees the old or the new one, whole.
 3. Of several processes that want the same part one asks; the others wait, and read.
 4. A part is asked for again when less than a quarter of its life is left, and at most a day, but
    not more than once an hour. If nobody answers, the entry serves until its end; then nothing
    does.
 5. An older edition never replaces a newer one, whoever signed it, even after the newer one's end.

Who may write in the folder can remove entries, and with them what is known for rule 5; he can't
have anything accepted that the vendor didn't sign.
"""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import hashlib
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from casemate.collateral.bundle import Bundle, Entry
from casemate.collateral.gather import Part
from casemate.collateral.names import wanted_of
from casemate.collateral.wanted import VENDOR_SERVICES, Parts, Services, Wanted, host_of
from casemate.encoding import MapReader, decode_cbor, encode_cbor
from casemate.errors import CasemateError, MalformedError, UnavailableError, UsageError
from casemate.types import sha256
from casemate.verify.collateral import Validity
from casemate.verify.roots import VENDOR_ROOTS, VendorRoots

if TYPE_CHECKING:
    from casemate.collateral.web import Web

_VERSION = 1
_MAX_ENTRY = 10 << 20
_DAY = datetime.timedelta(days=1)
_HOUR = datetime.timedelta(hours=1)
_AGAIN_SECONDS = 300.0
_LOCK_SECONDS = 100.0  # two questions, each with all its attempts
_LOCK_PAUSE = 0.05


class _BusyError(UnavailableError):
    """Another process asks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """An entry, as somebody is shown it.

    Args:
        name: of the part.
        asked: when it came from its service; None of an entry that can't be read.
        validity: when it is good; None where it doesn't hold even at the time when it came.
        state: ``good``, ``due`` to be fetched again, ``ended``, or ``damaged``.
    """

    name: str
    asked: datetime.datetime | None
    validity: Validity | None
    state: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """What became of a part of a bundle.

    Args:
        name: of the part.
        until: when it ends; None where it wasn't taken.
        error: why not.
    """

    name: str
    until: datetime.datetime | None
    error: CasemateError | None


def cache_folder() -> Path:
    """Where a user's cache is: ``$XDG_CACHE_HOME/casemate/collateral``."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "casemate" / "collateral"


class CollateralCache:
    """The cache in a folder.

    Args:
        folder: made if it isn't there, for this user alone.
        web: asks services; None to ask nobody.
        services: where they are.
        roots: the vendors'; others only in tests with authorities of their own.
        clock: the time.
        warn: told in a sentence what is due and couldn't be fetched.
    """

    def __init__(
        self,
        folder: Path,
        *,
        web: Web | None,
        services: Services = VENDOR_SERVICES,
        roots: VendorRoots = VENDOR_ROOTS,
        clock: Callable[[], datetime.datetime] = lambda: datetime.datetime.now(datetime.UTC),
        warn: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._warn = warn
        self._folder = folder
        self._web = web
        self._services = services
        self._roots = roots
        self._clock = clock
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise _unusable(folder, error) from error

    @property
    def roots(self) -> VendorRoots:
        """The vendors' roots under which parts are good."""
        return self._roots

    def get(self, wanted: Wanted) -> Part:
        """A part that is good now, from here or from its service.

        Raises:
            UnavailableError: ``collateral.*``: it can't be had. A service that lies is one that
                doesn't answer: code and field say what was wrong.
            UsageError: ``collateral.cache``, ``collateral.address``.
        """
        found = self.look(wanted)
        if found is not None and (self._web is None or not self.is_due(found)):
            return found
        if self._web is None:
            raise UnavailableError(
                "collateral.offline",
                "a part isn't at hand, and no service may be asked",
                field=wanted.name,
                expected="an entry of the cache that is good now",
                got="none",
                remedy="Fetch it where there is a connection (casemate collateral fetch), and "
                "bring it here in a bundle.",
            )
        return self._asked(wanted, self._web, found)

    def look(self, wanted: Wanted) -> Part | None:
        """A part that is good now, if it is here; nobody is asked."""
        return self._stored(wanted, self._clock())

    def is_due(self, part: Part) -> bool:
        """Whether it should be asked for again (rule 4)."""
        return _is_due(part, self._clock())

    def put(self, wanted: Wanted, parts: Parts, *, asked: datetime.datetime) -> Part:
        """Store a part that came another way.

        Args:
            wanted: what it is.
            parts: what came.
            asked: when it came from its service.

        Raises:
            MalformedError, NotGenuineError, UnavailableError: ``collateral.*``: it isn't good now,
                or older than what is here.
        """
        with self._locked(self._path(wanted), _LOCK_SECONDS):
            return self._keep(wanted, parts, asked=asked)

    def take_bundle(self, bundle: Bundle) -> tuple[Taken, ...]:
        """Store what a bundle carries (specs/collateral-bundle.md, invariants 4 and 5).

        Args:
            bundle: opened, of a key that the user named.

        Returns:
            For each part whether it was taken; what isn't good now, or older than what is here, is
            left out.

        Raises:
            UnavailableError: ``bundle.rollback``.
            UsageError: ``collateral.cache``.
        """
        marker = self._folder / f"bundle-{sha256(bundle.key)}.created"
        created = int(bundle.created.timestamp())
        with self._locked(marker, _LOCK_SECONDS):
            try:
                last = int(marker.read_text()[:20])
            except (OSError, ValueError):
                last = created
            if created < last:
                raise UnavailableError(
                    "bundle.rollback",
                    "a newer bundle of this key was taken before",
                    field="created",
                    expected=f"{datetime.datetime.fromtimestamp(last, datetime.UTC).isoformat()} "
                    "or later",
                    got=bundle.created.isoformat(),
                    remedy="Bring the newest bundle.",
                )
            self._replace(marker, str(created).encode())
        return tuple(self._take(entry) for entry in bundle.entries.values())

    def entries(self) -> tuple[Listed, ...]:
        """Every entry."""
        now = self._clock()
        listed = [self._listed(path, now) for path in sorted(self._folder.glob("*.cbor"))]
        return tuple(sorted(listed, key=lambda each: each.name))

    def known(self) -> tuple[Wanted, ...]:
        """What every readable entry is, good or not."""
        found: dict[str, Wanted] = {}
        for path in self._folder.glob("*.cbor"):
            with contextlib.suppress(OSError, CasemateError):
                name, parts, _ = _decode(_read(path))
                found[name] = wanted_of(name, parts)
        return tuple(wanted for _, wanted in sorted(found.items()))

    def parts(self) -> tuple[Part, ...]:
        """Every part that is good now, by name."""
        found = [self.look(wanted) for wanted in self.known()]
        return tuple(part for part in found if part is not None)

    def _asked(self, wanted: Wanted, web: Web, good: Part | None) -> Part:
        """Ask, alone; whoever has a good part waits for nobody."""
        try:
            patience = 0.0 if good is not None else _LOCK_SECONDS
            with self._locked(self._path(wanted), patience) as last_tried:
                found = self.look(wanted)  # somebody else may have asked meanwhile
                if found is not None and (
                    not self.is_due(found) or 0 <= time.time() - last_tried < _AGAIN_SECONDS
                ):
                    return found
                return self._fetched(wanted, web, found)
        except _BusyError:
            if good is None:
                raise
            return good

    def _take(self, entry: Entry) -> Taken:
        wanted = wanted_of(entry.name, entry.parts)
        here = self._stored(wanted, None)
        if here is not None and here.parts == entry.parts:
            return Taken(name=entry.name, until=here.validity.end, error=None)
        try:
            part = self.put(wanted, entry.parts, asked=entry.asked)
        except UsageError:
            raise
        except CasemateError as error:
            return Taken(name=entry.name, until=None, error=error)
        return Taken(name=entry.name, until=part.validity.end, error=None)

    def _fetched(self, wanted: Wanted, web: Web, found: Part | None) -> Part:
        try:
            parts = wanted.fetch(web, self._services)
            return replace(self._keep(wanted, parts, asked=self._clock()), fetched=True)
        except UsageError:
            raise
        except CasemateError as error:
            if found is None:
                raise self._named(wanted, error) from error
            warning = f"{error.message} [{error.code}]"
            with contextlib.suppress(OSError):  # nobody may be reading any more
                self._warn(
                    f"{wanted.name} couldn't be fetched again, and serves until "
                    f"{found.validity.end:%Y-%m-%d %H:%M}: {warning}"
                )
            return replace(found, warning=warning)

    def _named(self, wanted: Wanted, error: CasemateError) -> UnavailableError:
        """Whatever was wrong: the part isn't at hand, so nothing can be decided with it."""
        host = host_of(wanted.service(self._services))
        return UnavailableError(
            error.code if error.code.startswith("collateral.") else "collateral.form",
            f"{wanted.name} can't be had from {host}: {error.message}",
            field=error.field or wanted.name,
            expected=error.expected,
            got=error.got,
            remedy=error.remedy,
        )

    def _keep(self, wanted: Wanted, parts: Parts, *, asked: datetime.datetime) -> Part:
        now = self._clock()
        validity = wanted.check(parts, self._roots, now)
        old = self._stored(wanted, None)
        if old is not None and (
            validity.number < old.validity.number or validity.start < old.validity.start
        ):
            raise UnavailableError(
                "collateral.rollback",
                "an older edition was sent than is known",
                field=wanted.name,
                expected=f"edition {old.validity.number} of {old.validity.start.isoformat()}, or "
                "later",
                got=f"edition {validity.number} of {validity.start.isoformat()}",
                remedy="Ask the vendor's own service. If the older one is right, remove the "
                f"cache's entry {self._path(wanted).name}.",
            )
        kept = Part(wanted=wanted, parts=dict(parts), validity=validity, asked=asked)
        self._write(kept)
        return kept

    def _stored(self, wanted: Wanted, at: datetime.datetime | None) -> Part | None:
        """The entry, if there is one that is good at a time, or at the time when it came."""
        try:
            _, parts, asked = _decode(_read(self._path(wanted)))
            validity = wanted.check(parts, self._roots, at or asked)
        except (OSError, CasemateError):
            return None
        return Part(wanted=wanted, parts=parts, validity=validity, asked=asked)

    def _listed(self, path: Path, now: datetime.datetime) -> Listed:
        try:
            name, parts, asked = _decode(_read(path))
            wanted = wanted_of(name, parts)
        except (OSError, CasemateError):
            return Listed(name=path.name, asked=None, validity=None, state="damaged")
        stored = self._stored(wanted, None) if self._path(wanted) == path else None
        if stored is None:
            return Listed(name=name, asked=asked, validity=None, state="damaged")
        state = "ended"
        if (current := self.look(wanted)) is not None:
            state = "due" if _is_due(current, now) else "good"
        return Listed(name=name, asked=asked, validity=stored.validity, state=state)

    def _write(self, part: Part) -> None:
        data = encode_cbor(
            {
                "version": _VERSION,
                "name": part.wanted.name,
                "asked": int(part.asked.timestamp()),
                "parts": dict(part.parts),
            }
        )
        self._replace(self._path(part.wanted), data)

    def _replace(self, path: Path, data: bytes) -> None:
        """Rule 2; whoever writes holds the entry's lock."""
        beside = path.with_suffix(".new")
        try:
            descriptor = os.open(
                beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600
            )
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(descriptor)
            beside.replace(path)
        except OSError as error:
            raise _unusable(self._folder, error) from error

    def _path(self, wanted: Wanted) -> Path:
        return self._folder / f"{hashlib.sha256(wanted.name.encode()).hexdigest()}.cbor"

    @contextlib.contextmanager
    def _locked(self, entry: Path, patience: float) -> Iterator[float]:
        """Alone with an entry; gives when it was last asked for, in seconds since the epoch.

        Whoever else is at it has ``patience`` seconds to finish. The kernel lets go of the lock
        when its process ends, however it ends.
        """
        path = entry.with_suffix(".lock")
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise _unusable(self._folder, error) from error
        try:
            _take(descriptor, entry, patience)
            stamp = os.fstat(descriptor)
            yield stamp.st_mtime if stamp.st_size else 0.0
            with contextlib.suppress(OSError):  # a full disk: then somebody asks once too often
                os.pwrite(descriptor, b"1", 0)
        finally:
            os.close(descriptor)


def _take(descriptor: int, entry: Path, patience: float) -> None:
    end = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= end:
                raise _BusyError(
                    "collateral.busy",
                    "another process asks for this part, and doesn't come back",
                    field=entry.name,
                    expected=f"an answer within {patience:.0f} s",
                    remedy="Try again later.",
                ) from None
            time.sleep(_LOCK_PAUSE)
        else:
            return


def _is_due(part: Part, now: datetime.datetime) -> bool:
    life = part.validity.end - part.validity.start
    return part.validity.end - now < min(life / 4, _DAY) and not (
        datetime.timedelta(0) <= now - part.asked < _HOUR
    )


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_MAX_ENTRY + 1)


def _decode(data: bytes) -> tuple[str, dict[str, bytes], datetime.datetime]:
    fields = MapReader(decode_cbor(data, what="cache entry", max_size=_MAX_ENTRY), what="entry")
    version, name = fields.take("version", int), fields.take("name", str)
    asked, parts = fields.take("asked", int), fields.take_map("parts")
    values = {each: parts.take(each, bytes) for each in parts.names()}
    fields.finish()
    try:
        moment = datetime.datetime.fromtimestamp(asked, datetime.UTC)
    except (ValueError, OverflowError, OSError) as error:
        raise MalformedError("collateral.entry", "the entry has no time") from error
    if version != _VERSION:
        raise MalformedError("collateral.entry", "the entry is of another version")
    return name, values, moment


def _unusable(folder: Path, error: OSError) -> UsageError:
    return UsageError(
        "collateral.cache",
        f"the cache {folder} can't be used",
        field="--cache",
        got=error.strerror or str(error),
        remedy="Name a folder of your own.",
    )
