"""The server's end: joins attested connections to an inner server, and ends in order."""

from tests.support.attested import launcher_tee, running_broker
from tests.support.malicious_peer import ACCEPTED, attacking


def test_a_server_that_stops_with_connections_open_ends_them_without_a_traceback(
    tmp_path, caplog, capfd
):
    with (
        running_broker(tmp_path) as broker,
        attacking(broker.port) as opened,
        attacking(broker.port) as halfway,
    ):
        opened.read_frame()
        opened.present(launcher_tee(), launch=broker.contract.digest())
        assert opened.read_frame() == (ACCEPTED, b"")
        halfway.read_frame()
        broker.stop()
        opened.read_to_the_end()
        halfway.read_to_the_end()
    assert [line["event"] for line in broker.lines()] == ["opened", "closed"]
    assert caplog.text == ""
    assert "Traceback" not in capfd.readouterr().err


def test_a_refusal_is_in_the_trail_when_the_peer_hears_of_it(tmp_path):
    with running_broker(tmp_path) as broker, attacking(broker.port) as peer:
        peer.read_frame()
        peer.present(launcher_tee())
        frame = peer.read_frame()
        (refused,) = broker.lines("refused")
        assert refused["correlation_id"].encode() in frame[1]
