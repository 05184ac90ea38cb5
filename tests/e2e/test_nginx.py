"""A server that knows nothing of Casemate: nginx as Debian packages it, from a sealed image."""

import datetime
import http.client
import ssl
import time
from pathlib import Path

import pytest
from tests.support.launches import launch_site
from tests.support.trees import file

from casemate.project.programs import pick_port
from casemate.project.sources import read_source
from casemate.project.tls import make_tls_identity

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(
        not Path("/usr/sbin/nginx").is_file(),
        reason="needs nginx-light (tools/install-test-programs)",
    ),
]
PAGE = b"a page from a sealed volume\n"
CONFIGURATION = """
daemon off;
master_process off;
worker_processes 1;
pid /tmp/nginx.pid;
error_log stderr warn;
events {{}}
http {{
  include mime.types;
  access_log off;
  client_body_temp_path /tmp/body;
  proxy_temp_path /tmp/proxy;
  fastcgi_temp_path /tmp/fastcgi;
  uwsgi_temp_path /tmp/uwsgi;
  scgi_temp_path /tmp/scgi;
  server {{
    listen 127.0.0.1:{port} ssl;
    ssl_certificate /etc/nginx/tls.crt;
    ssl_certificate_key /etc/nginx/tls.key;
    root /data;
  }}
}}
"""


def test_nginx_serves_a_sealed_page_over_tls_with_a_released_key(tmp_path):
    port = pick_port(0)
    identity = make_tls_identity(("localhost",), now=datetime.datetime.now(datetime.UTC))
    configuration = CONFIGURATION.format(port=port).encode()
    with (
        launch_site(
            tmp_path,
            ["/usr/sbin/nginx", "-c", "/etc/nginx/nginx.conf"],
            entries=[
                *read_source("bom:nginx").entries,
                file("etc/nginx/nginx.conf", configuration),
            ],
            volume=[file("index.html", PAGE)],
            secrets={
                "tls_key": (identity.private_key.reveal(), "/etc/nginx/tls.key", 0o400),
                "tls_certificate": (identity.certificate, "/etc/nginx/tls.crt", 0o440),
            },
            user=33,
        ) as site,
        site.running(ready=None) as run,
    ):
        status, body, certificate = fetch(port, identity.certificate.decode(), run)
        assert (status, body) == (200, PAGE)
        assert (
            ssl.DER_cert_to_PEM_cert(certificate).strip() == identity.certificate.decode().strip()
        )
        run.process.terminate()
        assert run.process.wait(10) == 0


def fetch(port, trusted, run):
    context = ssl.create_default_context(cadata=trusted)
    deadline = time.monotonic() + 20
    while True:
        connection = http.client.HTTPSConnection("localhost", port, context=context, timeout=5)
        try:
            connection.connect()
            certificate = connection.sock.getpeercert(binary_form=True)
            connection.request("GET", "/index.html")
            answer = connection.getresponse()
            return answer.status, answer.read(), certificate
        except ConnectionRefusedError:
            assert run.process.poll() is None, run.output.read_text()
            assert time.monotonic() < deadline, run.output.read_text()
            time.sleep(0.05)
        finally:
            connection.close()
