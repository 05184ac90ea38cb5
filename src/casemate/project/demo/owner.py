"""What the model's owner does before anything runs: build, seal, write down."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from casemate.image.keys import encode_key_file, generate_key
from casemate.image.seal import SealedImageInfo, seal
from casemate.image.tree import EntryKind, TreeEntry
from casemate.project.contracts import build_contract
from casemate.project.files import write_private, write_public
from casemate.project.keys import make_identity_key
from casemate.project.policies import policy_for_launcher
from casemate.project.sources import read_source
from casemate.project.tls import make_tls_identity, tensorflow_serving_ssl_config
from casemate.protocol.contract import LaunchContract
from casemate.tee.simulated import DevelopmentRoot, measure_launcher

_CONTRACT = """\
version = 1
argv = [
  "/usr/bin/python3", "-I", "-m", "casemate.serving",
  "--host=127.0.0.1", "--port={serving_port}",
  "--model_name=resnet", "--model_base_path=/models/resnet",
  "--ssl_config_file=/etc/tf_ssl.cfg",
]
environment = {{ LANG = "C.UTF-8" }}
uid = 1000
gid = 1000
tls = "secret"

[[images]]
file = "images/root.sealed"
key = "image_key"
mount = "/"

[[images]]
file = "images/model.sealed"
key = "model_key"
mount = "/models/resnet"

[[secrets]]
name = "ssl_config"
path = "/etc/tf_ssl.cfg"
mode = "0400"

[broker]
address = "127.0.0.1:{broker_port}"
key-file = "broker.key.pub"
"""


@dataclass(frozen=True, slots=True)
class Workshop:
    """The folder in which the demo plays the model's owner."""

    folder: Path

    @property
    def images(self) -> Path:
        """Where the sealed images go."""
        return self.folder / "images"

    @property
    def secrets(self) -> Path:
        """What the broker keeps: a file a secret."""
        return self.folder / "secrets"

    @property
    def certificate(self) -> Path:
        """What clients trust."""
        return self.folder / "server.crt"

    @property
    def identity(self) -> Path:
        """The broker's identity key."""
        return self.folder / "broker.key"

    @property
    def development_root(self) -> Path:
        """The simulated TEE's key."""
        return self.folder / "development-root.pem"

    @property
    def contract(self) -> Path:
        """The encoded launch contract."""
        return self.folder / "launch.cbor"

    @property
    def policy(self) -> Path:
        """The release policy."""
        return self.folder / "policy.toml"

    def seal_root(self, on_progress: Callable[[int, int], None]) -> SealedImageInfo:
        """Assemble the model server's root file system and seal it under a new image key."""
        return self._seal("root", "image_key", read_source("bom:model-server").entries, on_progress)

    def seal_model(self, onnx: bytes, on_progress: Callable[[int, int], None]) -> SealedImageInfo:
        """Seal the model under a key of its own: ``1/model.onnx``, as the model server wants it."""
        entries = (
            TreeEntry(path="1", kind=EntryKind.DIRECTORY, mode=0o755),
            TreeEntry(
                path="1/model.onnx",
                kind=EntryKind.FILE,
                mode=0o644,
                size=len(onnx),
                source=onnx,
            ),
        )
        return self._seal("model", "model_key", entries, on_progress)

    def _seal(
        self,
        name: str,
        key_name: str,
        entries: tuple[TreeEntry, ...],
        on_progress: Callable[[int, int], None],
    ) -> SealedImageInfo:
        self.images.mkdir(exist_ok=True)
        key = generate_key()
        write_private(self.secrets / key_name, encode_key_file(key).reveal())
        return seal(entries, key, self.images / f"{name}.sealed", progress=on_progress)

    def write_down(self, *, broker_port: int, serving_port: int) -> LaunchContract:
        """Make the TLS identity, the broker's key, the contract and the policy."""
        tls = make_tls_identity(("localhost",), now=datetime.datetime.now(datetime.UTC))
        write_private(self.secrets / "ssl_config", tensorflow_serving_ssl_config(tls).reveal())
        write_public(self.certificate, tls.certificate)
        private, public = make_identity_key()
        write_private(self.identity, private.reveal())
        write_public(self.identity.with_name("broker.key.pub"), public)
        source = self.folder / "launch.toml"
        text = _CONTRACT.format(broker_port=broker_port, serving_port=serving_port)
        write_public(source, text.encode())
        contract = build_contract(source)
        write_public(self.contract, contract.encode())
        root = DevelopmentRoot.load_or_create(self.development_root)
        policy = policy_for_launcher(contract, root=root, measurement=measure_launcher())
        write_public(self.policy, policy.render().encode())
        return contract
