"""The operator: keeps RoomfulCluster objects of a Kubernetes cluster as their specs say."""
