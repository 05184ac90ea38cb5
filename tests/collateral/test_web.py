"""Asking a service: what may pass is asked again, and nothing costs more than its bounds."""

import datetime
import ipaddress
import socket
import ssl
import threading
import time
import tracemalloc

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from casemate.collateral.web import MAX_BODY, Web
from casemate.errors import UnavailableError, UsageError
from casemate_testkit.services.web import FakeService, Fault, Reply

QUICK = Web(seconds=0.6, patience=1.0, attempts=2, first_pause=0.01)


class Echo(FakeService):
    def answer(self, method, path, query, body):
        if path == "/gone":
            return Reply(status=404)
        if path == "/chunks":
            return Reply(body=b"x" * 1000, chunked=True)
        return Reply(body=body or b"x" * 1000, headers={"X-Kind": "echo"})


@pytest.fixture
def service():
    with Echo() as running:
        yield running


def refusal(service, web=QUICK, path="/it"):
    with pytest.raises(UnavailableError) as caught:
        web.get(service.url + path)
    assert caught.value.field == service.url + path
    return caught.value


def test_body_and_headers_come_as_they_were_sent(service):
    answer = QUICK.get(f"{service.url}/it?a=1")
    assert answer.body == b"x" * 1000
    assert answer.headers["x-kind"] == "echo"
    assert QUICK.post(service.url, b"question", content_type="text/plain").body == b"question"


def test_a_body_may_come_in_chunks(service):
    assert QUICK.get(f"{service.url}/chunks").body == b"x" * 1000


def test_what_passes_is_asked_again(service):
    service.fault_once = [Fault.OUTAGE]
    assert QUICK.get(service.url).body
    assert len(service.seen) == 2


def test_what_isnt_there_is_asked_for_once(service):
    assert refusal(service, path="/gone").code == "collateral.refused"
    assert len(service.seen) == 1


def test_who_asks_to_wait_longer_than_we_would_isnt_asked_again(service):
    service.fault = Fault.BUSY
    error = refusal(service)
    assert "asks to wait 3600 s" in error.got
    assert len(service.seen) == 1


def test_a_redirect_is_no_answer(service):
    service.fault = Fault.REDIRECT
    assert refusal(service).got == "status 302"
    assert len(service.seen) == 1


@pytest.mark.parametrize(
    "fault",
    [Fault.HANG, Fault.DRIP_HEADERS, Fault.DRIP_BODY, Fault.CUT, Fault.NOT_HTTP, Fault.OUTAGE],
)
def test_a_question_ends_in_time_however_the_answer_comes(service, fault):
    service.fault = fault
    start, threads = time.monotonic(), threading.active_count()
    assert refusal(service).code == "collateral.unreachable"
    assert time.monotonic() - start < 3
    assert threading.active_count() - threads < 10


@pytest.mark.parametrize("fault", [Fault.HUGE, Fault.ENDLESS_CHUNK_LINE])
def test_an_answer_without_end_is_cut_off(service, fault):
    service.fault = fault
    tracemalloc.start()
    start = time.monotonic()
    refusal(service, Web(seconds=5, attempts=1))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 * MAX_BODY
    assert time.monotonic() - start < 4, "it was cut off for its size"


def test_a_name_with_many_addresses_costs_no_more_time(monkeypatch):
    """None of them answers: packets to them are dropped, as a listener with a full queue does."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        address = full.getsockname()
        waiting = [socket.socket() for _ in range(3)]
        for each in waiting:
            each.setblocking(False)
            each.connect_ex(address)
        found = [(socket.AF_INET, socket.SOCK_STREAM, 0, "", address)] * 50
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
        start = time.monotonic()
        with pytest.raises(UnavailableError):
            QUICK.get(f"http://many.example:{address[1]}/")
        assert time.monotonic() - start < 3
        for each in waiting:
            each.close()


def test_nobody_at_the_address():
    with FakeService() as gone:
        address = gone.url
    with pytest.raises(UnavailableError) as caught:
        QUICK.get(address)
    assert "refused" in caught.value.got


@pytest.mark.parametrize("address", ["ftp://localhost/x", "localhost/x", "http://", "http://[::1"])
def test_an_address_of_nothing(address):
    with pytest.raises(UsageError) as caught:
        QUICK.get(address)
    assert caught.value.code == "collateral.address"


@pytest.fixture
def certificate(tmp_path):
    """A PCCS's own certificate, as many sites have it: context and file."""
    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), True
        )
        .sign(key, hashes.SHA256())
    )
    file, private = tmp_path / "ca.pem", tmp_path / "key.pem"
    file.write_bytes(made.public_bytes(Encoding.PEM))
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file, private)
    return context, file


def test_a_certificate_that_was_named_is_taken_and_no_other(certificate):
    context, file = certificate
    with Echo(tls=context) as service:
        named = Web(seconds=2, patience=2, attempts=1, tls_ca=file)
        assert named.get(service.url).body
        error = refusal(service)
    assert error.code == "collateral.unreachable"
    assert "certificate" in error.got


def test_a_file_of_nothing_names_nobody(tmp_path):
    (tmp_path / "ca.pem").write_text("nothing")
    with pytest.raises(UsageError) as caught:
        Web(tls_ca=tmp_path / "ca.pem").get("https://127.0.0.1:1/")
    assert caught.value.code == "collateral.tls-ca"


def test_a_handshake_that_never_ends(certificate):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        start = time.monotonic()
        with pytest.raises(UnavailableError):
            QUICK.get(f"https://127.0.0.1:{silent.getsockname()[1]}/")
        assert time.monotonic() - start < 3


def test_a_proxy_is_asked_for_other_machines_alone(service, monkeypatch):
    monkeypatch.setenv("http_proxy", service.url)
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    assert QUICK.get("http://pcs.example/it?a=1").body
    assert service.seen == ["GET http://pcs.example/it?a=1"]
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    assert QUICK.get(service.url).body
