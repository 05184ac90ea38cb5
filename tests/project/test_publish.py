"""Images in a registry: with their bill of software, signed by whom we're told."""

import dataclasses
import json
import subprocess
import urllib.request

import pytest
from tests.support.registries import debians_registry

from casemate.errors import UnavailableError, UsageError
from casemate.project.package import Part
from casemate.project.publish import publish, sign
from casemate.project.registries import RegistryAccess
from casemate.project.sbom import software_of
from casemate_testkit.services.registry import FakeRegistry, running

ACCESS = RegistryAccess(plain_http=True)


def published(layout, host):
    folder, packaged = layout
    reference = f"{host}/demo/tf_demo_client:1.0"
    image = dataclasses.replace(packaged[Part.CLIENT], reference=reference)
    return image, publish(folder, image, ACCESS, software=software_of(image))


def test_a_bill_of_software_names_what_an_image_is_made_of(layout):
    _, packaged = layout
    bill = json.loads(software_of(packaged[Part.BROKER]))
    assert bill["bomFormat"] == "CycloneDX"
    assert bill["metadata"]["component"]["version"] == packaged[Part.BROKER].image.digest
    found = {each["name"]: each for each in bill["components"]}
    assert found["cryptography"]["purl"].startswith("pkg:pypi/cryptography@")
    assert found["casemate"]["version"]
    assert {"grpcio", "dcap-qvl", "pyOpenSSL"} <= set(found)
    assert "onnxruntime" not in found
    assert all(each.get("version") or each["type"] == "file" for each in bill["components"])
    assert software_of(packaged[Part.BROKER]) == software_of(packaged[Part.BROKER])


def test_an_image_and_its_bill_of_software_go_to_a_registry(layout):
    with running(FakeRegistry()) as registry:
        image, pushed = published(layout, registry.host)
        assert pushed == f"{registry.host}/demo/tf_demo_client@{image.image.digest}"
        asked = [
            each for each in registry.asked if each.method == "PUT" and "manifests" in each.path
        ]
        first, second = (json.loads(each.body) for each in asked)
        assert first["config"]["mediaType"].endswith("config.v1+json")
        assert second["subject"]["digest"] == image.image.digest
        assert second["artifactType"] == "application/vnd.cyclonedx+json"


def test_debians_registry_takes_it_and_skopeo_finds_it(layout, tmp_path):
    with debians_registry(tmp_path / "registry") as host:
        image, pushed = published(layout, host)
        url = f"http://{host}/v2/demo/tf_demo_client/manifests/1.0"
        request = urllib.request.Request(
            url, headers={"Accept": "application/vnd.oci.image.manifest.v1+json"}
        )
        with urllib.request.urlopen(request, timeout=10) as answer:
            assert answer.headers["Docker-Content-Digest"] == image.image.digest
        done = subprocess.run(
            ["skopeo", "inspect", "--tls-verify=false", f"docker://{pushed}"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode != 127:
            assert json.loads(done.stdout)["Digest"] == image.image.digest


def test_a_name_without_a_registry_can_t_be_pushed(layout):
    folder, packaged = layout
    with pytest.raises(UsageError) as caught:
        publish(folder, packaged[Part.CLIENT], ACCESS, software=b"{}")
    assert caught.value.code == "registry.reference"


def test_signing_is_somebody_else_s_program(tmp_path):
    told = tmp_path / "told"
    program = tmp_path / "sign"
    program.write_text(f'#!/bin/sh\n[ "$1" = --key ] && echo "$3" > {told}\n')
    program.chmod(0o755)
    sign(f"{program} --key 'a key'", "r.example/demo@sha256:ab", {"PATH": "/usr/bin:/bin"})
    assert told.read_text() == "r.example/demo@sha256:ab\n"
    for command in ("false", "/does/not/exist"):
        with pytest.raises(UnavailableError) as caught:
            sign(command, "r.example/demo@sha256:ab", {"PATH": "/usr/bin:/bin"})
        assert caught.value.code == "package.sign"
