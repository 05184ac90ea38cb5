"""Two engines joined in memory, brought to any state with real evidence."""

from tests.support.attested import BROKER_KEY, ROOT, launcher_tee

from casemate.channel.engine import ChannelEngine, Opened, Role
from casemate.channel.exchange import make_evidence
from casemate.channel.party import ChannelParty
from casemate.channel.tls import make_tls_key
from casemate.types import sha384
from casemate.verify import TrustAnchors

KEYS = {role: make_tls_key() for role in Role}
ANCHORS = TrustAnchors(development_roots=(ROOT.spki,), identity_keys=(BROKER_KEY.spki,))
LAUNCH = sha384(b"contract")
PARTIES = {
    Role.CLIENT: ChannelParty(attester=launcher_tee(), anchors=ANCHORS, launch=LAUNCH),
    Role.SERVER: ChannelParty(attester=BROKER_KEY, anchors=ANCHORS),
}


class Pair:
    """Two engines, joined in memory."""

    def __init__(self):
        self.client = ChannelEngine(Role.CLIENT, KEYS[Role.CLIENT])
        self.server = ChannelEngine(Role.SERVER, KEYS[Role.SERVER])
        self.client.start()

    def pass_on(self, source, sink):
        data = source.data_to_send()
        return sink.receive_data(data) if data else []

    def up_to_tls(self):
        """Handshake; returns the server's turn to present."""
        events = []
        for _ in range(3):
            events += self.pass_on(self.client, self.server)
            assert self.pass_on(self.server, self.client) == []
        (turn,) = events
        return turn

    def up_to_the_servers_evidence(self):
        self.server.present(make_evidence(PARTIES[Role.SERVER], self.up_to_tls()))
        (turn,) = self.pass_on(self.server, self.client)
        return turn

    def up_to_the_clients_evidence(self):
        self.up_to_the_servers_evidence()
        (turn,) = self.client.accept()
        self.client.present(make_evidence(PARTIES[Role.CLIENT], turn))
        (turn,) = self.pass_on(self.client, self.server)
        return turn

    def up_to_open(self):
        self.up_to_the_clients_evidence()
        assert self.server.accept() == [Opened()]
        assert self.pass_on(self.server, self.client) == [Opened()]
        return self
