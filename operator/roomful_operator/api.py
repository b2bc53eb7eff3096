"""
The Kubernetes API as the operator uses it: documents in and out, by path; nothing blocks.

Sign-in (service account or kubeconfig, rotated tokens) is that of the official client; its
models are not used, since documents come as they are and go as they are.
"""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import httpx
import kubernetes.config
import msgspec
from kubernetes.client import Configuration

from roomful.protocol.errors import RoomfulError

__all__ = [
    "ApiFailed",
    "Conflict",
    "Kind",
    "KubernetesApi",
    "NotFound",
    "Write",
    "read_configuration",
    "read_namespace",
]

Write = Callable[[Awaitable[Any]], Awaitable[Any]]
"""Sends a request that changes something, or refuses to: not every operator is at work."""
FIELD_MANAGER: Final = "roomful-operator"
TIMEOUT: Final = httpx.Timeout(10.0, connect=5.0)


class ApiFailed(RoomfulError):
    """The API server refused a request, or did not answer; *status* is 0 then."""

    def __init__(self, status: int, what: str, why: str) -> None:
        super().__init__(f"{what}: {why}")
        self.status = status
        self.what = what


class NotFound(ApiFailed):
    """There is no such object."""


class Conflict(ApiFailed):
    """The object is there already, or has changed since it was read."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of objects, and where they are."""

    name: str
    plural: str
    api: str = "v1"

    def path(self, namespace: str, name: str = "") -> str:
        """Give the path of one object, of all in a namespace, or (both empty) of all."""
        root = f"/api/{self.api}" if "/" not in self.api else f"/apis/{self.api}"
        within = f"/namespaces/{namespace}" if namespace else ""
        return f"{root}{within}/{self.plural}" + (f"/{name}" if name else "")


CLUSTERS: Final = Kind("RoomfulCluster", "roomfulclusters", "roomful.dev/v1alpha1")
LEASES: Final = Kind("Lease", "leases", "coordination.k8s.io/v1")
EVENTS: Final = Kind("Event", "events")
PODS: Final = Kind("Pod", "pods")
SECRETS: Final = Kind("Secret", "secrets")
OWNED: Final = {
    kind.name: kind
    for kind in (
        Kind("ConfigMap", "configmaps"),
        Kind("Service", "services"),
        Kind("ServiceAccount", "serviceaccounts"),
        Kind("Deployment", "deployments", "apps/v1"),
        Kind("StatefulSet", "statefulsets", "apps/v1"),
        Kind("PodDisruptionBudget", "poddisruptionbudgets", "policy/v1"),
        Kind("NetworkPolicy", "networkpolicies", "networking.k8s.io/v1"),
    )
}
"""What the operator makes and repairs."""


async def read_configuration() -> Configuration:
    """Read how to reach the API server: the pod's account, or a kubeconfig."""
    configuration = Configuration()
    is_pod = "KUBERNETES_SERVICE_HOST" in os.environ
    load = kubernetes.config.load_incluster_config if is_pod else kubernetes.config.load_kube_config
    # It reads files, and for some clouds runs a program.
    await asyncio.to_thread(load, client_configuration=configuration)
    return configuration


def read_namespace() -> str:
    """Give the namespace of a kubeconfig's context, as kubectl takes it."""
    try:
        _, context = kubernetes.config.list_kube_config_contexts()
    except kubernetes.config.ConfigException:
        return "default"  # within a pod there is none
    return str(context["context"].get("namespace") or "default")


class KubernetesApi:
    """
    A connection to the API server.

    All methods raise ApiFailed, and its kinds NotFound and Conflict; none is tried again here.
    """

    # Mutable state: the connections, and how many requests of each kind were sent.
    def __init__(self, configuration: Configuration) -> None:
        self._configuration = configuration
        context = ssl.create_default_context(cafile=configuration.ssl_ca_cert)
        if configuration.cert_file:
            context.load_cert_chain(configuration.cert_file, configuration.key_file)
        self._client = httpx.AsyncClient(
            base_url=configuration.host, verify=context, timeout=TIMEOUT
        )
        self.requests: dict[str, int] = {}

    async def aclose(self) -> None:
        """Close all connections."""
        await self._client.aclose()

    async def get(self, kind: Kind, namespace: str, name: str) -> dict[str, Any]:
        """Give one object."""
        return await self._request("GET", kind.path(namespace, name))

    async def list(
        self, kind: Kind, namespace: str = "", *, labels: Mapping[str, str] | None = None
    ) -> list[dict[str, Any]]:
        """Give all objects with *labels*, of one namespace or (empty) of all."""
        chosen = ",".join(f"{name}={value}" for name, value in (labels or {}).items())
        query = {"labelSelector": chosen} if chosen else {}
        answer = await self._request("GET", kind.path(namespace), query=query)
        # Entries of a list come without what the list itself says.
        head = {"kind": kind.name, "apiVersion": kind.api}
        return [{**head, **item} for item in answer["items"]]

    async def create(self, kind: Kind, namespace: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Make an object; Conflict when it is there."""
        query = {"fieldManager": FIELD_MANAGER}
        return await self._request("POST", kind.path(namespace), body=body, query=query)

    async def replace(self, kind: Kind, body: Mapping[str, Any]) -> dict[str, Any]:
        """Replace an object; Conflict when it has changed since *body* was read."""
        metadata = body["metadata"]
        path = kind.path(metadata["namespace"], metadata["name"])
        return await self._request("PUT", path, body=body)

    async def apply(self, kind: Kind, body: Mapping[str, Any], *, part: str = "") -> dict[str, Any]:
        """
        Make an object have all fields of *body*, and lose those that only we had given it.

        Args:
            part: a subresource, such as `status`.
        """
        metadata = body["metadata"]
        path = kind.path(metadata["namespace"], metadata["name"]) + (f"/{part}" if part else "")
        query = {"fieldManager": FIELD_MANAGER, "force": "true"}
        return await self._request(
            "PATCH", path, body=body, query=query, media="application/apply-patch+yaml"
        )

    async def merge(
        self, kind: Kind, namespace: str, name: str, body: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Change some fields of an object."""
        return await self._request(
            "PATCH", kind.path(namespace, name), body=body, media="application/merge-patch+json"
        )

    async def delete(
        self, kind: Kind, namespace: str, name: str, *, uid: str = "", part: str = ""
    ) -> None:
        """Delete an object; with *uid* only that very one. One that is gone already is fine."""
        path = kind.path(namespace, name) + (f"/{part}" if part else "")
        preconditions = {"preconditions": {"uid": uid}} if uid else {}
        body = {"propagationPolicy": "Background", **preconditions}
        try:
            await self._request("DELETE", path, body=body)
        except NotFound:
            return

    async def evict(self, namespace: str, pod: str) -> None:
        """Ask a pod to go; refused (status 429) while its disruption budget is used up."""
        body = {
            "apiVersion": "policy/v1",
            "kind": "Eviction",
            "metadata": {"name": pod, "namespace": namespace},
        }
        await self._request("POST", f"{PODS.path(namespace, pod)}/eviction", body=body)

    async def _request(
        self,
        method: str,
        path: str,
        *,
        body: Mapping[str, Any] | None = None,
        query: Mapping[str, str] | None = None,
        media: str = "application/json",
    ) -> dict[str, Any]:
        what = f"{method} {path}"
        headers = {"content-type": media, "accept": "application/json"}
        # This is also where a token that is about to end is replaced.
        token = self._configuration.get_api_key_with_prefix("authorization", alias="BearerToken")
        if token:
            headers["authorization"] = token
        self.requests[method] = self.requests.get(method, 0) + 1
        content = None if body is None else msgspec.json.encode(body)
        try:
            async with asyncio.timeout(TIMEOUT.read):
                response = await self._client.request(
                    method, path, params=query, headers=headers, content=content
                )
        except (httpx.HTTPError, TimeoutError) as exc:
            raise ApiFailed(0, what, str(exc) or "no answer in time") from exc
        if response.is_success:
            answer: dict[str, Any] = msgspec.json.decode(response.content)
            return answer
        raise _failure(response, what)


def _failure(response: httpx.Response, what: str) -> ApiFailed:
    try:
        why = str(msgspec.json.decode(response.content)["message"])
    except (msgspec.DecodeError, KeyError, TypeError):
        why = response.text[:200]
    kinds = {404: NotFound, 409: Conflict}
    return kinds.get(response.status_code, ApiFailed)(response.status_code, what, why)
