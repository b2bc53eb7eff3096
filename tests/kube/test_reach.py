"""Who may reach what, and who may be taken away."""

from __future__ import annotations

from kube.objects import cluster, found, settled


def test_only_the_cluster_reaches_its_shards() -> None:
    """Shards take connections from edges, each other, the archiver and the operator."""
    policy = found(settled(cluster()), "NetworkPolicy", "chat-shard")["spec"]
    (rule,) = policy["ingress"]
    assert rule["ports"] == [{"protocol": "TCP", "port": 6379}]
    components = {
        peer["podSelector"]["matchLabels"].get("app.kubernetes.io/component", "operator")
        for peer in rule["from"]
    }
    assert components == {"edge", "shard", "archiver", "operator"}


def test_who_reaches_edges_can_be_said() -> None:
    """Without peers everyone may; with them they may, other edges, and the operator."""
    open_to = found(settled(cluster()), "NetworkPolicy", "chat-edge")["spec"]["ingress"]
    assert "from" not in open_to[0]
    peer = {"podSelector": {"matchLabels": {"app": "balancer"}}}
    one = cluster({"networkPolicies": {"edgeFrom": [peer]}})
    (rule,) = found(settled(one), "NetworkPolicy", "chat-edge")["spec"]["ingress"]
    assert peer in rule["from"]
    assert len(rule["from"]) == 3


def test_network_policies_can_be_left_out() -> None:
    """For clusters that have rules of their own."""
    objects = settled(cluster({"networkPolicies": {"enabled": False}})).objects
    assert not [key for key in objects if key.kind == "NetworkPolicy"]


def test_a_drained_node_takes_one_server_of_a_shard() -> None:
    """Each shard has a disruption budget of its own, and the edges have one."""
    observed = settled(cluster({"shards": {"count": 2}}))
    for name in ("chat-edge", "chat-s1", "chat-s2"):
        spec = found(observed, "PodDisruptionBudget", name)["spec"]
        assert spec["maxUnavailable"] == 1
    assert spec["selector"]["matchLabels"]["roomful.dev/shard"] == "s2"
