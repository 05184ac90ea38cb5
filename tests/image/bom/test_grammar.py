"""The grammar of bills of materials."""

import pytest

from casemate.errors import MalformedError, UsageError
from casemate.image.bom import load_bom
from casemate.image.bom.grammar import Attributes, FileItem, LinkItem, User, parse_bom_text

WHOLE = b"""
excludes: ["*.tmp"]
targets:
  - target: /srv
    mkdirs: [a, {name: b/c, mode: "0700", owner: server}]
    createlinks:
      - {src: ../a, linkname: link}
    copy:
      - from: ${HERE}/in
        owner: "7:8"
        dirs: [data/]
        files:
          - plain
          - {name: named, hash: "%b", autodep: false, rename: other, mode: "0640"}
python:
  stdlib: full
  packages: $HERE/site
  distributions: [numpy]
  modules: [casemate/errors]
  excludes: [numpy/f2py/*]
users:
  - {name: server, uid: 1000, gid: 100}
  - {name: other, uid: 5, gid: 6, home: /home, shell: /bin/sh}
libraries: [libfoo.so.1]
write:
  - {path: /etc/motto, content: "costs $5\\n", mode: "0600"}
""" % (b"ab" * 32)


def parse(text, **environment):
    return parse_bom_text(text, "bill.yaml", environment)


def test_every_key_is_understood():
    bill = parse(WHOLE, HERE="/here")
    (target,) = bill.targets
    assert (target.path, [each.name for each in target.mkdirs]) == ("/srv", ["a", "b/c"])
    assert target.mkdirs[1].attributes == Attributes(mode=0o700, owner="server")
    assert target.links == (LinkItem(name="link", text="../a", where="bill.yaml:7"),)
    (copy,) = target.copies
    assert (copy.source, copy.dirs, copy.where) == ("/here/in", ("data/",), "bill.yaml:9")
    assert (copy.excludes, copy.attributes) == (("*.tmp",), Attributes(owner="7:8"))
    assert copy.files == (
        FileItem(name="plain", where="bill.yaml:13"),
        FileItem(
            name="named", sha256="ab" * 32, autodep=False, rename="other", where="bill.yaml:14",
            attributes=Attributes(mode=0o640),
        ),
    )  # fmt: skip
    (python,) = bill.pythons
    assert (python.interpreter, python.stdlib, python.packages) == ("auto", "full", "/here/site")
    assert (python.distributions, python.modules) == (("numpy",), ("casemate/errors",))
    assert python.excludes == ("numpy/f2py/*",)
    assert bill.users == (
        User(name="server", uid=1000, gid=100),
        User(name="other", uid=5, gid=6, home="/home", shell="/bin/sh"),
    )
    assert bill.libraries == (("libfoo.so.1", "bill.yaml:24"),)
    (write,) = bill.writes
    assert (write.path, write.content) == ("/etc/motto", "costs $5\n")
    assert write.attributes.mode == 0o600


@pytest.mark.parametrize(
    ("text", "line", "field"),
    [
        (b"tragets: []", 1, "tragets"),
        (b"\ntargets:\n  - targte: /", 3, "target"),
        (b"targets:\n  - target: /\n    copy: [{files: [{name: a, hsah: b}]}]", 3, "hsah"),
        (b"targets: [{target: /, createlinks: [{src: a, linkname: b, x: y}]}]", 1, "x"),
        (b"users: [{name: a, uid: 1, gid: 1, shell: sh}]", 1, "shell"),
        (b"users: [{name: a, uid: 1, gid: 1, home: '/a:b'}]", 1, "home"),
        (b"users: [{name: a, uid: 1, gid: 1, home: \"/a\\nb\"}]", 1, "home"),
        (b"users: [{name: a, uid: 1, gid: 1, groups: b}]", 1, "groups"),
        (b"libraries: [a/b.so]", 1, "libraries"),
        (b"targets: [{target: /, mkdirs: [{name: a, owner: 'a b'}]}]", 1, "owner"),
        (b"targets: [{target: /, mkdirs: [{name: a, owner: '0:4294967295'}]}]", 1, "owner"),
        (b"targets: [{target: /, copy: [{owner: a}]}]", 1, "copy"),
        (b"python: {packages: a, environment: b}", 1, "python"),
        (b"users: [{name: 'a:b', uid: 1, gid: 1}]", 1, "name"),
        (b"users: [{name: \"a\\nroot\", uid: 1, gid: 1}]", 1, "name"),
        (b"users: [{name: a, uid: 4294967295, gid: 1}]", 1, "uid"),
        (b"users: [{name: a, uid: -1, gid: 1}]", 1, "uid"),
        (b"excludes: [a]\nexcludes: [b]", 2, "key"),
        (b"excludes: a", 1, "excludes"),
        (b"excludes: [[a]]", 1, "excludes"),
        (b"excludes: [\"a\\0b\"]", 1, "text"),
        (b"excludes: [\"\\ud800\"]", 1, "text"),
        (b"write: [{path: a, content: \"\\0\"}]", 1, "text"),
        (b"write: [{path: a, content: b, mode: '0999'}]", 1, "mode"),
        (b"python: {stdlib: some}", 1, "stdlib"),
        (b"targets: [{target: /, copy: [{files: [{name: a, hash: AB}]}]}]", 1, "hash"),
        (b"targets: [{target: /, copy: [{files: [{name: a, autodep: maybe}]}]}]", 1, "autodep"),
        (b"users: [{name: a, uid: 1}]", 1, "gid"),
        (b"[]", 1, "entry"),
        (b"targets: [\n  {", 2, "YAML"),
        (b"targets:\n\t- target: /", 2, "YAML"),
        (b"excludes: &a [x]\nincludes: *a", 2, "YAML"),
    ],
)  # fmt: skip
def test_every_mistake_is_named_with_its_line(text, line, field):
    with pytest.raises(MalformedError) as caught:
        parse(text)
    assert caught.value.code == "bom.malformed"
    assert f"bill.yaml:{line}:" in caught.value.message
    assert caught.value.field == field


@pytest.mark.parametrize(
    "text",
    [
        b"", b"\xff", b"a: [", b"--- a\n--- b\n", b"\x00", b"[" * 5000, b'"\\Uffffffff"',
        b"excludes: &a [x]\nincludes: *a", b"x" * (4 * 1024 * 1024 + 1),
    ],
)  # fmt: skip
def test_what_is_no_plain_yaml_is_malformed(text):
    with pytest.raises(MalformedError):
        parse(text)


def test_a_tag_makes_nothing_but_text():
    assert parse(b"libraries: [!!python/name:os.system x]").libraries == (("x", "bill.yaml:1"),)
    with pytest.raises(MalformedError):
        parse(b"excludes: !!python/object/apply:os.system ['exit 1', [x]]")


def test_a_variable_that_is_not_set_is_named():
    with pytest.raises(UsageError) as caught:
        parse(b"\nexcludes: [$HERE]")
    assert (caught.value.code, caught.value.field) == ("bom.variable", "HERE")
    assert "bill.yaml:2" in caught.value.message


def test_variables_may_have_a_default_and_a_dollar_may_be_meant():
    text = b"targets: [{target: '${HERE:-/else}', mkdirs: ['${HERE:-}x', $$HERE]}]"
    for environment, expected in (
        ({}, ["/else", "x", "$HERE"]),
        ({"HERE": "h"}, ["h", "hx", "$HERE"]),
    ):
        (target,) = parse(text, **environment).targets
        assert [target.path, *(each.name for each in target.mkdirs)] == expected


def test_a_copy_of_nothing_in_particular_is_of_all():
    (target,) = parse(b"targets: [{target: /, copy: [{from: /a}, {from: /b, dirs: }]}]").targets
    assert [copy.dirs for copy in target.copies] == [("./",), ("./",)]


def test_a_hash_may_have_either_case():
    (target,) = parse(
        b"targets: [{target: /, copy: [{files: [{name: a, hash: %b}]}]}]" % (b"AB" * 32)
    ).targets
    assert target.copies[0].files[0].sha256 == "ab" * 32


@pytest.fixture
def folder(tmp_path):
    def write(**bills):
        for name, text in bills.items():
            (tmp_path / f"{name}.yaml").write_text(text)
        return tmp_path

    return write


def load(path, **more):
    return load_bom(path, environment={}, **more)


def test_includes_come_first_and_each_once(folder, tmp_path):
    here = folder(
        a="includes: [b.yaml, c.yaml]\nlibraries: [a]",
        b="includes: [d.yaml]\nlibraries: [b]",
        c="includes: [d.yaml]\nlibraries: [c]",
        d="libraries: [d]",
    )
    assert [name for name, _ in load(here / "a.yaml").libraries] == ["d", "b", "c", "a"]
    (tmp_path / "more").mkdir()
    (here / "d.yaml").rename(tmp_path / "more/d.yaml")
    with pytest.raises(UsageError, match="nowhere to be found"):
        load(here / "a.yaml")
    assert load(here / "a.yaml", include_dirs=(tmp_path / "more",)).libraries[0][0] == "d"


def test_includes_end(folder):
    many = {f"w{i}": "excludes: []" for i in range(300)}
    deep = {f"n{i}": f"includes: [n{i + 1}.yaml]" for i in range(20)}
    here = folder(
        a="includes: [b.yaml]", b="includes: [a.yaml]", self="includes: [self.yaml]",
        all=f"includes: [{', '.join(f'{name}.yaml' for name in many)}]", **many, **deep,
    )  # fmt: skip
    for name in ("a", "self", "n0", "all"):
        with pytest.raises(UsageError) as caught:
            load(here / f"{name}.yaml")
        assert caught.value.code == "bom.include", name
    with pytest.raises(UsageError) as caught:
        load(here / "absent.yaml")
    assert caught.value.code == "bom.unreadable"
