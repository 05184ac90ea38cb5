"""Run a launch: contract in, workload's exit status out."""

from __future__ import annotations

import contextlib
import datetime
import os
import resource
import signal
import socket
import threading
from pathlib import Path
from types import FrameType

from casemate.errors import CasemateError, InternalError, UnavailableError, UsageError
from casemate.evidence import Attester, Evidence
from casemate.launcher import linux
from casemate.launcher.environment import workload_environment
from casemate.launcher.init import FORWARDED
from casemate.launcher.keeper import run_keeper
from casemate.launcher.options import LaunchOptions
from casemate.launcher.status import Status
from casemate.launcher.storage import PlainStorage
from casemate.launcher.wire import error_from, receive_message, send_message
from casemate.protocol.contract import MAX_SIZE, LaunchContract
from casemate.types import ReportData, Secret


def run_launch(options: LaunchOptions, status: Status) -> int:
    """Launch the contract's workload, and stay until it ends.

    Args:
        options: the host's part.
        status: told of progress.

    Returns:
        The workload's exit status; 128 + signal where a signal ended it.

    Raises:
        CasemateError: nothing was started, or it could not go on.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # no core dump may hold a secret
    contract = LaunchContract.parse(_read_contract(options.contract))
    environment = workload_environment(contract, options.environment)
    linux.adopt_orphans()  # if the keeper is killed, what it kept becomes ours to end
    # The keeper comes before any thread, socket or key: a fork copies what there is.
    # A request to stop waits until whoever gets it knows of the other.
    signal.pthread_sigmask(signal.SIG_BLOCK, FORWARDED)
    storage = PlainStorage()
    keeper, control = _fork_keeper(contract, environment, options, storage)
    with control:
        try:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, FORWARDED)
            linux.forbid_dumps()
            _fetch_and_hand_over(contract, options, status, control)
            return _attend(control, keeper, status)
        finally:
            _end(keeper, storage)


def _read_contract(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(MAX_SIZE + 1)
    except OSError as error:
        raise UsageError(
            "launcher.contract",
            f"the launch contract {path} can't be read",
            field="--contract",
            got=error.strerror or str(error),
        ) from error


def _fork_keeper(
    contract: LaunchContract,
    environment: dict[str, str],
    options: LaunchOptions,
    storage: PlainStorage,
) -> tuple[int, socket.socket]:
    ours, theirs = socket.socketpair()
    try:
        pid = os.fork()
    except OSError as error:
        raise _no_room("process", error.strerror or str(error)) from error
    if pid == 0:
        ours.close()
        run_keeper(theirs, contract, environment, options, storage)
    theirs.close()
    return pid, ours


def _fetch_and_hand_over(
    contract: LaunchContract, options: LaunchOptions, status: Status, control: socket.socket
) -> None:
    # After the fork: the keeper needs no TLS.
    from casemate.channel.knowledge import knowledge_from_files
    from casemate.launcher.fetch import fetch_secrets

    attesting = _Attesting(contract, options, status)
    secrets = fetch_secrets(
        contract,
        attesting,
        timeout=options.broker_timeout,
        status=status,
        knowledge=knowledge_from_files(options.endorsements),
        before_retry=attesting.require_possible,
    )
    values = {name: secret.reveal() for name, secret in secrets.items()}
    minted = [each.reveal() for each in _mint(contract, attesting, status)]
    # A keeper that has failed already says why on the same socket; `_attend` reads it.
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        send_message(control, {"secrets": values, "minted": minted})


def _mint(contract: LaunchContract, attester: Attester, status: Status) -> tuple[Secret, ...]:
    """What goes into the files of the contract's certificate; nothing where it has none."""
    if contract.certificate is None:
        return ()
    from casemate.launcher.certificate import mint_certificate  # for contracts that have one

    minted = mint_certificate(contract, attester, now=datetime.datetime.now(datetime.UTC))
    names, until = contract.certificate.names, minted.until.isoformat()
    status.tell(
        "certificate",
        f"minted an attested certificate for {', '.join(names)}: SHA-256 {minted.fingerprint}",
        sha256=minted.fingerprint,
        names=list(names),
        until=until,
    )
    return minted.files


def _attend(control: socket.socket, keeper: int, status: Status) -> int:
    """Pass on what the keeper reports until the workload has ended."""
    while (message := receive_message(control)) is not None:
        match message.take("kind", str):
            case "told":
                details = message.take_map("details")
                status.tell(
                    message.take("event", str),
                    message.take_optional("sentence", str),
                    **{name: details.take_any(name) for name in details.names()},
                )
            case "started":
                # Until now a request to stop ended the launch; now it is the workload's.
                _forward_signals(keeper)
                status.tell("started", "the workload runs", pid=message.take("pid", int))
            case "exit":
                code = message.take("status", int)
                status.tell("exit", f"the workload ended with status {code}", status=code)
                return code
            case _:
                raise error_from(message)
    raise CasemateError("launcher.keeper", "the keeper was killed; the workload ended with it")


def _forward_signals(keeper: int) -> None:
    stops = 0

    def forward(number: int, frame: FrameType | None) -> None:
        nonlocal stops
        del frame
        stops += number in {signal.SIGTERM, signal.SIGINT}
        with contextlib.suppress(ProcessLookupError):
            # A second request to stop isn't left to the workload's discretion.
            os.kill(keeper, signal.SIGKILL if stops > 1 else number)

    for number in FORWARDED:
        signal.signal(number, forward)


def _end(keeper: int, storage: PlainStorage) -> None:
    """End the keeper and all that it started, and remove what decrypted files it leaves.

    Killed, not asked: its mounts vanish with their namespace, the workload's processes with their
    init, and the rest is removed here. So no race with whatever the keeper is doing is left.
    """
    for number in (*FORWARDED, signal.SIGALRM):
        signal.signal(number, signal.SIG_IGN)
    os.kill(keeper, signal.SIGKILL)
    linux.end_every_child()
    storage.remove()


def _no_room(what: str, got: str) -> UnavailableError:
    return UnavailableError(
        f"launcher.{what}",
        f"the launcher can't start its first {what}",
        got=got,
        remedy="Allow more processes: ulimit -u, or the pids limit of its container.",
    )


class _Attesting:
    """The TEE's attester, made in a thread of its own while the channel is being opened.

    Measuring the launcher's files takes longer than a TCP handshake; evidence is asked for only
    after it. Before any evidence is made, the contract's digest goes into the TEE's register for
    what runs, where it has one.
    """

    def __init__(self, contract: LaunchContract, options: LaunchOptions, status: Status) -> None:
        self._contract, self._options, self._status = contract, options, status
        self._made: Attester | None = None
        self._failure: CasemateError | None = None
        self._thread = threading.Thread(target=self._make, daemon=True)
        try:
            self._thread.start()
        except RuntimeError as error:
            raise _no_room("thread", str(error)) from error

    def attest(self, report_data: ReportData) -> Evidence:
        self._thread.join()
        if isinstance(self._failure, UnavailableError):  # it may answer by now
            self._make()
        if self._failure is not None:
            raise self._failure
        assert self._made is not None
        return self._made.attest(report_data)

    def require_possible(self) -> None:
        """Raise what is known by now to keep this TEE from ever attesting."""
        if self._failure is not None and not isinstance(self._failure, UnavailableError):
            raise self._failure

    def _make(self) -> None:
        from casemate.tee.platform import Place, open_tee
        from casemate.tee.simulated import measure_launcher

        place = Place(
            device=self._options.tee_device,
            development_root=self._options.development_root,
            measure=measure_launcher,
            gpus=self._options.gpus,
        )
        self._failure = None
        try:
            name, tee = open_tee(self._options.tee, place)
            register = tee.extend(self._contract.digest())
            where = f", the contract's digest is in {register}" if register else ""
            self._status.tell("tee", f"runs in: {name}{where}", tee=name, register=register)
            self._made = tee
        except CasemateError as error:
            self._failure = error
        except Exception as error:  # noqa: BLE001  a thread's edge: or nobody would ever hear of it
            self._failure = InternalError("launcher.tee", f"{type(error).__name__}: {error}")
