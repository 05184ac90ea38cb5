"""Launch contracts: what they ask for, which digest they have, and what none may say."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.attested import contract_at

from casemate.errors import MalformedError
from casemate.protocol.contract import (
    BrokerIdentity,
    ImageMount,
    LaunchContract,
    SecretPlacement,
)
from casemate.types import Sha384

CONTRACT = contract_at(50051)


def image(name, mount, key="image_key"):
    return ImageMount(name=name, id=Sha384(bytes(48)), key=key, mount=mount)


def placed(*paths, mode=0o400):
    return tuple(SecretPlacement(name="s", path=path, mode=mode) for path in paths)


def refused_field(**changes):
    with pytest.raises(MalformedError) as caught:
        dataclasses.replace(CONTRACT, **changes)
    return caught.value.field


def test_a_contract_asks_for_each_secret_once_image_keys_first():
    contract = dataclasses.replace(
        CONTRACT,
        images=(
            image("root", "/", "key_1"),
            image("model", "/m", "key_2"),
            image("x", "/x", "key_1"),
        ),
        secrets=(
            SecretPlacement(name="tls", path="/a", mode=0o400),
            SecretPlacement(name="key_2", path="/b", mode=0o400),
            SecretPlacement(name="tls", path="/c", mode=0o400),
        ),
    )
    assert contract.secret_names == ("key_1", "key_2", "tls")


@pytest.mark.parametrize(
    ("address", "endpoint"),
    [
        ("broker.example:50051", ("broker.example", 50051)),
        ("192.0.2.1:1", ("192.0.2.1", 1)),
        ("[2001:db8::1]:65535", ("2001:db8::1", 65535)),
    ],
)
def test_the_brokers_address_is_host_and_port(address, endpoint):
    assert BrokerIdentity(address=address, key=b"").endpoint == endpoint
    identity = dataclasses.replace(CONTRACT.broker, address=address)
    assert dataclasses.replace(CONTRACT, broker=identity).broker.endpoint == endpoint


@pytest.mark.parametrize(
    "address",
    ["", "broker", "broker:", ":1", "broker:0", "broker:65536", "2001:db8::1", "a b:1", "a:1\n"],
)
def test_an_address_of_another_form_is_refused(address):
    identity = dataclasses.replace(CONTRACT.broker, address=address)
    assert refused_field(broker=identity) == "contract.broker.address"


def test_the_digest_does_not_depend_on_the_order_of_variables():
    one = dataclasses.replace(CONTRACT, environment={"A": "1", "B": "2"})
    other = dataclasses.replace(CONTRACT, environment={"B": "2", "A": "1"})
    assert one.digest() == other.digest()
    assert one.digest() != dataclasses.replace(CONTRACT, environment={"A": "2", "B": "1"}).digest()


def test_the_order_of_arguments_and_images_does_matter():
    images = (image("root", "/"), image("model", "/m"))
    contracts = [
        CONTRACT,
        dataclasses.replace(CONTRACT, argv=(CONTRACT.argv[0], *CONTRACT.argv[:0:-1], "")),
        dataclasses.replace(CONTRACT, images=images),
        dataclasses.replace(CONTRACT, images=images[::-1]),
    ]
    assert len({contract.digest() for contract in contracts}) == len(contracts)


def test_a_contract_can_not_be_changed_behind_its_digest():
    environment = {"A": "1"}
    contract = dataclasses.replace(CONTRACT, environment=environment)
    digest = contract.digest()
    environment["A"] = "2"
    assert contract.digest() == digest
    with pytest.raises(TypeError):
        contract.environment["A"] = "2"
    with pytest.raises(AttributeError):
        contract.argv = ("/bin/sh",)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"argv": ()}, "contract.argv[0]"),
        ({"argv": ("server",)}, "contract.argv[0]"),
        ({"argv": ("/bin/../sh",)}, "contract.argv[0]"),
        ({"argv": ("/bin/s", "a\0b")}, "contract.argv[1]"),
        ({"environment": {"A=B": "1"}}, "contract.environment.A=B"),
        ({"environment": {"A": "\0"}}, "contract.environment.A"),
        ({"host_environment": {"LD_PRELOAD": "[a-z]*"}}, "contract.host-environment.LD_PRELOAD"),
        ({"host_environment": {"PYTHONPATH": "[a-z]*"}}, "contract.host-environment.PYTHONPATH"),
        ({"host_environment": {"A": "(a|b)"}}, "contract.host-environment.A"),
        ({"host_environment": {"A": "."}}, "contract.host-environment.A"),
        ({"working_directory": "relative"}, "contract.working-directory"),
        ({"gid": -1}, "contract.gid"),
        ({"images": ()}, "contract.images"),
        ({"images": (image("root", "/"), image("root", "/m"))}, "contract.images"),
        ({"images": (image("root", "/"), image("p", "/proc"))}, "contract.images[1].mount"),
        (
            {"images": (image("root", "/"), image("a", "/m"), image("b", "/m/n"))},
            "contract.images[2].mount",
        ),
        ({"secrets": placed("/")}, "contract.secrets[0].path"),
        ({"secrets": placed("/dev/shm/key")}, "contract.secrets[0].path"),
        ({"secrets": placed("/a", "/a")}, "contract.secrets[1].path"),
        ({"secrets": placed("/a/b", "/a")}, "contract.secrets[1].path"),
        ({"secrets": placed("/a", mode=0o404)}, "contract.secrets[0].mode"),
        ({"secrets": placed("/a", mode=0o200)}, "contract.secrets[0].mode"),
        ({"secrets": placed("/a", mode=0o4400)}, "contract.secrets[0].mode"),
    ],
)  # fmt: skip
def test_what_no_contract_may_say_is_refused_with_its_field(changes, field):
    assert refused_field(**changes) == field


def test_a_secret_is_not_placed_into_a_volume():
    """It would go to whoever provides the volume's storage, or vanish beneath it."""
    images = (image("root", "/"), image("model", "/m"))
    assert refused_field(images=images, secrets=placed("/m/key")) == "contract.secrets[0].path"
    assert dataclasses.replace(CONTRACT, images=images, secrets=placed("/mm/key"))


TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)


@given(
    argv=st.lists(TEXT, max_size=4),
    environment=st.dictionaries(st.from_regex(r"[A-Z_]{1,8}", fullmatch=True), TEXT, max_size=4),
    uid=st.integers(0, 2**31 - 1),
)
def test_what_is_encoded_parses_to_itself_with_its_digest(argv, environment, uid):
    contract = dataclasses.replace(
        CONTRACT, argv=("/bin/server", *argv), environment=environment, uid=uid
    )
    again = LaunchContract.parse(contract.encode())
    assert again == contract
    assert again.digest() == contract.digest()
