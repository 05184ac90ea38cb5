"""What the host may say to a launcher: where things are, and nothing about what runs."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import NoReturn

from casemate.errors import UsageError
from casemate.image.storage import DANGER
from casemate.image.ways import OpenChoice
from casemate.tee.platform import CHOICES


class RootChoice(StrEnum):
    """How the workload is parted from the host."""

    AUTO = "auto"
    NAMESPACE = "namespace"
    CHROOT = "chroot"


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchOptions:
    """The host's part of a launch.

    Args:
        contract: the launch contract's file; its digest is attested.
        images: a directory that holds ``NAME.sealed`` for every image.
        image_files: files of images that lie elsewhere, by name.
        environment: values for variables that the contract leaves to the host.
        tee: the TEE that the launcher runs in, or ``auto``.
        tee_device: where that is, if not at its usual place.
        gpus: whether the machine's GPUs are attested along.
        development_root: the simulated TEE's key; None for the user's own.
        endorsements: files of the vendors', for a broker whose evidence is hardware's.
        root: how the workload is parted from the host.
        open: how images are opened.
        allow_disk: open images on storage that isn't memory, or with unencrypted swap.
        broker_timeout: how long to wait for a broker that can't be reached, in seconds.
        as_json: report events as JSON lines on stdout.
    """

    contract: Path
    images: Path
    image_files: dict[str, Path]
    environment: dict[str, str]
    tee: str
    tee_device: str | None
    gpus: bool
    development_root: Path | None
    endorsements: tuple[Path, ...]
    root: RootChoice
    open: OpenChoice
    allow_disk: bool
    broker_timeout: float
    as_json: bool

    def image_file(self, name: str) -> Path:
        """Where the image ``name`` is said to be."""
        return self.image_files.get(name, self.images / f"{name}.sealed")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError("launcher.usage", message, remedy=f"See {self.prog} --help.")


def parse_options(arguments: list[str]) -> LaunchOptions:
    """Parse a launcher's command line.

    Raises:
        UsageError: ``launcher.usage``; ``launcher.host-argv`` where the host passes arguments for
            the workload, which only the contract may name.
    """
    parser = _parser()
    known, rest = parser.parse_known_args(arguments)
    if rest:
        raise UsageError(
            "launcher.host-argv",
            "the host passed arguments that the launcher doesn't take; they are not used",
            field="argv",
            expected="the command line of the launch contract, and no other",
            got=" ".join(rest)[:200],
            remedy="Write the arguments into the launch contract, and release policies for it.",
        )
    return LaunchOptions(
        contract=known.contract,
        images=known.images,
        image_files=dict(known.image),
        environment=dict(known.env),
        tee=known.tee,
        tee_device=known.tee_device,
        gpus=known.gpus,
        development_root=known.development_root,
        endorsements=tuple(known.endorsements),
        root=RootChoice(known.root),
        open=OpenChoice(known.open),
        allow_disk=known.dangerously_allow_disk,
        broker_timeout=known.broker_timeout,
        as_json=known.json,
    )


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="casemate launch",
        description="Attest to the broker, fetch the contract's secrets, open its sealed images, "
        "and run its workload in the new root. Exits with the workload's status.",
        epilog="example:  casemate launch --contract launch.cbor --images images/ --tee simulated",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--contract", type=Path, required=True, metavar="FILE", help="the launch contract")
    add(
        "--images", type=Path, default=Path(), metavar="DIR", help="holds NAME.sealed  [default: .]"
    )
    add("--image", type=_pair_path, action="append", default=[], metavar="NAME=FILE",
        help="an image that lies elsewhere")  # fmt: skip
    add("--env", type=_pair, action="append", default=[], metavar="NAME=VALUE",
        help="a variable that the contract leaves to the host")  # fmt: skip
    add("--tee", choices=CHOICES, required=True,
        help="the TEE; auto finds hardware's, tpm and simulated must be named: the one proves "
        "little, the other protects nothing")  # fmt: skip
    add("--tee-device", metavar="PLACE",
        help="where it is, if elsewhere: a folder, a node, a TPM's socket")  # fmt: skip
    add("--gpus", action="store_true", help="attest the machine's GPUs along, all of them")
    add("--development-root", type=Path, metavar="FILE", help="the simulated TEE's key")
    add("--endorsements", type=Path, action="append", default=[], metavar="FILE",
        help="what the vendors say of a broker's hardware; may be given several times")  # fmt: skip
    add("--root", choices=list(RootChoice), default="auto",
        help="how the workload is parted from the host  [default: auto]")  # fmt: skip
    add("--open", choices=list(OpenChoice), default="auto",
        help="how images are opened  [default: auto: the root extracted, volumes mounted, "
        "each where the machine allows it]")  # fmt: skip
    add(DANGER, action="store_true",
        help="INSECURE: let decrypted files reach a disk, or unencrypted swap")  # fmt: skip
    add("--broker-timeout", type=float, default=60.0, metavar="SECONDS",
        help="how long to wait for an unreachable broker  [default: 60]")  # fmt: skip
    add("--json", action="store_true", help="report events as JSON lines on stdout")
    return parser


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    return name, value


def _pair_path(text: str) -> tuple[str, Path]:
    name, value = _pair(text)
    return name, Path(value)
