"""Collateral for the command line: from services, a cache, bundles and loose files."""

from __future__ import annotations

import contextlib
import datetime
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
)

from casemate.collateral.bundle import Bundle, BundleStore, is_bundle, make_bundle, open_bundle
from casemate.collateral.cache import CollateralCache, Taken, cache_folder
from casemate.collateral.gather import Part, assemble, collect, gather, with_sent
from casemate.collateral.intel import IntelTcb
from casemate.collateral.wanted import VENDOR_SERVICES, Services, Wanted
from casemate.endorsements.collection import Endorsements, sort_endorsements
from casemate.errors import UnavailableError, UsageError
from casemate.evidence import Evidence
from casemate.evidence.detect import detect, unwrap
from casemate.project.files import read_file, replace_public
from casemate.project.keys import load_public_key
from casemate.verify import Known

if TYPE_CHECKING:
    from casemate.collateral.web import Web

Clock = Callable[[], datetime.datetime]


def now() -> datetime.datetime:
    """The time."""
    return datetime.datetime.now(datetime.UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where collateral is had from.

    Args:
        folder: the cache's; the user's own if not given.
        services: the vendors', or mirrors.
        tls_ca: whose certificates services may have, beside nobody else's.
        fetch: whether services are asked.
        offline: whether the cache is used although nobody is asked.
        warn: told what is due and couldn't be fetched.
    """

    folder: Path | None = None
    services: Services = VENDOR_SERVICES
    tls_ca: Path | None = None
    fetch: bool = False
    offline: bool = False
    warn: Callable[[str], None] = lambda _: None

    def cache(self, clock: Clock = now) -> CollateralCache:
        """The cache.

        Raises:
            UsageError: its folder can't be, or the library for HTTP isn't there.
        """
        return CollateralCache(
            self.folder or cache_folder(),
            web=self._web() if self.fetch else None,
            services=self.services,
            clock=clock,
            warn=self.warn,
        )

    def _web(self) -> Web:
        try:
            from casemate.collateral.web import Web  # a library that few commands need
        except ModuleNotFoundError as error:
            raise UsageError(
                "collateral.library",
                "collateral can't be fetched by this installation",
                field="--fetch",
                expected=f"the library {error.name}",
                got="none",
                remedy="Install the extra 'collateral' (pip install 'casemate[collateral]').",
            ) from error
        return Web(tls_ca=self.tls_ca)


NOWHERE = Place()
"""No service is asked and no cache is used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """Endorsements that a user named.

    Args:
        endorsements: of loose files.
        bundles: of signed bundles.
    """

    endorsements: Endorsements
    bundles: tuple[Bundle, ...]

    def completion(self, place: Place, clock: Clock) -> Callable[[str, bytes], Endorsements] | None:
        """What gives all that evidence is verified with: files, bundles, then cache and services.

        Returns:
            A function of the kind of evidence and the evidence, which raises what `gather` does;
            None where the files are all there is.
        """
        cache = place.cache(clock) if place.fetch or place.offline else None
        if cache is None and not self.bundles:
            return None
        stores = self.stores(clock)
        return lambda kind, data: gather(
            kind, data, given=self.endorsements, stores=stores, source=cache
        )

    def knowledge(self, place: Place, clock: Clock) -> Callable[[Evidence], Known]:
        """What evidence is held against that brings certificates along; asks as it is needed."""
        cache = place.cache(clock) if place.fetch or place.offline else None
        stores = self.stores(clock)

        def know(evidence: Evidence) -> Known:
            have = self.endorsements
            if cache is not None or stores:
                have = gather(
                    evidence.tee, evidence.data, given=with_sent("evidence", evidence, have),
                    stores=stores, source=cache,
                )  # fmt: skip
            return Known(at=clock(), endorsements=have)

        return know

    def stores(self, clock: Clock) -> tuple[BundleStore, ...]:
        """The bundles, as places to look in."""
        return tuple(BundleStore(bundle=bundle, at=clock) for bundle in self.bundles)


def load_given(
    files: Sequence[Path], *, bundle_keys: Sequence[Path], at: datetime.datetime
) -> Given:
    """Read endorsements of any kind and bundles, in any order.

    Args:
        files: what the user named.
        bundle_keys: public keys of whose bundles are taken.
        at: the time at which bundles must be good.

    Raises:
        UsageError: a file can't be read.
        MalformedError, NotGenuineError, UnavailableError: ``endorsements.*``, ``bundle.*``.
    """
    keys = _public_keys(bundle_keys)
    contents = [(str(path), read_file(path, field="--endorsements")) for path in files]
    return Given(
        endorsements=sort_endorsements(
            (name, content) for name, content in contents if not is_bundle(content)
        ),
        bundles=tuple(
            open_bundle(content, keys=keys, at=at) for _, content in contents if is_bundle(content)
        ),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """What came of fetching.

    Args:
        parts: what is at hand now, by name.
        errors: what isn't, by name.
    """

    parts: tuple[Part, ...]
    errors: dict[str, UnavailableError]


class _Tolerant:
    """A cache that notes what can't be had and goes on with the rest."""

    def __init__(self, cache: CollateralCache) -> None:
        self._cache = cache
        self.errors: dict[str, UnavailableError] = {}

    def look(self, wanted: Wanted) -> Part | None:
        try:
            return self._cache.get(wanted)
        except UnavailableError as error:
            self.errors[wanted.name] = error
            return None


def fetch_for(
    evidence: Sequence[Path], *, tee: str | None, given: Endorsements, cache: CollateralCache
) -> Fetched:
    """Fetch what evidence needs; without any, what the cache holds and is due or has ended.

    Args:
        evidence: files.
        tee: their kind, or None to find out.
        given: what is at hand, such as a GPU's certificates.
        cache: where it is kept.

    Raises:
        UsageError: a file can't be read.
        MalformedError: one isn't evidence.
        UnavailableError: it doesn't say what to ask for.
    """
    tolerant = _Tolerant(cache)
    if not evidence:
        found = [tolerant.look(wanted) for wanted in cache.known()]
        parts = {part.wanted.name: part for part in found if part is not None}
    else:
        parts = {}
        for path in evidence:
            data = unwrap(read_file(path, field="evidence"))
            for part in collect(tee or detect(data), data, given=given, stores=(tolerant,)):
                parts[part.wanted.name] = part
    return Fetched(
        parts=tuple(part for _, part in sorted(parts.items())), errors=dict(tolerant.errors)
    )


def write_loose(parts: Sequence[Part], folder: Path) -> list[Path]:
    """Write parts as files that every ``--endorsements`` takes.

    Raises:
        UsageError: ``collateral.loose`` where they are of several of Intel's platforms, which fit
            into no such file; ``file.unwritable``.
    """
    platforms = [part.wanted.name for part in parts if isinstance(part.wanted, IntelTcb)]
    if len(platforms) > 1:
        raise UsageError(
            "collateral.loose",
            "collateral of several platforms doesn't go into one file",
            field="--out",
            expected="evidence of one platform",
            got=", ".join(platforms),
            remedy="Fetch for one after the other, each into a folder of its own.",
        )
    endorsements = assemble(parts, given=Endorsements())
    files: dict[str, bytes] = {}
    if endorsements.certificates:
        files["certificates.pem"] = b"".join(
            each.public_bytes(Encoding.PEM) for each in endorsements.certificates
        )
    if endorsements.revocation_lists:
        files["revocation-lists.pem"] = b"".join(
            each.public_bytes(Encoding.PEM) for each in endorsements.revocation_lists
        )
    if endorsements.dcap is not None:
        files["dcap.json"] = endorsements.dcap.text.encode()
    for part in parts:
        kind, _, rest = part.wanted.name.partition("/")
        if kind == "nvidia":
            ending = "xml" if rest.startswith("rim/") else "ocsp"
            files[f"{rest.partition('/')[2]}.{ending}"] = part.parts["body"]
    written = [folder / name for name in sorted(files)]
    for path in written:
        replace_public(path, files[path.name])
    return written


def write_bundle(
    output: Path, parts: Sequence[Part], *, key: Path, days: int, clock: Clock = now
) -> Bundle:
    """Write a signed bundle.

    Args:
        output: its file; replaced if it is there.
        parts: what it carries.
        key: an identity key's file.
        days: after which it ends.
        clock: the time.

    Raises:
        UsageError: the key can't be read, the file can't be written, or there's nothing to carry.
    """
    if not parts:
        raise UsageError(
            "bundle.empty",
            "there's nothing to put into a bundle",
            field="cache",
            expected="parts that are good now",
            got="none",
            remedy="Fetch first: casemate collateral fetch EVIDENCE",
        )
    signer = _signing_key(key)
    spki = signer.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    created = clock()
    data = make_bundle(
        parts, created=created, expires=created + datetime.timedelta(days=days),
        key=spki, sign=signer.sign,
    )  # fmt: skip
    replace_public(output, data)
    return open_bundle(data, keys=(spki,), at=created)


def read_bundle(path: Path, *, keys: Sequence[Path], at: datetime.datetime) -> Bundle:
    """Open a bundle's file.

    Raises:
        UsageError: a file can't be read.
        MalformedError, NotGenuineError, UnavailableError: ``bundle.*``.
    """
    return open_bundle(read_file(path, field="bundle"), keys=_public_keys(keys), at=at)


def import_bundle(path: Path, *, keys: Sequence[Path], place: Place) -> tuple[Taken, ...]:
    """Put what a bundle carries into the cache.

    Raises:
        UsageError, MalformedError, NotGenuineError, UnavailableError: see `read_bundle` and
            `CollateralCache.take_bundle`.
    """
    return place.cache().take_bundle(read_bundle(path, keys=keys, at=now()))


@contextlib.contextmanager
def knowledge(
    endorsements: Sequence[Path],
    bundle_keys: Sequence[Path],
    place: Place,
    *,
    warn: Callable[[str], None],
) -> Iterator[Callable[[Evidence], Known]]:
    """What a broker knows of hardware, for as long as it runs.

    Args:
        endorsements: files, bundles among them, read now.
        bundle_keys: see `load_given`.
        place: where what is missing is had from.
        warn: told what couldn't be fetched.

    Raises:
        UsageError, MalformedError, NotGenuineError, UnavailableError: see `load_given`.
    """
    given = load_given(endorsements, bundle_keys=bundle_keys, at=now())
    if not place.fetch and not place.offline:
        complete = given.completion(NOWHERE, now)
        yield lambda evidence: Known(
            at=now(),
            endorsements=complete(evidence.tee, evidence.data)
            if complete is not None
            else given.endorsements,
        )
        return
    from casemate.collateral.background import BackgroundCollateral

    with BackgroundCollateral(
        place.cache(), given=given.endorsements, stores=given.stores(now), warn=warn
    ) as background:
        yield background


def _public_keys(paths: Sequence[Path]) -> list[bytes]:
    return [load_public_key(path, code="bundle.key-file", field="--bundle-key") for path in paths]


def _signing_key(path: Path) -> Ed25519PrivateKey:
    try:
        key = load_pem_private_key(read_file(path, field="--key"), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise UsageError(
            "bundle.key-file",
            f"{path} can't be read as a key that signs bundles",
            field="--key",
            expected="an Ed25519 private key in PEM",
            got="something else" if key is None else type(key).__name__,
            remedy=f"Make one with: casemate key new --for identity {path.name}",
        )
    return key
