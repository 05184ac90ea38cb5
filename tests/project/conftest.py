"""A small project and its container images, made once for all tests."""

import pytest

from casemate.project.build import Project, build_contract_and_policy, build_images
from casemate.project.package import package
from casemate_testkit.pki import NOW

PROJECT = """
version = 1
name = "small"
[workload]
argv = ["/bin/server"]
port = 8080
[[images]]
name = "root"
source = "root"
mount = "/"
[[secrets]]
name = "token"
file = "token.txt"
path = "/run/token"
[tls]
form = "pem"
[tee]
kind = "simulated"
"""


@pytest.fixture(scope="session")
def project(tmp_path_factory):
    base = tmp_path_factory.mktemp("project")
    (base / "root" / "bin").mkdir(parents=True)
    (base / "root" / "bin" / "server").write_text("canary-of-the-model")
    (base / "token.txt").write_text("canary-of-the-token")
    (base / "casemate.toml").write_text(PROJECT)
    made = Project.load(base)
    images = {info.path.stem: info.id for info in build_images(made)}
    build_contract_and_policy(made, images, now=NOW)
    return made


def written(project, folder):
    return {
        each.part: each for each in package(project, folder, registry="demo", tag="1.0", names={})
    }


@pytest.fixture(scope="session")
def layout(project, tmp_path_factory):
    folder = tmp_path_factory.mktemp("layout")
    return folder, written(project, folder)
