"""What the model's owner does before anything runs: write down, build, seal."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from casemate.policy import PolicyDocument
from casemate.project.build import Project
from casemate.project.files import replace_public, write_public
from casemate.project.manifest import FILE_NAME
from casemate.project.policies import policy_for_launcher
from casemate.project.templates import project_file
from casemate.protocol.contract import LaunchContract, TlsMode
from casemate.protocol.contract_certificate import CertificateForm, CertificatePlacement
from casemate.tee.simulated import DevelopmentRoot, measure_launcher

MODEL = "resnet"


def found_project(folder: Path, onnx: bytes, *, broker_port: int, serving_port: int) -> Project:
    """A project that serves a model, as ``casemate new`` would begin it.

    Args:
        folder: an empty one.
        onnx: the model.
        broker_port: the broker's TCP port.
        serving_port: the model server's.
    """
    write_public(folder / "model" / "1" / "model.onnx", onnx)
    text = (
        project_file("onnx", MODEL)
        .replace("port = 9000", f"port = {serving_port}")
        .replace("port = 50051", f"port = {broker_port}")
    )
    write_public(folder / FILE_NAME, text.encode())
    return Project.load(folder)


def attested_contract(contract: LaunchContract, *, port: int) -> LaunchContract:
    """The same workload on another port, with a TLS key that its launcher makes in the TEE.

    Args:
        contract: has its key as a secret.
        port: where it serves.
    """
    (config,) = (each.path for each in contract.secrets)
    argv = (f"--port={port}" if part.startswith("--port=") else part for part in contract.argv)
    return dataclasses.replace(
        contract,
        argv=tuple(argv),
        secrets=(),
        tls=TlsMode.ATTESTED,
        certificate=CertificatePlacement(
            form=CertificateForm.TENSORFLOW_SERVING, names=("localhost",), days=1, files=(config,),
            mode=0o400,
        ),
    )  # fmt: skip


def write_policies(project: Project, attested: LaunchContract, *, clients: Path) -> None:
    """Let the broker release to a second contract too, and clients believe in that one alone.

    Args:
        project: with a policy for its own contract.
        attested: the second one.
        clients: where clients' policy goes.
    """
    root = DevelopmentRoot.load_or_create(project.development_root)
    mine = PolicyDocument.parse(project.policy.read_text())
    theirs = policy_for_launcher(attested, root=root, measurement=measure_launcher())
    both = {
        name: dataclasses.replace(
            policy, alternatives=(*policy.alternatives, *theirs.policies[name].alternatives)
        )
        for name, policy in mine.policies.items()
    }
    document = PolicyDocument(policies=both, secrets=mine.secrets)
    replace_public(project.policy, document.render().encode())
    write_public(clients, theirs.render().encode())
