"""
What the programs of one cluster sign in with, kept in Secrets: made, completed, and changed.

The Secret is where the passwords are; nothing here outlives the process but what is there.
"""

from __future__ import annotations

import base64
import contextlib
import secrets
from collections.abc import Mapping, Sequence
from typing import Final

from roomful.control.controller import Controller
from roomful.control.link import Credentials
from roomful.control.spec import ClusterSpec
from roomful.control.waits import Listener
from roomful_operator import passwords
from roomful_operator.api import SECRETS, Conflict, KubernetesApi, NotFound, Write
from roomful_operator.manifests.access import build_secrets
from roomful_operator.manifests.parts import ARCHIVER, COMPONENT_LABEL, EDGE, PASSWORDS, Manifest
from roomful_operator.manifests.shards import redis_secret_name
from roomful_operator.orders import BadOrder
from roomful_operator.passwords import Patch
from roomful_operator.spec import Cluster

__all__ = ["SigningIn"]

PASSWORD_BYTES: Final = 24


class SigningIn:
    """The passwords of one cluster; every write goes by *write*."""

    # Mutable state: the Secret as it was last seen, and what the controller was told of it.
    def __init__(self, api: KubernetesApi, write: Write) -> None:
        self._api = api
        self._write = write
        self._entries: Mapping[str, str] = {}
        self._told: Mapping[str, str] | None = None

    @property
    def credentials(self) -> Credentials:
        """What the operator signs in with."""
        return passwords.credentials(self._entries) if self._entries else Credentials()

    async def look(self, cluster: Cluster) -> None:
        """
        See what is in the Secrets; make what is not there.

        Raises:
            ApiFailed: they cannot be read, or not be written.
        """
        # One that was deleted comes back as it was.
        users = self._entries or _after({}, passwords.complete({}, _make))
        namespace = cluster.identity.namespace
        for manifest in build_secrets(cluster, users=users, signing=_make()):
            try:
                found = await self._api.get(SECRETS, namespace, manifest["metadata"]["name"])
            except NotFound:
                with contextlib.suppress(Conflict):  # another one was faster: its secret it is
                    await self._write(self._api.create(SECRETS, namespace, manifest))
                found = await self._api.get(SECRETS, namespace, manifest["metadata"]["name"])
            if manifest["metadata"]["name"] == redis_secret_name(cluster):
                self._entries = _decoded(found)
        await self._change(cluster, passwords.complete(self._entries, _make))

    def make_controller(self, wanted: ClusterSpec, listener: Listener | None = None) -> Controller:
        """Give a controller of the servers that lets the cluster's programs sign in."""
        self._told = self._entries
        users = passwords.read_users(self._entries)
        return Controller(wanted, credentials=self.credentials, users=users, listener=listener)

    def tell(self, controller: Controller) -> None:
        """Let *controller* know of passwords that have changed."""
        if self._told != self._entries:
            self._told = self._entries
            controller.change_passwords(self.credentials, passwords.read_users(self._entries))

    def mark(self, controller: Controller | None, live: Manifest | None) -> str:
        """
        Give the word that the pods of programs carry: another one replaces them.

        Args:
            live: the Deployment of the edges; it goes on as it is until the servers know the new
                passwords.
        """
        newest = passwords.mark(self._entries)
        if live is None or (controller is not None and controller.has_admitted):
            return newest
        return _mark_of(live["spec"]["template"]) or newest

    async def begin_change(self, cluster: Cluster) -> None:
        """
        Give every program a new password; the old ones are taken until all have the new one.

        Raises:
            BadOrder: that is going on already.
        """
        if passwords.is_changing(self._entries):
            raise BadOrder("the passwords are being changed already")
        await self._change(cluster, passwords.change(self._entries, _make))

    async def end_change(
        self, cluster: Cluster, controller: Controller, pods: Sequence[Manifest]
    ) -> bool:
        """Take the old passwords no longer, when nobody needs them; whether that was now."""
        if not (passwords.is_changing(self._entries) and controller.has_admitted):
            return False
        users = [pod for pod in pods if pod["metadata"]["labels"].get(COMPONENT_LABEL) in PROGRAMS]
        newest = passwords.mark(self._entries)
        if any(_mark_of(pod) != newest for pod in users):
            return False
        await self._change(cluster, passwords.forget(self._entries))
        return True

    async def _change(self, cluster: Cluster, patch: Patch) -> None:
        if not patch:
            return
        data = {
            name: None if value is None else base64.b64encode(value.encode()).decode()
            for name, value in patch.items()
        }
        namespace, name = cluster.identity.namespace, redis_secret_name(cluster)
        await self._write(self._api.merge(SECRETS, namespace, name, {"data": data}))
        self._entries = _after(self._entries, patch)


PROGRAMS: Final = (EDGE, ARCHIVER)


def _make() -> str:
    return secrets.token_hex(PASSWORD_BYTES)


def _after(entries: Mapping[str, str], patch: Patch) -> Mapping[str, str]:
    return {name: value for name, value in {**entries, **patch}.items() if value is not None}


def _mark_of(pod: Manifest) -> str:
    return str((pod["metadata"].get("annotations") or {}).get(PASSWORDS, ""))


def _decoded(secret: Manifest) -> Mapping[str, str]:
    data = secret.get("data") or {}
    return {name: base64.b64decode(text).decode() for name, text in data.items()}
