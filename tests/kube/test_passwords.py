"""The passwords of the servers' users: made, changed while everything runs, and forgotten."""

from __future__ import annotations

import base64
import itertools
from pathlib import Path

import pytest
import redis

from control.servers import SealedServer, running_fleet
from kube.api_server import running_api_server
from kube.objects import cluster
from roomful.cluster.cursor import ShardName
from roomful.control.spec import ClusterSpec
from roomful.shard.users import Role
from roomful_operator import passwords
from roomful_operator.api import SECRETS, KubernetesApi
from roomful_operator.manifests.parts import EDGE, PASSWORDS, Manifest, Part
from roomful_operator.orders import BadOrder
from roomful_operator.signing_in import SigningIn
from support.deadline import DEADLINE_S
from support.users import USERS

PATH = SECRETS.path("rooms", "chat-redis")


def after(secret: passwords.Secret, patch: passwords.Patch) -> dict[str, str]:
    """Give *secret* with *patch*."""
    return {name: one for name, one in {**secret, **patch}.items() if one is not None}


@pytest.fixture
def made() -> dict[str, str]:
    """A secret with p0, p1, ... in it."""
    numbers = itertools.count()
    return after({}, passwords.complete({}, lambda: f"p{next(numbers)}"))


def test_every_role_has_a_password_of_its_own(made: dict[str, str]) -> None:
    """And what is whole is left alone."""
    assert sorted(made) == ["archiver", "controller", "edge", "replica", "users.conf"]
    assert len({made[role.value] for role in Role}) == len(Role)
    assert passwords.complete(made, lambda: "new") == {}


def test_servers_are_told_hashes_and_the_password_of_replicas(made: dict[str, str]) -> None:
    """Who reads a server's files cannot sign in as a program; and the default user is off."""
    text = made["users.conf"]
    assert "user default off\n" in text
    assert f"\nmasteruser replica\nmasterauth {made['replica']}\n" in text
    for role in (Role.CONTROLLER, Role.EDGE, Role.ARCHIVER):
        assert made[role.value] not in text.split()
        assert f"\nuser {role.value} reset on #" in text


def test_rights_of_a_new_version_are_written_and_passwords_stay(made: dict[str, str]) -> None:
    """An operator's upgrade brings functions that its edges may call."""
    old = {**made, "users.conf": "user default off\n"}
    assert after(old, passwords.complete(old, lambda: "new")) == made


def test_a_change_takes_both_until_the_old_is_forgotten(made: dict[str, str]) -> None:
    """The newest is what a program signs in with."""
    changed = after(made, passwords.change(made, lambda: "new"))
    assert passwords.read_users(changed)[Role.EDGE] == ("new", made["edge"])
    assert passwords.credentials(changed).password == "new"
    assert passwords.credentials(changed).previous == made["controller"]
    assert passwords.is_changing(changed)
    assert passwords.mark(changed) != passwords.mark(made)

    forgotten = after(changed, passwords.forget(changed))
    assert passwords.read_users(forgotten)[Role.EDGE] == ("new",)
    assert passwords.credentials(forgotten).previous is None
    assert not passwords.is_changing(forgotten)
    assert passwords.mark(forgotten) == passwords.mark(changed)


def pod(mark: str) -> Manifest:
    """Give a pod of an edge."""
    labels = Part(cluster(), EDGE).selector
    return {"metadata": {"labels": labels, "annotations": {PASSWORDS: mark}}}


def signs_in(server: SealedServer, password: str) -> bool:
    """Whether an edge with *password* gets in."""
    with redis.Redis(
        *("127.0.0.1", server.address.port),
        username="edge",
        password=password,
        socket_timeout=DEADLINE_S,
    ) as client:
        try:
            return bool(client.ping())
        except redis.AuthenticationError:
            return False


async def test_the_operator_changes_passwords_at_real_servers(tmp_path: Path) -> None:
    """Servers first, then pods, and the old ones end when no pod has them."""
    with running_fleet(tmp_path, shards=1, replicas=1, has_users=True) as fleet:
        members = {ShardName("s1"): tuple(one.address for one in fleet.servers)}
        async with running_api_server() as (server, configuration):
            api = KubernetesApi(configuration)
            users = {role.value: USERS[role][0] for role in Role}
            server.objects[PATH] = {
                "metadata": {"name": "chat-redis", "namespace": "rooms"},
                "data": {
                    name: base64.b64encode(one.encode()).decode() for name, one in users.items()
                },
            }
            signing_in = SigningIn(api, lambda request: request)
            await signing_in.look(cluster())
            controller = signing_in.make_controller(ClusterSpec(members, 1))
            try:
                old = signing_in.mark(None, None)
                live = {"spec": {"template": pod(old)}}
                while not (await controller.look_after()).is_serving:
                    pass

                await signing_in.begin_change(cluster())
                signing_in.tell(controller)
                with pytest.raises(BadOrder, match="already"):
                    await signing_in.begin_change(cluster())
                assert signing_in.mark(controller, live) == old, "the servers do not know yet"
                await controller.look_after()
                assert controller.has_admitted
                new = signing_in.mark(controller, live)
                assert new != old
                password = base64.b64decode(server.objects[PATH]["data"]["edge"]).decode()
                for one in fleet.servers:
                    assert signs_in(one, users["edge"])
                    assert signs_in(one, password)

                mixed = [pod(old), pod(new)]
                assert not await signing_in.end_change(cluster(), controller, mixed)
                assert await signing_in.end_change(cluster(), controller, [pod(new)])
                signing_in.tell(controller)
                await controller.look_after()
                for one in fleet.servers:
                    assert not signs_in(one, users["edge"])
                    assert signs_in(one, password)
                assert (await controller.look_after()).is_serving
                assert "edge.previous" not in server.objects[PATH]["data"]

                writes = len(server.writes)
                await signing_in.look(cluster())
                assert len(server.writes) == writes, "at rest nothing is written"

                del server.objects[PATH]
                await signing_in.look(cluster())
                again = base64.b64decode(server.objects[PATH]["data"]["edge"]).decode()
                assert again == password, "a secret that was deleted comes back as it was"
            finally:
                await controller.aclose()
                await api.aclose()
