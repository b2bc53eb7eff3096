"""
`kubectl roomful`: what people ask of a cluster by hand, with their own rights.

An order to the shards goes through the operator, as an annotation that it takes away when it has
acted: there is one who orders, and the cluster's events say what was done.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Final

from roomful.protocol.errors import RoomfulError
from roomful_operator.api import CLUSTERS, EVENTS, KubernetesApi, read_configuration, read_namespace
from roomful_operator.orders import CHANGE_PASSWORDS, FAILOVER, MOVE_BUCKET

__all__ = ["OrderFailed", "build_parser", "main", "order", "render_status"]

CLUSTER: Final = "the RoomfulCluster"
SHARD: Final = "its name, as `status` shows it"
ANSWER_S: Final = 30.0
"""An operator looks every 10 s, and at once when something changes."""
LOOK_S: Final = 0.5
ANSWERS: Final = {
    FAILOVER: ("FailoverOrdered", "FailoverRefused"),
    MOVE_BUCKET: ("MoveOrdered", "MoveRefused"),
    CHANGE_PASSWORDS: ("PasswordsChanging", "PasswordsRefused"),
}
"""The reasons of the events that answer an order."""


class OrderFailed(RoomfulError):
    """An order was refused, or nobody took it; the words say which."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; gives the exit status."""
    options = build_parser().parse_args(arguments)
    try:
        asyncio.run(_run(options))
    except RoomfulError as exc:
        print(f"kubectl roomful: {exc}", file=sys.stderr)  # noqa: T201 - a command
        return 1
    return 0


def build_parser() -> argparse.ArgumentParser:
    """Give the command line."""
    parser = argparse.ArgumentParser(
        prog="kubectl roomful", description="Looks at and orders Roomful clusters on Kubernetes."
    )
    parser.add_argument("-n", "--namespace", help="(default: the context's)")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    status = commands.add_parser("status", help="how a cluster is, and why")
    status.add_argument("name", metavar="CLUSTER", help=CLUSTER)
    failover = commands.add_parser(
        "failover", help="hand a shard's role to a replica, without losing anything"
    )
    failover.add_argument("name", metavar="CLUSTER", help=CLUSTER)
    failover.add_argument("shard", metavar="SHARD", help=SHARD)
    failover.add_argument("--to", metavar="POD", help="which replica (default: any)")
    move = commands.add_parser(
        "move-bucket", help="put a bucket of rooms on a shard, where it stays"
    )
    move.add_argument("name", metavar="CLUSTER", help=CLUSTER)
    move.add_argument("bucket", type=int, metavar="BUCKET", help="0 to 1023")
    move.add_argument("shard", metavar="SHARD", help=SHARD)
    change = commands.add_parser(
        "change-passwords", help="of all programs at the shards' servers, while they run"
    )
    change.add_argument("name", metavar="CLUSTER", help=CLUSTER)
    drain = commands.add_parser(
        "drain-edge", help="evict an edge's pod: its clients move in waves, another one starts"
    )
    drain.add_argument("pod", metavar="POD", help="its name")
    return parser


async def _run(options: argparse.Namespace) -> None:
    api = KubernetesApi(await read_configuration())
    options.namespace = options.namespace or await asyncio.to_thread(read_namespace)
    try:
        match options.command:
            case "status":
                found = await api.get(CLUSTERS, options.namespace, options.name)
                print(render_status(found))  # noqa: T201 - a command
            case "failover":
                text = options.shard + (f"={options.to}" if options.to else "")
                said = await order(api, options.namespace, options.name, FAILOVER, text)
                print(said)  # noqa: T201 - a command
            case "move-bucket":
                text = f"{options.bucket}={options.shard}"
                said = await order(api, options.namespace, options.name, MOVE_BUCKET, text)
                print(said)  # noqa: T201 - a command
            case "change-passwords":
                await order(api, options.namespace, options.name, CHANGE_PASSWORDS, "now")
                print("edges are replaced, then old passwords end")  # noqa: T201 - a command
            case _:
                await api.evict(options.namespace, options.pod)
                print(f"{options.pod} drains")  # noqa: T201 - a command
    finally:
        await api.aclose()


async def order(
    api: KubernetesApi,
    namespace: str,
    name: str,
    annotation: str,
    text: str,
    *,
    timeout_s: float = ANSWER_S,
) -> str:
    """
    Give an operator an order, and wait for its event; gives what that says.

    Raises:
        OrderFailed: it was refused, or no operator took it in *timeout_s*.
        ApiFailed: the order cannot be given, or events not be read.
    """
    before = {event["metadata"]["name"] for event in await api.list(EVENTS, namespace)}
    body = {"metadata": {"annotations": {annotation: text}}}
    uid = (await api.merge(CLUSTERS, namespace, name, body))["metadata"]["uid"]
    try:
        async with asyncio.timeout(timeout_s):
            while True:
                for event in await api.list(EVENTS, namespace):
                    is_new = event["metadata"]["name"] not in before
                    is_of_it = event["involvedObject"].get("uid") == uid
                    if is_new and is_of_it and event["reason"] in ANSWERS[annotation]:
                        return _answer(event)
                await asyncio.sleep(LOOK_S)
    except TimeoutError:
        why = "does one run, and is the cluster not paused?"
        raise OrderFailed(f"no operator has taken the order yet: {why}") from None


def _answer(event: Mapping[str, Any]) -> str:
    _, _, message = str(event["message"]).partition(". ")
    if event["reason"].endswith("Refused"):
        raise OrderFailed(f"refused: {message}")
    return message


def render_status(document: Mapping[str, Any]) -> str:
    """Give what people want to know of a RoomfulCluster, as text."""
    status = document.get("status")
    name = document["metadata"]["name"]
    if not status:
        return f"{name}: no operator has looked at it yet"
    edges = status["edges"]
    lines = [
        f"{name}: {status['state']}",
        f"edges: {edges['ready']} of {edges['desired']} ready, {edges['connections']} connections",
    ]
    for shard in status.get("shards", ()):
        line = (
            f"shard {shard['name']}: {shard['phase']}, primary {shard['primary'] or '-'}"
            f" (term {shard['term']}), {shard['online']} of {shard['replicas']} replicas,"
            f" {shard['buckets']} buckets"
        )
        lines.append(f"{line}: {shard['reason']}" if shard["reason"] else line)
    for one in status.get("conditions", ()):
        mark = "yes" if one["status"] == "True" else "no"
        line = f"{one['type']}: {mark}, {one['reason']}"
        lines.append(f"{line}: {one['message']}" if one["message"] else line)
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
