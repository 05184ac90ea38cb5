"""Options that several commands share."""

from __future__ import annotations

import datetime
import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import click

if TYPE_CHECKING:
    from casemate.client import Trust
    from casemate.project.collateral import Place

_F = TypeVar("_F", bound=Callable[..., Any])


class _Address(click.ParamType[tuple[str, int]]):
    """``HOST:PORT``; an IPv6 address stands in brackets."""

    name = "address"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, int]:
        host, _, port = str(value).rpartition(":")
        if not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
            self.fail(f"{value!r} is not HOST:PORT", param, ctx)
        return host.removeprefix("[").removesuffix("]"), int(port)


ADDRESS = _Address()


class _Time(click.ParamType[datetime.datetime]):
    """A time with its zone, RFC 3339."""

    name = "time"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> datetime.datetime:
        try:
            moment = datetime.datetime.fromisoformat(str(value))
        except ValueError:
            self.fail(f"{value!r} is not a time such as 2026-11-23T12:00:00Z", param, ctx)
        if moment.tzinfo is None:
            self.fail(f"{value!r} has no zone; end it with Z for UTC", param, ctx)
        return moment


TIME = _Time()


def project_option(function: _F) -> _F:
    """``--project``: gives the command a `casemate.project.build.Project`."""

    def load(context: click.Context, parameter: click.Parameter, folder: Path) -> object:
        del context, parameter
        from casemate.project.build import Project  # not for commands without a project

        return Project.load(folder)

    return click.option(
        "-C",
        "--project",
        type=click.Path(file_okay=False, path_type=Path),
        default=Path(),
        callback=load,
        help="The folder that holds casemate.toml.  [default: this folder]",
    )(function)


def tee_options(function: _F) -> _F:
    """``--tee`` and ``--development-root``."""
    tee = click.option(
        "--tee",
        type=click.Choice(["simulated"]),
        help="The TEE that this program runs in. Simulated protects nothing.",
    )
    return tee(_development_root(function))


def machine_tee_options(function: _F) -> _F:
    """``--tee``, ``--tee-device`` and ``--development-root``, of a program that may run in one."""
    from casemate.tee.platform import CHOICES

    tee = click.option(
        "--tee",
        type=click.Choice(CHOICES),
        help="The TEE that this program runs in; auto finds hardware's. A bare TPM and simulated "
        "must be named: the one proves little, the other protects nothing.",
    )
    device = click.option(
        "--tee-device",
        metavar="PLACE",
        help="Where it is, if not at its usual place: a folder, a node, a TPM's socket.",
    )
    gpus = click.option(
        "--gpus", is_flag=True, help="Attest the machine's GPUs along, all of them."
    )
    return tee(device(gpus(_development_root(function))))


def _development_root(function: _F) -> _F:
    return click.option(
        "--development-root",
        type=click.Path(dir_okay=False, path_type=Path),
        help="The simulated TEE's key.  [default: one of your own, made when first needed]",
    )(function)


def trust_options(function: _F) -> _F:
    """Why a server is believed: gives the command ``trust``, which has a `Trust` for an address."""

    @functools.wraps(function)
    def trusting(*args: Any, **options: Any) -> Any:
        reasons = {name: options.pop(name) for name in ("crt", "policy", "plaintext")}
        knowing = {name: options.pop(name) for name in ("endorsements", "bundle_key", "max_age")}
        named = {name: options.pop(name) for name in (*_PLACE, *_FLAGS)}

        def trust(server: str) -> Trust:
            return _trust(server, **reasons, **knowing, named=named)

        return function(*args, trust=trust, **options)

    file = click.Path(exists=True, dir_okay=False, path_type=Path)
    decorated: Any = _with_place(_keyed(cast("_F", trusting)), flags=True)
    for option in reversed(
        (
            click.option("--crt", type=file, help="Trust this certificate (PEM) of the server's."),
            click.option(
                "--policy", type=file,
                help="Verify the server by the evidence in its certificate, under every policy of "
                "this document, before anything is sent.",
            ),
            click.option(
                "--plaintext", is_flag=True, help="No TLS: anyone on the way can read and change."
            ),
            click.option(
                "--max-age", type=click.FloatRange(0, min_open=True), metavar="DAYS",
                help="With --policy: how long ago the certificate may have been made.",
            ),
            click.option(
                "--endorsements", type=file, multiple=True,
                help="With --policy: what vendors say of hardware, files of any kind; may be given "
                "several times.",
            ),
        )
    ):  # fmt: skip
        decorated = option(decorated)
    return cast("_F", decorated)


def _trust(
    server: str,
    *,
    crt: Path | None,
    policy: Path | None,
    plaintext: bool,
    endorsements: tuple[Path, ...],
    bundle_key: tuple[Path, ...],
    max_age: float | None,
    named: dict[str, Any],
) -> Trust:
    """What the options of `trust_options` mean for a server.

    Raises:
        UsageError: ``client.trust`` where they say nothing, or two things.
    """
    from casemate.client import Plaintext, read_certificate
    from casemate.errors import UsageError

    given = {"--crt": crt is not None, "--policy": policy is not None, "--plaintext": plaintext}
    reasons = [name for name, it in given.items() if it]
    if len(reasons) != 1:
        raise UsageError(
            "client.trust",
            "say why the server is to be trusted, and only once",
            field="trust",
            expected=f"one of {', '.join(given)}",
            got=" and ".join(reasons) or "none",
            remedy="Give the policy that it must satisfy with --policy, or its certificate with "
            "--crt.",
        )
    if crt is not None:
        return read_certificate(crt.read_bytes())
    if policy is None:
        return Plaintext()
    from casemate.client.attested import verify_server  # verifying takes libraries that few need
    from casemate.policy import PolicyDocument
    from casemate.project.collateral import load_given, now
    from casemate.project.files import read_text

    given_files = load_given(endorsements, bundle_keys=bundle_key, at=now())
    verified = verify_server(
        server,
        PolicyDocument.parse(read_text(policy, field="--policy")),
        knowledge=given_files.knowledge(_place_of(named), now),
        max_age=datetime.timedelta(days=max_age) if max_age is not None else None,
    )
    click.echo(
        f"{server}: verified, {verified.appraised[0].report.tee}, launch contract "
        f"{str(verified.launch)[:16]}…, certificate {verified.fingerprint[:16]}…",
        err=True,
    )
    return verified


cache_option = click.option(
    "--collateral-cache",
    type=click.Path(file_okay=False, path_type=Path),
    help="The folder where collateral is kept.  [default: the user's own]",
)


def service_options(function: _F) -> _F:
    """Where services and the cache are: gives the command ``place``, a `Place`."""
    return _placed(function, flags=False)


def collateral_options(function: _F) -> _F:
    """``--fetch``, ``--offline``, ``--bundle-key``, and where services and the cache are.

    Gives the command ``place``, a `casemate.project.collateral.Place`, and ``bundle_key``.
    """
    return _placed(_keyed(function), flags=True)


def _keyed(function: _F) -> _F:
    return click.option(
        "--bundle-key",
        type=click.Path(dir_okay=False, path_type=Path),
        multiple=True,
        help="Take collateral bundles of this public key alone; may be given several times.",
    )(function)


def _placed(function: _F, *, flags: bool) -> _F:
    @functools.wraps(function)
    def placed(*args: Any, **options: Any) -> Any:
        named = {name: options.pop(name) for name in (*_PLACE, *(_FLAGS if flags else ()))}
        return function(*args, place=_place_of({"fetch": not flags, **named}), **options)

    return _with_place(cast("_F", placed), flags=flags)


def _place_of(named: dict[str, Any]) -> Place:
    """A `Place` out of the options of `_with_place`."""
    from casemate.collateral.wanted import Services  # not for commands without collateral
    from casemate.project.collateral import Place

    services = {name: named[name] for name in _SERVICES if named[name]}
    fetch, offline = named["fetch"], named.get("offline", False)
    if fetch and offline:
        raise click.UsageError("--fetch and --offline exclude each other")
    return Place(
        folder=named["collateral_cache"],
        services=Services(**services),
        tls_ca=named["tls_ca"],
        fetch=fetch,
        offline=offline,
        warn=lambda text: click.echo(f"casemate: WARNING: {text}", err=True),
    )


def _with_place(function: _F, *, flags: bool) -> _F:
    """Options that say where services and the cache are, and with ``flags`` whether to ask them."""
    decorated: Any = function
    for name, whose in reversed(_SERVICES.items()):
        text = f"Ask {whose} at this address."
        decorated = click.option(f"--{name}", metavar="URL", help=text)(decorated)
    decorated = click.option(
        "--tls-ca",
        type=click.Path(dir_okay=False, path_type=Path),
        help="Whose certificates services may have (PEM).  [default: the system's]",
    )(decorated)
    decorated = cache_option(decorated)
    if flags:
        for name, text in reversed(_FLAGS.items()):
            decorated = click.option(f"--{name}", is_flag=True, help=text)(decorated)
    return cast("_F", decorated)


_SERVICES = {
    "pccs": "Intel's PCS, or a PCCS,",
    "kds": "AMD's KDS",
    "rim": "NVIDIA's RIM service",
    "ocsp": "NVIDIA's OCSP responder",
}
_FLAGS = {
    "fetch": "Fetch what is missing from the vendors' services, through the cache.",
    "offline": "Take what is missing from the cache, and ask nobody.",
}
_PLACE = (*_SERVICES, "tls_ca", "collateral_cache")
