"""What a launcher can do in containers of podman, with the rights that people give them.

``make test-containers`` runs all of it; the ordinary suite one case. What is expected here is the
table in docs/reference/opening.md.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.support.launches import LaunchSite, launch_site, needs_busybox
from tests.support.podman import environment, why_not
from tests.support.rights import Podman
from tests.support.trees import file, varied

from casemate.project.programs import casemate_command

_ALL = bool(os.environ.get("CASEMATE_TEST_CONTAINERS"))
_DOCUMENT = Path(__file__).parents[2] / "docs/reference/opening.md"
_CHOICES = ("auto", "extract", "mount")
_MEMORY = "--tmpfs=/run:exec,mode=1777,size=256m"
_FUSE = "--device=/dev/fuse"
_BOTH, _MIXED, _LAZY = "both extracted", "root extracted, model mounted", "both mounted"
_NO_FUSE = "`image.open`"
_NAMES = {"namespaces": "namespaces", "user_namespace": "user namespace", "chroot": "chroot"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A container, and what becomes of a launch in it.

    Args:
        name: for people.
        options: of ``podman run``; ``seccomp=NAME`` names a profile of ours.
        parted: how the workload is parted from the container; "–" where it isn't started.
        outcomes: with ``--open`` auto, extract and mount.
    """

    name: str
    options: tuple[str, ...]
    parted: str
    outcomes: tuple[str, str, str]

    def row(self) -> str:
        """Its line in the table."""
        shown = " ".join(f"`{each}`" for each in self.options) or "none"
        return f"| {self.name} | {shown} | {self.parted} | {' | '.join(self.outcomes)} |"


CASES = (
    Case(
        name="default", options=(), parted="user namespace", outcomes=(_BOTH, _BOTH, _NO_FUSE)
    ),
    Case(
        name="non-root", options=("--user=1000",), parted="user namespace",
        outcomes=(_BOTH, _BOTH, _NO_FUSE),
    ),
    Case(
        name="default, little memory", options=("--memory=96m",), parted="–",
        outcomes=("`image.memory`", "`image.memory`", _NO_FUSE),
    ),
    Case(
        name="root, no namespaces (as Docker's default)", options=("seccomp=no-namespaces",),
        parted="–", outcomes=("`launcher.storage`", "`launcher.storage`", _NO_FUSE),
    ),
    Case(
        name="the same, with memory to run from", options=("seccomp=no-namespaces", _MEMORY),
        parted="chroot", outcomes=(_BOTH, _BOTH, _NO_FUSE),
    ),
    Case(
        name="non-root, no namespaces",
        options=("--user=1000", "--cap-drop=ALL", "seccomp=no-namespaces", _MEMORY),
        parted="–", outcomes=("`launcher.isolation`",) * 3,
    ),
    Case(
        name="root, strict", options=("seccomp=strict", _MEMORY), parted="–",
        outcomes=("`launcher.isolation`",) * 3,
    ),
    Case(
        name="may mount, without FUSE", options=("--cap-add=SYS_ADMIN",), parted="namespaces",
        outcomes=(_BOTH, _BOTH, _NO_FUSE),
    ),
    Case(
        name="may mount, with FUSE", options=("--cap-add=SYS_ADMIN", _FUSE), parted="namespaces",
        outcomes=(_MIXED, _BOTH, _LAZY),
    ),
    Case(
        name="the same, little memory", options=("--cap-add=SYS_ADMIN", _FUSE, "--memory=96m"),
        parted="namespaces", outcomes=(_LAZY, "`image.memory`", _LAZY),
    ),
    Case(
        name="non-root with FUSE, unconfined",
        options=("--user=1000", "--security-opt=seccomp=unconfined", "--security-opt=unmask=ALL",
                 _FUSE),
        parted="user namespace", outcomes=(_MIXED, _BOTH, _LAZY),
    ),
    Case(
        name="privileged", options=("--privileged",), parted="namespaces",
        outcomes=(_MIXED, _BOTH, _LAZY),
    ),
)  # fmt: skip


def table() -> str:
    """The cases as docs/reference/opening.md shows them."""
    head = "| container | options of `podman run` | parted by | `auto` | `extract` | `mount` |\n"
    return head + "|---|---|---|---|---|---|\n" + "\n".join(case.row() for case in CASES) + "\n"


def test_the_reference_page_shows_what_is_expected_here() -> None:
    assert table() in _DOCUMENT.read_text(), f"put this into the page:\n{table()}"


@dataclass(frozen=True, slots=True)
class Place:
    """Podman, and a launch site that a container can see."""

    podman: Podman
    site: LaunchSite


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("containers")
    folder.parent.chmod(0o755)  # the container's user looks for the site by its path
    folder.chmod(0o755)
    (folder / "site").mkdir()
    script = "wc -c < /data/model && touch /etc/changed && echo may write"
    volume = [file("model", varied(3 << 20))]
    # Sockets of podman have long names, and a path of more than 108 bytes makes it wait.
    with tempfile.TemporaryDirectory(prefix="podman-") as short:
        if (reason := why_not(Path(short))) is not None:
            pytest.skip(reason)
    with (
        launch_site(folder / "site", ["/bin/sh", "-c", script], volume=volume) as site,
        tempfile.TemporaryDirectory(prefix="podman-") as short,
        environment(Path(short)) as variables,
    ):
        podman = Podman(Path(short), variables)
        podman.prepare()
        for path in (folder / "site", *(folder / "site").rglob("*")):
            os.chown(path, 1000, 1000)
        yield Place(podman, site)


def outcome(place: Place, case: Case, choice: str) -> tuple[str, str]:
    """How a launch was parted from its container, and what became of it, in the table's words."""
    options = [
        f"--security-opt=seccomp={place.podman.profile(each.removeprefix('seccomp='))}"
        if each.startswith("seccomp=")
        else each
        for each in case.options
    ]
    done = place.podman.run(
        place.site.command("--json", f"--open={choice}"),
        options=options,
        mounts=[place.site.folder],
    )
    lines = done.stdout.splitlines()
    events = [json.loads(line) for line in lines if line.startswith("{")]
    errors = [event["error"]["code"] for event in events if event["event"] == "error"]
    if errors:
        return "–", f"`{errors[0]}`"
    assert done.status == 0, done.stderr
    assert [line for line in lines if not line.startswith("{")] == ["3145728", "may write"]
    (parted,) = (event["isolation"] for event in events if event["event"] == "isolation")
    ways = [event["way"] for event in events if event["event"] == "image"]
    words = {
        ("extract", "extract"): _BOTH, ("extract", "mount"): _MIXED, ("mount", "mount"): _LAZY,
    }  # fmt: skip
    return _NAMES[parted], words[ways[0], ways[1]]


@needs_busybox
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_launching_in_a_container(place: Place, case: Case) -> None:
    if not _ALL and case is not CASES[-1]:  # the one that no other kernel setting decides about
        pytest.skip("runs with `make test-containers`")
    if _LAZY in case.outcomes and not Path("/dev/fuse").exists():
        pytest.skip("needs /dev/fuse")
    for choice, expected in zip(_CHOICES, case.outcomes, strict=True):
        parted, became = outcome(place, case, choice)
        assert became == expected, choice
        assert parted == ("–" if became.startswith("`") else case.parted)


WRITABLE = {
    "default": ((), "extracted", "image.open"),
    "may mount, with FUSE": (("--cap-add=SYS_ADMIN", _FUSE), "mounted", "mounted"),
    "non-root": (("--user=1000",), "extracted", "image.open"),
    "non-root with FUSE, unconfined": (
        ("--user=1000", "--security-opt=seccomp=unconfined", "--security-opt=unmask=ALL", _FUSE),
        "mounted", "mounted",
    ),
}  # fmt: skip
_CHANGE = """
cd /dev/shm && mkdir open
"$@" 2>said &
for i in $(seq 100); do grep -q -e Ctrl-C -e '\\[image' said && break; sleep 0.1; done
cat said
echo changed >open/bin/busybox && head -c 7 open/bin/busybox
kill $! && wait
ls open
"""


@needs_busybox
@pytest.mark.skipif(not _ALL, reason="runs with `make test-containers`")
@pytest.mark.parametrize("name", WRITABLE)
def test_an_image_is_open_for_changes_in_a_container(place: Place, name: str) -> None:
    options, opened, mounted = WRITABLE[name]
    own = ("unshare", "--user", "--map-root-user", "--mount") if "unconfined" in name else ()
    for command, expected in (("open", opened), ("mount", mounted)):
        image = casemate_command(
            "image", command, str(place.site.images / "root.sealed"), "/dev/shm/open",
            "--key", str(place.site.folder / "secrets/root_key"), "--writable",
        )  # fmt: skip
        done = place.podman.run(
            [*own, "sh", "-c", _CHANGE, "sh", *image], options=options, mounts=[place.site.folder]
        )
        assert expected in done.stdout, done
        if expected != "image.open":
            assert done.stdout.endswith("changed"), "it isn't gone when its program is"


@needs_busybox
@pytest.mark.skipif(not _ALL, reason="runs with `make test-containers`")
def test_nothing_of_a_launch_is_left_in_memory_that_outlives_its_container(place: Place) -> None:
    """With chroot the files lie where others look too; they are gone when the launcher is."""
    folder = place.site.folder / "shared"
    folder.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(folder)], check=True)
    try:
        done = place.podman.run(
            place.site.command("--root=chroot"),
            options=[
                f"--security-opt=seccomp={place.podman.profile('no-namespaces')}",
                f"--volume={folder}:/run",
            ],
            mounts=[place.site.folder],
        )
        assert done.status == 0, done.stderr
        assert not list(folder.glob("casemate-*"))
    finally:
        subprocess.run(["umount", str(folder)], check=True)
