"""Loads of many connections on a whole cluster: held, cut, and while its edges restart."""
