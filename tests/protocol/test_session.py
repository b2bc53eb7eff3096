"""The session's tables: every row does what it says, and every pair without a row closes."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from protocol.strategies import ANY_TEXT, NOT_QUITE
from roomful.protocol import socketio
from roomful.protocol.engineio import PacketType
from roomful.protocol.errors import BadPacket, ClientFault, CloseCode, TooLarge
from roomful.protocol.session import (
    Ack,
    Channel,
    Connect,
    Disconnect,
    EngineSession,
    EngineState,
    Event,
    NamespaceState,
    SocketLimits,
    SocketSession,
    Step,
    TooManyNamespaces,
)

S, C, E = EngineState, Channel, PacketType

# engine.io-protocol v4, "Upgrade" and "Heartbeat": written down again, not taken from the code.
ENGINE_ROWS = {
    (S.POLLING, C.POLL, E.MESSAGE): (Step.DELIVER, S.POLLING),
    (S.POLLING, C.POLL, E.PONG): (Step.HEARTBEAT, S.POLLING),
    (S.POLLING, C.POLL, E.CLOSE): (Step.CLOSE, S.CLOSED),
    (S.POLLING, C.SOCKET, E.PING): (Step.PROBE, S.PROBING),
    (S.PROBING, C.POLL, E.MESSAGE): (Step.DELIVER, S.PROBING),
    (S.PROBING, C.POLL, E.PONG): (Step.HEARTBEAT, S.PROBING),
    (S.PROBING, C.POLL, E.CLOSE): (Step.CLOSE, S.CLOSED),
    (S.PROBING, C.SOCKET, E.UPGRADE): (Step.UPGRADE, S.WEBSOCKET),
    (S.WEBSOCKET, C.POLL, E.MESSAGE): (Step.DELIVER, S.WEBSOCKET),
    (S.WEBSOCKET, C.POLL, E.PONG): (Step.HEARTBEAT, S.WEBSOCKET),
    (S.WEBSOCKET, C.SOCKET, E.MESSAGE): (Step.DELIVER, S.WEBSOCKET),
    (S.WEBSOCKET, C.SOCKET, E.PONG): (Step.HEARTBEAT, S.WEBSOCKET),
    (S.WEBSOCKET, C.SOCKET, E.CLOSE): (Step.CLOSE, S.CLOSED),
}


@pytest.mark.parametrize(
    ("state", "channel", "packet"),
    [
        pytest.param(*key, id="-".join(part.name for part in key))
        for key in product(EngineState, Channel, PacketType)
    ],
)
def test_engine_table(state: EngineState, channel: Channel, packet: PacketType) -> None:
    """A pair with a row takes its step; one without is BadPacket and changes nothing."""
    session = EngineSession(state)
    data = b"probe" if packet is PacketType.PING else b""
    row = ENGINE_ROWS.get((state, channel, packet))
    if row is None:
        with pytest.raises(BadPacket):
            session.receive(channel, packet, data)
        assert session.state is state
    else:
        step = session.receive(channel, packet, data)
        assert (step, session.state) == row


@pytest.mark.parametrize("data", [b"", b"prob", b"probes", b"Probe"])
def test_a_probe_says_probe(data: bytes) -> None:
    """A ping of a client is only ever `2probe`."""
    session = EngineSession(EngineState.POLLING)
    with pytest.raises(BadPacket):
        session.receive(Channel.SOCKET, PacketType.PING, data)
    assert session.state is EngineState.POLLING


@pytest.mark.parametrize("state", EngineState)
def test_a_probe_that_goes_away(state: EngineState) -> None:
    """Polling goes on, and may be probed again; in other states nothing changes."""
    session = EngineSession(state)
    session.cancel_probe()
    expected = EngineState.POLLING if state is EngineState.PROBING else state
    assert session.state is expected


@pytest.mark.parametrize("state", EngineState)
def test_a_closed_engine_session_takes_nothing(state: EngineState) -> None:
    """Whatever it was before."""
    session = EngineSession(state)
    session.close()
    for channel, packet in product(Channel, PacketType):
        with pytest.raises(BadPacket):
            session.receive(channel, packet, b"probe")


# Socket.IO -------------------------------------------------------------------------------------

N, K = NamespaceState, socketio.PacketType
NAMESPACE_ROWS = {
    (N.IDLE, K.CONNECT): (N.CONNECTING, Connect),
    (N.CONNECTING, K.DISCONNECT): (N.IDLE, Disconnect),
    (N.CONNECTED, K.DISCONNECT): (N.IDLE, Disconnect),
    (N.CONNECTED, K.EVENT): (N.CONNECTED, Event),
    (N.CONNECTED, K.ACK): (N.CONNECTED, Ack),
    (N.CONNECTED, K.BINARY_EVENT): (N.CONNECTED, Event),
    (N.CONNECTED, K.BINARY_ACK): (N.CONNECTED, Ack),
}
BODIES = {
    K.CONNECT: b"0%b",
    K.DISCONNECT: b"1%b",
    K.EVENT: b"2%b[1]",
    K.ACK: b"3%b1[1]",
    K.CONNECT_ERROR: b'4%b{"message":""}',
    K.BINARY_EVENT: b"51-%b[1]",
    K.BINARY_ACK: b"61-%b1[1]",
}


def session_in(state: NamespaceState, namespace: str) -> SocketSession:
    """Give a session whose *namespace* is in *state*."""
    session = SocketSession(SocketLimits())
    if state is not N.IDLE:
        session.receive_text(b"0" + namespace.encode() + b",")
    if state is N.CONNECTED:
        session.accept(namespace)
    assert session.state(namespace) is state
    return session


@pytest.mark.parametrize("namespace", ["/", "/admin"])
@pytest.mark.parametrize(
    ("state", "kind"),
    [
        pytest.param(*key, id="-".join(part.name for part in key))
        for key in product(NamespaceState, socketio.PacketType)
    ],
)
def test_namespace_table(namespace: str, state: NamespaceState, kind: socketio.PacketType) -> None:
    """A pair with a row gives what the client wants; one without is BadPacket."""
    session = session_in(state, namespace)
    payload = BODIES[kind] % (b"" if namespace == "/" else namespace.encode() + b",")
    row = NAMESPACE_ROWS.get((state, kind))
    if row is None:
        with pytest.raises(BadPacket):
            session.receive_text(payload)
        return
    incoming = session.receive_text(payload)
    if payload[1:3] == b"1-":
        assert incoming is None
        incoming = session.receive_binary(b"x")
    assert incoming is not None
    assert (session.state(namespace), type(incoming)) == row
    assert incoming.namespace == namespace


def test_namespaces_are_apart() -> None:
    """Being let into one says nothing of another."""
    session = session_in(N.CONNECTED, "/admin")
    assert session.state("/") is N.IDLE
    with pytest.raises(BadPacket):
        session.receive_text(b"2[1]")


@pytest.mark.parametrize("namespace", ["/", "/admin"])
def test_a_refused_namespace_may_be_asked_for_again(namespace: str) -> None:
    """CONNECT_ERROR is not the end of the connection."""
    session = session_in(N.CONNECTING, namespace)
    session.refuse(namespace)
    assert session.state(namespace) is N.IDLE
    assert session.receive_text(b"0" + namespace.encode() + b",") == Connect(namespace, b"")


def test_parts_of_an_event() -> None:
    """The body is not parsed, the ack id is what came, the auth too."""
    session = SocketSession(SocketLimits())
    assert session.receive_text(b'0{"token":1}') == Connect("/", b'{"token":1}')
    session.accept("/")
    assert session.receive_text(b'2["a",\x20]') == Event("/", None, b'["a",\x20]')
    assert session.receive_text(b"200012[}") == Event("/", b"00012", b"[}")


EVENT_HEADS = st.builds(
    lambda digits, rest: b"2" + digits.encode() + rest,
    st.text("0123456789", max_size=20),
    st.sampled_from([b"[", b'["a"]', b"", b"{", b"/,[1]", b"/admin,[1]", b"x[", b" [", b"-["]),
)


@settings(max_examples=300)
@given(EVENT_HEADS | ANY_TEXT | NOT_QUITE)
def test_the_short_way_reads_events_as_the_codec_does(payload: bytes) -> None:
    """A connected session looks at most events without the codec; it must not see another thing."""

    def by_codec() -> object:
        packet = socketio.decode(payload)
        is_event = packet.type in (K.EVENT, K.BINARY_EVENT) and packet.attachments == 0
        if packet.namespace != "/" or not is_event:
            return None
        return Event(packet.namespace, packet.ack_id, packet.body)

    try:
        expected = by_codec()
    except BadPacket:
        expected = BadPacket
    session = session_in(N.CONNECTED, "/")
    try:
        incoming: object = session.receive_text(payload)
    except BadPacket:
        incoming = BadPacket
    if isinstance(incoming, Event) or isinstance(expected, Event) or expected is BadPacket:
        assert incoming == expected


# Attachments -----------------------------------------------------------------------------------


def test_attachments_are_collected_in_order() -> None:
    """The event comes with the last of them."""
    session = session_in(N.CONNECTED, "/")
    assert session.receive_text(b'52-7["a"]') is None
    assert session.receive_binary(b"one") is None
    assert session.receive_binary(b"") == Event("/", b"7", b'["a"]', (b"one", b""))
    assert session.receive_text(b"51-[1]") is None
    assert session.receive_binary(b"x") == Event("/", None, b"[1]", (b"x",))


def test_no_attachments_are_none_to_wait_for() -> None:
    """`50-` is an event like others."""
    session = session_in(N.CONNECTED, "/")
    assert session.receive_text(b"50-[1]") == Event("/", None, b"[1]")


def test_binary_that_belongs_to_nothing() -> None:
    """Neither before an event nor after its last attachment."""
    session = session_in(N.CONNECTED, "/")
    with pytest.raises(BadPacket):
        session.receive_binary(b"x")
    session.receive_text(b"51-[1]")
    session.receive_binary(b"x")
    with pytest.raises(BadPacket):
        session.receive_binary(b"x")


@pytest.mark.parametrize("payload", [b"2[1]", b"21[1]", b"51-[1]", b"1", b"0/admin,"])
def test_text_between_attachments(payload: bytes) -> None:
    """An event and its attachments are not to be interrupted."""
    session = session_in(N.CONNECTED, "/")
    session.receive_text(b"52-[1]")
    session.receive_binary(b"x")
    with pytest.raises(BadPacket):
        session.receive_text(payload)


# Limits ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "is_taken"), [(1, True), (3, True), (4, False), (999999, False)])
def test_attachments_are_limited(count: int, is_taken: bool) -> None:
    """Above the limit TooLarge comes with the text, before anything is collected."""
    session = SocketSession(SocketLimits(attachments=3))
    session.receive_text(b"0")
    session.accept("/")
    text = b"5%d-[1]" % count
    if is_taken:
        assert session.receive_text(text) is None
    else:
        with pytest.raises(TooLarge) as caught:
            session.receive_text(text)
        assert caught.value.close_code is CloseCode.TOO_BIG


@pytest.mark.parametrize(
    ("sizes", "is_taken"),
    [
        pytest.param((7,), True, id="exactly"),
        pytest.param((8,), False, id="one too many"),
        pytest.param((3, 4), True, id="two exactly"),
        pytest.param((3, 5), False, id="two too many"),
        pytest.param((100, 0), False, id="the first alone"),
    ],
)
def test_an_event_with_its_attachments_is_limited(sizes: tuple[int, ...], is_taken: bool) -> None:
    """Text and attachments together have at most payload_bytes; seen with the one too many."""
    session = SocketSession(SocketLimits(payload_bytes=10))
    session.receive_text(b"0")
    session.accept("/")
    session.receive_text(b"5%d-[1]" % len(sizes))

    def attach() -> None:
        for size in sizes:
            session.receive_binary(b"x" * size)

    if is_taken:
        attach()
    else:
        with pytest.raises(TooLarge):
            attach()


def test_namespaces_are_limited() -> None:
    """A client cannot make the server remember namespaces without end."""
    session = SocketSession(SocketLimits(namespaces=3))
    for name in ("/", "/a", "/b"):
        session.receive_text(b"0%b," % name.encode())
    with pytest.raises(TooManyNamespaces) as caught:
        session.receive_text(b"0/c,")
    assert caught.value.close_code is CloseCode.LIMIT


def test_refused_and_left_namespaces_do_not_count() -> None:
    """Only those that are held at one time."""
    session = SocketSession(SocketLimits(namespaces=3))
    for number in range(20):
        name = f"/n{number}"
        session.receive_text(b"0%b," % name.encode())
        if number % 2:
            session.refuse(name)
        else:
            session.receive_text(b"1%b," % name.encode())
    assert session.state("/n0") is N.IDLE


class AnySession(RuleBasedStateMachine):
    """A session is sent anything: it gives a value, or a ClientFault, and never more."""

    # Mutable state: the session; a new one after each fault.
    def __init__(self) -> None:
        super().__init__()
        self.session = SocketSession(SocketLimits(3, 3, 100))

    def send(self, payload: bytes, *, is_binary: bool) -> None:
        """Send one packet."""
        try:
            if is_binary:
                self.session.receive_binary(payload)
            else:
                self.session.receive_text(payload)
        except ClientFault:
            self.session = SocketSession(SocketLimits(3, 3, 100))

    @rule(payload=ANY_TEXT | NOT_QUITE)
    def anything(self, payload: bytes) -> None:
        """Any text."""
        self.send(payload, is_binary=False)

    @rule(
        payload=st.sampled_from([b"0", b"0/a,", b"2[1]", b"51-[1]", b"52-/a,3[1]", b"1", b"1/a,"])
    )
    def something(self, payload: bytes) -> None:
        """Text that may have a place."""
        self.send(payload, is_binary=False)

    @rule(payload=st.binary(max_size=120))
    def attachment(self, payload: bytes) -> None:
        """A binary packet."""
        self.send(payload, is_binary=True)

    @rule(namespace=st.sampled_from(["/", "/a", "/b"]), is_let_in=st.booleans())
    def answer(self, namespace: str, is_let_in: bool) -> None:
        """The server answers a CONNECT."""
        if self.session.state(namespace) is N.CONNECTING:
            if is_let_in:
                self.session.accept(namespace)
            else:
                self.session.refuse(namespace)


TestAnySession = AnySession.TestCase
TestAnySession.settings = settings(max_examples=60)
