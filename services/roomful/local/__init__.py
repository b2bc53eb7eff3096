"""A whole cluster on one machine: real servers, edges and the controller as processes."""
